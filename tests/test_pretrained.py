"""Trained weights: what is saved is loaded, damage and wrong names are errors, and the package's models score."""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmem
from reproductions.publish import LARGEST, open_published
from tests.support import first_of
from tfmem import pretrained
from tfmem.cores import DNC
from tfmem.data.files import CorruptDataError

RUN = {"experiment": "paper/experiment", "config": {"seed": 3}}
FEW = {  # the score that is compared, a cheap evaluation, and how far its score may be from the recorded one
    "metalearned/dictionary_inference": ("error", {"eval_batches": 4}, 0.02),
    "multigrid/mapping": ("f_score", {"eval_batches": 1, "batch_size": 8}, 0.1),
    "belief_states/random_city": ("map_mse", {"eval_episodes": 16}, 0.002),
    "belief_states/kanerva": ("autoencoder_nats", {"eval_batches": 1}, 8.0),
}
PACKAGED = sorted(path.parent.relative_to(pretrained.PACKAGED).as_posix() for path in pretrained.PACKAGED.rglob("*.h5"))


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A model that was saved as "paper/experiment/demo", and its folder."""
    monkeypatch.setenv("TFMEM_WEIGHTS_DIR", str(tmp_path))
    core = DNC({"memory_size": 4, "word_size": 3}, {"hidden_size": 5}, output_size=4)
    model = keras.Sequential([keras.Input([None, 3]), tfmem.RNN(tfmem.as_keras_cell(core)), keras.layers.Dense(2)])
    return model, pretrained.save(tmp_path, "paper/experiment/demo", model, RUN, "# Card")


def test_load_returns_the_model_with_its_weights_run_and_card(saved):
    model, folder = saved
    loaded = pretrained.load("paper/experiment/demo")
    x = np.random.default_rng(0).normal(size=[2, 5, 3]).astype(np.float32)
    np.testing.assert_array_equal(loaded.model(x), model(x))
    assert loaded.run == RUN
    assert loaded.card == "# Card\n"
    assert {file.suffix for file in folder.iterdir()} == {".json", ".h5", ".md", ".txt"}


def test_a_model_of_the_same_name_is_replaced_and_the_folder_comes_before_the_package(saved):
    model, folder = saved
    model.layers[-1].bias.assign([1.0, 2.0])
    pretrained.save(folder.parents[2], "paper/experiment/demo", model, RUN, "# Another")
    pretrained.save(folder.parents[2], PACKAGED[0], model, RUN, "# Of the folder")
    assert pretrained.load("paper/experiment/demo").card == "# Another\n"
    assert pretrained.load(PACKAGED[0]).card == "# Of the folder\n"
    assert pretrained.list() == sorted(["paper/experiment/demo", *PACKAGED])


def test_unknown_name_and_folder(saved, monkeypatch):
    with pytest.raises(ValueError, match=r"^name: \['paper/experiment/demo'\], must be one of"):
        pretrained.load(["paper/experiment/demo"])
    for name in ("paper/experiment/demmo", "paper/exp …"):
        with pytest.raises(
            ValueError, match=rf"^name: '{name}', must be one of .*; did you mean paper/experiment/demo"
        ):
            pretrained.load(name)
    monkeypatch.setenv("TFMEM_WEIGHTS_DIR", str(saved[1] / "nowhere"))
    with pytest.raises(ValueError, match=r"^TFMEM_WEIGHTS_DIR: '.*nowhere', must be a folder$"):
        pretrained.list()


def test_variables_by_name_come_back_as_arrays(tmp_path, monkeypatch):
    monkeypatch.setenv("TFMEM_WEIGHTS_DIR", str(tmp_path))
    values = {"model/001": np.float32([[1, 2]]), "model/000": np.int64(3)}
    folder = pretrained.save(tmp_path, "a/b/c", {name: tf.Variable(v) for name, v in values.items()}, RUN, "# Card")
    loaded = pretrained.load("a/b/c").model
    assert [*loaded] == ["model/000", "model/001"]
    for name, value in values.items():
        np.testing.assert_array_equal(loaded[name], value, strict=True)
    (folder / "variables.h5").unlink()
    with pytest.raises(CorruptDataError, match=r"variables\.h5 is missing"):
        pretrained.load("a/b/c")


@pytest.mark.parametrize("file", ["model.json", "model.weights.h5", "run.json", "README.md"])
def test_damaged_and_missing_files(saved, file):
    path = saved[1] / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptDataError, match=f"{file} is damaged: its SHA-256 is"):
        pretrained.load("paper/experiment/demo")
    path.unlink()
    with pytest.raises(CorruptDataError, match=f"{file} is missing"):
        pretrained.load("paper/experiment/demo")
    checksums = saved[1] / "checksums.txt"
    kept = [line for line in checksums.read_text().splitlines(keepends=True) if not line.endswith(f"{file}\n")]
    checksums.write_text("".join(kept))
    with pytest.raises(CorruptDataError, match=f"checksums.txt is damaged: it lacks {file}"):
        pretrained.load("paper/experiment/demo")


@pytest.mark.parametrize("line", [b"\xff\xfe", b"", b"12  model.json", b"0" * 64 + b"  ../demo/model.json"])
def test_checksums_that_are_none(saved, line):
    path = saved[1] / "checksums.txt"
    path.write_bytes(line + b"\n" + path.read_bytes())
    with pytest.raises(CorruptDataError, match=r"checksums\.txt is damaged: .*, must be a SHA-256 and a file's name"):
        pretrained.load("paper/experiment/demo")


def test_weights_of_another_model_and_a_class_of_another_version(saved):
    model, folder = saved
    other = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
    other.save_weights(folder / "model.weights.h5")
    checksum(folder)
    with pytest.raises(CorruptDataError, match=r"demo is damaged, or of another version of tfmem: "):
        pretrained.load("paper/experiment/demo")
    pretrained.save(folder.parents[2], "paper/experiment/demo", model, RUN, "# Card")
    configuration = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**configuration, "class_name": "Newer", "module": "tfmem.newer"}))
    checksum(folder)
    with pytest.raises(CorruptDataError, match=r"of another version of tfmem: .*tfmem\.newer"):
        pretrained.load("paper/experiment/demo")


def checksum(folder):
    """Write the checksums of a model's files as they are."""
    files = [folder / line.split("  ")[1] for line in (folder / "checksums.txt").read_text().splitlines()]
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (folder / "checksums.txt").write_text("".join(lines))


def test_unfinished_folders_are_no_models(saved):
    for folder in (saved[1].parents[2], saved[1].parent / "demo.x2y.partial" / "demo"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checksums.txt").touch()
    assert pretrained.list() == sorted(["paper/experiment/demo", *PACKAGED])


def test_several_writers_of_one_model(tmp_path, monkeypatch):
    monkeypatch.setenv("TFMEM_WEIGHTS_DIR", str(tmp_path))

    def write(seed):
        for _ in range(20):
            pretrained.save(tmp_path, "a/b/c", {"x": tf.Variable(seed)}, {"seed": seed}, f"# {seed}")

    with ThreadPoolExecutor(3) as pool:
        assert [*pool.map(write, range(3))] == [None] * 3
    loaded = pretrained.load("a/b/c")
    assert loaded.model["x"] == loaded.run["seed"]
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["c"]


def test_names_need_no_tensorflow():
    code = "import sys, tfmem; assert tfmem.pretrained.list(); assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(tfmem.__file__).parents[1], check=True, timeout=60)


def test_the_package_stays_small():
    assert sum(file.stat().st_size for file in pretrained.PACKAGED.rglob("*") if file.is_file()) <= LARGEST


@pytest.mark.parametrize("name", first_of(PACKAGED, 3))
def test_models_of_the_package_score_as_recorded(name, monkeypatch):
    """On little data: agents within four standard errors, and not as random play; others within a tolerance."""
    monkeypatch.delenv("TFMEM_WEIGHTS_DIR", raising=False)
    _, run, card = pretrained.load(name)
    recorded = run["result"]["ours"]
    assert f"# {name}\n" in card
    assert run["command"] in card
    if "episode_return" in recorded:
        returns = open_published(name, eval_episodes=48, num_levels=48, jit_compile=False).episodes().episode_return
        error = 4 * returns.std() / len(returns) ** 0.5
        assert abs(returns.mean() - recorded["episode_return"]) < error
        assert abs(returns.mean() - recorded["random_episode_return"]) > error
        return
    score, changes, tolerance = FEW[run["experiment"]]
    if (
        run["experiment"] == "belief_states/kanerva"
        and not Path(os.environ.get("TFMEM_DATA_DIR", ""), "mnist").is_dir()
    ):
        pytest.skip("TFMEM_DATA_DIR names no folder with mnist")
    assert open_published(name, **changes).evaluate()[score] == pytest.approx(recorded[score], abs=tolerance)
