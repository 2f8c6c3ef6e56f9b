"""Repeat copy against batches and costs of the public code."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.support import relative_error
from tfmem.tasks.repeat_copy import RepeatCopy

CONFIGS = ["train_defaults", "longer"]


@pytest.fixture
def public(golden):
    arrays = np.load(golden("dnc/repeat_copy.npz"))
    configs = json.loads(golden("dnc/repeat_copy.json").read_text())
    return lambda name: (configs[name], {k.removeprefix(f"{name}/"): arrays[k] for k in arrays if k.startswith(name)})


@pytest.mark.parametrize("name", CONFIGS)
def test_public_batches(public, name):
    info, arrays = public(name)
    task = RepeatCopy(**info["config"])
    for k in range(info["batches"]):
        observations = arrays[f"batch{k}/observations"]
        lengths = observations[:, :, -1].argmax(axis=0) - 1
        repeats = np.rint(observations[:, :, -1].max(axis=0) * 10).astype(np.int32)
        bits = np.zeros([task.max_length, task.batch_size, task.num_bits], np.float32)
        for b, length in enumerate(lengths):
            bits[:length, b] = observations[1 : length + 1, b, :-2]
            bits[length:, b] = 1  # must not show
        batch = task.batch(bits, tf.constant(lengths, tf.int32), tf.constant(repeats, tf.int32))
        for field in batch._fields:
            ours, theirs = getattr(batch, field).numpy(), arrays[f"batch{k}/{field}"]
            np.testing.assert_array_equal(ours[: len(theirs)], theirs)
            assert not ours[len(theirs) :].any()


@pytest.mark.parametrize("name", CONFIGS)
def test_public_cost(public, name):
    info, arrays = public(name)
    task = RepeatCopy(**info["config"])
    k = info["cost_uses_batch"]
    logits = tf.constant(arrays["cost/logits"])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        cost = task.cost(logits, arrays[f"batch{k}/target"], arrays[f"batch{k}/mask"])
    stored = "cost/time_average_False_bits_False"
    assert relative_error(cost, arrays[f"{stored}/loss"]) <= 1e-5
    assert relative_error(tape.gradient(cost, logits), arrays[f"{stored}/grad_logits"]) <= 1e-4


def test_sampling_covers_the_ranges_and_depends_on_the_seed_alone():
    task = RepeatCopy(num_bits=4, batch_size=2000, min_length=2, max_length=4, min_repeats=1, max_repeats=3)
    batch = task(tf.constant([1, 2]))
    compiled = tf.function(task.__call__, jit_compile=True)(tf.constant([1, 2]))
    for a, b in zip(batch, compiled, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(batch.observations, task(tf.constant([1, 3])).observations)

    observations = batch.observations.numpy()
    assert observations.shape == (task.num_steps, 2000, 6)
    assert batch.target.shape == (task.num_steps, 2000, task.target_size)
    lengths = observations[:, :, -1].argmax(axis=0) - 1
    repeats = np.rint(observations[:, :, -1].max(axis=0) * 10).astype(int)
    counts = {(length, r): np.sum((lengths == length) & (repeats == r)) for length in (2, 3, 4) for r in (1, 2, 3)}
    assert sum(counts.values()) == 2000
    assert min(counts.values()) > 150
    pattern = np.concatenate([observations[1 : length + 1, b, :4] for b, length in enumerate(lengths)])
    assert abs(pattern.mean() - 0.5) < 0.02
    np.testing.assert_array_equal(batch.mask.numpy().sum(axis=0), lengths * repeats + 1)


@pytest.mark.parametrize(
    ("field", "config"),
    [
        ("num_bits", {"num_bits": 0}),
        ("min_length", {"min_length": 3, "max_length": 2}),
        ("min_repeats", {"min_repeats": 3}),
        ("norm_max", {"norm_max": 0}),
    ],
)
def test_bad_arguments(field, config):
    with pytest.raises(ValueError, match=field):
        RepeatCopy(**config)


def test_cost_and_gradient_ignore_nan_where_the_mask_is_0(rng):
    task = RepeatCopy(num_bits=2, batch_size=3)
    batch = task([1, 2])
    counted = batch.mask[..., tf.newaxis] > 0
    logits = tf.constant(rng.normal(size=batch.target.shape), tf.float32)

    @tf.function
    def run(logits, target):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            cost = task.cost(logits, target, batch.mask)
        return cost, tape.gradient(cost, logits)

    clean = run(logits, batch.target)
    dirty = run(tf.where(counted, logits, np.nan), tf.where(counted, batch.target, np.nan))
    tf.nest.map_structure(np.testing.assert_array_equal, clean, dirty)
