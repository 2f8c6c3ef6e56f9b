"""The GPU queue on a CPU: measured, killed, resumed, merged into run folders."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu_archive import pack_runs, unpack_runs
from benchmarks.gpu_queue import resume_from
from reproductions.__main__ import main
from tests.aot.support import ROOT
from tfmem.aot.bundle import FORMAT, Bundle, write_bundle
from tfmem.training.run_folder import Checkpoint, RunFolder, write_json

SMOKES = {
    "first": ("relational/nth_farthest", "core:lstm"),
    "second": ("relational/nth_farthest", "--seed", "2", "core:lstm"),
    "third": ("metalearned/double_copy", "core:lstm"),
}


def script(name, *arguments, **environment):
    given = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, str(ROOT / "benchmarks" / name), *map(str, arguments)]
    return subprocess.Popen(
        command, env=os.environ | given | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def output_of(process):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


@pytest.mark.long
def test_killed_queue_resumes_and_merges(tmp_path, capsys):
    bundles, out, runs = tmp_path / "bundles", tmp_path / "out", tmp_path / "merged"
    for name, (experiment, *options) in SMOKES.items():
        more = ("--num-updates", "4000", "--updates-per-call", "10", "--log-every", "10", "--checkpoint-every", "100")
        status = main(["compile", experiment, str(bundles / name), "--preset", "smoke", *more, *options])
        assert status == 0
    assert output_of(script("gpu_queue.py", bundles, "--reference", 100, "--updates", 15)).count("20 losses") == 3
    written = (bundles / "first/reference.json").stat().st_mtime_ns
    assert "first: 20 losses" in output_of(script("gpu_queue.py", bundles, "--reference", 100))  # there already
    assert (bundles / "first/reference.json").stat().st_mtime_ns == written

    command = (bundles, "--budget", 60, "--out", out, "--precision", "float32", "--jobs", 3)
    killed = script("gpu_queue.py", *command)
    deadline = time.monotonic() + 90
    while "training" not in _items(out).get("first", {}) and time.monotonic() < deadline:
        time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    before = _items(out)
    assert before["first"]["update"] > 0
    said = output_of(script("gpu_queue.py", *command))
    items = _items(out)
    assert set(items) == set(SMOKES)
    for name, item in items.items():
        assert item["error"] is None
        assert item["update"] > 0
        assert item["costs"]["float32"]["largest_relative_error"] < 1e-3
        assert name in said
    assert items["first"]["costs"] == before["first"]["costs"]  # what was measured is not measured again
    assert items["first"]["training"][0] == before["first"]["training"][0]
    assert (out / "runs.tar.00").exists()

    queue = tmp_path / "queue"
    merged = output_of(script("gpu_merge.py", out, "--runs", runs, TFMEM_QUEUE_DIR=str(queue)))
    assert "first: " in merged
    assert {path.name for path in queue.iterdir()} == set(SMOKES)
    result = RunFolder(runs / "relational/nth_farthest/smoke/seed2").result()
    assert result["updates"] == items["second"]["update"]
    assert (runs / "metalearned/double_copy/smoke/seed0/saved_model").is_dir()
    capsys.readouterr()
    assert main(["report", str(runs), "--out", str(tmp_path / "report")]) == 0
    assert "double_copy" in capsys.readouterr().out


def _items(out):
    try:
        return json.loads((out / "results.json").read_text())["items"]
    except FileNotFoundError:
        return {}


def _run(path, update, size):
    run = RunFolder(path)
    run.claim({"experiment": "toy", "preset": "smoke", "config": {"seed": 0}})
    rng = np.random.default_rng(size)
    arrays = {
        "variables/model/000": rng.normal(size=size).astype(np.float32),
        "variables/optimizer/000": rng.normal(size=size).astype(np.float32),
    }
    run.save(Checkpoint(update, arrays, {"wall_time": 1.0}))
    run.release()
    return arrays


def test_packed_runs_fit_their_limit(tmp_path):
    small, large = _run(tmp_path / "small", 7, 1000), _run(tmp_path / "large", 8, 200_000)
    folders = [tmp_path / "small", tmp_path / "large"]

    def packed(limit):
        (tmp_path / "out").mkdir(exist_ok=True)
        with (tmp_path / "out" / "runs.tar.00").open("wb") as file:
            notes = pack_runs(folders, file, limit)
        runs = {run.path.name: run for run in unpack_runs(tmp_path / "out", tmp_path / f"unpacked{limit}")}
        return notes, {name: run.restore()[0] for name, run in runs.items()}

    notes, found = packed(4_000_000)
    assert set(notes.values()) == {"whole"}
    np.testing.assert_array_equal(found["large"].arrays["variables/optimizer/000"], large["variables/optimizer/000"])
    notes, found = packed(2_000_000)
    assert notes == {"small": "whole", "large": "optimizer slots in bfloat16"}
    assert found["large"].update == 8
    np.testing.assert_array_equal(found["large"].arrays["variables/model/000"], large["variables/model/000"])
    slots = found["large"].arrays["variables/optimizer/000"]
    assert slots.dtype == np.float32
    np.testing.assert_allclose(slots, large["variables/optimizer/000"], rtol=2**-8)
    notes, found = packed(1_000_000)
    assert notes["large"].startswith("checkpoint left out: ")
    assert found["large"] is None
    np.testing.assert_array_equal(found["small"].arrays["variables/optimizer/000"], small["variables/optimizer/000"])


def test_earlier_runs_resume_unless_a_field_changed(tmp_path, capsys):
    about = {"experiment": "toy", "preset": "smoke", "updates_per_call": 1, "evaluation_steps": 0}
    bundle = Bundle(
        **about,
        config={"seed": 0, "rate": 0.1},
        programs={},
        initial={},
        evaluation_carry=[],
        data_sources={"train": None},
        versions={},
    )
    write_bundle(bundle, tmp_path / "bundle")
    for name, config in {"older": {"seed": 0}, "other": {"seed": 0, "rate": 0.2}}.items():
        run = RunFolder(tmp_path / "queue" / name)
        run.claim({"experiment": "toy", "preset": "smoke", "config": config})
        run.save(Checkpoint(5, {"variables/model/a": np.ones(3)}, {"wall_time": 1.0}))
        run.release()
        resume_from(tmp_path / "queue", name, tmp_path / "bundle", tmp_path / name, "float32")
    assert RunFolder(tmp_path / "older").saved()[0][0] == 5
    assert RunFolder(tmp_path / "older").config()["config"] == {"seed": 0, "rate": 0.1}
    assert not RunFolder(tmp_path / "other").saved()
    said = capsys.readouterr().out
    assert "older: the earlier run has no rate; as in the bundle" in said
    assert "other: an earlier run of another configuration (rate) is not resumed" in said


def test_reference_that_takes_too_long_ends(tmp_path):
    (tmp_path / "slow").mkdir()
    about = {"format": FORMAT, "files": {}, "experiment": "toy", "preset": "smoke"}
    write_json(tmp_path / "slow/manifest.json", about)
    said = output_of(script("gpu_queue.py", tmp_path, "--reference", 0.01))
    assert said.startswith("slow: 0 losses")


def test_bundles_folder_without_bundles_is_one_line(tmp_path):
    process = script("gpu_queue.py", tmp_path, "--budget", 60, "--out", tmp_path / "out")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "must hold folders that `reproduce compile` wrote" in said
    assert not Path(tmp_path / "out" / "results.json").exists()
