"""The loop of a run, without TensorFlow: the trainer and the runner of compiled bundles share it.

A `Loop` makes calls of several updates each. It writes rows of metrics.csv, evaluates, saves checkpoints and resumes;
subclasses define what one call computes.
"""

import abc
import collections
import contextlib
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np

from tfmem.training.run_folder import SECONDS, Checkpoint, RunFolderError

try:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
except ImportError:  # the bundle runner does without; it shows lines then
    Progress = None

CALLS_AHEAD = 2
SECONDS_BETWEEN_LINES = 30.0


class TrainingInterrupted(Exception):
    """Training was asked to stop. `update` is the number of updates that the last checkpoint holds."""

    def __init__(self, update):
        self.update = update
        super().__init__(f"stopped after update {update}; its checkpoint is saved")


class TrainingDivergedError(ArithmeticError):
    """The loss, the gradient or a variable is not finite. The last good checkpoint is kept."""


class WorkerError(RuntimeError):
    """Another process of the run has failed. The last checkpoint is kept."""


class Loop(abc.ABC):
    """The updates of one run in its folder.

    Args:
      folder: a claimed `RunFolder`.
      schedule: has `updates_per_call`, `log_every`, `eval_every`, `checkpoint_every`, `checkpoint_seconds` of
        `tfmem.training.RunConfig`.
      num_updates: updates in all.

    Attributes:
      update: number of updates done.
      evaluation: scores of the last evaluation; None before one.
      names: attribute paths of a checkpoint's variables, by their names in it; {} if unknown.
    """

    names: ClassVar[dict] = {}

    def __init__(self, folder, schedule, num_updates):
        self.folder, self.schedule, self.num_updates = folder, schedule, num_updates
        self.update, self.pending, self.evaluation = 0, {}, None
        self._begin(0.0, 0.0)

    def _begin(self, wall_before, cpu_before):
        self.wall_before, self.cpu_before = wall_before, cpu_before
        self.start, self.cpu_start = time.monotonic(), time.process_time()
        self.last_save = self.start

    @abc.abstractmethod
    def load(self, checkpoint):
        """Load the variables and the carry of a `Checkpoint`."""

    @abc.abstractmethod
    def arrays(self):
        """Return variables and carry as numpy arrays by name, as `load` takes them."""

    @abc.abstractmethod
    def batches(self, first, size):
        """Return the data of the updates `first`, ..., `first + size - 1`, stacked; runs in a thread."""

    @abc.abstractmethod
    def call(self, first, size, batches):
        """Make these updates; return their metrics, numpy arrays [size] by name."""

    @abc.abstractmethod
    def evaluate(self):
        """Return scores by name, or None without an evaluation."""

    def record(self, row):
        """Write a row of metrics."""
        self.folder.append_metrics(self.update, row)

    def resume(self):
        """Resume from the folder's newest readable checkpoint, if there is one.

        If the run once ended there and is now longer, the entries of metrics.csv for that end alone are removed.
        """
        checkpoint, damaged = self.folder.resume()
        for path, reason in damaged:
            _say(f"{path.name} is damaged ({reason}) and was set aside")
        if checkpoint:
            self.load(checkpoint)
            self.update, self.pending = checkpoint.update, pending_metrics(checkpoint)
            before = checkpoint.metadata["wall_time"], checkpoint.metadata.get("cpu_time")
            if self.update < self.num_updates:
                self.folder.trim_metrics(self.update, self._stays)
            _say(f"resuming after update {self.update}")
            self._begin(*before)
        else:
            self._begin(0.0, 0.0)

    def _due(self, every):
        return bool(every) and self.update % every == 0

    def _stays(self, column):
        """True for a column that a run of any length has in the row of the present update."""
        if column == SECONDS:
            return self._stays("train/") or self._stays("eval/")
        if column.startswith("train/"):  # without pending values its mean would be lost
            return self._due(self.schedule.log_every) or not self.pending
        return self._due(self.schedule.eval_every)

    def run(self):
        """Train to the end.

        Raises:
          TrainingInterrupted: SIGINT or SIGTERM arrived; a checkpoint was saved after the current call.
          TrainingDivergedError: NaN or infinity.
          RunFolderError: the folder cannot be written.
        """
        calls = calls_of(self.update, self.num_updates, self.schedule.updates_per_call)
        with (
            _Display(self.update, self.num_updates) as display,
            _stop_signals() as stop,
            prefetched(self.batches, calls) as batches,
        ):
            for (first, size), batch in zip(calls, batches, strict=True):
                self._account(self.call(first, size, batch), display)
                if stop.is_set():
                    self.save()
                    raise TrainingInterrupted(self.update)
                if self._save_is_due():
                    self.save()

    def _account(self, metrics, display):
        """Count the updates of a call: check for NaN, write the rows that are due."""
        for values in zip(*metrics.values(), strict=True):
            self.update += 1
            for name, value in zip(metrics, values, strict=True):
                if name in ("loss", "gradient_norm") and not np.isfinite(value):
                    raise TrainingDivergedError(
                        f"{name} is {value} at update {self.update}; the last good checkpoint is kept"
                    )
                self.pending.setdefault(name, []).append(float(value))
            row, last, due = {}, self.update == self.num_updates, self._due(self.schedule.log_every)
            if due or last:
                row = {f"train/{name}": np.mean(values) for name, values in self.pending.items()}
                display.loss = row["train/loss"]
            if due:  # else the values stay pending, for a run that is made longer
                self.pending = {}
            if last or self._due(self.schedule.eval_every):
                self.evaluation = self.evaluate()
                if self.evaluation is not None:
                    row |= {f"eval/{name}": value for name, value in self.evaluation.items()}
                    scores = ", ".join(f"{name} {value:.4g}" for name, value in self.evaluation.items())
                    _say(f"update {self.update}: {scores}")
            if row:
                self.record({**row, SECONDS: round(self.wall_time(), 3)})
        display.show(self.update)

    def _save_is_due(self):
        return (
            self.update == self.num_updates
            or self._due(self.schedule.checkpoint_every)
            or time.monotonic() - self.last_save >= self.schedule.checkpoint_seconds
        )

    def save(self):
        times = self.wall_time(), self.cpu_time()
        self.folder.save(pack_checkpoint(self.update, self.arrays(), self.pending, *times, self.names))
        self.last_save = time.monotonic()

    def wall_time(self):
        """Seconds of training up to here over all resumes; updates lost in a kill are not counted."""
        return self.wall_before + time.monotonic() - self.start

    def cpu_time(self):
        """Seconds of all threads of the process, counted as `wall_time`; None if an older version began the run."""
        return None if self.cpu_before is None else self.cpu_before + time.process_time() - self.cpu_start


def calls_of(update, num_updates, size):
    """List (first, size) of the calls from an update on; they end at multiples of `size`, where evaluations are."""
    starts = range(update - update % size, num_updates, size)
    ends = [(max(first, update), min(first + size, num_updates)) for first in starts]
    return [(first, end - first) for first, end in ends if first < end]


def pack_checkpoint(update, arrays, pending, wall_time, cpu_time=0.0, names=None):
    """A run's state after `update` updates as a `Checkpoint`.

    Args:
      update: number of updates done.
      arrays: numpy arrays by name, `variables/...` and `carry/...`.
      pending: metrics of the unfinished row, lists by name.
      wall_time, cpu_time: seconds.
      names: attribute path of each array of `variables/`, by the rest of its name; compared on loading.

    Raises:
      TrainingDivergedError: an array holds NaN.
    """
    for name, array in arrays.items():
        if array.dtype.kind in "fV" and np.isnan(array.astype(np.float32)).any():
            raise TrainingDivergedError(
                f"{name} holds NaN after update {update}; the last good checkpoint is kept, this one was not saved"
            )
    rest = {f"pending/{name}": np.array(values, np.float64) for name, values in pending.items()}
    return Checkpoint(update, arrays | rest, {"wall_time": wall_time, "cpu_time": cpu_time, "names": names or {}})


def pending_metrics(checkpoint):
    """The metrics of a checkpoint's unfinished row, lists by name."""
    return {
        name.removeprefix("pending/"): array.tolist()
        for name, array in checkpoint.arrays.items()
        if name.startswith("pending/")
    }


def fitting_arrays(checkpoint, shapes, owner, names):
    """Return the variables and the carry of a `Checkpoint` after a check of names and shapes.

    Args:
      checkpoint: a `Checkpoint`.
      shapes: the expected shapes, by name.
      owner: name of the experiment, for the message.
      names: attribute paths, as `Loop.names`; what the checkpoint lacks is not compared.

    Raises:
      RunFolderError: names, shapes or attribute paths differ.
    """
    stored = {name: array for name, array in checkpoint.arrays.items() if not name.startswith("pending/")}
    problems = [f"{name} is missing" for name in shapes if name not in stored]
    problems += [f"{name} is unexpected" for name in stored if name not in shapes]
    problems += [
        f"{name} is {list(stored[name].shape)}, expected {list(shape)}"
        for name, shape in shapes.items()
        if name in stored and tuple(stored[name].shape) != tuple(shape)
    ]
    if problems:
        raise RunFolderError(
            f"the checkpoint of update {checkpoint.update} does not fit {owner}:\n  " + "\n  ".join(problems)
        )
    before = checkpoint.metadata.get("names", {}) if names else {}
    public = [name for name in before if "._" not in before[name]]  # private ones differ between versions of Keras
    moved = [f"{name} was {before[name]}, is {names.get(name)}" for name in public if before[name] != names.get(name)]
    if moved:
        raise RunFolderError(
            f"the checkpoint of update {checkpoint.update} holds other variables than {owner}:\n  " + "\n  ".join(moved)
        )
    return stored


@contextlib.contextmanager
def prefetched(make, calls):
    """Iterator over `make(*call)`, made in their order by one thread that is at most CALLS_AHEAD calls ahead."""
    pool = ThreadPoolExecutor(1, "tfmem-data")
    ahead = collections.deque()

    def iterate():
        for call in calls:
            ahead.append(pool.submit(make, *call))
            if len(ahead) > CALLS_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    try:
        yield iterate()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _stop_signals():
    """An Event that SIGINT and SIGTERM set; the second one stops at once."""
    stop = threading.Event()

    def request(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        _say("stopping after this call, with a checkpoint; once more stops at once and without")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Display:
    """A progress bar on a terminal, else a line now and then: updates done, updates/s, loss, time left."""

    def __init__(self, update, num_updates):
        self.num_updates = num_updates
        self.loss = None  # until a row of metrics is written
        self.clock = self.counted_from = None
        self.last_line = time.monotonic()
        self.bar = None
        if Progress and sys.stderr.isatty():
            columns = (TextColumn("updates"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
            self.bar = Progress(*columns)  # it takes over stdout and stderr while it is shown
            self.task = self.bar.add_task("", total=num_updates, completed=update, status="compiling")

    def __enter__(self):
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def show(self, update):
        now = time.monotonic()
        if self.clock is None:  # the first call compiles: the rate is counted from its end
            self.clock, self.counted_from = now, update
        status = [] if self.loss is None else [f"loss {self.loss:.4g}"]
        if update > self.counted_from:
            rate = (update - self.counted_from) / (now - self.clock)
            left = (self.num_updates - update) / rate
            status = [f"{rate:.3g} updates/s", *status, f"{_duration(left)} left"]
        status = ", ".join(status)
        if self.bar:
            self.bar.update(self.task, completed=update, status=status)
        elif now - self.last_line >= SECONDS_BETWEEN_LINES or update == self.num_updates:
            _say(f"update {update} of {self.num_updates}: {status}")
            self.last_line = now


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _duration(seconds):
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
