"""KanervaCore: the formulae in numpy, the read-only view, dtypes and unknown sizes."""

import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

from tests.references import kanerva as reference
from tests.support import relative_error
from tfmem.cores.kanerva import KanervaCore, KanervaMemory
from tfmem.recurrence import unroll

SEED = [3, 4]


def core_in_numpy(core, x, writes):
    """The core's outputs and states [T, B, ...] by the reference, from the core's own initial state."""
    sigma_o = core.memory.noise_stddev(tf.float64).numpy()

    def weights(split_linear):
        return np.concatenate([split_linear.w_i, split_linear.w_s]), split_linear.b.numpy()

    def mapping(projection):
        (w, b), second = weights(projection._first), projection._second
        if second is None:
            return lambda v: v @ w + b
        hidden = lambda v: np.maximum(v @ w + b, 0)  # noqa: E731
        return lambda v: hidden(v) @ second.w.numpy() + second.b.numpy()

    read, write = mapping(core._read_word), mapping(core._write_word) if writes else None
    gates = weights(core._gates)
    trajectories = []
    for b in range(x.shape[1]):
        h, c, (M, U) = (np.array(s[b]) if not isinstance(s, tuple) else [np.array(m[b]) for m in s]
                        for s in core.initial_state(x.shape[1], tf.float64))  # fmt: skip
        steps = []
        for x_t in x[:, b]:
            h, c, M, U = reference.core_step(x_t, h, c, M, U, read, gates, write, sigma_o, writes)
            steps.append((h, c, M, U))
        trajectories.append([np.stack(s) for s in zip(*steps, strict=True)])
    return [np.stack(s, axis=1) for s in zip(*trajectories, strict=True)]


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize(("read_projection", "write_projection"), [("linear", "mlp"), ("mlp", "linear")])
def test_core_equals_numpy(rng, read_projection, write_projection, writes):
    core = KanervaCore(6, 4, 10, 0.7, read_projection, write_projection, projection_hidden_size=7)
    x = rng.normal(size=[5, 2, 3])
    stepper = core if writes else core.read_only()
    stepper.project_inputs(tf.constant(x))
    assert all(v.dtype == tf.float64 for v in core.variables)
    np.testing.assert_allclose(core.memory.noise_stddev(tf.float64) ** 2, 0.7)
    for v in core.variables:
        v.assign_add(0.1 * rng.normal(size=v.shape))
    outputs, state = unroll(stepper, tf.constant(x), stepper.initial_state(2, tf.float64))
    h, c, M, U = core_in_numpy(core, x, writes)
    assert relative_error(outputs, h) <= 1e-9
    for a, e in zip(tf.nest.flatten(state), (h, c, M, U), strict=True):
        assert relative_error(a, e[-1]) <= 1e-9


def test_read_only_shares_variables_and_leaves_the_memory_alone(rng):
    core = KanervaCore(6, 4, 10)
    x = tf.constant(rng.normal(size=[5, 2, 3]), tf.float32)
    _, state = unroll(core, x, core.initial_state(2))
    view = core.read_only()
    assert {id(v) for v in view.variables} == {id(v) for v in core.variables}
    simulated, after = unroll(view, x, state)
    for a, b in zip(after.memory, state.memory, strict=True):
        np.testing.assert_array_equal(a, b)
    first, _ = core(x[0], state)
    assert relative_error(simulated[0], first) <= 1e-6  # the first read comes before the first write
    written, _ = unroll(core, x, state)
    assert np.max(np.abs(written[1:] - simulated[1:])) > 1e-4
    assert view.output_size == core.output_size
    assert view.state_size == core.state_size


def test_simulation_core_has_only_the_variables_it_trains(rng):
    """A core of its own that is only read from, started from another core's state, as SimCore uses it."""
    x = tf.constant(rng.normal(size=[3, 2, 3]), tf.float32)
    _, belief = unroll(core := KanervaCore(6, 4, 10), x, core.initial_state(2))
    simulation = KanervaCore(6, 4, 10).read_only()
    simulation.project_inputs(x)
    made = len(simulation.trainable_variables)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(unroll(simulation, x, belief)[0])
    gradients = tape.gradient(loss, simulation.trainable_variables)
    assert len(gradients) == made
    assert all(g is not None for g in gradients)


def test_project_inputs_makes_every_variable(rng):
    core = KanervaCore(6, 4, 10)
    x = tf.constant(rng.normal(size=[3, 2, 5]), tf.float32)
    core.project_inputs(x)
    made = {v.name: v.shape for v in core.variables}
    unroll(core, x, core.initial_state(2))
    assert {v.name: v.shape for v in core.variables} == made
    assert made["kanerva_core/gates/w_i:0"] == [5, 4 * 6]
    assert made["kanerva_core/gates/w_s:0"] == [10 + 6, 4 * 6]
    state = core.initial_state(2)
    tf.nest.map_structure(lambda s, size: s.shape.assert_is_compatible_with([2, *size]), state, core.state_size)


def test_bfloat16_keeps_the_memory_in_float32(rng):
    core = KanervaCore(16, 4, 12)
    x = tf.constant(rng.normal(size=[6, 2, 5]), tf.float32)
    outputs, state = unroll(core, x, core.initial_state(2))
    half = tf.bfloat16
    half_outputs, half_state = unroll(core, tf.cast(x, half), core.initial_state(2, half))
    assert half_outputs.dtype == half_state.hidden.dtype == half_state.cell.dtype == half
    assert half_state.memory.M_mean.dtype == half_state.memory.M_cov.dtype == tf.float32
    assert all(v.dtype == tf.float32 for v in core.variables)
    assert relative_error(tf.cast(half_outputs, tf.float32), outputs) <= 0.05
    assert relative_error(half_state.memory.M_mean, state.memory.M_mean) <= 0.05
    read, _ = core.memory.read_with_z(tf.ones([1, 2, 12], half), half_state.memory)
    assert read.dtype == half


def test_unknown_batch_and_length(rng):
    core, memory = KanervaCore(6, 4, 10), KanervaMemory(5, 3, sample_w=True)
    x = tf.constant(rng.normal(size=[4, 3, 5]), tf.float32)
    core.project_inputs(x)
    memory.initialize()

    @tf.function(input_signature=[tf.TensorSpec([None, None, 5])])
    def run(x):
        batch_size = tf.shape(x)[1]
        outputs, _ = unroll(core, x, core.initial_state(batch_size))
        return outputs, memory.update_state(x, memory.get_prior_state(batch_size), SEED)[1]

    outputs, w = run(x)
    assert relative_error(outputs, unroll(core, x, core.initial_state(3))[0]) <= 1e-5
    assert relative_error(w, memory.update_state(x, memory.get_prior_state(3), SEED)[1]) <= 1e-5


def test_sonnet_unroll_is_the_same(rng):
    core = KanervaCore(6, 4, 10)
    x = tf.constant(rng.normal(size=[4, 2, 5]), tf.float32)
    ours, _ = unroll(core, x, core.initial_state(2))
    theirs, _ = snt.dynamic_unroll(core, x, core.initial_state(2))
    assert relative_error(ours, theirs) <= 1e-5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KanervaCore(0), "hidden_size: 0"),
        (lambda: KanervaCore(4, word_size=0), "word_size: 0"),
        (lambda: KanervaCore(4, initial_noise_variance=0.0), "initial_noise_variance: 0"),
        (lambda: KanervaCore(4, read_projection="conv"), "read_projection: 'conv'"),
        (lambda: KanervaCore(4, write_projection=None), "write_projection: None"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
