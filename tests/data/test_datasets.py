"""MNIST from files and through TFDS; what a missing or a damaged file says."""

import functools
import gzip
import os
import struct
from pathlib import Path
from urllib import error, request

import numpy as np
import pytest

from tfmem.data.datasets import mnist
from tfmem.data.files import DATA_DIR, CorruptDataError, MissingDataError

PREFIXES = {"train": "train", "test": "t10k"}


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def arrays(rng):
    return {
        split: (rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8))
        for split, count in (("train", 12), ("test", 5))
    }


@pytest.fixture
def data_dir(tmp_path, arrays):
    (tmp_path / "mnist").mkdir()
    for split, (images, labels) in arrays.items():
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            (tmp_path / "mnist" / f"{PREFIXES[split]}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path


@pytest.mark.parametrize("split", PREFIXES)
def test_reads_the_files(data_dir, arrays, split, monkeypatch):
    for images, labels in (mnist(split, data_dir), mnist(split, str(data_dir))):
        np.testing.assert_array_equal(images, arrays[split][0])
        np.testing.assert_array_equal(labels, arrays[split][1])
        assert images.dtype == labels.dtype == np.uint8
    monkeypatch.setenv(DATA_DIR, str(data_dir))
    np.testing.assert_array_equal(mnist(split)[0], arrays[split][0])


def test_unknown_split(data_dir):
    with pytest.raises(ValueError, match=r"split: 'valid', must be one of"):
        mnist("valid", data_dir)


def test_missing_file_says_which_where_and_how_to_get_it(data_dir):
    path = data_dir / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.unlink()
    with pytest.raises(MissingDataError) as caught:
        mnist("test", data_dir)
    assert str(caught.value).startswith(f"t10k-labels-idx1-ubyte.gz is not in {data_dir / 'mnist'}")
    assert f"curl --fail --location --create-dirs --output {path} https://" in str(caught.value)
    assert len(mnist("train", data_dir)[0]) == 12


def test_missing_folder(tmp_path):
    with pytest.raises(MissingDataError, match=r"train-images-idx3-ubyte.gz is not in .*nowhere/mnist"):
        mnist("train", tmp_path / "nowhere")


IMAGES = np.zeros((12, 28, 28), np.uint8)
DAMAGE = {
    "truncated gzip": (lambda good: good[: len(good) // 2], "not a whole gzip file"),
    "flipped byte": (lambda good: good[:200] + bytes([good[200] ^ 0xFF]) + good[201:], "not a whole gzip file"),
    "not gzip": (lambda good: b"<html>404</html>", "not a whole gzip file"),
    "empty": (lambda good: b"", "starts with nothing, not with the magic number 00000803"),
    "magic of labels": (lambda good: gzip.compress(idx(np.zeros(12, np.uint8))), "starts with 00000801"),
    "header cut off": (lambda good: gzip.compress(idx(IMAGES)[:9]), r"items of shape \(\), expected \(28, 28\)"),
    "other image size": (lambda good: gzip.compress(idx(np.zeros((12, 32, 32), np.uint8))), r"shape \(32, 32\)"),
    "too short": (lambda good: gzip.compress(idx(IMAGES)[:-1]), "holds 9423 bytes, but its header .* asks for 9424"),
    "too long": (lambda good: gzip.compress(idx(IMAGES) + b"x"), "holds 9425 bytes"),
    "fewer images": (lambda good: gzip.compress(idx(IMAGES[:11])), "holds 11 images but .* 12 labels"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_corrupt_images(data_dir, damage):
    path = data_dir / "mnist" / "train-images-idx3-ubyte.gz"
    change, message = DAMAGE[damage]
    path.write_bytes(change(path.read_bytes()))
    before = {file: file.read_bytes() for file in data_dir.rglob("*") if file.is_file()}
    with pytest.raises(CorruptDataError, match=message) as caught:
        mnist("train", data_dir)
    assert str(path) in str(caught.value)
    assert {file: file.read_bytes() for file in data_dir.rglob("*") if file.is_file()} == before
    assert len(mnist("test", data_dir)[0]) == 5


def test_labels_out_of_range(data_dir):
    path = data_dir / "mnist" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.full(12, 10, np.uint8))))
    with pytest.raises(CorruptDataError, match="holds the label 10; labels are 0 to 9"):
        mnist("train", data_dir)


# ---- through TFDS ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tfds(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.delenv(DATA_DIR, raising=False)
    monkeypatch.setattr(tfds, "builder", functools.partial(tfds.builder, data_dir=str(tmp_path / "tfds")))
    return tfds


def test_tfds_builder(tfds, data_dir, arrays, monkeypatch, tmp_path):
    """The real builder prepares the tiny files once; the second call needs no download."""
    downloads = []

    def serve(manager, urls):
        downloads.append(urls)
        return {name: gunzipped(data_dir / "mnist" / Path(url).name) for name, url in urls.items()}

    def gunzipped(path):
        target = tmp_path / path.stem
        target.write_bytes(gzip.decompress(path.read_bytes()))
        return str(target)

    class Reply:
        def close(self):
            pass

    monkeypatch.setattr(request, "urlopen", lambda *args, **options: Reply())
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", serve)
    module = type(tfds.builder("mnist")).__module__
    monkeypatch.setattr(f"{module}._TRAIN_EXAMPLES", 12)
    monkeypatch.setattr(f"{module}._TEST_EXAMPLES", 5)
    for _ in range(2):
        for split, (expected, digits) in arrays.items():
            images, labels = mnist(split)
            assert images.dtype == labels.dtype == np.uint8
            order = [next(j for j, image in enumerate(expected) if np.array_equal(image, found)) for found in images]
            assert sorted(order) == list(range(len(expected)))
            np.testing.assert_array_equal(labels, digits[order])
    assert len(downloads) == 1


def test_no_network(tfds, monkeypatch, tmp_path):
    def refuse(*args, **options):
        raise error.URLError("no route to host")

    monkeypatch.setattr(request, "urlopen", refuse)
    with pytest.raises(MissingDataError) as caught:
        mnist("train")
    message = str(caught.value)
    assert str(tmp_path / "tfds") in message
    assert "no route to host" in message
    assert "tfds build mnist" in message
    assert f"{DATA_DIR}=DIR" in message


# ---- the real files -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.environ.get(DATA_DIR), reason=f"{DATA_DIR} is not set")
def test_the_real_files():
    (train, train_labels), (test, test_labels) = mnist("train"), mnist("test")
    assert (train.shape, test.shape) == ((60000, 28, 28), (10000, 28, 28))
    assert train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(train_labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert 33.3 < train.mean() < 33.4
