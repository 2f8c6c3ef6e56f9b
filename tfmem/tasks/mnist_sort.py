"""MNIST sort and classification (Huynh, Maire, Walter 2020, supplement B.2): the classes of images, by priority.

Every image comes with a priority, uniform in [-1, 1); the answer are the digits of the images of highest priority, the
highest first. How the paper draws images and priorities is unknown: images as in MNIST recall, priorities as in the
standard task (`tfmem.tasks.priority_sort`). numpy only, time-major [T, B, ...].
"""

import numpy as np

from tfmem.data.datasets import mnist
from tfmem.tasks.mnist_recall import DigitStream


class SortStream(DigitStream):
    """Sorting episodes, `batch(update)`: the images of a `DigitStream`, and priorities.

    Args:
        images, labels, batch_size, steps, seed: as `DigitStream`.
        num_outputs: digits to output, 1 to steps. Default: all.

    Raises:
        ValueError: as `DigitStream`, or `num_outputs` out of its range.
    """

    def __init__(self, images, labels, batch_size, steps=20, seed=0, num_outputs=None):
        super().__init__(images, labels, batch_size, steps, seed)
        self.num_outputs = steps if num_outputs is None else num_outputs
        if not 1 <= self.num_outputs <= steps:
            raise ValueError(f"num_outputs: {num_outputs}, must be from 1 to steps = {steps}")

    def batch(self, update):
        """Episodes of update `update`, counted from 0.

        Returns:
            dict: images [T, B, 28, 28, 1] float32, raw 0 to 255; priorities [T, B] float32; target [num_outputs, B]
            int32, the digits in the order of their priorities.
        """
        index = self.image_index(update)
        priorities = (self.generator(update).integers(2**24, size=index.shape) / 2**23 - 1.0).astype(np.float32)
        order = np.argsort(-priorities, axis=0, kind="stable")[: self.num_outputs]
        return {
            "images": self.images[index][..., None].astype(np.float32),
            "priorities": priorities,
            "target": np.take_along_axis(self.labels[index], order, axis=0).astype(np.int32),
        }


def stream(split, batch_size, steps, seed, num_outputs=None):
    """A `SortStream` over a split of MNIST, "train" or "test"; see `tfmem.data.datasets.mnist` for its errors."""
    return SortStream(*mnist(split), batch_size, steps, seed, num_outputs)
