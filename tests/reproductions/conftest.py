"""Data sets for the experiments; finished and recorded runs of the toy experiment."""

import gzip

import numpy as np
import pytest

from reproductions.records import record
from tests.reproductions import toy
from tests.text_data import write_babi, write_wikitext
from tfmem.training import train


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


@pytest.fixture(scope="session")
def toy_runs(tmp_path_factory):
    """Folder of finished runs: width 4 with seeds 0 and 1, width 3 with seed 0."""
    path = tmp_path_factory.mktemp("finished") / "runs"
    for seed, width in ((0, 4), (1, 4), (0, 3)):
        config = toy.Config(num_updates=200, updates_per_call=4, log_every=2, eval_every=40, seed=seed, width=width)
        train(toy.Experiment(config), path / f"{width}-{seed}", "smoke", toy.PAPER)
    return path


@pytest.fixture(scope="session")
def toy_root(toy_runs, tmp_path_factory):
    """Folder of the papers' folders with the records of `toy_runs`."""
    root = tmp_path_factory.mktemp("root")
    record([toy_runs], {"toy/regression": "tests.reproductions.toy"}, root)
    return root
