"""Batches of images for models of images (Gregor et al. 2019, Appendix A): MNIST, and whatever else is an array.

numpy only. An image is uint8, 0 to 255, [height, width, channels].
"""

import numpy as np

from tfmem.tasks.datasets import mnist

MNIST_PADDING = 2  # on every side: 28 x 28 to 32 x 32, which can be halved


class ImageStream:
    """An endless stream of batches, each a pure function of (seed, number): `batch(number)`.

    Every pass over the images is in an order of its own; what is left at its end is not used in that pass.

    Args:
        images: [N, height, width, channels] uint8.
        batch_size: B, at most N.
        seed: not negative; None: every pass is in the order of `images` (for evaluations).

    Attributes:
        batches_per_pass: N // B.

    Raises:
        ValueError: images that are not such, or an argument out of its range.
    """

    def __init__(self, images, batch_size, seed=0):
        images = np.asarray(images)
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(f"images must be uint8 [N, height, width, channels], got {images.dtype} {images.shape}")
        if not 1 <= batch_size <= len(images):
            raise ValueError(f"batch_size must be from 1 to the number of images, {len(images)}, got {batch_size}")
        if seed is not None and seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.batches_per_pass = len(images) // batch_size
        self._kept = None, None

    def batch(self, number):
        """Batch `number`, counted from 0: {"images": [B, height, width, channels] uint8}."""
        pass_number, place = divmod(number, self.batches_per_pass)
        index = self._order(pass_number)[place * self.batch_size : (place + 1) * self.batch_size]
        return {"images": self.images[index]}

    def _order(self, pass_number):
        """The order of a pass; the last one that was asked for is kept."""
        number, order = self._kept
        if number != pass_number:
            order = np.arange(len(self.images))
            if self.seed is not None:
                order = np.random.default_rng([self.seed, pass_number]).permutation(order)
            self._kept = pass_number, order
        return order


def mnist_stream(split, batch_size, seed=0):
    """An `ImageStream` of MNIST, [B, 32, 32, 1]: digits with a border of zeros.

    Args:
        split: "train" or "test"; see `tfmem.tasks.datasets.mnist` for its errors.
        batch_size, seed: of the stream.
    """
    border = (MNIST_PADDING, MNIST_PADDING)
    return ImageStream(np.pad(mnist(split)[0], [(0, 0), border, border])[..., None], batch_size, seed)
