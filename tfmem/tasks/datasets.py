"""Data sets as numpy arrays: through tensorflow-datasets, or from already downloaded files in TFMEM_DATA_DIR."""

import gzip
import os
import struct
import zlib
from pathlib import Path
from urllib import request

import numpy as np

DATA_DIR = "TFMEM_DATA_DIR"
_MNIST_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_MNIST_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


class MissingDataError(FileNotFoundError):
    """A data set is not where it was looked for; the message says where that was and how to get it."""


class CorruptDataError(ValueError):
    """A data file is not what it should be; the message names the file and what is wrong with it."""


def mnist(split, data_dir=None):
    """MNIST as (images [N, 28, 28] uint8 from 0 to 255, labels [N] uint8 from 0 to 9), in the order of the files.

    Args:
        split: "train" (60,000) or "test" (10,000).
        data_dir: folder whose `mnist` sub-folder holds the four gzipped IDX files; None: what TFMEM_DATA_DIR names,
            or, where that is unset, the `mnist` builder of tensorflow-datasets (its own order; it downloads once).

    Raises:
        ValueError: an unknown split.
        MissingDataError: no such file, or nothing could be downloaded.
        CorruptDataError: a file that is cut off, damaged, or not MNIST. Nothing is written beside the files.
    """
    if split not in _MNIST_FILES:
        raise ValueError(f"split must be one of {sorted(_MNIST_FILES)}, got {split!r}")
    data_dir = data_dir or os.environ.get(DATA_DIR)
    if not data_dir:
        return _mnist_from_tfds(split)
    folder = Path(data_dir) / "mnist"
    images_file, labels_file = (folder / name for name in _MNIST_FILES[split])
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
        raise MissingDataError(
            f"{path.name} is not in {path.parent} (looked for there because of {DATA_DIR} or data_dir). Get it with\n"
            f"    {_command(path)}\n"
            f"or unset {DATA_DIR} to let tensorflow-datasets download it."
        ) from None
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


def _command(path):
    return f"curl --fail --location --create-dirs --output {path} {_MNIST_URL}{path.name}"


def _again(path):
    return f"Get it again with\n    {_command(path)}"


def _mnist_from_tfds(split):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    builder = tfds.builder("mnist")
    try:
        if not builder.is_prepared():
            probe = request.Request(_MNIST_URL + _MNIST_FILES[split][0], method="HEAD")
            request.urlopen(probe, timeout=20).close()  # without a network TFDS would retry for minutes
            builder.download_and_prepare()  # in a temporary folder, renamed once it is whole
    except Exception as error:
        names = ", ".join(_MNIST_FILES[split])
        raise MissingDataError(
            f"MNIST ({names}) is not in {builder.data_dir} and could not be downloaded: {error}\n"
            f"With a network, `tfds build mnist` gets it; without one, put the four files of {_MNIST_URL} into "
            f"DIR/mnist and set {DATA_DIR}=DIR."
        ) from error
    try:
        examples = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
    except tf.errors.DataLossError as error:
        raise CorruptDataError(
            f"a record file in {builder.data_dir} is damaged ({error}). Delete that folder and run `tfds build mnist`."
        ) from error
    return examples["image"][..., 0], examples["label"].astype(np.uint8)
