"""Associative recall by its definition, read off the inputs alone."""

import numpy as np
import pytest
import tensorflow as tf

from tfmem.tasks.associative_recall import AssociativeRecall


def test_episodes_by_the_definition():
    task = AssociativeRecall(num_items=4, num_bits=3)
    batch = task(tf.constant([1, 2]), 200)
    assert [(tuple(t.shape), t.dtype.name) for t in batch[:2]] == [
        ((6, 200, 4), "float32"),
        ((200, 3), "float32"),
    ]
    ambiguous = 0
    for b in range(200):
        shown = batch.inputs[:, b].numpy()
        np.testing.assert_array_equal(shown[:, 3], [0, 0, 0, 0, 1, 0])
        assert not shown[5].any()
        items, query = [tuple(row) for row in shown[:4, :3]], tuple(shown[4, :3])
        assert set(shown[:4, :3].ravel()) <= {0, 1}
        places = [t for t in range(3) if items[t] == query]
        assert tuple(batch.targets[b].numpy()) in [items[t + 1] for t in places]
        once = [t for t in range(3) if items.count(items[t]) == 1]
        assert places[0] in once or not once
        ambiguous += len(once) < 3
    assert ambiguous > 20  # with 8 different items the rule has something to decide


def test_given_sequences():
    bits = np.array([[[0, 0], [1, 1]], [[0, 1], [1, 0]], [[1, 1], [0, 1]]], np.float32)  # [n, B, 2]
    batch = AssociativeRecall(num_items=3, num_bits=2).batch(tf.constant(bits), tf.constant([1, 0]))
    np.testing.assert_array_equal(batch.inputs[:3, :, :2], bits)
    np.testing.assert_array_equal(batch.inputs[3], [[0, 1, 1], [1, 1, 1]])
    np.testing.assert_array_equal(batch.targets, [[1, 1], [1, 0]])


def test_bits_and_queries_are_uniform():
    batch = AssociativeRecall()(tf.constant([0, 1]), 2000)
    np.testing.assert_allclose(batch.inputs[:10, :, :9].numpy().mean((0, 1)), 0.5, atol=0.02)
    same = np.all(batch.inputs[:9, :, :9] == batch.inputs[10, :, :9], axis=-1)
    counts = np.bincount(same.argmax(0), minlength=9)
    assert len(counts) == 9
    assert np.mean((counts - 2000 / 9) ** 2 / (2000 / 9)) < 3  # chi-squared over its degrees of freedom


def test_function_of_the_seed_compiled_or_not():
    task = AssociativeRecall(num_items=3, num_bits=2)
    batch = task(tf.constant([1, 2]), 20)
    compiled = tf.function(lambda seed: task(seed, 20), jit_compile=True)(tf.constant([1, 2]))
    for a, b in zip(batch[:2], compiled[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(batch.inputs, task(tf.constant([1, 3]), 20).inputs)


@pytest.mark.parametrize(("field", "value"), [("num_items", 1), ("num_bits", 0)])
def test_bad_arguments(field, value):
    with pytest.raises(ValueError, match=f"{field}: {value}, must be at least"):
        AssociativeRecall(**{field: value})
