"""The command line with a toy experiment: what it refuses before writing, and a run's whole life."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import reproductions
from reproductions.__main__ import main
from reproductions.catalog import entry
from reproductions.compare import _stated
from reproductions.report import finished_runs
from tests.reproductions import toy
from tests.training.test_trainer import metrics_of
from tfmem.checkpoints import Entry, load_tf1, name_table
from tfmem.cores import LSTMStack
from tfmem.export import saved_model
from tfmem.training.run_folder import RunFolder

MODULES = {"toy/regression": "tests.reproductions.toy"}


@name_table(toy.Regression)
def toy_table(model):
    return [Entry("kernel", model.variables[0])] + [
        Entry(f"dense/{name}", variable) for name, variable in zip(("w", "b"), model.variables[1:], strict=True)
    ]


@pytest.fixture
def reproduce(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder: `(status, output, errors)`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments], MODULES)
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND: none, must be one of list, run, evaluate,"),
        (["train"], "COMMAND: 'train', must be one of list, run, evaluate,"),
        (["exprt"], "; did you mean export or report?"),
        (["run"], "Missing from reproduce run: EXPERIMENT"),
        (["compile", "toy/regression"], "Missing from reproduce compile: OUT"),
        (["compare"], "RUN: (), must be at least one run folder"),
        (["list", "toy", "more"], "Unrecognized options: more"),
        (["evaluate", "run", "--rnu", "3"], "Unrecognized options: --rnu, 3"),
        (["run", "toy/regression", "--prset", "smoke"], "--prset: no such hyper-parameter, must be one of --preset"),
        (["run", "--seed", "1", "toy/regression"], "the experiment comes first"),
        (["run", "toy/nothing"], "experiment: 'toy/nothing', must be one of toy/regression"),
        (["run", "toy/regresion"], "; did you mean toy/regression?"),
        (["run", "Regression"], "; did you mean toy/regression?"),
        (["list", "regresion"], "; did you mean regression"),
        (["list", "*/x"], "FILTER: '*/x', must be a part or a pattern of toy/regression"),
        (["run", "toy/regression", "--preset", "big"], "preset: 'big', must be one of paper, smoke"),
        (["run", "toy/regression", "--preset", "smok"], "; did you mean smoke?"),
        (["compile", "toy/regression", "--preset", "Paper", "out"], "; did you mean paper?"),
        (["import", "toy/regression", "model.ckpt", "model.keras", "--preset", "smok"], "; did you mean smoke?"),
        (["run", "toy/regression", "--mixed-precision"], "mixed_precision: True, must be False"),
        (["run", "toy/regression", "--widht", "3"], "--widht: no such hyper-parameter, must be one of --width"),
        (["run", "toy/regression", "--width=0"], "width: 0, must be from 1 to 64"),
        (["run", "toy/regression", "--width", "many"], "--width: invalid literal for int()"),
        (["run", "toy/regression", "--width"], "Missing value for argument '--width'"),
        (["run", "toy/regression", "--jit-compile", "maybe"], "invalid choice 'maybe' for argument '--jit-compile'"),
        (["run", "toy/regression", "--eval-every", "5"], "eval_every: 5, must be a multiple of updates_per_call (4)"),
        (["run", "toy/regression", "extra"], "Unrecognized options: extra"),
        (["import", "toy/regression", "model.ckpt", "model.txt"], "must end in .keras or .weights.h5"),
    ],
)
def test_wrong_command_lines_are_one_line_and_write_nothing(reproduce, tmp_path, arguments, message):
    status, output, errors = reproduce(*arguments)
    assert (status, output) == (2, "")
    assert message in errors
    assert errors.startswith("reproduce: error: ")
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("when", ["__init__", "batch"])
@pytest.mark.parametrize("command", [["run", "toy/regression"], ["compile", "toy/regression", "out"]])
def test_what_an_experiment_refuses_is_one_line_too(reproduce, tmp_path, monkeypatch, command, when):
    def refuse(self, _):
        raise ValueError("replicas: 6, must be at most the number of devices, 1")

    monkeypatch.setattr(toy.Experiment, when, refuse)
    assert reproduce(*command) == (2, "", "reproduce: error: replicas: 6, must be at most the number of devices, 1\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Invalid value in tensor used for shape: -646710720"),
        OverflowError("Python int too large to convert to C long"),
        MemoryError("Unable to allocate 373. GiB"),
        MemoryError(),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\nnode: a"),
        tf.errors.InvalidArgumentError(None, None, "Dimension -3 must be >= 0"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("when", ["__init__", "batch", "train_step", "initial_carry"])
@pytest.mark.parametrize("command", [["run", "toy/regression"], ["compile", "toy/regression", "out"]])
def test_sizes_that_are_too_large_are_one_line(reproduce, tmp_path, monkeypatch, command, when, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(toy.Experiment, when, refuse)
    monkeypatch.setattr(toy.Experiment, "data_source", lambda self, split: ("tests.reproductions.test_cli:source", {}))
    status, _, errors = reproduce(*command)
    assert status == 2
    assert errors.startswith("reproduce: error: ")
    assert errors.count("\n") == 1
    assert "node" not in errors
    assert not list(tmp_path.iterdir())


def source():
    return toy.Experiment(toy.PRESETS["paper"])


@pytest.mark.parametrize("error", [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")])
def test_memory_that_ends_in_training_is_one_line(reproduce, tmp_path, monkeypatch, error):
    def evaluate(self):
        raise error

    monkeypatch.setattr(toy.Experiment, "evaluate", evaluate)
    status, _, errors = reproduce("run", "toy/regression", "--preset", "smoke", "--folder", "run")
    assert status == 1
    assert errors.startswith("reproduce: error: ")
    assert errors.count("\n") == 1
    assert (tmp_path / "run/config.json").exists()


def test_sizes_of_a_real_experiment(tmp_path, capsys):
    command = ["run", "metalearned/double_copy", "--task.length", "100000", "--batch-size", "1000000"]
    assert main([*command, "--folder", str(tmp_path / "run")]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("reproduce: error: ")
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_home_is_expanded_in_every_path(reproduce, tmp_path, monkeypatch, rng):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert reproduce("run", "toy/regression", "--preset", "smoke", "--folder=~/runs/one")[0] == 0
    assert RunFolder(tmp_path / "home/runs/one").result()
    assert RunFolder("~/runs/one").path == tmp_path / "home/runs/one"
    assert reproduce("evaluate", "~/runs/one")[0] == 0
    assert reproduce("export", "~/runs/one", "~/exported")[0] == 0
    assert reproduce("report", "~/runs", "--out=~/report")[0] == 0
    arrays = {"kernel": (4, 1), "dense/w": (1, 1), "dense/b": (1,)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in arrays.items()}
    write_tf1_checkpoint(tmp_path / "home/model.ckpt", arrays)
    assert reproduce("import", "toy/regression", "~/model.ckpt", "~/out/model.keras")[0] == 0
    core = LSTMStack(3, num_layers=1)
    saved_model(core, "~/core", (2,))
    toy.Experiment(toy.PRESETS["smoke"]).save_model("~/again.keras")
    report = load_tf1(toy.Experiment(toy.PRESETS["smoke"]).model, Path("~/model.ckpt"))
    assert "3 variables" in str(report)
    written = {
        path.name for path in (tmp_path / "home").iterdir() if "ckpt" not in path.name and path.name[0] not in ".c"
    }
    assert written == {"runs", "exported", "report", "out", "again.keras"}
    assert (tmp_path / "home/core/saved_model.pb").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_help_shows_every_hyper_parameter_with_its_source(reproduce, tmp_path):
    status, output, _ = reproduce("run", "toy/regression", "--preset", "smoke", "--help")
    assert status == 0
    for text in ("--width INT", "S-App Z", "--rate FLOAT", "public code, train.py", "(default: 6)", "--preset"):
        assert text in output
    assert not list(tmp_path.iterdir())


def test_list(reproduce):
    status, output, _ = reproduce("list", "toy")
    assert status == 0
    for text in ("toy/regression: A recurrent regression", "paper, smoke", "needs: nothing", "error: 0.25 (Table 9)"):
        assert text in output


def test_list_is_one_table_that_imports_no_tensorflow():
    code = "import sys; from reproductions.__main__ import main; main(['list']); sys.exit('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 30
    names = [line.split()[0] for line in lines[1:-2]]
    assert names == [*reproductions.experiment_modules(), *reproductions.GENERAL]
    for name in reproductions.experiment_modules():
        module = reproductions.load_experiment(name)
        row = entry(name, module.__name__)
        assert set(row.presets) - {"…"} <= set(module.PRESETS)
        assert "…" in row.presets or len(row.presets) == len(module.PRESETS)
        assert (row.data, row.status) == (module.DATASETS, module.STATUS)
        assert any(line.startswith(f"{name} ") and f" {row.title} " in line for line in lines), "a pipe cuts nothing"


@pytest.mark.parametrize(("width", "columns"), [(60, 2), (80, 2), (100, 3), (120, 4), (160, 5), (200, 5)])
def test_a_terminal_shows_the_list_in_its_width(monkeypatch, capsys, width, columns):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()[:-2]
    assert max(map(len, lines)) <= width
    assert re.split("  +", head) == ["experiment", "what is learned", "trained", "presets", "data"][:columns]
    ends = [head.index(title) for title in re.split("  +", head)[1:]] + [width]
    text = " ".join(line[ends[0] : ends[1] if columns > 2 else width].strip() for line in lines)
    for name, module in reproductions.experiment_modules().items():
        assert entry(name, module).title in text


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("toy", ["toy/regression"]), ("regr", ["toy/regression"]), ("*/other", ["a/other"]), ("*", [*MODULES, "a/other"])],
)
def test_list_takes_a_part_of_a_name_or_a_pattern(capsys, pattern, found):
    assert main(["list", pattern], {**MODULES, "a/other": "tests.reproductions.toy"}) == 0
    lines = capsys.readouterr().out.splitlines()
    if len(found) > 1:
        assert [line.split()[0] for line in lines[1:-2]] == found
    else:
        assert lines[0].startswith(f"{found[0]}: ")


def test_a_reader_that_has_gone_is_no_news(reproduce, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        status, _, errors = reproduce("list")
    assert (status, errors) == (1, "")


def test_the_life_of_a_run(reproduce, tmp_path):
    command = ("run", "toy/regression", "--preset", "smoke", "--seed", 1, "--sizes", 3, 4)
    run = tmp_path / "runs/toy/regression/smoke/seed1"
    status, output, _ = reproduce(*command)
    assert status == 0
    assert "Table 9" in output
    assert RunFolder(run).config()["config"]["sizes"] == [3, 4]
    ours = RunFolder(run).result()["ours"]["error"]
    assert f"{ours:.4g}" in output

    status, _, errors = reproduce("run", "toy/regression", "--preset", "smoke", "--seed", 1, "--sizes", 5)
    assert status == 1
    assert "config.sizes: [3, 4] there, [5] now" in errors
    assert errors.endswith("\na run of another setting must have another --folder\n")

    status, output, _ = reproduce("evaluate", run)
    assert status == 0
    assert "after update 6 of 6" in output
    assert f"{ours:.4g}" in output

    status, output, _ = reproduce("export", run, "model")
    assert status == 0
    served = tf.saved_model.load("model")
    assert served.serve(tf.ones([2, 4])).shape == (2, 1)
    status, _, errors = reproduce("export", run, "model")
    assert status == 2
    assert "model, must not exist" in errors
    status, _, errors = reproduce("export", run, run / "result.json" / "1")
    assert status == 2
    assert "result.json, must be a folder that can be made" in errors

    assert reproduce(*command[:5], 2, *command[6:])[0] == 0
    status, output, _ = reproduce("report")
    assert status == 0
    values = [RunFolder(run.with_name(f"seed{seed}")).result()["ours"]["error"] for seed in (1, 2)]
    half = 6.314 * abs(values[0] - values[1]) / 2  # Student's t of one degree; standard error of two values
    report = (tmp_path / "runs/report/report.md").read_text()
    row = f"| smoke, sizes=[3, 4] | error | 0.25 (Table 9) | {np.mean(values):.4g} ± {half:.2g} | 1 2 | 6 |"
    assert row in report
    assert "| unknown |" not in report  # of the paper, and no score of the runs
    assert (tmp_path / "runs/report/toy-regression-train-loss.png").stat().st_size > 1000
    assert "toy" in output


def test_continue_trains_a_finished_run_longer(reproduce, tmp_path):
    command = ("run", "toy/regression", "--preset", "smoke", "--sizes", "3")
    assert reproduce(*command, "--folder", "whole", "--num-updates", "12")[0] == 0
    assert reproduce(*command, "--folder", "longer")[0] == 0
    status, _, errors = reproduce(*command, "--folder", "longer", "--num-updates", "12")
    assert (status, "config.num_updates: 6 there, 12 now" in errors) == (1, True)
    assert "--continue trains this run longer; a run of another setting must have another --folder" in errors
    status, _, errors = reproduce(*command, "--folder", "longer", "--num-updates", "4", "--continue")
    message = "num_updates: 4, must be at least 6, the updates of the run in longer"
    assert (status, errors) == (1, f"reproduce: error: {message}\n")
    status, output, _ = reproduce(*command, "--folder", "longer", "--num-updates", "12", "--continue")
    assert (status, "12 updates" in output) == (0, True)
    whole, longer = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "longer")
    assert metrics_of(longer.path) == metrics_of(whole.path)
    assert longer.result()["ours"] == whole.result()["ours"]
    assert longer.result()["num_updates_history"] == longer.config()["num_updates_history"] == [6, 12]
    for name, array in whole.restore()[0].arrays.items():
        np.testing.assert_array_equal(array, longer.restore()[0].arrays[name])
    assert reproduce(*command, "--folder", "longer", "--num-updates", "12")[0] == 0
    status, _, errors = reproduce(*command, "--folder", "longer", "--num-updates", "12", "--width", "5", "--continue")
    assert (status, "config.width: 4 there, 5 now" in errors) == (1, True)
    status, _, errors = reproduce(*command, "--folder", "nowhere", "--continue")
    assert (status, "not a run folder" in errors) == (1, True)
    assert not (tmp_path / "nowhere").exists()


def test_runs_that_are_not_there(reproduce, tmp_path):
    for command in ("evaluate", "export"):
        status, _, errors = reproduce(command, "nowhere", *["out"] * (command == "export"))
        assert status == 1
        assert "not a run folder" in errors
    status, _, errors = reproduce("report", "nowhere")
    assert status == 1
    assert "no finished run" in errors
    assert not list(tmp_path.iterdir())


def test_interrupted_runs_say_how_to_go_on(reproduce, monkeypatch, tmp_path):
    signalled = []

    def batch(self, update, original=toy.Experiment.batch):
        if update == 9 and not signalled:
            signalled.append(update)
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, update)

    monkeypatch.setattr(toy.Experiment, "batch", batch)
    command = ("run", "toy/regression", "--folder", "a folder")
    status, _, errors = reproduce(*command)
    assert status == 130
    assert "reproduce run toy/regression --folder 'a folder'" in errors
    assert RunFolder(tmp_path / "a folder").restore()[0].update > 0
    status, _, errors = reproduce(*command)
    assert status == 0
    assert "resuming after update" in errors


def test_nan_is_an_error(reproduce):
    status, _, errors = reproduce("run", "toy/regression", "--nan-at", 30)
    assert status == 1
    assert "loss is nan at update 31" in errors


def write_tf1_checkpoint(prefix, arrays):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, array in arrays.items():
            tf.compat.v1.get_variable(name, initializer=array, use_resource=False)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(prefix))


def test_import(reproduce, tmp_path, rng):
    arrays = {
        "old/kernel": rng.normal(size=(4, 1)).astype(np.float32),
        "old/dense/w": rng.normal(size=(1, 1)).astype(np.float32),
        "old/dense/b": rng.normal(size=(1,)).astype(np.float32),
    }
    write_tf1_checkpoint(tmp_path / "model.ckpt", arrays)
    status, output, _ = reproduce("import", "toy/regression", "model.ckpt", "out/model.keras", "--scope", "old")
    assert status == 0
    assert "loaded 3 variables" in output
    for loaded, array in zip(keras.models.load_model("out/model.keras").variables, arrays.values(), strict=True):
        np.testing.assert_array_equal(loaded, array)

    status, _, errors = reproduce("import", "toy/regression", "model.ckpt", "out/x.weights.h5")
    assert status == 1
    assert "missing: kernel" in errors
    status, _, errors = reproduce("import", "toy/regression", "nothing.ckpt", "out/x.weights.h5")
    assert status == 1
    assert "no checkpoint at 'nothing.ckpt'" in errors
    assert not (tmp_path / "out/x.weights.h5").exists()


def test_every_experiment_follows_the_protocol():
    for name in reproductions.experiment_modules():
        module = reproductions.load_experiment(name)
        assert module.Experiment.name == name
        assert {"paper", "demo", "smoke"} <= set(module.PRESETS)
        assert all(type(config) is module.Config for config in module.PRESETS.values())
        assert isinstance(module.DATASETS, tuple)
        assert all(len(entry) == 2 for entry in module.PAPER.values())


def test_supervised_takes_any_task_and_core(tmp_path, capsys):
    command = ["run", "supervised", "--num-updates", "2", "--batch-size", "2", "--folder", str(tmp_path / "run")]
    core = ["core:rmc", "--core.mem-slots", "2", "--core.head-size", "2"]
    assert main([*command, "task:nth-farthest", "--task.num-objects", "3", *core]) == 0
    assert "guess_accuracy" in capsys.readouterr().out
    fields = RunFolder(tmp_path / "run").config()["config"]
    assert fields["task"] | {"num_objects": 3} == fields["task"]
    assert fields["core"]["type"] == "RelationalMemoryConfig"
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert main([*command, "task:nth-farthest", "--task.length", "3", "core:rmc"]) == 2
    error = capsys.readouterr().err
    assert "--task.length: no hyper-parameter of task:nth-farthest" in error
    assert error.count("\n") == 1


def test_compare(reproduce, tmp_path, monkeypatch):
    def own_figure(folders, out):
        (out / "own.png").write_bytes(b"")
        return [f"{len(folders)}.png"]

    module = reproductions.load_experiment("toy/regression", MODULES)
    monkeypatch.setattr(module, "compare", own_figure, raising=False)
    for seed, width in ((1, 4), (2, 4), (1, 3)):
        folder = f"run{seed}{width}"
        run = ("run", "toy/regression", "--preset", "smoke", "--seed", seed, "--width", width, "--folder", folder)
        assert reproduce(*run)[0] == 0
    status, _, _ = reproduce("compare", "run14", "run24", "run13", "--out", "both")
    assert status == 0
    report = (tmp_path / "both/compare.md").read_text()
    assert "| metric | paper | smoke | smoke, width=3 |" in report
    ours = [RunFolder(tmp_path / name).result()["ours"]["error"] for name in ("run14", "run24", "run13")]
    row = next(line for line in report.splitlines() if line.startswith("| error | 0.25 |"))
    assert f"| {np.mean(ours[:2]):.4g} ±" in row
    assert f"| {ours[2]:.4g} |" in row
    assert (tmp_path / "both/train-loss.png").exists()
    assert "![3.png](3.png)" in report
    assert "All with" not in report
    run = ("run", "toy/regression", "--preset", "smoke", "--width", 3, "--rate", "1e-3", "--folder", "run3")
    assert reproduce(*run)[0] == 0
    assert reproduce("compare", "run13", "run3", "--out", "narrow")[0] == 0
    report = (tmp_path / "narrow/compare.md").read_text()
    assert "All with width=3." in report
    assert "| metric | paper | smoke | smoke, rate=0.001 |" in report
    status, _, errors = reproduce("compare", "run14", "run14", "--out", "both")
    assert (status, "must have another setting than run14, which has seed 1 of it" in errors) == (1, True)
    status, _, errors = reproduce("compare", "nowhere")
    assert (status, "must be the folder of a finished run" in errors) == (1, True)
    (tmp_path / "file").write_text("")
    for command in ("compare", "report"):
        status, _, errors = reproduce(command, "run14", "--out", "file")
        assert (status, "out: file, must be a folder that can be made: File exists" in errors) == (2, True)


def test_several_experiments_have_papers_of_their_own():
    papers = {
        "a/one": {"error": (0.25, "Table 1"), "score": (None, "?")},
        "a/two": {"error": (0.5, "Table 2")},
        "b/x": {},
    }
    assert _stated(papers, "error") == "0.25 (a/one), 0.5 (a/two)"
    assert _stated(papers, "score") == _stated(papers, "loss") == "-"
    assert _stated({"a/one": papers["a/one"]}, "error") == "0.25"
    assert _stated({"a/one": papers["a/one"]}, "loss") == "-"


def test_gymnasium_takes_any_environment_and_core(tmp_path, capsys):
    command = ["run", "gymnasium", "--preset", "smoke", "--folder", str(tmp_path / "run")]
    core = ["core:rmc", "--core.mem-slots", "2", "--core.head-size", "2"]
    assert main([*command, "--world.id", "FrozenLake-v1", *core]) == 0
    assert "random_episode_return" in capsys.readouterr().out
    assert RunFolder(tmp_path / "run").config()["config"]["core"]["type"] == "RelationalMemoryConfig"
    (finished,) = finished_runs([tmp_path / "run"], reproductions.GENERAL)
    assert finished.setting == ('smoke, world.id="FrozenLake-v1", core=RelationalMemory(mem_slots=2, head_size=2)')
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "3"]) == 0
    command = ["run", "gymnasium", "--folder", str(tmp_path / "other"), "--world.id", "Pendulum-v1"]
    assert main(command) == 2
    assert main(["compile", "gymnasium", str(tmp_path / "bundle"), "--preset", "smoke"]) == 1
    assert main(["play", str(tmp_path / "run"), "--out", str(tmp_path / "play")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if line.startswith("reproduce: error: ")][-3:] == errors[-3:]
    assert "must have integers from 0" in errors[-3]
    assert "must be a world of the graph" in errors[-2]
    assert "must be a world of the graph" in errors[-1]
