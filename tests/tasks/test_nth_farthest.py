"""Nth farthest: the public example's rows and labels exactly, the paper's labels by definition, the draws."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tfmem.tasks.nth_farthest import NthFarthest


def parts(inputs, num_objects, num_features):
    """Vectors by label, order of the labels, and the two questions, of inputs [B, N, F + 3 N]."""
    *_, labels, first, second = np.split(inputs, num_features + num_objects * np.arange(3), axis=-1)
    order = labels.argmax(-1)
    vectors = np.take_along_axis(inputs[..., :num_features], order.argsort(-1)[..., None], 1)
    return vectors, order.astype(np.int32), first[:, 0].argmax(-1), second[:, 0].argmax(-1)


def test_public_example(golden):
    stored = np.load(golden("nth_farthest/dataset.npz"))
    cases = {match[0]: match for match in map(re.compile(r"objects(\d+)_features(\d+)").match, stored) if match}
    assert cases
    for name, match in cases.items():
        objects, features = int(match[1]), int(match[2])
        inputs, labels = (stored[f"{name}/{key}"] for key in ("inputs", "labels"))
        vectors, order, m, n = parts(inputs, objects, features)
        batch = NthFarthest(objects, features, public_example=True).batch(vectors, order, n, m)
        np.testing.assert_array_equal(batch.inputs, inputs.swapaxes(0, 1), err_msg=name)
        np.testing.assert_array_equal(batch.targets, labels, err_msg=name)


@pytest.mark.parametrize(("objects", "features"), [(8, 16), (3, 2)])
def test_labels_are_the_papers(objects, features):
    task = NthFarthest(objects, features)
    batch = task(tf.constant([3, 7]), 50)
    assert batch.inputs.shape == [objects, 50, task.input_size]
    vectors, order, n, m = parts(batch.inputs.numpy().swapaxes(0, 1), objects, features)
    for element in range(50):
        distances = [np.linalg.norm(vector - vectors[element, m[element]]) for vector in vectors[element]]
        assert np.argsort(distances)[::-1][n[element]] == batch.targets[element]
        assert sorted(order[element]) == list(range(objects))
    if objects == 8:
        assert task.input_size == 40  # appendix A.1


def test_draws_are_uniform_and_depend_on_the_seed():
    task = NthFarthest(4, 2)
    draw = tf.function(task, jit_compile=True)
    batch = draw(tf.constant([1, 5]), 4000)
    plain = task(tf.constant([1, 5]), 4000)
    np.testing.assert_allclose(batch.inputs, plain.inputs, atol=1e-6)
    np.testing.assert_array_equal(batch.targets, plain.targets)
    assert not np.array_equal(batch.targets, draw(tf.constant([1, 6]), 4000).targets)
    vectors, order, n, m = parts(batch.inputs.numpy().swapaxes(0, 1), 4, 2)
    np.testing.assert_allclose(np.histogram(vectors, 10, (-1, 1))[0] / vectors.size, 0.1, atol=0.01)
    for counted in (batch.targets, n, m, order[:, 0]):
        np.testing.assert_allclose(np.bincount(counted) / 4000, 0.25, atol=0.04)
    guess = np.where(n == 3, m, (m + 1) % 4)
    assert np.mean(guess == batch.targets) == pytest.approx(task.baselines([])["guess_accuracy"], abs=0.04)


def test_bad_arguments():
    for name in ("num_objects", "num_features"):
        with pytest.raises(ValueError, match=name):
            NthFarthest(**{name: 0})
