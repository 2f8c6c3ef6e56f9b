"""The report: a copy is no second seed, and one damaged run keeps no other from being reported."""

import json
import shutil

import pytest

from reproductions.__main__ import main
from tests.reproductions import toy
from tfmem.training import train
from tfmem.training.run_folder import RunFolder

MODULES = {"toy/regression": "tests.reproductions.toy"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "runs"
    train(toy.Experiment(toy.PRESETS["smoke"]), path / "one", "smoke", toy.PAPER)
    return path


@pytest.fixture
def runs(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "runs")


def report(runs, capsys, *more):
    status = main(["report", str(runs), *map(str, more), "--out", str(runs.parent / "out")], MODULES)
    said = capsys.readouterr().err
    file = runs.parent / "out/report.md"
    return status, said, file.read_text("utf-8") if file.exists() else ""


def seeds(text):
    return [
        line.split("|")[6].strip() for line in text.splitlines() if line.startswith("| toy/regression | smoke | error")
    ]


def test_a_copy_of_a_run_is_one_seed(runs, capsys):
    shutil.copytree(runs / "one", runs / "two")
    status, said, text = report(runs, capsys)
    assert (status, seeds(text)) == (0, ["0"])
    assert "±" not in next(line for line in text.splitlines() if "| error |" in line)
    assert said.count("\n") == 1
    assert f"{runs / 'two'} has the setting and the seed 0 of {runs / 'one'}" in said


def test_a_run_that_is_named_twice_counts_once(runs, capsys):
    (runs / "link").symlink_to(runs / "one")
    status, said, text = report(runs, capsys, runs / "one", runs / "link", runs / ".." / "runs")
    assert (status, said, seeds(text)) == (0, "", ["0"])


def test_other_settings_and_seeds_count(runs, capsys):
    for name, change in {"two": {"seed": 2}, "wide": {"width": 5}}.items():
        shutil.copytree(runs / "one", runs / name)
        about = json.loads((runs / name / "config.json").read_text())
        (runs / name / "config.json").write_text(json.dumps({**about, "config": about["config"] | change}))
        if "seed" in change:
            RunFolder(runs / name).write_result(RunFolder(runs / name).result() | {"seeds": [2]})
    status, said, text = report(runs, capsys)
    assert (status, said, seeds(text)) == (0, "", ["0 2"])
    assert "| smoke, width=5 | error |" in text


def test_infinite_and_undefined_scores(runs, capsys):
    for score in ("inf", "nan"):
        RunFolder(runs / "one").write_result(RunFolder(runs / "one").result() | {"ours": {"error": float(score)}})
        status, said, text = report(runs, capsys)
        assert (status, said) == (0, "")
        assert f"| {score} |" in text


GOOD = {"ours": {"error": 0.5}, "seeds": [3], "updates": 6, "wall_time_seconds": 1.0}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"ours": ',
        b"\xff\xfe\x00",
        *(json.dumps({k: v for k, v in GOOD.items() if k != name}) for name in GOOD),
        *(json.dumps(GOOD | {name: value}) for name, value in [("ours", 3), ("seeds", 3), ("updates", "6")]),
        json.dumps(GOOD | {"ours": {"error": "low"}}),
        json.dumps(GOOD | {"ours": {"error": None}}),
        json.dumps(GOOD | {"seeds": [[3]]}),
        json.dumps(GOOD | {"wall_time_seconds": "long"}),
    ],
)
def test_a_damaged_result_is_one_line_and_others_are_reported(runs, capsys, content):
    shutil.copytree(runs / "one", runs / "bad")
    file = runs / "bad/result.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    status, said, text = report(runs, capsys)
    assert (status, seeds(text)) == (0, ["0"])
    assert said.count("\n") == 1
    assert f"{file} is damaged" in said


@pytest.mark.parametrize(
    ("name", "content"), [("config.json", "{}"), ("config.json", "[1"), ("metrics.csv", "update,train/loss\n1,low\n")]
)
def test_other_damaged_files_of_a_run_are_one_line(runs, capsys, name, content):
    shutil.copytree(runs / "one", runs / "bad")
    (runs / "bad" / name).write_text(content)
    status, said, text = report(runs, capsys)
    assert (status, seeds(text)) == (0, ["0"])
    assert said.count("\n") == 1
    assert f"{runs / 'bad' / name} is damaged" in said


def test_nothing_but_damaged_runs_is_an_error(runs, capsys):
    (runs / "one/result.json").write_text("{}")
    status, said, text = report(runs, capsys)
    assert (status, text) == (1, "")
    assert "one/result.json is damaged" in said
    assert "no finished run" in said


def test_a_damaged_result_is_no_finished_run(runs, capsys):
    (runs / "one/result.json").write_text("{}")
    command = ["run", "toy/regression", "--preset", "smoke", "--folder", str(runs / "one")]
    assert main(command, MODULES) == 1
    said = capsys.readouterr().err
    assert said.endswith("result.json is damaged: it has no 'ours'\n")


def test_runs_of_an_older_version_have_the_same_setting(runs, capsys):
    shutil.copytree(runs / "one", runs / "old")
    about = json.loads((runs / "old/config.json").read_text())
    del about["config"]["mixed_precision"], about["config"]["slow"]
    (runs / "old/config.json").write_text(json.dumps(about | {"config": about["config"] | {"seed": 7}}))
    RunFolder(runs / "old").write_result(RunFolder(runs / "old").result() | {"seeds": [7]})
    assert seeds(report(runs, capsys)[2]) == ["7 0"]
