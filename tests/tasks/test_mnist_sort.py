"""MNIST sort: the digits of the images in the order of their priorities, a pure function of the seed."""

import numpy as np
import pytest

from tests.references.priority_sort import sort
from tests.tasks.test_mnist_recall import digits
from tfmem.tasks.mnist_recall import RecallStream
from tfmem.tasks.mnist_sort import SortStream


def test_labels_are_in_the_order_of_priorities():
    images, labels = digits()
    stream = SortStream(images, labels, batch_size=3, steps=4, seed=1, num_outputs=3)
    recall = RecallStream(images, labels, batch_size=3, steps=4, seed=1)
    for update in (0, 1, 5):
        batch, index = stream.batch(update), recall.image_index(update)
        assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
            "images": ((4, 3, 28, 28, 1), "float32"),
            "priorities": ((4, 3), "float32"),
            "target": ((3, 3), "int32"),
        }
        np.testing.assert_array_equal(batch["images"][..., 0], images[index])
        for b in range(3):
            np.testing.assert_array_equal(
                batch["target"][:, b], sort(labels[index[:, b]], batch["priorities"][:, b], 3)
            )


def test_priorities_are_uniform_and_all_are_told_by_default():
    images, labels = digits(400)
    stream = SortStream(images, labels, batch_size=20, steps=20)
    assert stream.num_outputs == 20
    priorities = np.concatenate([stream.batch(update)["priorities"].ravel() for update in range(10)])
    counts, _ = np.histogram(priorities, 10, (-1, 1))
    assert counts.sum() == 4000
    assert np.mean((counts - 400) ** 2 / 400) < 3  # chi-squared over its degrees of freedom


def test_function_of_seed_and_update():
    images, labels = digits()
    streams = [SortStream(images, labels, batch_size=3, steps=4, seed=seed) for seed in (1, 1, 2)]
    a, b, other = (stream.batch(4) for stream in streams)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["priorities"], other["priorities"])
    assert not np.array_equal(a["priorities"], streams[0].batch(5)["priorities"])


@pytest.mark.parametrize("num_outputs", [0, 5])
def test_bad_number_of_outputs(num_outputs):
    with pytest.raises(ValueError, match=f"num_outputs: {num_outputs}, must be from 1 to steps = 4"):
        SortStream(*digits(), batch_size=2, steps=4, num_outputs=num_outputs)
