"""MNIST recall and classification (Huynh, Maire, Walter 2020, supplement B.2): the digit after an image.

The writer reads T images; the reader is shown one of the first T - 1 again and names the class of the one after it.
numpy only, time-major [T, B, ...]. Order of the images and draw of the query as in the public TF 1 code
(multigrid_mem, mnist_recall).
"""

import threading

import numpy as np

from tfmem.data.datasets import mnist
from tfmem.validation import check_range


class DigitStream:
    """Sequences of labelled images without end, each a pure function of (seed, update): `image_index(update)`.

    As in the public code, update after update takes the next block of steps * batch_size images, as [T, B]; the first
    pass follows the order of `images`; when too few are left, a fresh permutation is drawn and reading starts anew.
    Permutation e is the e-th that RandomState(seed) draws: for the public code's numpy seed, the public code's order.

    Args:
        images: [N, 28, 28] uint8, 0 to 255.
        labels: [N], the digits.
        batch_size: B (public: 32).
        steps: T, images per episode (public LOCAL_T_MAX: 10), at least 2.
        seed: non-negative integer.

    Attributes:
        blocks_per_pass: updates until the images are permuted again.

    Raises:
        ValueError: images and labels that do not match, or an argument out of its range.
    """

    def __init__(self, images, labels, batch_size, steps=10, seed=0):
        images, labels = np.asarray(images), np.asarray(labels)
        if images.ndim != 3 or images.dtype != np.uint8:
            raise ValueError(f"images: {images.dtype} {images.shape}, must be uint8 [N, rows, columns]")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"labels: {labels.shape}, must be {images.shape[:1]}, one per image")
        check_range("batch_size", batch_size, 1)
        check_range("steps", steps, 2)
        check_range("seed", seed, 0)
        if len(images) < steps * batch_size:
            raise ValueError(
                f"images: {len(images)} of them, must be at least steps * batch_size = {steps * batch_size}"
            )
        self.images, self.labels = images, labels
        self.batch_size, self.steps, self.seed = batch_size, steps, seed
        self.blocks_per_pass = len(images) // (steps * batch_size)
        self._lock = threading.Lock()
        self._restart()

    def generator(self, update):
        """The numpy generator of what update `update` draws in addition to its images."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(update,)))

    def image_index(self, update):
        """Indices of the images of update `update` (from 0), [T, B]."""
        number, block = divmod(update, self.blocks_per_pass)
        size = self.steps * self.batch_size
        return self._order(number)[block * size : (block + 1) * size].reshape(self.steps, self.batch_size)

    def _restart(self):
        self._number, self._permutation = 0, np.arange(len(self.images))
        self._rng = np.random.RandomState(self.seed)

    def _order(self, number):
        """Permutation `number`, the one in use being kept; going back replays them from the first."""
        with self._lock:
            if number < self._number:
                self._restart()
            while self._number < number:
                self._number, self._permutation = self._number + 1, self._rng.permutation(len(self.images))
            return self._permutation


class RecallStream(DigitStream):
    """Recall episodes, `batch(update)`: the images of a `DigitStream`, and a query.

    The public code draws its query steps from Python's generator; here they follow from (seed, update).
    """

    def query_step(self, update):
        """The step k, 0 to T - 2, that update `update` asks for, the same for the whole batch."""
        return int(self.generator(update).integers(self.steps - 1))

    def batch(self, update, query_step=None):
        """Episodes of update `update`, counted from 0.

        Args:
            update: number of the update.
            query_step: k to use instead of the drawn one.

        Returns:
            dict: images [T, B, 28, 28, 1] float32, raw 0 to 255; query [B, 28, 28, 1] float32, image k; label [B]
            int32, the digit of image k + 1; query_step int32, k.
        """
        k = self.query_step(update) if query_step is None else query_step
        if not 0 <= k <= self.steps - 2:
            raise ValueError(f"query_step: {k}, must be from 0 to steps - 2 = {self.steps - 2}")
        index = self.image_index(update)
        images = self.images[index][..., None].astype(np.float32)
        label = self.labels[index[k + 1]].astype(np.int32)
        return {"images": images, "query": images[k], "label": label, "query_step": np.int32(k)}


def stream(split, batch_size, steps, seed):
    """A `RecallStream` over a split of MNIST, "train" or "test"; see `tfmem.data.datasets.mnist` for its errors."""
    return RecallStream(*mnist(split), batch_size, steps, seed)
