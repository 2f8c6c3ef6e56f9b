"""Actors as Ray processes: numbers of one process, records by arrival, killed actors and learners, wrong arguments."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from reproductions.__main__ import main
from tfmem.cores.config import LSTMConfig
from tfmem.envs.grid.goal_maze import GoalMaze
from tfmem.rl import AgentConfig, AgentExperiment, Objective
from tfmem.rl.distributed import METRICS, ActorPool, ray_actors
from tfmem.training import WorkerError, checkpoint_arrays, compiled_updates, train
from tfmem.training.run_folder import RunFolder, RunFolderError

ray = pytest.importorskip("ray")
CONFIG = AgentConfig(
    world=GoalMaze(side=5, max_steps=6),
    core=LSTMConfig(units=4),
    objective=Objective(reduction="mean"),
    num_worlds=4,
    unroll_length=4,
    policy_lag=1,
    learning_rate=1e-2,
    num_updates=20,
    updates_per_call=5,
    log_every=5,
    num_levels=4,
    eval_episodes=4,
)


class Faulty(AgentExperiment):
    """Has no worlds in an actor."""

    def initial_carry(self):
        if not tf.executing_eagerly():
            raise RuntimeError("no worlds")
        return super().initial_carry()


@pytest.fixture(scope="module")
def cluster():
    before = ray_processes()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=3, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    assert wait_for(lambda: ray_processes() <= before), ray_processes() - before


@pytest.fixture(scope="module")
def pool(cluster):
    with ray_actors(AgentExperiment(CONFIG), 2) as pool:
        yield pool


def ray_processes():
    """Numbers and names of Ray's processes."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode().replace("\0", " ")
        except OSError:  # ended meanwhile
            continue
        if command.startswith("ray::") or "/ray/core/src/ray/" in command:
            found.add((folder.name, command.split()[0]))
    return found


def wait_for(condition, seconds=120):
    """True once a condition holds, False if it does not within the time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def shared_memory():
    return {path.name for path in Path("/dev/shm").iterdir()}


def learned(make_updates, experiment, before_call=lambda first: None):
    """Run 20 updates: the arrays of a checkpoint and the metrics."""
    carry, rows = experiment.initial_carry(), []
    updates = make_updates(experiment, 5)
    for first in range(0, 20, 5):
        before_call(first)
        carry, metrics = updates(tf.constant(first, tf.int64), {}, carry)
        rows.append({name: values.numpy() for name, values in metrics.items()})
    metrics = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return checkpoint_arrays(experiment, carry), metrics


@pytest.fixture(scope="module")
def one_process():
    return learned(compiled_updates, AgentExperiment(CONFIG))


def fresh(pool):
    """The pool's experiment with the variables of its start."""
    for variable, new in zip(
        pool.experiment.variables().values(), AgentExperiment(CONFIG).variables().values(), strict=True
    ):
        variable.assign(new)
    pool.carry = None
    return pool.experiment


def assert_same(found, expected):
    for new, old in zip(found, expected, strict=True):
        for name, values in old.items():
            np.testing.assert_allclose(new[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


def test_numbers_are_those_of_one_process(pool, one_process):
    found = learned(pool, fresh(pool))
    assert_same(found, one_process)
    np.testing.assert_array_equal(found[1]["lag"], [0] + [1] * 19)
    assert set(found[1]) - set(one_process[1]) == set(METRICS)


def test_killed_actors_start_again_and_change_nothing(pool, one_process):
    """Three deaths between calls and during them, of processes and by Ray."""

    def kill(first):
        if first == 5:
            os.kill(actor_processes()[0], signal.SIGKILL)
        elif first == 10:
            ray.kill(pool.actors[1], no_restart=False)
        elif first == 15:
            pool._call_all(15)  # under way when it dies
            ray.kill(pool.actors[1], no_restart=False)

    before = pool.counts["restarts"]
    found = learned(pool, fresh(pool), kill)
    assert_same(found, one_process)
    assert pool.counts["restarts"] - before == 3


def actor_processes():
    return sorted(int(number) for number, name in ray_processes() if name.startswith("ray::Actor"))


def test_records_by_arrival_are_of_bounded_age(pool):
    experiment = fresh(pool)
    by_arrival = ActorPool(ray, experiment, 2, max_lag=2)
    by_arrival.actors = pool.actors
    arrays, metrics = learned(by_arrival, experiment)
    assert metrics["lag"].max() <= 2
    assert len(by_arrival.records) <= 2
    assert len(by_arrival.calls) == 2
    assert all(np.isfinite(metrics["loss"]))
    assert not any(np.isnan(array).any() for array in arrays.values())
    by_arrival.max_lag = 0  # what is under way is now too old
    assert by_arrival.update(20)["lag"] == 0
    assert by_arrival.counts["dropped"] - metrics["dropped_records"][-1] >= 1


def test_a_carry_with_records_that_wait_loses_no_step(pool):
    """Actors' states are those before the records that no update has learned from."""
    experiment = fresh(pool)
    by_arrival = ActorPool(ray, experiment, 2, max_lag=9)
    by_arrival.actors = pool.actors
    by_arrival.begin(0, experiment.initial_carry())
    for actor in (0, 0, 1):
        by_arrival._call(actor, actor, 0)
        by_arrival._arrive()
    by_arrival._call(1, 5, 0)
    lengths = by_arrival.carried(0).actor.entry.episode_length
    np.testing.assert_array_equal(lengths, [0, 0, 0, 0])
    by_arrival.records.popleft()
    np.testing.assert_array_equal(by_arrival.carried(0).actor.entry.episode_length, [4, 4, 0, 0])


def test_weights_that_nobody_needs_are_dropped(pool):
    learned(pool, fresh(pool))
    assert sorted(pool.versions) == [18, 19, 20]


def test_an_actor_that_cannot_start_ends_the_run_in_one_line(cluster):
    experiment = Faulty(CONFIG)
    with ray_actors(experiment, 1) as pool:
        pool.begin(0, experiment.initial_carry())
        with pytest.raises(WorkerError, match="actor 0 cannot start: RuntimeError: no worlds"):
            pool.update(0)


@pytest.mark.parametrize(
    ("number", "max_lag", "message"),
    [
        (0, None, "actors: 0, must be a positive integer"),
        (3, None, r"actors: 3, must divide num_worlds \(4\)"),
        (2, 0, "max_lag: 0, must be at least 1"),
        (2, 1.5, "max_lag: 1.5, must be an integer"),
        (2.0, None, "actors: 2.0, must be a positive integer"),
        (4, None, r"actors: 4, must be at most the cluster's CPUs \(3\)"),
    ],
)
def test_wrong_arguments(cluster, number, max_lag, message):
    with pytest.raises(ValueError, match=message), ray_actors(AgentExperiment(CONFIG), number, max_lag):
        pass


def test_without_ray_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    message = r"actors: 1, must be 0 without Ray: pip install ray"
    with pytest.raises(ValueError, match=message), ray_actors(AgentExperiment(CONFIG), 1):
        pass


def test_a_start_that_fails_is_one_line(monkeypatch):
    def init(**settings):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    message = "actors: 1, must be 0 where Ray cannot start: The current node timed out"
    with pytest.raises(ValueError, match=message), ray_actors(AgentExperiment(CONFIG), 1):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("metalearned/maze", "--max-lag", "2"), "max_lag: 2, must come with --actors of at least 1"),
        (("metalearned/maze", "--ray-address", "auto"), "ray_address: auto, must come with --actors of at least 1"),
        (("multigrid/mapping", "--actors", "2"), "actors: 2, must be 0: multigrid/mapping has no agent"),
        (
            ("metalearned/maze", "--actors", "2", "--ray-address", "127.0.0.1:9"),
            "ray_address: '127.0.0.1:9', must be of a running cluster",
        ),
        (("metalearned/maze", "--actors", "3"), "actors: 3, must divide num_worlds (2)"),
    ],
)
def test_wrong_commands(tmp_path, capsys, arguments, message):
    name, *options = arguments
    assert main(["run", name, "--preset", "smoke", "--folder", str(tmp_path / "run"), *options]) == 2
    assert capsys.readouterr().err == f"reproduce: error: {message}\n"
    assert not (tmp_path / "run").exists()


def test_a_run_by_arrival_is_another_setting(pool, tmp_path):
    experiment = fresh(pool)
    by_arrival = ActorPool(ray, experiment, 2, max_lag=2)
    by_arrival.actors = pool.actors
    train(experiment, tmp_path / "run", make_updates=by_arrival)
    assert RunFolder(tmp_path / "run").config()["max_lag"] == 2
    with pytest.raises(RunFolderError, match="max_lag: 2 there"):
        train(experiment, tmp_path / "run")


@pytest.mark.long
def test_killed_actors_and_learners_change_no_number_and_leave_nothing(tmp_path):
    """200 updates: each actor dies three times, the learner twice, and it is stopped once by Ctrl-C."""
    command = ["run", "metalearned/maze", "--preset", "smoke", "--policy-lag", "1", "--num-updates", "200"]
    assert main([*command, "--folder", str(tmp_path / "whole")]) == 0
    folder, processes, memory = RunFolder(tmp_path / "run"), ray_processes(), shared_memory()
    options = ["--folder", str(folder.path), "--actors", "2"]
    ends, restarts = [], 0

    def saved():
        return (folder.saved() or [(0,)])[0][0]

    def run(*faults):
        """Run the command with a fault after every 20 updates; returns the exit status."""
        process = subprocess.Popen([sys.executable, "-m", "reproductions", *command, *options], start_new_session=True)
        try:
            for fault in faults:
                until = saved() + 20
                assert wait_for(lambda until=until: process.poll() is not None or saved() >= until)
                assert process.poll() is None
                if fault == "actors":
                    running = {int(number) for number, name in ray_processes() - processes if "ray::Actor" in name}
                    assert len(running) == 2
                    for number in running:
                        os.kill(number, signal.SIGKILL)
                elif fault == signal.SIGINT:
                    os.killpg(process.pid, fault)
                else:
                    process.send_signal(fault)
            return process.wait(240)
        finally:
            process.kill()
            assert wait_for(lambda: ray_processes() <= processes), ray_processes() - processes
            assert shared_memory() <= memory
            ends.append(saved())

    assert run("actors", "actors", signal.SIGKILL) == -signal.SIGKILL
    assert run("actors", signal.SIGKILL) == -signal.SIGKILL
    assert folder.result() is None
    assert run(signal.SIGINT) == 130
    assert run() == 0
    whole, rows = RunFolder(tmp_path / "whole"), folder.metrics()
    for name, values in whole.restore()[0].arrays.items():
        np.testing.assert_allclose(folder.restore()[0].arrays[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    own = {"seconds", *(f"train/{name}" for name in METRICS)}
    assert [{k: v for k, v in row.items() if k not in own} for row in rows] == [
        pytest.approx({k: v for k, v in row.items() if k not in own}, rel=1e-5, abs=1e-5) for row in whole.metrics()
    ]
    assert folder.result()["actors"] == 2
    for before, end in itertools.pairwise([0, *ends]):
        restarts += max(row.get("train/actor_restarts", 0) for row in rows if before < row["update"] <= end)
    assert restarts == 6
    print(
        f"learner ended at updates {ends}; {restarts:.0f} restarts of actors; Ray's processes {len(processes)} before, "
        f"{len(ray_processes())} after; objects in shared memory {len(memory)} before, {len(shared_memory())} after"
    )
