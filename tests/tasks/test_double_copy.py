"""Double copy against episodes made one character at a time."""

import numpy as np
import pytest
import tensorflow as tf

from tests.references.double_copy import episode
from tfmem.tasks.double_copy import DoubleCopy


def test_episodes_by_the_definition():
    task = DoubleCopy(length=7, num_characters=10)
    batch = task(tf.constant([1, 2]), 40)
    assert [t.shape for t in batch[:3]] == [(task.num_steps, 40)] * 3
    assert [t.dtype for t in batch[:3]] == [tf.int32, tf.int32, tf.float32]
    inputs, targets, mask = (np.transpose(array) for array in batch[:3])
    for b in range(40):
        expected = episode(inputs[b, :7].tolist(), 10)
        for ours, theirs in zip((inputs[b], targets[b], mask[b]), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert inputs.max() < task.input_size
    assert targets.max() < task.output_size


def test_characters_are_uniform():
    task = DoubleCopy()
    counts = np.bincount(np.ravel(task(tf.constant([0, 1]), 1000).inputs[:50]), minlength=10)
    assert len(counts) == 10
    assert np.mean((counts - 5000) ** 2 / 5000) < 3  # chi-squared over its degrees of freedom


def test_function_of_the_seed_compiled_or_not():
    task = DoubleCopy(length=5)
    batch = task(tf.constant([1, 2]), 3)
    compiled = tf.function(task.__call__, jit_compile=True)(tf.constant([1, 2]), 3)
    for a, b in zip(batch[:3], compiled[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(batch.inputs, task(tf.constant([1, 3]), 3).inputs)


@pytest.mark.parametrize("field", ["length", "num_characters"])
def test_bad_arguments(field):
    with pytest.raises(ValueError, match=f"{field}: 0, must be at least 1"):
        DoubleCopy(**{field: 0})
