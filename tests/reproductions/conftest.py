"""Data sets for the experiments."""

import gzip

import numpy as np
import pytest

from tests.text_data import write_babi, write_wikitext


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """Noise in the formats of MNIST, bAbI and WikiText-2, so that no data set is needed."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for split, count in (("train", 100), ("t10k", 60)):
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", rng.integers(0, 10, count, np.uint8))
    write_babi(folder.parent, tasks=(1, 8), versions=("en-valid",))
    write_wikitext(folder.parent)
    monkeypatch.setenv("TFMEM_DATA_DIR", str(folder.parent))
    monkeypatch.setenv("TFMEM_CACHE_DIR", str(tmp_path / "cache"))
