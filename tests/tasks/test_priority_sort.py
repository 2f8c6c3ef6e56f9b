"""Priority sort against a selection sort of what the inputs show."""

import numpy as np
import pytest
import tensorflow as tf

from tests.references.priority_sort import sort
from tfmem.tasks.priority_sort import PrioritySort, patches


def test_episodes_by_the_definition():
    task = PrioritySort(num_inputs=9, num_outputs=5, num_bits=4)
    batch = task(tf.constant([1, 2]), 30)
    assert [tuple(t.shape) for t in batch[:3]] == [(15, 30, 6), (15, 30, 4), (15, 30)]
    assert {t.dtype for t in batch[:3]} == {tf.float32}
    inputs, targets, mask = (np.swapaxes(array, 0, 1) for array in batch[:3])
    for b in range(30):
        bits, priorities = inputs[b, :9, :4], inputs[b, :9, 4]
        np.testing.assert_array_equal(targets[b, 10:], sort(bits, priorities, 5))
    np.testing.assert_array_equal(inputs[:, 9], np.tile([0, 0, 0, 0, 0, 1], [30, 1]))
    assert not inputs[:, :9, 5].any()
    assert not inputs[:, 10:].any()
    assert not targets[:, :10].any()
    np.testing.assert_array_equal(mask, np.tile(np.arange(15) >= 10, [30, 1]))


def test_equal_priorities_keep_their_order():
    task = PrioritySort(num_inputs=4, num_outputs=4, num_bits=2)
    bits = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)[:, np.newaxis]
    batch = task.batch(tf.constant(bits), tf.constant([[0.5], [-0.5], [0.5], [0.75]]))
    np.testing.assert_array_equal(batch.targets[5:, 0], [[1, 1], [0, 0], [1, 0], [0, 1]])


def test_bits_and_priorities_are_uniform():
    task = PrioritySort()
    inputs = task(tf.constant([0, 1]), 500).inputs.numpy()[:20]
    bits, priorities = inputs[..., :8], inputs[..., 8]
    np.testing.assert_allclose(bits.mean((0, 1)), 0.5, atol=0.02)
    assert set(np.unique(bits)) == {0, 1}
    counts, _ = np.histogram(priorities, 10, (-1, 1))
    assert counts.sum() == 10_000
    assert np.mean((counts - 1000) ** 2 / 1000) < 3  # chi-squared over its degrees of freedom


def test_function_of_the_seed_compiled_or_not():
    task = PrioritySort(num_inputs=5, num_outputs=4)
    batch = task(tf.constant([1, 2]), 3)
    compiled = tf.function(task.__call__, jit_compile=True)(tf.constant([1, 2]), 3)
    for a, b in zip(batch[:3], compiled[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(batch.inputs, task(tf.constant([1, 3]), 3).inputs)


@pytest.mark.parametrize(
    ("field", "config"),
    [
        ("num_inputs", {"num_inputs": 0}),
        ("num_outputs", {"num_outputs": 0}),
        ("num_bits", {"num_bits": 0}),
        ("num_outputs: 5, must be at most num_inputs = 4", {"num_inputs": 4, "num_outputs": 5}),
    ],
)
def test_bad_arguments(field, config):
    with pytest.raises(ValueError, match=field):
        PrioritySort(**config)


def test_patches_are_vectors_row_by_row(rng):
    bits, priorities = rng.integers(0, 2, (5, 2, 9)), rng.uniform(-1, 1, (5, 2))
    grid = patches(tf.constant(bits, tf.float32), tf.constant(priorities, tf.float32)).numpy()
    assert grid.shape == (5, 2, 3, 3, 2)
    for row in range(3):
        for column in range(3):
            np.testing.assert_array_equal(grid[:, :, row, column, 0], bits[:, :, 3 * row + column])
            np.testing.assert_allclose(grid[:, :, row, column, 1], priorities, rtol=1e-6)
    assert patches(tf.zeros([2, 4])).shape == (2, 2, 2, 1)
    with pytest.raises(ValueError, match=r"vectors: .*, must have a square number as last axis"):
        patches(tf.zeros([2, 8]))
