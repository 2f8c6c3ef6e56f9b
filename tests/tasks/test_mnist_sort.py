"""MNIST sort: the digits of the images in the order of their priorities, a pure function of the seed."""

import numpy as np
import pytest

from tests.references.priority_sort import sort
from tests.tasks.test_mnist_recall import digits
from tfmem.tasks.mnist_recall import RecallStream
from tfmem.tasks.mnist_sort import MNISTSort, SortStream


def test_targets_are_in_the_order_of_priorities():
    images, labels = digits()
    stream = SortStream(MNISTSort(4, 3, side=6), images, labels, batch_size=3, seed=1)
    recall = RecallStream(images, labels, batch_size=3, steps=4, seed=1)
    rows = np.arange(6) * 28 // 6
    for update in (0, 1, 5):
        batch, index = stream.batch(update), recall.image_index(update)
        assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
            "inputs": ((8, 3, 38), "float32"),
            "targets": ((8, 3), "int32"),
            "mask": ((8, 3), "float32"),
        }
        shown = images[index][:, :, rows][..., rows].reshape(4, 3, 36) * np.float32(1 / 255)
        np.testing.assert_array_equal(batch["inputs"][:4, :, :36], shown)
        np.testing.assert_array_equal(batch["inputs"][..., 37], [[0] * 3] * 4 + [[1] * 3] + [[0] * 3] * 3)
        assert not batch["inputs"][5:].any()
        assert not batch["inputs"][4, :, :37].any()
        np.testing.assert_array_equal(batch["mask"], [[0] * 3] * 5 + [[1] * 3] * 3)
        assert not batch["targets"][:5].any()
        for b in range(3):
            priorities = batch["inputs"][:4, b, 36]
            np.testing.assert_array_equal(batch["targets"][5:, b], sort(labels[index[:, b]], priorities, 3))


def test_priorities_are_uniform():
    images, labels = digits(400)
    stream = SortStream(MNISTSort(side=1), images, labels, batch_size=20)
    priorities = np.concatenate([stream.batch(update)["inputs"][:20, :, 1].ravel() for update in range(10)])
    counts, _ = np.histogram(priorities, 10, (-1, 1))
    assert counts.sum() == 4000
    assert np.mean((counts - 400) ** 2 / 400) < 3  # chi-squared over its degrees of freedom


def test_function_of_seed_and_update():
    images, labels = digits()
    streams = [SortStream(MNISTSort(4, 4), images, labels, batch_size=3, seed=seed) for seed in (1, 1, 2)]
    a, b, other = (stream.batch(4) for stream in streams)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["inputs"], other["inputs"])
    assert not np.array_equal(a["inputs"], streams[0].batch(5)["inputs"])


@pytest.mark.parametrize("num_outputs", [0, 5])
def test_bad_number_of_outputs(num_outputs):
    with pytest.raises(ValueError, match=f"num_outputs: {num_outputs}, must be from 1 to 4"):
        MNISTSort(num_items=4, num_outputs=num_outputs)
