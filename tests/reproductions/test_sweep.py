"""Sweeps: the cross product runs, resumes, reports failures, and ends in a table and a picture."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from reproductions.__main__ import main
from reproductions.runs import UsageError
from reproductions.sweep import command, in_process, parse_grid, points, sweep
from tests.reproductions.test_cli import MODULES
from tfmem.training.run_folder import RunFolder, RunFolderError

GRID = {"width": ("3", "4"), "rate": ("1e-2", "1e-3")}


def in_this_process(arguments, log):
    log.write_text(" ".join(arguments))
    return main(arguments, MODULES)


def run(out, grid=GRID, seeds=(1, 2), **settings):
    settings = {"metric": None, "run": in_this_process, "jobs": 1, **settings}
    return sweep("toy/regression", "smoke", (), grid, seeds, out, **settings)


def test_the_cross_product_has_a_table_and_a_picture(tmp_path, capsys):
    assert run(tmp_path / "sweep") == 0
    folders = sorted(path.parent for path in tmp_path.glob("sweep/*/*/result.json"))
    assert len(folders) == 8
    rows = [line for line in (tmp_path / "sweep/sweep.md").read_text().splitlines() if line.startswith("|")]
    assert rows[0].startswith("| width | rate | error |")
    errors = [RunFolder(f"{tmp_path}/sweep/width=3_rate=1e-2/seed{seed}").result()["ours"]["error"] for seed in (1, 2)]
    assert rows[2].startswith(f"| 3 | 1e-2 | {np.mean(errors):.4g} ±")
    assert len(rows) == 2 + 4
    assert (tmp_path / "sweep/sweep.png").exists()


def test_a_failed_run_is_reported_and_resumed(tmp_path, capsys):
    called = []

    def failing(arguments, log):
        called.append(arguments)
        log.write_text(" ".join(arguments))
        return 1 if "width=4" in str(log) and len(called) < 4 else in_this_process(arguments, log)

    settings = dict(grid={"width": ("3", "4")}, seeds=(1,), run=failing)
    assert run(tmp_path, **settings) == 1
    error = capsys.readouterr().err
    assert f"failed: {tmp_path}/width=4/seed1: run toy/regression" in error  # the last line of its log
    assert "1 of 2 runs failed; " in error
    called += [None] * 4
    assert run(tmp_path, **settings) == 0
    assert len(called) == 2 + 4 + 1  # the finished run was left as it is
    with pytest.raises(RunFolderError, match=r"it has another: options: \['width'\] there, \['rate'\] now"):
        run(tmp_path, grid={"rate": ("1e-2",)})


def test_options_follow_the_part_that_they_belong_to(tmp_path):
    grid = {"core.units": ("3",), "num-updates": ("5",), "task.length": ("2",)}
    (point,) = points(grid, (1,), tmp_path)
    arguments = command("supervised", None, ("task:double-copy", "core:lstm"), grid, point)
    text = " ".join(arguments).replace(str(point.folder), "FOLDER")
    assert text == (
        "run supervised --folder FOLDER --seed 1 --num-updates 5 task:double-copy --task.length 2 "
        "core:lstm --core.units 3"
    )
    (point,) = points({"core.read-first": ("True",), "eager": ("False",)}, (1,), tmp_path)
    arguments = command("a/b", "demo", ("core:mnm",), ("core.read-first", "eager"), point)
    assert arguments[-5:] == ["--preset", "demo", "--no-eager", "core:mnm", "--core.read-first"]
    (point,) = points({"core.read-first": ("false",)}, (1,), tmp_path)
    assert command("a/b", None, ("core:mnm",), ("core.read-first",), point)[-1] == "--core.no-read-first"


def test_the_presets_core_is_named_where_its_options_are_swept(tmp_path, monkeypatch, capsys):
    called = []
    monkeypatch.setattr("reproductions.sweep.in_process", lambda arguments, log: called.append(arguments) or 1)
    sweep_of = ["sweep", "relational/nth_farthest", "--preset", "demo", "--out", str(tmp_path / "out"), "--grid"]
    assert main([*sweep_of, "core.mem-slots=1,8", "core.num-heads=2"]) == 1
    assert [arguments[arguments.index("core:rmc") :] for arguments in called] == [
        ["core:rmc", "--core.mem-slots", slots, "--core.num-heads", "2"] for slots in ("1", "8")
    ]
    for wrong, message in (
        (["core.mem-slotz=1"], "--core.mem-slotz"),
        (["core.mem-slots=1", "--preset", "demi"], "preset: 'demi', must be one of"),
        (["core.mem-slots=1", "--grid", "batch-size=3"], "--grid: given 2 times, must be given once"),
        (["core.mem-slots=some"], "invalid literal for int"),
        (["learning-rate=1e-3,0.001"], "grid: learning-rate=1e-3 and learning-rate=0.001, must be different runs"),
    ):
        other = [str(tmp_path / "other") if a == str(tmp_path / "out") else a for a in sweep_of]
        capsys.readouterr()
        assert main([*other, *wrong]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "other").exists()


def test_a_stopped_sweep_stops_its_runs(tmp_path):
    code = """
import sys, subprocess
from pathlib import Path
from tfmem_reproductions import sweep
real = subprocess.Popen
def popen(command, **settings):
    return real([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"], **settings)
sweep.subprocess.Popen = popen
sweep.sweep("toy/regression", None, (), {}, (1, 2), Path("out"), 2)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        logs = [tmp_path / f"out/preset/seed{seed}.log" for seed in (1, 2)]
        deadline = time.monotonic() + 120
        while not all(log.exists() and len(log.read_text().splitlines()) == 2 for log in logs):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = [int(log.read_text().splitlines()[1]) for log in logs]
        process.terminate()
        assert process.wait(60) != 0
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_a_damaged_result_is_a_failed_run(tmp_path, capsys):
    def damaged(arguments, log):
        status = in_this_process(arguments, log)
        if "width=4" in str(log):
            (log.with_suffix("") / "result.json").write_text("{}")
        return status

    assert run(tmp_path, grid={"width": ("3", "4")}, seeds=(1,), run=damaged) == 1
    assert "result.json is damaged" in capsys.readouterr().err
    assert "| 3 |" in (tmp_path / "sweep.md").read_text()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["width"], "grid: 'width', must be OPTION=VALUE,VALUE"),
        (["width=3,"], "grid: 'width=3,', must be OPTION=VALUE,VALUE"),
        (["width=3", "width=4"], "must be an option of its own"),
        (["core.mem_slots=3", "core.mem-slots=4"], "must be an option of its own"),
        (["seed=1,2"], "must be an option of its own that is no seed"),
        (["width=3,3"], "must have different values"),
    ],
)
def test_bad_grids(texts, message):
    with pytest.raises(UsageError, match=message):
        parse_grid(texts)


def test_bad_arguments(tmp_path):
    for settings, message in (
        ({"jobs": 0}, "jobs: 0, must be at least 1"),
        ({"seeds": (1, 1)}, r"seeds: \(1, 1\), must be different numbers"),
        ({"seeds": (1, -1)}, r"seeds: \(1, -1\), must be different numbers from 0 to 2147483647"),
        ({"grid": {}, "seeds": (1,), "metric": "wit"}, "metric: 'wit', must be one of error"),
    ):
        with pytest.raises(UsageError, match=message):
            run(tmp_path / str(settings.get("jobs")), **settings)
    assert "sweep.png" not in (tmp_path / "None/sweep.md").read_text()  # there is a table, but no picture


def test_spaces_in_a_grid_are_left_out():
    assert parse_grid(["width = 3, 4"]) == {"width": ("3", "4")}


def test_a_run_in_a_process_of_its_own(tmp_path):
    assert in_process(["list", "nothing-like-this"], tmp_path / "log") == 2
    assert "FILTER: 'nothing-like-this', must be" in (tmp_path / "log").read_text()


def test_a_sweep_without_a_cluster_is_refused(tmp_path, capsys):
    sweep_of = ["sweep", "relational/nth_farthest", "--preset", "smoke", "--out", str(tmp_path / "out")]
    assert main([*sweep_of, "--ray-address", "127.0.0.1:9"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("reproduce: error: ray_address: '127.0.0.1:9', must be ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_tasks_of_ray_have_the_table_of_processes(tmp_path, capsys):
    ray = pytest.importorskip("ray")
    sweep_of = ["sweep", "relational/nth_farthest", "--preset", "smoke", "--grid", "num-updates=2,4", "--jobs", "2"]
    assert main([*sweep_of, "--out", str(tmp_path / "processes")]) == 0
    ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    try:
        assert main([*sweep_of, "--out", str(tmp_path / "tasks"), "--ray-address", "auto"]) == 0
        assert main([*sweep_of[:-1], "3", "--out", str(tmp_path / "many"), "--ray-address", "auto"]) == 2
    finally:
        ray.shutdown()
    assert "jobs: 3, must be at most the cluster's CPUs (2)" in capsys.readouterr().err
    tables = [(tmp_path / name / "sweep.md").read_text() for name in ("processes", "tasks")]
    assert tables[0] == tables[1]
