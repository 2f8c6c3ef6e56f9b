"""MNIST sort and classification (Huynh, Maire, Walter 2020, supplement B.2): the classes of images, by priority.

    step          0..n-1                n     n+1..n+m
    input         pixels, priority, 0   end   0
    target        0                     0     digits of the m highest priorities, the highest first
    mask          0                     0     1

Images are resized to `side` by nearest neighbor, pixels are from 0 to 1, priorities uniform in [-1, 1). Not specified
how the paper draws images and priorities; we draw images as in MNIST recall, priorities as in the standard task
(`tfmem.tasks.priority_sort`), and scale pixels, next to which a priority would count for nothing. numpy only.
"""

import dataclasses

import numpy as np

from tfmem.data.datasets import mnist
from tfmem.tasks.base import Batch, Task
from tfmem.tasks.mnist_recall import DigitStream
from tfmem.validation import check_array, check_range

NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class MNISTSort(Task):
    """Batches of MNIST sort.

    Args:
      num_items: n, images of a sequence.
      num_outputs: m, digits of the answer.
      side: rows and columns that an image is resized to.

    Raises:
      ValueError: a size is out of range, or an array would be too large.
    """

    num_items: int = 20
    num_outputs: int = 20
    side: int = 12

    output_size = NUM_CLASSES

    def __post_init__(self):
        check_range("num_items", self.num_items, 2)
        if not 1 <= self.num_outputs <= self.num_items:
            raise ValueError(f"num_outputs: {self.num_outputs}, must be from 1 to {self.num_items}")
        check_range("side", self.side, 1)
        check_array(self.num_steps, self.input_size, num_items=self.num_items, side=self.side)

    @property
    def num_steps(self):
        return self.num_items + 1 + self.num_outputs

    @property
    def input_size(self):
        return self.side**2 + 2

    def data_source(self, split, batch_size, seed):
        arguments = {
            "split": "test" if split == "evaluation" else split,
            "batch_size": batch_size,
            "seed": 0 if split == "evaluation" else seed,
            **dataclasses.asdict(self),
        }
        return "tfmem.tasks.mnist_sort:stream", arguments

    def baselines(self, batches):
        """The error of predicting the most frequent digit of a sequence's answer."""

        def error(batch):
            targets = batch.targets[-self.num_outputs :]
            counts = np.stack([(targets == digit).sum(0) for digit in range(NUM_CLASSES)])
            return np.mean(counts.argmax(0) != targets)

        return {"majority_error": float(np.mean([error(batch) for batch in batches]))}


class SortStream(DigitStream):
    """Sorting episodes, `batch(update)`: the images of a `DigitStream`, and priorities.

    Args:
        task: an `MNISTSort`.
        images, labels, batch_size, seed: as `DigitStream`.

    Raises:
        ValueError: as `DigitStream`.
    """

    def __init__(self, task, images, labels, batch_size, seed=0):
        super().__init__(images, labels, batch_size, task.num_items, seed)
        self.task = task

    def batch(self, update):
        """Arrays of the `Batch` of an update, counted from 0."""
        task, index = self.task, self.image_index(update)
        priorities = (self.generator(update).integers(2**24, size=index.shape) / 2**23 - 1.0).astype(np.float32)
        order = np.argsort(-priorities, axis=0, kind="stable")[: task.num_outputs]
        shape = (task.num_steps, self.batch_size)
        inputs = np.zeros([*shape, task.input_size], np.float32)
        inputs[: task.num_items, :, :-2] = self.pixels(index)
        inputs[: task.num_items, :, -2] = priorities
        inputs[task.num_items, :, -1] = 1
        targets, mask = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        targets[-task.num_outputs :] = np.take_along_axis(self.labels[index], order, axis=0)
        mask[-task.num_outputs :] = 1
        return Batch(inputs, targets, mask).arrays()

    def pixels(self, index):
        """Images [...] as float32 [..., side^2] from 0 to 1, row by row; row r reads floor(r rows / side)."""
        side, images = self.task.side, self.images[index]
        rows, columns = (np.arange(side) * size // side for size in images.shape[-2:])
        small = images[..., rows, :][..., columns].astype(np.float32) * np.float32(1 / 255)
        return small.reshape(*index.shape, side**2)


def stream(split, batch_size, seed, **arguments):
    """A `SortStream` over a split of MNIST, "train" or "test"; `arguments` are those of `MNISTSort`.

    Raises:
        MissingDataError, CorruptDataError: as `tfmem.data.datasets.mnist`.
    """
    return SortStream(MNISTSort(**arguments), *mnist(split), batch_size, seed)
