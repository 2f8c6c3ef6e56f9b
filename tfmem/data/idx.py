"""MNIST as it is published: four gzipped IDX files."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from tfmem.data.files import CorruptDataError, MissingDataError, curl, missing_file

MNIST_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
MNIST_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def read_mnist(folder, split):
    """The images [N, 28, 28] and labels [N] of a split in a folder with the four files, uint8.

    Raises:
        MissingDataError: there is no such file.
        CorruptDataError: a file is cut off, damaged, or not MNIST.
    """
    images_file, labels_file = (Path(folder) / name for name in MNIST_FILES[split])
    images, labels = read_idx(images_file, (28, 28)), read_idx(labels_file, ())
    if len(images) != len(labels):
        raise CorruptDataError(f"{images_file} holds {len(images)} images but {labels_file} {len(labels)} labels")
    if labels.max(initial=0) > 9:
        raise CorruptDataError(
            f"{labels_file} holds the label {labels.max()}; labels are 0 to 9. {_again(labels_file)}"
        )
    return images, labels


def read_idx(path, item_shape):
    """A gzipped IDX file of unsigned bytes as an array [N, *item_shape].

    Raises:
        MissingDataError: there is no such file.
        CorruptDataError: it is not gzip, is cut off or damaged, or holds anything but such items.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise MissingDataError(missing_file(path, MNIST_URL + path.name)) from None
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptDataError(f"{path} is not a whole gzip file ({error}). {_again(path)}") from error
    rank = 1 + len(item_shape)
    magic = bytes([0, 0, 8, rank])  # two zeros, unsigned bytes, number of axes
    if content[:4] != magic:
        raise CorruptDataError(
            f"{path} starts with {content[:4].hex() or 'nothing'}, not with the magic number {magic.hex()}. "
            f"{_again(path)}"
        )
    header = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", content[4:header]) if len(content) >= header else ()
    if shape[1:] != tuple(item_shape) or not shape:
        raise CorruptDataError(f"{path} holds items of shape {shape[1:]}, expected {tuple(item_shape)}. {_again(path)}")
    expected = header + int(np.prod(shape))
    if len(content) != expected:
        raise CorruptDataError(
            f"{path} holds {len(content)} bytes, but its header {shape} asks for {expected}. {_again(path)}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _again(path):
    return f"Get it again with\n    {curl(path, MNIST_URL + path.name)}"
