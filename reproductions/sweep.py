"""Command `reproduce sweep`: the cross product of options and seeds, each run in a process, one table and one picture.

    reproduce sweep relational/nth_farthest --preset demo --seeds 1 2 3 --grid core.mem-slots=1,8 core.num-heads=1,8

Runs are `OUT/<options>/seed<N>`, as `reproduce run` makes them. Rerun the same command to resume: finished runs stay
as they are. With `--ray-address` the processes are tasks of a Ray cluster, whose machines share the folder OUT and have
the same tfmem. The picture has a metric against the first option's values, a line for each combination of the others.
"""

import collections
import contextlib
import itertools
import os
import shlex
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfmem import plotting
from tfmem.training.run_folder import (
    RunFolder,
    RunFolderError,
    differences,
    read_json,
    run_result,
    write_atomically,
    write_json,
)

from .report import markdown, mean, print_table
from .runs import UsageError, file_name


class Point(NamedTuple):
    """Run of a sweep: values of the options, in the order of the grid, the seed and the folder."""

    values: tuple[str, ...]
    seed: int
    folder: Path


def parse_grid(texts):
    """Parse `OPTION=VALUE,VALUE` texts to `{option: values}`.

    Raises:
      UsageError: a text has another form, or an option stands there twice.
    """
    grid = {}
    for text in texts:
        option, _, values = text.partition("=")
        option, values = option.strip(), tuple(value.strip() for value in values.split(","))
        if not option or not all(values):
            raise UsageError(f"grid: {text!r}, must be OPTION=VALUE,VALUE")
        given = [name.replace("_", "-") for name in ("seed", "preset", "folder", *grid)]
        if option.replace("_", "-") in given:
            raise UsageError(f"grid: {text!r}, must be an option of its own that is no seed, preset or folder")
        if len(set(values)) < len(values):
            raise UsageError(f"grid: {text!r}, must have different values")
        grid[option] = values
    return grid


def points(grid, seeds, out):
    """List the `Point`s of a grid."""
    found = []
    for values in itertools.product(*grid.values()):
        name = "_".join(settings(grid, values)) or "preset"
        found += [Point(values, seed, out / file_name(name) / f"seed{seed}") for seed in seeds]
    return found


def settings(grid, values):
    """List the texts `OPTION=VALUE` of a point."""
    return [f"{option}={value}" for option, value in zip(grid, values, strict=True)]


def command(experiment, preset, parts, grid, point):
    """Return the arguments of `reproduce` that train a point; options of a core follow its name."""
    arguments = ["run", experiment, "--folder", str(point.folder), "--seed", str(point.seed)]
    arguments += ["--preset", preset] if preset else []
    flags = {"true": lambda option: [f"--{option}"], "false": lambda option: [_negated(option)]}
    chosen, kinds = dict(zip(grid, point.values, strict=True)), [part.partition(":")[0] for part in parts]
    for kind, part in zip(("", *kinds), ("", *parts), strict=True):
        arguments += [part] if part else []
        for option, value in chosen.items():
            owner = option.partition(".")[0] if "." in option else ""
            if (owner if owner in kinds else "") == kind:
                arguments += flags[value.lower()](option) if value.lower() in flags else [f"--{option}", value]
    return arguments


def _negated(option):
    owner, dot, name = option.rpartition(".")
    return f"--{owner}{dot}no-{name}"


_running, _lock = set(), threading.Lock()


def in_process(arguments, log):
    """Run `reproduce` in a process of its own, output to a file; returns its status."""
    # The level that this process has set would keep the other from hiding TensorFlow's lines.
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    with log.open("ab") as file:
        file.write(f"$ reproduce {shlex.join(arguments)}\n".encode("utf-8", "replace"))
        file.flush()
        run = [sys.executable, "-m", __package__, *arguments]
        return _waited(lambda: subprocess.Popen(run, stdout=file, stderr=file, env=environment, start_new_session=True))


class _Task:
    """Task of Ray that calls `in_process`, with a CPU and, if the cluster has any, a GPU; with a process's methods."""

    def __init__(self, ray, arguments, log):
        self.ray, gpus = ray, min(1, ray.cluster_resources().get("GPU", 0))
        task = ray.remote(in_process).options(num_cpus=1, num_gpus=gpus, max_retries=0)
        self.reference = task.remote(arguments, log)

    def terminate(self):
        self.ray.cancel(self.reference)

    def wait(self, timeout=None):
        """Return the status; 1 if the task's process died."""
        try:
            return self.ray.get(self.reference, timeout=timeout)
        except self.ray.exceptions.GetTimeoutError as error:
            raise subprocess.TimeoutExpired("task", timeout) from error
        except self.ray.exceptions.RayError as error:
            print(str(error).strip().splitlines()[-1], file=sys.stderr)
            return 1


@contextlib.contextmanager
def ray_tasks(address, jobs):
    """Context with a function like `in_process` whose processes run on a Ray cluster.

    Raises:
      ValueError: Ray is not installed, no cluster has the address, or it has fewer CPUs than `jobs`.
    """
    from tfmem.rl.distributed import ray_cluster

    with ray_cluster(address, jobs, "jobs") as ray:
        yield lambda arguments, log: _waited(lambda: _Task(ray, arguments, log))


def _waited(start):
    """Start a process or task and wait for its status; stop it where an error ends the wait."""
    with _lock:
        process = start()
        _running.add(process)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=1)  # Ray interrupts no longer call
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        with _lock:
            _running.discard(process)


@contextlib.contextmanager
def _stopping():
    """Context in which SIGINT and SIGTERM raise KeyboardInterrupt, after all processes have stopped."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, interrupt) if main else None
    try:
        yield
    except KeyboardInterrupt:
        with _lock:
            running = list(_running)
        for process in running:
            process.terminate()  # it saves a checkpoint
        for process in running:
            process.wait()
        raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def sweep(experiment, preset, parts, grid, seeds, out, jobs, metric=None, run=in_process):
    """Train all points, then write and print the table and draw the picture.

    Args:
      experiment, preset, parts: as of `reproduce run`; parts are such as "core:rmc".
      grid: `{option: values}`, texts.
      seeds: of each point.
      out: folder of the runs, of sweep.md and sweep.png.
      jobs: runs at a time.
      metric: of the picture; default: the first of the results.
      run: function of `reproduce`'s arguments and of a log file that returns the status.

    Returns:
      0, or 1 if a run failed; the others are finished all the same.

    Raises:
      UsageError: an argument is out of its range.
      RunFolderError: the folder has another sweep.
    """
    if jobs < 1:
        raise UsageError(f"jobs: {jobs}, must be at least 1")
    if len(set(seeds)) < len(seeds) or not seeds or not all(0 <= seed < 2**31 for seed in seeds):
        raise UsageError(f"seeds: {seeds}, must be different numbers from 0 to {2**31 - 1}, at least one")
    about = {"experiment": experiment, "preset": preset, "parts": list(parts), "options": list(grid)}
    _claim(out / "sweep.json", about)
    todo = points(grid, seeds, out)

    def train(point):
        if _finished(point):
            return point, 0
        point.folder.parent.mkdir(parents=True, exist_ok=True)
        log = point.folder.with_suffix(".log")
        status = run(command(experiment, preset, parts, grid, point), log) or int(not _finished(point))
        text = f"failed: {point.folder}: {_last_line(log)}" if status else f"done: {point.folder}"
        print(text, file=sys.stderr, flush=True)
        return point, status

    with ThreadPoolExecutor(jobs, "sweep") as pool:
        try:
            with _stopping():
                statuses = list(pool.map(train, todo))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    finished = [point for point, status in statuses if status == 0]
    failed = len(todo) - len(finished)
    if failed:
        print(
            f"{failed} of {len(todo)} runs failed; the output of each is in a .log next to its folder", file=sys.stderr
        )
    if finished:
        _write(finished, grid, metric, out)
    return 1 if failed else 0


def _last_line(log):
    lines = log.read_text("utf-8", "replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), f"no output in {log}")


def _finished(point):
    try:
        return run_result(RunFolder(point.folder)) is not None
    except RunFolderError as error:
        print(error, file=sys.stderr)
        return False


def _claim(file, about):
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, about)
    changed = [f"{name}: {before} there, {now} now" for name, before, now in differences(read_json(file), about)]
    if changed:
        raise RunFolderError(
            f"out: {file.parent}, must be a folder of this sweep; it has another: {'; '.join(changed)}"
        )


def _write(finished, grid, metric, out):
    scores = collections.defaultdict(lambda: collections.defaultdict(list))
    for point in finished:
        for name, value in run_result(RunFolder(point.folder))["ours"].items():
            scores[point.values][name].append(value)
    names = list(dict.fromkeys(name for by_name in scores.values() for name in by_name))
    head = (*grid, *names, "seeds")
    rows = [
        (*values, *(mean(by_name[n]) if by_name[n] else "-" for n in names), str(max(map(len, by_name.values()))))
        for values, by_name in scores.items()
    ]
    print_table(head, rows)
    lines = ["# Sweep", "", markdown(head), markdown(["---"] * len(head)), *map(markdown, rows), ""]
    metric = names[0] if metric is None else metric
    lines += ["![Sweep](sweep.png)", ""] if metric in names else []
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "sweep.md", lambda file: file.write("\n".join(lines).encode()))
    if metric not in names:
        raise UsageError(f"metric: {metric!r}, must be one of {', '.join(names)}; {out / 'sweep.md'} is written")
    figure = plotting.sweep_figure(_lines(scores, grid, metric), next(iter(grid), "preset"), metric)
    figure.savefig(out / "sweep.png", dpi=120)
    print(f"written: {out / 'sweep.md'} and sweep.png")


def _lines(scores, grid, metric):
    """Values of a metric, `{label: {value of the first option: [of each seed]}}`."""
    lines = collections.defaultdict(dict)
    for values, by_name in scores.items():
        label = ", ".join(f"{option} {value}" for option, value in zip([*grid][1:], values[1:], strict=True))
        lines[label][values[0] if values else ""] = np.array(by_name[metric])
    return dict(lines)
