"""Batches of images for models of images (Gregor et al. 2019, Appendix A): MNIST, or any array.

numpy only. An image is uint8, 0 to 255, [height, width, channels].
"""

import numpy as np

from tfmem.data.datasets import mnist
from tfmem.data.source import Passes

MNIST_PADDING = 2  # on every side: 28 x 28 to 32 x 32, which can be halved


class ImageStream:
    """A `DataSource` of images; their order is that of `Passes`.

    Args:
        images: [N, height, width, channels] uint8.
        batch_size: B, at most N.
        seed: not negative; None: every pass is in the order of `images` (for evaluations).

    Attributes:
        batches_per_pass: N // B.

    Raises:
        ValueError: images of another rank or dtype, or an argument out of its range.
    """

    def __init__(self, images, batch_size, seed=0):
        images = np.asarray(images)
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(f"images: {images.dtype} {images.shape}, must be uint8 [N, height, width, channels]")
        self.images = images
        self._passes = Passes(len(images), batch_size, seed)
        self.batches_per_pass = self._passes.batches_per_pass

    def batch(self, number):
        """Batch `number`, counted from 0: {"images": [B, height, width, channels] uint8}."""
        return {"images": self.images[self._passes.items(number)]}


def mnist_stream(split, batch_size, seed=0):
    """An `ImageStream` of MNIST, [B, 32, 32, 1]: digits with a border of zeros.

    Args:
        split: "train" or "test"; see `tfmem.data.datasets.mnist` for its errors.
        batch_size, seed: of the stream.
    """
    border = (MNIST_PADDING, MNIST_PADDING)
    return ImageStream(np.pad(mnist(split)[0], [(0, 0), border, border])[..., None], batch_size, seed)
