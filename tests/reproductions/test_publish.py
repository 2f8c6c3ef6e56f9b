"""Command `publish`: a finished run becomes a model that evaluates as the run did; other runs are refused."""

import json
import shutil

import pytest

from reproductions import publish as publishing
from reproductions.__main__ import main
from reproductions.runs import UsageError
from tests.reproductions import toy
from tests.reproductions.test_cli import MODULES
from tfmem import pretrained
from tfmem.training import config_from_fields, train
from tfmem.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(toy.Experiment(toy.Config(num_updates=6, log_every=2, width=3, seed=2)), folder, "smoke", toy.PAPER)
    return folder


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of a finished run; `TFMEM_WEIGHTS_DIR` names an empty folder."""
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("TFMEM_WEIGHTS_DIR", str(tmp_path / "weights"))
    return shutil.copytree(finished, tmp_path / "run")


def test_loaded_model_evaluates_as_the_run_did(run):
    assert main(["publish", str(run)], MODULES) == 0
    (name,) = set(pretrained.list()) - {*_packaged()}
    assert name.startswith("toy/regression/smoke-width=3")
    model, about, card = pretrained.load(name)
    experiment = toy.Experiment(config_from_fields(toy.Config, about["config"]))
    experiment.model = model
    assert experiment.evaluate() == pytest.approx(RunFolder(run).result()["ours"], rel=1e-6)
    assert about["result"] == RunFolder(run).result()
    assert about["command"] == "reproduce run toy/regression --preset smoke --seed 2 --width 3"
    assert f"{about['command']}\n" in card
    assert "| `error` |" in card
    assert "| `num_updates` | `6` | `60` |" in card
    assert "license: nothing." in card


class Unserialized:
    """A model without a Keras configuration, as those of Sonnet modules."""

    def __init__(self, model):
        self.model = model

    def __call__(self, inputs):
        return self.model(inputs)

    def __getattr__(self, name):
        return getattr(self.model, name)


class UnserializedExperiment(toy.Experiment):
    def __init__(self, config):
        super().__init__(config)
        self.model = Unserialized(self.model)


@pytest.mark.parametrize("experiment", [toy.Experiment, UnserializedExperiment])
def test_open_published_is_the_experiment_with_the_trained_weights(run, experiment, monkeypatch):
    monkeypatch.setattr(toy, "Experiment", experiment)
    assert main(["publish", str(run)], MODULES) == 0
    (name,) = set(pretrained.list()) - {*_packaged()}
    opened = publishing.open_published(name, MODULES, seed=5)
    assert opened.config.seed == 5
    assert opened.evaluate() == pytest.approx(RunFolder(run).result()["ours"], rel=1e-6)
    with pytest.raises(UsageError, match=r"^widht: 4, must not be given: toy/regression has no such setting"):
        publishing.open_published(name, MODULES, widht=4)
    with pytest.raises(UsageError, match=rf"^changes: .*, must leave the weights of {name} as they are"):
        publishing.open_published(name, MODULES, width=4)
    model, _, card = pretrained.load(name)
    if experiment is UnserializedExperiment:
        assert {*model} == {"model/000", "model/001", "model/002"}  # the kernel, Dense's kernel and bias
        assert f'open_published("{name}")' in card
        assert "5 parameters" in card


def _packaged():
    return {path.parent.relative_to(pretrained.PACKAGED).as_posix() for path in pretrained.PACKAGED.rglob("*.h5")}


def test_command_makes_the_run(run, tmp_path):
    main(["publish", str(run)], MODULES)
    (name,) = set(pretrained.list()) - {*_packaged()}
    about = pretrained.load(name).run
    assert main([*about["command"].split()[1:], "--folder", str(tmp_path / "again")], MODULES) == 0
    assert RunFolder(tmp_path / "again").config()["config"] == about["config"]
    assert RunFolder(tmp_path / "again").result()["ours"] == about["result"]["ours"]


def refused(run, capsys):
    assert main(["publish", str(run)], MODULES) > 0
    assert {*pretrained.list()} == _packaged()
    return capsys.readouterr().err


def test_unfinished_run(run, capsys):
    (run / "result.json").unlink()
    assert "has no result.json, so it is not finished" in refused(run, capsys)


def test_checkpoint_of_another_update(run, capsys):
    folder = RunFolder(run)
    folder.save(folder.restore()[0]._replace(update=7))
    assert "newest checkpoint is of update 7, must be of update 6" in refused(run, capsys)


def edit(path, **fields):
    """Write fields of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_damaged_run(run, capsys):
    edit(run / "result.json", ours={"error": "small"})
    assert "result.json is damaged: error: 'small', must be a number" in refused(run, capsys)


def test_run_without_a_preset(run, capsys):
    edit(run / "config.json", preset=None)
    assert "preset: None, must be one of paper" in refused(run, capsys)


def test_fields_that_an_older_run_lacks_have_their_defaults(run):
    config = {name: v for name, v in RunFolder(run).config()["config"].items() if name not in ("seed", "log_every")}
    edit(run / "config.json", config=config)
    assert main(["publish", str(run)], MODULES) == 0
    (name,) = set(pretrained.list()) - {*_packaged()}
    about = pretrained.load(name).run
    assert about["config"]["seed"] == toy.Config(num_updates=1).seed
    assert f"--seed {toy.Config(num_updates=1).seed} " in about["command"]


def test_a_run_with_another_one_in_its_folder(run):
    shutil.copytree(run, run / "again")
    assert main(["publish", str(run)], MODULES) == 0


def test_full_package(run, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TFMEM_WEIGHTS_DIR")
    package = tmp_path / "clone" / "tfmem" / "weights"
    package.mkdir(parents=True)
    monkeypatch.setattr(pretrained, "PACKAGED", package)
    assert main(["publish", str(run)], MODULES) > 0
    assert "TFMEM_WEIGHTS_DIR: None, must name a folder, or tfmem must be a clone" in capsys.readouterr().err
    (tmp_path / "clone" / "setup.py").touch()
    monkeypatch.setattr(publishing, "LARGEST", 1000)
    assert main(["publish", str(run)], MODULES) > 0
    assert "must have at most 0 MiB" in capsys.readouterr().err
    assert not [*package.iterdir()]
    monkeypatch.setattr(publishing, "LARGEST", 10**6)
    assert main(["publish", str(run)], MODULES) == 0
    assert len(pretrained.list()) == 1
