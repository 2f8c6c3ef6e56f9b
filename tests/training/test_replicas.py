"""Batches shared by devices and by workers: numbers of one device, a worker that dies, resume, wrong arguments."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from reproductions.__main__ import main
from tests.training.sharing import CASES, updated
from tfmem.training import workers
from tfmem.training.run_folder import RunFolder


def command(folder, *options, number="1000"):
    """Arguments of a small run's command."""
    return [
        "run", "supervised", "--folder", str(folder), "--batch-size", "8", "--num-updates", number, "--eval-every", "0",
        "--eval-batches", "1", "--checkpoint-every", "20", "--updates-per-call", "20", "--gradient-norm-clip", "0.5",
        *options, "task:priority-sort", "--task.num-inputs", "4", "--task.num-outputs", "3", "core:lstm",
        "--core.units", "8",
    ]  # fmt: skip


@pytest.mark.long
def test_two_replicas_do_the_work_of_one():
    done = subprocess.run([sys.executable, "-m", "tests.training.sharing"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    errors = json.loads(done.stdout.splitlines()[-1])
    assert errors.keys() == CASES.keys()
    assert max(errors.values()) < 1e-5, errors


def start(folder, index, ports):
    """Start a worker of a run."""
    about = {"cluster": {"worker": [f"localhost:{port}" for port in ports]}, "task": {"type": "worker", "index": index}}
    return subprocess.Popen(
        [sys.executable, "-m", "reproductions", *command(folder, "--replicas", "2", "--multi-worker")],
        env={**os.environ, "TF_CONFIG": json.dumps(about)},
        stderr=subprocess.PIPE,
        text=True,
    )


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.mark.long
def test_two_workers_do_the_work_of_one_and_resume_when_one_dies(tmp_path):
    assert main(command(tmp_path / "one", number="20")) == 0
    folder, ports = RunFolder(tmp_path / "two"), free_ports(2)
    both = [start(folder.path, index, ports) for index in (0, 1)]
    try:
        end = time.monotonic() + 200
        while not folder.saved() and all(worker.poll() is None for worker in both) and time.monotonic() < end:
            time.sleep(0.1)
        both[1].send_signal(signal.SIGKILL)
        assert both[0].wait(150) == 1
        error = both[0].stderr.read()
        assert "reproduce: error: another worker has stopped (" in error, error[-3000:]
        assert folder.result() is None
        saved = folder.saved()[0][0]
        assert 0 < saved < 1000
        both = [start(folder.path, index, ports) for index in (0, 1)]
        assert [worker.wait(200) for worker in both] == [0, 0]
    finally:
        for worker in both:
            worker.kill()
    rows = RunFolder(tmp_path / "one").metrics(), folder.metrics()
    for name in ("train/loss", "train/gradient_norm"):  # means of the first ten updates
        assert rows[1][0][name] == pytest.approx(rows[0][0][name], rel=1e-5)
    assert [row["update"] for row in rows[1]] == list(range(10, 1001, 10))
    assert folder.result()["updates"] == 1000


def tf_config(workers=("a:1", "b:2"), kind="worker", index=0, **others):
    return json.dumps({"cluster": {"worker": workers, **others}, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[3]", "{"),
        *(tf_config(["a:1"]), tf_config("a:1"), tf_config(["a", "b"]), tf_config(["a:1", "a:1"]), tf_config([1, 2])),
        *(
            tf_config(kind="ps"),
            tf_config(chief=["c:3"]),
            tf_config(index=2),
            tf_config(index="0"),
            tf_config(index=True),
        ),
        json.dumps({"cluster": {"worker": ["a:1", "b:2"]}, "task": {"index": 0}}),
    ],
)
def test_tf_config_must_name_workers(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="must be JSON with two workers or more, and this task's index"):
        workers.worker_strategy()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replicas": 4}, r"replicas: 4, must divide batch_size \(6\)"),
        ({"replicas": 0}, "replicas: 0, must be at least 1"),
        ({"replicas": 2, "jit_compile": True}, "jit_compile: True, must be False if replicas is above 1"),
    ],
)
def test_wrong_arguments(change, message):
    _, config = CASES["adam"]()
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change)


def test_too_few_devices_and_a_sum_with_a_cores_loss():
    with pytest.raises(ValueError, match=r"replicas: 3, must be at most the number of GPUs \(0\)"):
        updated("adam", 3)
    _, config = CASES["loss of the core"]()
    with pytest.raises(ValueError, match="loss_reduction: 'sum', must be a mean for replicas"):
        dataclasses.replace(config, loss_reduction="sum", replicas=2)
