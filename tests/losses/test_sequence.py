"""Losses of tokens: sums and counts by their definitions."""

import numpy as np
import pytest
import tensorflow as tf

from tfmem.losses.sequence import accuracy, binary_cross_entropy, bit_accuracy, cross_entropy, solved


def test_sums_and_counts(rng):
    logits = rng.normal(size=[3, 4, 5]).astype(np.float32)
    targets = rng.integers(0, 5, [3, 4]).astype(np.int32)
    targets[:, 1] = logits[:, 1].argmax(-1)  # a sequence that is right everywhere
    targets[:, 2] = logits[:, 2].argmax(-1)
    targets[2, 2] = (targets[2, 2] + 1) % 5  # and one that is wrong where it does not count
    mask = np.arange(3)[:, None] < np.array([3, 3, 2, 1])
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -np.take_along_axis(log_softmax, targets[..., None], -1)[..., 0]
    right = logits.argmax(-1) == targets
    for given, keep in ((mask, mask), (mask.astype(np.float32), mask), (None, np.ones_like(mask))):
        total, count = cross_entropy(logits, targets, given)
        assert (float(total), float(count)) == (pytest.approx(nats[keep].sum(), rel=1e-5), keep.sum())
        total, count = accuracy(logits, targets, given)
        assert (float(total), float(count)) == (right[keep].sum(), keep.sum())
    total, count = solved(logits, targets, mask)
    assert (float(total), float(count)) == ((right | ~mask).all(0).sum(), 4)
    assert float(total) >= 2


GARBAGE = [np.nan, np.inf, -np.inf]
KINDS = {"bool": bool, "float32": np.float32, "int32": np.int32}


def run(loss, logits, *rest, jit):
    """(sum, count) and the sum's gradient."""

    @tf.function(jit_compile=jit, autograph=False)
    def compute(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            total, count = loss(logits, *rest)
        return total, count, tape.gradient(total, logits)

    tf.config.run_functions_eagerly(jit is None)
    try:
        return [x.numpy() for x in compute(tf.constant(logits, tf.float32))]
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("jit", [None, False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_is_masked_may_be_nan_or_no_class(garbage, kind, jit):
    mask = np.array([1, 0]).astype(KINDS[kind])
    logits = np.array([[0, 0, 0], [garbage, 0, garbage]])
    targets = np.array([0, -100], np.int32)
    total, count, gradient = run(cross_entropy, logits, targets, mask, jit=jit)
    assert (total, count) == (pytest.approx(np.log(3), abs=1e-4), 1)
    np.testing.assert_allclose(gradient, [[-2 / 3, 1 / 3, 1 / 3], [0, 0, 0]], atol=1e-6)
    total, count = accuracy(logits, targets, mask)
    assert (float(total), float(count)) == (1, 1)
    total, count = solved(logits[:, np.newaxis], targets[:, np.newaxis], mask[:, np.newaxis])
    assert (float(total), float(count)) == (1, 1)


@pytest.mark.parametrize("jit", [None, False, True])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_masked_bits_may_be_nan(garbage, jit):
    mask, logits = np.array([1.0, 0.0], np.float32), np.array([[0, 0], [garbage, 0]])
    targets = np.array([[1, 0], [garbage, garbage]], np.float32)
    total, count, gradient = run(binary_cross_entropy, logits, targets, mask, jit=jit)
    assert (total, count) == (pytest.approx(2 * np.log(2)), 2)
    np.testing.assert_allclose(gradient, [[-0.5, 0.5], [0, 0]], atol=1e-6)
    total, count = bit_accuracy(tf.constant(logits, tf.float32), targets, mask)
    assert (float(total), float(count)) == (1, 2)


def test_a_mask_of_other_axes_is_refused():
    with pytest.raises(ValueError, match=r"mask: shape \(3,\), must have leading axes of targets, \(2, 4\)"):
        cross_entropy(np.zeros([2, 4, 5], np.float32), np.zeros([2, 4], np.int32), np.ones([3]))
