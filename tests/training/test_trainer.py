"""The training loop: resumed runs equal uninterrupted ones, and nothing good is lost when something goes wrong."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import plugin_data_pb2

from tests.reproductions import toy
from tfmem import training
from tfmem.training import TrainingDivergedError, TrainingInterrupted, compiled_updates, loop, train
from tfmem.training.run_folder import SECONDS, RunFolder, RunFolderError

# 23 updates: the last call is shorter, rows and checkpoints end inside and between calls.
CONFIG = toy.Config(num_updates=23, updates_per_call=4, log_every=6, eval_every=12, checkpoint_every=8)


class Crash(Exception):
    """Stands for whatever ends a process."""


class CrashingExperiment(toy.Experiment):
    """Loses its data at the update `crash_at`."""

    crash_at = None

    def batch(self, update):
        if update == self.crash_at:
            raise Crash
        return super().batch(update)


def state_of(path):
    """All that must not depend on interruptions: metrics, result and the last checkpoint."""
    folder = RunFolder(path)
    checkpoint, damaged = folder.restore()
    assert not damaged
    return metrics_of(path), folder.result()["ours"], checkpoint


def metrics_of(path):
    """Rows of metrics.csv without the seconds."""
    rows = RunFolder(path).metrics()
    assert all(row.pop(SECONDS) > 0 for row in rows)
    return rows


def assert_same_run(path, expected):
    metrics, ours, checkpoint = state_of(path)
    assert metrics == expected[0]
    assert ours == expected[1]
    assert checkpoint.update == expected[2].update
    assert list(checkpoint.arrays) == list(expected[2].arrays)
    for name, array in checkpoint.arrays.items():
        np.testing.assert_array_equal(array, expected[2].arrays[name], err_msg=name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("uninterrupted")
    train(toy.Experiment(CONFIG), path, "paper", toy.PAPER)
    return path


def test_a_run_folder_has_it_all(uninterrupted):
    folder = RunFolder(uninterrupted)
    assert folder.config() == {
        "experiment": "toy/regression",
        "preset": "paper",
        "config": json.loads(json.dumps(dataclasses.asdict(CONFIG))),
    }
    rows = folder.metrics()
    assert [row["update"] for row in rows] == [6, 12, 18, 23]
    assert [set(row) for row in rows] == [
        {"update", "seconds", "train/loss", "train/gradient_norm"} | ({"eval/error"} if update in (12, 23) else set())
        for update in (6, 12, 18, 23)
    ]
    result = folder.result()
    assert result["ours"] == {"error": rows[-1]["eval/error"]}
    assert result["paper"]["error"] == {"value": 0.25, "source": "Table 9"}
    assert (result["updates"], result["seeds"]) == (23, [0])
    assert result["wall_time_seconds"] > 0
    assert result["cpu_time_seconds"] > 0
    seconds = [row[SECONDS] for row in rows]
    assert sorted(seconds) == seconds
    assert 0 < seconds[-1] <= result["wall_time_seconds"] + 0.1
    assert {"hardware", "versions", "git_revision"} <= set(result)
    assert {path.name for path in folder.figures.iterdir()} == {"loss.png", "weights.txt"}
    assert tf.saved_model.contains_saved_model(folder.saved_model)
    events = b"".join(path.read_bytes() for path in folder.tensorboard.iterdir())
    assert b"train/loss" in events
    assert b"eval/error" in events
    assert not list(uninterrupted.rglob("*.partial"))


def test_pictures_during_training_and_top_scores(uninterrupted, tmp_path):
    class Topped(toy.Experiment):
        top_scores: ClassVar[dict] = {"error": min}

    config = dataclasses.replace(CONFIG, figures_every=8)
    result = train(Topped(config), tmp_path, "paper", toy.PAPER)
    drawn = {path.name: {file.name for file in path.iterdir()} for path in tmp_path.glob("figures*")}
    # At update 8 too: the row of 6 has a loss.
    assert drawn == {name: {"loss.png", "weights.txt"} for name in ("figures", "figures_8", "figures_16")}
    texts = [(tmp_path / name / "weights.txt").read_text() for name in drawn]
    assert len(set(texts)) == 3
    assert metrics_of(tmp_path) == metrics_of(uninterrupted)
    errors = [row["eval/error"] for row in RunFolder(tmp_path).metrics() if "eval/error" in row]
    assert len(errors) == 2
    assert result["ours"] == {"error": errors[-1], "top_error": min(errors)}


def test_rows_are_means_over_their_updates(uninterrupted):
    experiment = toy.Experiment(CONFIG)
    carry, losses = experiment.initial_carry(), []
    for update in range(23):
        carry, metrics = experiment.train_step(tf.constant(update, tf.int64), experiment.batch(update), carry)
        losses.append(float(metrics["loss"]))
    rows = RunFolder(uninterrupted).metrics()
    expected = [np.mean(losses[a:b]) for a, b in ((0, 6), (6, 12), (12, 18), (18, 23))]
    np.testing.assert_allclose([row["train/loss"] for row in rows], expected, rtol=1e-5)
    assert int(carry["count"]) == 23


@pytest.mark.parametrize("crash_at", [0, 5, 14, 22])
def test_resume_equals_an_uninterrupted_run(tmp_path, uninterrupted, crash_at):
    crashing = CrashingExperiment(CONFIG)
    crashing.crash_at = crash_at
    with pytest.raises(Crash):
        train(crashing, tmp_path, "paper", toy.PAPER)
    assert RunFolder(tmp_path).result() is None
    train(toy.Experiment(CONFIG), tmp_path, "paper", toy.PAPER)
    assert_same_run(tmp_path, state_of(uninterrupted))


def test_resume_under_xla(tmp_path):
    config = dataclasses.replace(CONFIG, jit_compile=True)
    train(toy.Experiment(config), tmp_path / "whole")
    crashing = CrashingExperiment(config)
    crashing.crash_at = 17
    with pytest.raises(Crash):
        train(crashing, tmp_path / "resumed")
    train(toy.Experiment(config), tmp_path / "resumed")
    assert_same_run(tmp_path / "resumed", state_of(tmp_path / "whole"))


def test_truncated_newest_checkpoint(tmp_path, uninterrupted, capsys):
    crashing = CrashingExperiment(CONFIG)
    crashing.crash_at = 20
    with pytest.raises(Crash):
        train(crashing, tmp_path, "paper", toy.PAPER)
    newest = max((tmp_path / "checkpoints").iterdir())
    os.truncate(newest, 500)
    train(toy.Experiment(CONFIG), tmp_path, "paper", toy.PAPER)
    said = capsys.readouterr().err
    assert f"{newest.name} is damaged" in said
    assert "resuming after update 8" in said
    assert_same_run(tmp_path, state_of(uninterrupted))


def test_a_finished_run_is_left_alone(uninterrupted):
    before = {file: file.stat().st_mtime_ns for file in uninterrupted.rglob("*")}
    experiment = CrashingExperiment(CONFIG)
    experiment.crash_at = 0
    assert train(experiment, uninterrupted, "paper") == RunFolder(uninterrupted).result()
    assert {file: file.stat().st_mtime_ns for file in uninterrupted.rglob("*")} == before


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(Crash(), Crash), (OSError(28, "No space left on device"), RunFolderError)],
)
def test_stopped_between_the_last_checkpoint_and_the_result(tmp_path, uninterrupted, failure, raised):
    class NoExport(toy.Experiment):
        def export(self, folder):
            super().export(folder)
            raise failure

    with pytest.raises(raised):
        train(NoExport(CONFIG), tmp_path, "paper", toy.PAPER)
    assert not list(tmp_path.glob("saved_model*"))
    train(toy.Experiment(CONFIG), tmp_path, "paper", toy.PAPER)
    assert_same_run(tmp_path, state_of(uninterrupted))


def assert_same_numbers(path, expected):
    """As `assert_same_run`, where calls were cut otherwise."""
    metrics, ours, checkpoint = state_of(path)
    assert (metrics, ours, checkpoint.update) == (*expected[:2], expected[2].update)
    for name, array in checkpoint.arrays.items():
        np.testing.assert_array_equal(array, expected[2].arrays[name], err_msg=name)


@pytest.mark.parametrize(
    "ends",
    [
        (7, 23),
        (3, 10, 23),
        *(pytest.param(ends, marks=pytest.mark.long) for ends in ((4, 23), (6, 23), (12, 23), (22, 23))),
    ],
)
def test_a_run_that_is_made_longer_equals_one_of_as_many_updates(tmp_path, uninterrupted, ends):
    for end in ends:
        train(
            toy.Experiment(dataclasses.replace(CONFIG, num_updates=end)), tmp_path, "paper", toy.PAPER, end != ends[0]
        )
    assert_same_numbers(tmp_path, state_of(uninterrupted))
    folder, whole = RunFolder(tmp_path), RunFolder(uninterrupted)
    assert folder.config() == {**whole.config(), "num_updates_history": list(ends)}
    assert folder.result()["num_updates_history"] == list(ends)
    assert folder.result()["updates"] == 23
    assert "num_updates_history" not in whole.result()


def test_a_longer_run_survives_crashes_and_the_same_call_finishes_it(tmp_path, uninterrupted):
    short = dataclasses.replace(CONFIG, num_updates=10)
    train(toy.Experiment(short), tmp_path, "paper", toy.PAPER)
    crashing = CrashingExperiment(CONFIG)
    for crash_at in (13, 20):
        crashing.crash_at = crash_at
        with pytest.raises(Crash):
            train(crashing, tmp_path, "paper", toy.PAPER, extend=True)
        assert RunFolder(tmp_path).result() is None
        assert RunFolder(tmp_path).config()["num_updates_history"] == [10, 23]
    train(toy.Experiment(CONFIG), tmp_path, "paper", toy.PAPER, extend=True)
    assert_same_numbers(tmp_path, state_of(uninterrupted))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    for extend in (True, False):
        assert train(crashing, tmp_path, "paper", toy.PAPER, extend) == RunFolder(tmp_path).result()
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def everything(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_only_num_updates_may_be_raised(tmp_path):
    short = dataclasses.replace(CONFIG, num_updates=6)
    train(toy.Experiment(short), tmp_path, "paper", toy.PAPER)
    before = everything(tmp_path)
    for change, extend, message in [
        ({"num_updates": 12}, False, "config.num_updates: 6 there, 12 now"),
        ({"num_updates": 4}, False, "config.num_updates: 6 there, 4 now"),
        ({"num_updates": 4}, True, "num_updates: 4, must be at least 6, the updates of the run in "),
        ({"num_updates": 4, "width": 5}, True, "config.width: 4 there, 5 now"),
        ({"num_updates": 12, "width": 5}, True, "config.width: 4 there, 5 now"),
        ({"num_updates": 12, "seed": 3}, True, "config.seed: 0 there, 3 now"),
    ]:
        with pytest.raises(RunFolderError, match=message):
            train(toy.Experiment(dataclasses.replace(short, **change)), tmp_path, "paper", toy.PAPER, extend)
    with pytest.raises(RunFolderError, match="preset: 'paper' there, 'demo' now"):
        train(toy.Experiment(CONFIG), tmp_path, "demo", toy.PAPER, extend=True)
    assert everything(tmp_path) == before


def test_a_longer_run_needs_a_run_and_its_checkpoint(tmp_path):
    with pytest.raises(RunFolderError, match="not a run folder"):
        train(toy.Experiment(CONFIG), tmp_path / "none", "paper", toy.PAPER, extend=True)
    assert not (tmp_path / "none").exists()
    train(toy.Experiment(dataclasses.replace(CONFIG, num_updates=6)), tmp_path / "run", "paper", toy.PAPER)
    for file in (tmp_path / "run/checkpoints").iterdir():
        file.unlink()
    before = everything(tmp_path)
    with pytest.raises(RunFolderError, match="has no checkpoint to continue from"):
        train(toy.Experiment(CONFIG), tmp_path / "run", "paper", toy.PAPER, extend=True)
    assert everything(tmp_path) == before


def test_a_longer_run_says_that_its_earlier_end_was_evaluated(tmp_path, capsys):
    for end, said in ((7, False), (12, True), (24, False)):
        train(toy.Experiment(dataclasses.replace(CONFIG, num_updates=end)), tmp_path, "paper", toy.PAPER, end > 7)
        assert ("was evaluated at its end" in capsys.readouterr().err) == said


def test_evaluations_see_the_variables_of_their_update(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        toy.Experiment, "evaluate", lambda self: seen.append(int(self.optimizer.iterations)) or {"e": 0.0}
    )
    for end in (7, 24):
        train(toy.Experiment(dataclasses.replace(CONFIG, num_updates=end)), tmp_path, "paper", toy.PAPER, end > 7)
    assert seen == [7, 12, 24]


def test_config_json_of_an_older_version_lacks_fields_that_had_their_defaults(tmp_path, uninterrupted):
    crashing = CrashingExperiment(CONFIG)
    crashing.crash_at = 14
    with pytest.raises(Crash):
        train(crashing, tmp_path, "paper", toy.PAPER)
    file = tmp_path / "config.json"
    about = json.loads(file.read_text())
    for name in ("mixed_precision", "slow"):
        del about["config"][name]
    file.write_text(json.dumps(about))
    other = dataclasses.replace(CONFIG, slow=0.5)
    with pytest.raises(RunFolderError, match=r"config\.slow: 'absent' there, 0\.5 now"):
        train(toy.Experiment(other), tmp_path, "paper", toy.PAPER)
    train(toy.Experiment(CONFIG), tmp_path, "paper", toy.PAPER)
    assert_same_run(tmp_path, state_of(uninterrupted))
    train(toy.Experiment(dataclasses.replace(CONFIG, num_updates=24)), tmp_path, "paper", toy.PAPER, extend=True)
    assert RunFolder(tmp_path).config()["config"] == about["config"] | {"num_updates": 24}


def test_an_update_that_cannot_be_built_makes_no_folder(tmp_path, monkeypatch):
    def train_step(self, update, batch, carry):
        return tf.matmul(batch["inputs"], batch["targets"]), {}

    monkeypatch.setattr(toy.Experiment, "train_step", train_step)
    with pytest.raises(training.UpdateError, match=r"the update cannot be built: .*[Dd]imensions must be equal"):
        train(toy.Experiment(CONFIG), tmp_path / "run", "paper", toy.PAPER)
    assert not (tmp_path / "run").exists()


def test_the_update_is_traced_once_for_a_new_run(tmp_path, monkeypatch):
    traced, original = [], toy.Experiment.train_step

    def train_step(self, update, batch, carry):
        traced.append(update)
        return original(self, update, batch, carry)

    monkeypatch.setattr(toy.Experiment, "train_step", train_step)
    train(toy.Experiment(dataclasses.replace(CONFIG, num_updates=24)), tmp_path, "paper", toy.PAPER)
    assert len(traced) == 1


def summaries(folder):
    """Contents of TensorBoard's files: {tag: values or serialized plug-in data}."""
    found = {}
    for file in sorted((folder / "tensorboard").iterdir()):
        for record in tf.data.TFRecordDataset(str(file)):
            for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
                content = (
                    value.metadata.plugin_data.content if "hparams" in value.tag else tf.make_ndarray(value.tensor)
                )
                found.setdefault(value.tag, []).append(content)
    return found


def test_tensorboard_has_hyper_parameters_configuration_and_speed(uninterrupted):
    found = summaries(uninterrupted)
    data = plugin_data_pb2.HParamsPluginData.FromString(found["_hparams_/session_start_info"][0])
    values = data.session_start_info.hparams
    assert set(values) == {field.name for field in dataclasses.fields(CONFIG)}
    assert values["num_updates"].number_value == 23
    assert values["rate"].number_value == CONFIG.rate
    assert values["mixed_precision"].bool_value is False
    assert values["sizes"].string_value == "(1, 2)"
    (text,) = found["config"][0].reshape(-1)
    assert json.loads(text) == RunFolder(uninterrupted).config()
    rates = np.array(found["updates_per_second"])
    assert rates.size >= 2
    assert (rates > 0).all()
    assert not any("updates_per_second" in row for row in RunFolder(uninterrupted).metrics())


def test_another_config_or_experiment_is_refused(uninterrupted):
    with pytest.raises(RunFolderError, match=r"config\.width: 4 there, 5 now"):
        train(toy.Experiment(dataclasses.replace(CONFIG, width=5)), uninterrupted, "paper")

    class Other(toy.Experiment):
        name = "toy/other"

    with pytest.raises(RunFolderError, match="experiment: 'toy/regression' there, 'toy/other' now"):
        train(Other(CONFIG), uninterrupted, "paper")


def test_checkpoint_of_other_variables(tmp_path):
    experiment = toy.Experiment(CONFIG)
    stored = loop.pack_checkpoint(4, training.checkpoint_arrays(experiment, experiment.initial_carry()), {}, 1.0)
    before = [v.numpy() for v in experiment.model.variables]
    stored.arrays["variables/model/000"] = np.ones([9, 1], np.float32)
    stored.arrays["variables/model/999"] = stored.arrays.pop("variables/model/001")
    with pytest.raises(RunFolderError) as caught:
        training.load_checkpoint(experiment, stored)
    for text in ("model/001 is missing", "model/999 is unexpected", "model/000 is [9, 1], expected [4, 1]"):
        assert text in str(caught.value)
    for old, variable in zip(before, experiment.model.variables, strict=True):
        np.testing.assert_array_equal(old, variable)


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    config = dataclasses.replace(CONFIG, nan_at=17, checkpoint_every=4, eval_every=0)
    with pytest.raises(TrainingDivergedError, match=r"loss is nan at update 18;.*kept"):
        train(toy.Experiment(config), tmp_path)
    checkpoint, damaged = RunFolder(tmp_path).restore()
    assert (checkpoint.update, damaged) == (16, [])
    assert all(np.isfinite(array).all() for array in checkpoint.arrays.values())
    assert [row["update"] for row in RunFolder(tmp_path).metrics()] == [6, 12]


def test_variables_with_nan_are_not_saved():
    experiment = toy.Experiment(CONFIG)
    experiment.model.variables[0].assign(np.full([4, 1], np.nan))
    with pytest.raises(TrainingDivergedError, match=r"model/000 holds NaN after update 3.*not saved"):
        loop.pack_checkpoint(3, training.checkpoint_arrays(experiment, experiment.initial_carry()), {}, 0.0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_stop(tmp_path, uninterrupted, number):
    class Signalled(toy.Experiment):
        def batch(self, update):
            if update == 10:
                os.kill(os.getpid(), number)
            return super().batch(update)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingInterrupted) as caught:
        train(Signalled(CONFIG), tmp_path, "paper", toy.PAPER)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert 0 < caught.value.update <= 12
    assert RunFolder(tmp_path).restore()[0].update == caught.value.update
    train(toy.Experiment(CONFIG), tmp_path, "paper", toy.PAPER)
    assert_same_run(tmp_path, state_of(uninterrupted))


COMMAND = """
import sys
from reproductions.__main__ import main
sys.exit(main(modules={"toy/regression": "tests.reproductions.toy"}))
"""


@pytest.mark.slow
def test_kill_nine_at_three_moments(tmp_path):
    arguments = ["run", "toy/regression", "--num-updates=240", "--slow=0.02", "--eval-every=40"]
    command = [sys.executable, "-c", COMMAND, *arguments, "--folder"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}

    def start(folder):
        return subprocess.Popen([*command, folder], env=environment, stdout=subprocess.DEVNULL)

    moments, killed = random.Random(3), tmp_path / "killed"
    metrics = killed / "metrics.csv"
    for _ in range(3):
        process = start(killed)
        before = metrics.read_bytes() if metrics.exists() else b""
        while not metrics.exists() or metrics.read_bytes() == before:  # training has begun
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 1.0))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (killed / "result.json").exists()
    for folder in (killed, tmp_path / "whole"):
        assert start(folder).wait() == 0
    assert_same_run(killed, state_of(tmp_path / "whole"))


class Bare(training.Experiment):
    """No batch, no carry: data drawn in the graph."""

    name = "toy/bare"

    def __init__(self, config):
        super().__init__(config)
        self.total = tf.Variable(0, dtype=tf.int64)

    def variables(self):
        return {"total": self.total}

    def batch(self, update):
        return {}

    def train_step(self, update, batch, carry):
        self.total.assign_add(update)
        return carry, {"loss": update}

    def evaluate(self):
        return {"total": float(self.total)}

    def figures(self, folder):
        (folder / "total").write_text(str(self.total))

    def export(self, folder):
        tf.saved_model.save(tf.Module(), str(folder))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_updates_alone(jit_compile):
    experiment = Bare(training.RunConfig(num_updates=9, jit_compile=jit_compile))
    carry, metrics = compiled_updates(experiment, 5)(tf.constant(3, tf.int64), {}, ())
    assert carry == ()
    np.testing.assert_array_equal(metrics["loss"], [3, 4, 5, 6, 7])
    assert int(experiment.total) == 25


@pytest.mark.parametrize("jit_compile", [False, True])
def test_updates_per_call_do_not_change_the_numbers(jit_compile):
    finals = []
    for size in (1, 6):
        experiment = toy.Experiment(dataclasses.replace(CONFIG, jit_compile=jit_compile))
        updates, carry = compiled_updates(experiment, size), experiment.initial_carry()
        for first in range(0, 12, size):
            batches = [experiment.batch(update) for update in range(first, first + size)]
            stacked = tf.nest.map_structure(lambda *arrays: np.stack(arrays), *batches)
            carry, metrics = updates(tf.constant(first, tf.int64), stacked, carry)
        finals.append([*(v.numpy() for v in experiment.variables().values()), carry["trace"], metrics["loss"][-1:]])
    for one, many in zip(*finals, strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-5, atol=1e-7)


def test_train_step_must_give_a_loss():
    class Lossless(Bare):
        def train_step(self, update, batch, carry):
            return carry, {"accuracy": update}

    with pytest.raises(ValueError, match=r"\['accuracy'\], must have 'loss'"):
        compiled_updates(Lossless(training.RunConfig(num_updates=1)), 1)(tf.constant(0, tf.int64), {}, ())


def test_data_are_made_ahead_in_order_and_bounded():
    made = []
    with loop.prefetched(lambda n: made.append(n) or n, [(n,) for n in range(50)]) as batches:
        assert [next(batches) for _ in range(4)] == [0, 1, 2, 3]
        time.sleep(0.2)
        assert made == list(range(4 + loop.CALLS_AHEAD))
        assert list(batches) == list(range(4, 50))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("seed", 1.5),
        ("num_updates", 1.5),
        ("updates_per_call", "2"),
        ("log_every", True),
        ("num_updates", 0),
        ("updates_per_call", 0),
        ("log_every", 0),
        ("eval_every", 6),
        ("checkpoint_every", -4),
        ("checkpoint_seconds", 0.0),
        ("jit_compile", "yes"),
        ("mixed_precision", "mixed_float16"),
        ("mixed_precision", 1),
        ("mixed_precision", True),
    ],
)
def test_bad_configurations(field, value):
    with pytest.raises(ValueError, match=f"^{field}: {value!r}, must be"):
        dataclasses.replace(CONFIG, **{field: value})
