"""Trained weights: what is saved is loaded, damage and wrong names are errors, and the package's models score."""

import os
import subprocess
import sys
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
