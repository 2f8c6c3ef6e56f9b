"""The runner: what TensorFlow computes, without TensorFlow; a killed run equals one that was not."""

import dataclasses
import json
import shutil
import signal

import numpy as np
import pytest

from reproductions import load_experiment
from reproductions.__main__ import main
from tests.aot.experiments import CoreConfig, CoreStep, Toy, tensorflow_losses
from tests.aot.support import aot, losses
from tests.conformance.descriptors import ROWS
from tests.reproductions import toy
from tests.reproductions.conftest import data_folder  # noqa: F401
from tests.support import relative_error
from tests.training.test_trainer import metrics_of
from tfmem.aot.bundle import BundleError, read_bundle, write_bundle
from tfmem.aot.lowering import make_bundle
from tfmem.training.run_folder import RunFolder

# TensorFlow's side is compiled too: XLA makes other floats of the same random bits than TensorFlow's kernels.
SCHEDULE = {"updates_per_call": 4, "log_every": 5, "eval_every": 12, "checkpoint_every": 8}
TOY = toy.Config(num_updates=24, **SCHEDULE, jit_compile=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "bundle"
    write_bundle(make_bundle(Toy(TOY), "paper"), path)
    return path


@pytest.fixture(scope="module")
def whole(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = aot("run", bundle, "--folder", folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_run_without_tensorflow_equals_one_with_it(whole):
    folder, said = whole
    experiment = Toy(TOY)
    expected = tensorflow_losses(experiment, 24)
    rows = [row for row in RunFolder(folder).metrics() if "train/loss" in row]
    means = [expected[a:b].mean() for a, b in ((0, 5), (5, 10), (10, 15), (15, 20), (20, 24))]
    np.testing.assert_allclose([row["train/loss"] for row in rows], means, rtol=1e-5)
    checkpoint, _ = RunFolder(folder).restore()
    assert checkpoint.update == 24
    for name, variable in experiment.variables().items():
        np.testing.assert_allclose(checkpoint.arrays[f"variables/{name}"], variable.numpy(), rtol=2e-5, atol=1e-7)
    source = experiment.evaluation()
    from tfmem.aot.bundle import open_source

    scores = source.scores(open_source(experiment.data_source("evaluation")).batch)
    result = RunFolder(folder).result()
    assert result["ours"]["error"] == pytest.approx(scores["error"], rel=1e-4)
    assert result["seconds_per_update"] > 0
    assert "an update took" in said
    assert "memory:" in said


def test_killed_and_resumed_equals_uninterrupted(bundle, whole, tmp_path):
    run = ("run", bundle, "--folder", tmp_path)
    assert aot(*run, TFMEM_TEST_KILL_AT="17").returncode == -signal.SIGKILL
    assert RunFolder(tmp_path).result() is None
    done = aot(*run)
    assert done.returncode == 0, done.stderr
    assert "resuming after update" in done.stderr
    assert metrics_of(tmp_path) == metrics_of(whole[0])
    (one, _), (other, _) = RunFolder(tmp_path).restore(), RunFolder(whole[0]).restore()
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name], err_msg=name)


def test_a_bundle_of_an_older_version_runs_and_can_be_made_longer(bundle, whole, tmp_path, capsys, monkeypatch):
    """Its manifest lacks a later field; a run of 12 updates that is made one of 24 equals one of 24 from the start."""
    old = shutil.copytree(bundle, tmp_path / "bundle")
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["config"]["mixed_precision"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    run = ("run", old, "--folder", tmp_path / "run")
    for steps in ("12", "24"):
        done = aot(*run, "--steps", steps)
        assert done.returncode == 0, done.stderr
    assert metrics_of(tmp_path / "run") == metrics_of(whole[0])
    monkeypatch.setattr(toy, "Experiment", Toy)
    modules = {"toy/regression": "tests.reproductions.toy"}
    assert main(["import-bundle", str(tmp_path / "run"), str(tmp_path / "out")], modules) == 0
    assert RunFolder(tmp_path / "out").config()["config"]["mixed_precision"] is False
    capsys.readouterr()
    (tmp_path / "run/result.json").write_text("{}")
    done = aot(*run)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "result.json is damaged: it has no 'ours'" in done.stderr


def test_back_to_tensorflow(whole, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(toy, "Experiment", Toy)
    modules = {"toy/regression": "tests.reproductions.toy"}
    out = tmp_path / "run"
    assert main(["import-bundle", str(whole[0]), str(out)], modules) == 0
    assert RunFolder(out).config() == {
        name: value for name, value in RunFolder(whole[0]).config().items() if name != "bundle"
    }
    assert RunFolder(out).metrics() == RunFolder(whole[0]).metrics()
    assert main(["evaluate", str(out)], modules) == 0
    assert "after update 24 of 24" in capsys.readouterr().out
    assert main(["export", str(out), str(tmp_path / "saved")], modules) == 0
    assert main(["import-bundle", str(out), str(tmp_path / "again")], modules) == 1
    assert "is not a run of `python -m tfmem.aot`" in capsys.readouterr().err


def test_a_finished_import_keeps_the_machine_that_trained(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "Experiment", Toy)
    modules, source = {"toy/regression": "tests.reproductions.toy"}, shutil.copytree(whole[0], tmp_path / "source")
    hardware = {"cpu": "another", "cores": 16, "devices": ["card"]}
    RunFolder(source).write_result({**RunFolder(source).result(), "hardware": hardware})
    assert main(["import-bundle", str(source), str(tmp_path / "out"), "--finish"], modules) == 0
    result = RunFolder(tmp_path / "out").result()
    assert result["hardware"] == hardware


def test_wrong_arguments(bundle, tmp_path, monkeypatch, capsys):
    from tfmem.aot import runner
    from tfmem.aot.__main__ import main as aot_main

    monkeypatch.chdir(tmp_path)

    def error(*arguments):
        status = aot_main([str(argument) for argument in arguments])
        message = capsys.readouterr().err
        assert message.startswith("tfmem.aot: error: ")
        return status, message

    status, message = error("run", bundle, "--steps", 7)
    assert (status, "steps: 7, must be a multiple of updates_per_call = 4" in message) == (1, True)
    status, message = error("run", bundle, "--precision", "half")
    assert (status, "invalid choice: 'half'" in message) == (2, True)
    status, message = error("run", tmp_path)
    assert (status, "is not a bundle" in message) == (1, True)
    monkeypatch.setattr(runner, "free_memory", lambda device: 1000)
    status, message = error("run", bundle)
    assert status == 1
    assert "too little memory on" in message
    assert "0 MiB are free" in message
    monkeypatch.setitem(__import__("sys").modules, "tfmem.aot.runner", None)
    monkeypatch.delattr("tfmem.aot.runner")
    status, message = error("run", bundle)
    assert (status, "jax is missing or too old" in message) == (1, True)


def test_data_of_another_shape_are_refused(bundle):
    from tfmem.aot.runner import Executable

    program = read_bundle(bundle).programs["update"]
    executable = Executable.__new__(Executable)
    executable.program = program
    with pytest.raises(BundleError, match=r"batch/inputs: float64 \[4, 8, 4\], must be float32"):
        executable.batch({"inputs": np.zeros([4, 8, 4]), "targets": np.zeros([4, 8, 1], np.float32)})


def test_experiments_that_no_bundle_can_hold():
    with pytest.raises(BundleError, match="data_source: None, must describe the data"):
        make_bundle(toy.Experiment(TOY))
    with pytest.raises(BundleError, match="num_updates: 23, must be a multiple of updates_per_call"):
        make_bundle(Toy(dataclasses.replace(TOY, num_updates=23)))

    class OtherData(Toy):
        def data_source(self, split="train"):
            return "tests.aot.source:source", {"width": 4, "seed": 5}

    with pytest.raises(BundleError, match="source:source gives other data than `batch`"):
        make_bundle(OtherData(TOY))

    class Nameless(Toy):
        def variables(self):
            return {n: v for n, v in super().variables().items() if n != "model/000"}

    with pytest.raises(BundleError, match=r"uses the variable .*, which has no name"):
        make_bundle(Nameless(TOY))


def compare(experiment, path):
    """20 updates by the runner and by TensorFlow from the same start: losses, and what became of the variables."""
    before = [v.numpy().copy() for v in experiment.variables().values()]
    write_bundle(make_bundle(experiment), path / "bundle")
    expected = tensorflow_losses(experiment, 20)
    done = aot("run", path / "bundle", "--folder", path / "run")
    assert done.returncode == 0, done.stderr
    assert relative_error(losses(path / "run"), expected) <= 1e-5  # of the largest: those around a core cross zero
    checkpoint, _ = RunFolder(path / "run").restore()
    changes = [
        np.concatenate([np.ravel(now - old).astype(np.float64) for now, old in zip(arrays, before, strict=True)])
        for arrays in (
            [checkpoint.arrays[f"variables/{name}"] for name in experiment.variables()],
            [v.numpy() for v in experiment.variables().values()],
        )
    ]
    assert np.linalg.norm(changes[0] - changes[1]) <= 1e-3 * np.linalg.norm(changes[1])


# The rate of recall is a hundredth of its preset's: there differences of rounding grow sixfold with every update.
@pytest.mark.long
@pytest.mark.parametrize(("name", "options"), [("mapping", {}), ("mnist_recall", {"learning_rate": 1e-5})])
def test_twenty_updates_of_the_experiments(name, options, tmp_path, data_folder):  # noqa: F811
    module = load_experiment(f"multigrid/{name}")
    schedule = {"num_updates": 20, "log_every": 1, "checkpoint_every": 0, **options}
    compare(module.Experiment(dataclasses.replace(module.PRESETS["smoke"], **schedule)), tmp_path)


@pytest.mark.parametrize("name", ["PlasticRNN", "EntityMemory"])
def test_twenty_updates_around_a_core(name, tmp_path):
    row = next(row for row in ROWS if row.name == name)
    compare(CoreStep(row, CoreConfig(num_updates=20, updates_per_call=5, log_every=1)), tmp_path)
