"""The training loop that all reproductions share.

An `Experiment` says what one update is; `train` runs it in a run folder. Several updates run in one compiled call
(`compiled_updates`), a thread prepares the data of the next calls meanwhile, and a checkpoint holds all that the next
update depends on: variables, the carry between updates, the update's number (from which the data follow) and the
metrics of the row that is being averaged. So a run that was killed and started again with the same command ends with
the same numbers as one that was never killed. On a CPU that needs no op determinism: convolutions, gathers, reductions
and their gradients came out the same to the bit in repeated runs under load (a step took 0.32 to 0.37 s without, 0.42 s
with it).
"""

import abc
import collections
import contextlib
import dataclasses
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tfmem import plotting
from tfmem.runfolder import Checkpoint, RunFolder, RunFolderError, describe_machine

CALLS_AHEAD = 2
SECONDS_BETWEEN_LINES = 30.0


class TrainingInterrupted(Exception):
    """Training was asked to stop. `update` is the number of updates that the last checkpoint holds."""

    def __init__(self, update):
        self.update = update
        super().__init__(f"stopped after update {update}; its checkpoint is saved")


class TrainingDivergedError(ArithmeticError):
    """The loss, the gradient or a variable is not finite. The last good checkpoint is kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run has. Experiments' configurations inherit it and extend `__post_init__`."""

    seed: int = 0
    """Seed of the weights, the data and all noise; a run is a function of it."""
    num_updates: int
    """Updates of the weights in the whole run."""
    updates_per_call: int = 1
    """Updates in one compiled call; our choice, without effect on the numbers."""
    log_every: int = 10
    """Updates that a row of metrics.csv is the mean of; our choice."""
    eval_every: int = 0
    """Updates between evaluations, a multiple of updates_per_call; 0: at the end alone. Our choice."""
    checkpoint_every: int = 0
    """Updates between checkpoints, a multiple of updates_per_call; 0: by time alone. Our choice."""
    checkpoint_seconds: float = 300.0
    """Seconds between checkpoints; our choice."""
    jit_compile: Literal["auto"] | bool = "auto"
    """Whether XLA compiles the update; auto: on a GPU yes, on a CPU no (measured: its convolutions are slower)."""

    def __post_init__(self):
        check_range(self, "seed", 0, 2**31 - 1)
        for name in ("num_updates", "updates_per_call", "log_every"):
            check_range(self, name, 1)
        for name in ("eval_every", "checkpoint_every"):
            check_range(self, name, 0)
            if getattr(self, name) % self.updates_per_call:
                raise ValueError(
                    f"{name}: {getattr(self, name)}, must be a multiple of updates_per_call ({self.updates_per_call})"
                )
        if not self.checkpoint_seconds > 0:
            raise ValueError(f"checkpoint_seconds: {self.checkpoint_seconds}, must be greater than 0")
        if self.jit_compile not in ("auto", True, False):
            raise ValueError(f"jit_compile: {self.jit_compile!r}, must be 'auto', True or False")


def check_range(config, name, low, high=float("inf")):
    """Raises a ValueError that names the field unless `low <= config.<name> <= high`."""
    value = getattr(config, name)
    if not low <= value <= high:
        bounds = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
        raise ValueError(f"{name}: {value}, must be {bounds}")


class Experiment(abc.ABC):
    """One experiment: a model, its data, its update and its evaluation, made from a configuration.

    The constructor seeds Python, NumPy and Keras with `config.seed` and must make every variable (build models and
    optimisers), so that `variables` is complete before the first update.

    Attributes:
      name: "<paper>/<experiment>", a class attribute.
      config: the configuration, a `RunConfig`.
      model: the core or model that is imported into, saved and exported.
    """

    name: str

    def __init__(self, config):
        keras.utils.set_random_seed(config.seed)
        self.config = config

    @abc.abstractmethod
    def variables(self):
        """All that a checkpoint holds, by name: weights, optimiser slots, counters, random states (`numbered`)."""

    def initial_carry(self):
        """Nest of tensors that the first update gets from "the update before" (recurrent states); () if none."""
        return ()

    @abc.abstractmethod
    def batch(self, update):
        """The data of an update: nest of numpy arrays, a function of `config.seed` and `update` (from 0) alone.

        `{}` where `train_step` draws its data. Runs in a thread while updates run.
        """

    @abc.abstractmethod
    def train_step(self, update, batch, carry):
        """One update, traced into a graph (without AutoGraph).

        Args:
          update: int64 scalar tensor, from 0; seeds and schedules follow from it. Stateless random ops need
            `alg="philox"` to draw the same numbers under XLA and without.
          batch: the nest that `batch` made, as tensors.
          carry: nest of tensors; the result has the same structure, shapes and dtypes.

        Returns:
          `(carry, metrics)`: metrics is a dict of scalars with "loss"; with "gradient_norm" (before clipping) it is
          watched for NaN as well.
        """

    @abc.abstractmethod
    def evaluate(self):
        """Scores on unseen data as a dict of floats; changes no variable and draws from no training random state."""

    def result(self, evaluation):
        """The numbers of result.json, from the last evaluation: by default itself."""
        return evaluation

    @abc.abstractmethod
    def figures(self, folder):
        """Draws the experiment's own pictures into `folder` (the run's learning curves are train's business)."""

    def export(self, folder):
        """Writes the SavedModel with `step` and `sequence` signatures."""
        from tfmem import export

        export.saved_model(self.model, folder)

    def save_model(self, path):
        """Saves the model as `.keras` or `.weights.h5`."""
        if str(path).endswith(".weights.h5"):
            self.model.save_weights(path)
        else:
            self.model.save(path)


def numbered(prefix, variables):
    """`{"prefix/000": variable, ...}`: names for `Experiment.variables` that hold however often a model is built."""
    return {f"{prefix}/{index:03d}": variable for index, variable in enumerate(variables)}


def uses_xla(config):
    """Whether `config.jit_compile` means XLA on this machine."""
    if config.jit_compile == "auto":
        return bool(tf.config.list_physical_devices("GPU"))
    return config.jit_compile


def compiled_updates(experiment, num_updates):
    """The function that makes `num_updates` updates in one call.

    Returns:
      A `tf.function` `(first_update, batches, carry) -> (carry, metrics)`: first_update is an int64 scalar tensor,
      batches holds `batch(first_update), batch(first_update + 1), ...` stacked [num_updates, ...], and metrics
      are [num_updates] each.
    """
    train_step = tf.function(experiment.train_step, autograph=False)

    def updates(first_update, batches, carry):
        def spec(tensor):
            return tf.TensorSpec(tensor.shape, tensor.dtype)

        step = train_step.get_concrete_function(
            tf.TensorSpec([], tf.int64),
            tf.nest.map_structure(lambda b: tf.TensorSpec(b.shape[1:], b.dtype), batches),
            tf.nest.map_structure(spec, carry),
        )
        next_carry, metrics = step.structured_outputs
        tf.nest.assert_same_structure(carry, next_carry)
        if "loss" not in metrics:
            raise ValueError(f"train_step: its metrics are {sorted(metrics)}, must have 'loss'")

        def body(index, carry, arrays):
            batch = tf.nest.map_structure(lambda b: b[index], batches)
            carry, metrics = step(first_update + tf.cast(index, tf.int64), batch, carry)
            arrays = {name: array.write(index, tf.cast(metrics[name], tf.float32)) for name, array in arrays.items()}
            return index + 1, carry, arrays

        arrays = {name: tf.TensorArray(tf.float32, num_updates, element_shape=[]) for name in metrics}
        _, carry, arrays = tf.while_loop(
            lambda index, *_: index < num_updates,
            body,
            (0, carry, arrays),
            maximum_iterations=num_updates,
        )
        return carry, {name: array.stack() for name, array in arrays.items()}

    return tf.function(updates, jit_compile=uses_xla(experiment.config), autograph=False)


def run_description(experiment, preset=None):
    """The content of config.json."""
    return {"experiment": experiment.name, "preset": preset, "config": dataclasses.asdict(experiment.config)}


def load_checkpoint(experiment, checkpoint):
    """Puts a run's `Checkpoint` into an experiment's variables.

    Returns:
      `(carry, pending)`: what the next update gets, and the metrics of the unfinished row, lists by name.

    Raises:
      RunFolderError: the checkpoint has other variables than the experiment; nothing was assigned.
    """
    carry = experiment.initial_carry()
    templates = {f"variables/{name}": variable for name, variable in experiment.variables().items()}
    templates |= {f"carry/{index}": tensor for index, tensor in enumerate(tf.nest.flatten(carry))}
    stored = {name: array for name, array in checkpoint.arrays.items() if not name.startswith("pending/")}
    problems = [f"{name} is missing" for name in templates if name not in stored]
    problems += [f"{name} is unexpected" for name in stored if name not in templates]
    problems += [
        f"{name} is {list(stored[name].shape)}, expected {list(template.shape)}"
        for name, template in templates.items()
        if name in stored and tuple(stored[name].shape) != tuple(template.shape)
    ]
    if problems:
        raise RunFolderError(
            f"the checkpoint of update {checkpoint.update} does not fit {experiment.name}:\n  " + "\n  ".join(problems)
        )
    for name, variable in experiment.variables().items():
        variable.assign(stored[f"variables/{name}"])
    flat = [tf.constant(stored[f"carry/{i}"], t.dtype) for i, t in enumerate(tf.nest.flatten(carry))]
    pending = {
        name.removeprefix("pending/"): array.tolist()
        for name, array in checkpoint.arrays.items()
        if name.startswith("pending/")
    }
    return tf.nest.pack_sequence_as(carry, flat), pending


def make_checkpoint(experiment, update, carry, pending, wall_time):
    """A run's state after `update` updates as a `Checkpoint`.

    Raises:
      TrainingDivergedError: an array of it holds NaN.
    """
    arrays = {f"variables/{name}": variable.numpy() for name, variable in experiment.variables().items()}
    arrays |= {f"carry/{index}": tensor.numpy() for index, tensor in enumerate(tf.nest.flatten(carry))}
    for name, array in arrays.items():
        if array.dtype.kind in "fV" and np.isnan(array.astype(np.float32)).any():
            raise TrainingDivergedError(
                f"{name} holds NaN after update {update}; the last good checkpoint is kept, this one was not saved"
            )
    arrays |= {f"pending/{name}": np.array(values, np.float64) for name, values in pending.items()}
    return Checkpoint(update, arrays, {"wall_time": wall_time})


def train(experiment, path, preset=None, paper=None):
    """Runs an experiment in a run folder, from its last checkpoint where it has one, to the end.

    SIGINT (Ctrl-C) and SIGTERM stop it after the current call with a checkpoint.

    Args:
      experiment: an `Experiment`.
      path: the run folder; made where it does not exist.
      preset: name of the preset, for the record.
      paper: the paper's numbers, `{metric: (value or None, source)}`, for the record.

    Returns:
      The content of result.json; where the run was finished already, without doing anything.

    Raises:
      RunFolderError: the folder belongs to another configuration, has no readable checkpoint, or cannot be written.
      TrainingInterrupted: a signal stopped it; the same call goes on.
      TrainingDivergedError: NaN or infinity, with the update's number; the last good checkpoint is kept.
    """
    folder = RunFolder(path)
    folder.claim(run_description(experiment, preset))
    try:
        finished = folder.result()
        if finished is None:
            finished = _Run(experiment, folder).finish(preset, paper or {})
        return finished
    finally:
        folder.release()


class _Run:
    """The state of `train`: what a checkpoint holds, and the clocks."""

    def __init__(self, experiment, folder):
        self.experiment, self.folder, self.config = experiment, folder, experiment.config
        self.console = Console(stderr=True)
        self.update, self.carry, self.pending, self.wall_before = 0, experiment.initial_carry(), {}, 0.0
        checkpoint, damaged = folder.resume()
        for path, reason in damaged:
            self.console.print(f"{path.name} is damaged ({reason}) and was set aside", style="red", soft_wrap=True)
        if checkpoint:
            self.update = checkpoint.update
            self.carry, self.pending = load_checkpoint(experiment, checkpoint)
            self.wall_before = checkpoint.metadata["wall_time"]
            self.console.print(f"going on after update {self.update}")
        self.start = self.last_save = time.monotonic()
        self.evaluation = None

    def finish(self, preset, paper):
        """Trains to the end and writes what a finished run has."""
        experiment, folder, config = self.experiment, self.folder, self.config
        writer = tf.summary.create_file_writer(str(folder.tensorboard))
        with writer.as_default(), _Display(self.console, self.update, config.num_updates) as display:
            self.loop(display)
        writer.close()
        evaluation = self.evaluation if self.evaluation is not None else experiment.evaluate()
        metrics = experiment.result(evaluation)
        try:
            self.draw_and_export()
        except (OSError, tf.errors.OpError) as error:  # each library has its own for a full disk
            raise RunFolderError(f"cannot finish {folder.path}: {error}; its checkpoints are kept") from error
        result = {
            "experiment": experiment.name,
            "preset": preset,
            "paper": {name: {"value": value, "source": source} for name, (value, source) in paper.items()},
            "ours": {name: float(value) for name, value in metrics.items()},
            "seeds": [config.seed],
            "updates": self.update,
            "wall_time_seconds": round(self.wall_time(), 1),
            **describe_machine([device.name for device in tf.config.list_logical_devices("GPU")]),
        }
        folder.write_result(result)
        return result

    def draw_and_export(self):
        experiment, folder = self.experiment, self.folder
        rows = [row for row in folder.metrics() if "train/loss" in row]
        updates, losses = [row["update"] for row in rows], [row["train/loss"] for row in rows]
        loss = plotting.loss_figure(updates, losses, "updates", title=experiment.name, log=min(losses) > 0)
        loss.savefig(folder.figures / "loss.png", dpi=120)
        experiment.figures(folder.figures)
        shutil.rmtree(folder.saved_model, ignore_errors=True)
        partial = folder.saved_model.with_name("saved_model.partial")
        try:
            experiment.export(partial)
            os.replace(partial, folder.saved_model)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def loop(self, display):
        config = self.config
        calls = [
            (first, min(config.updates_per_call, config.num_updates - first))
            for first in range(self.update, config.num_updates, config.updates_per_call)
        ]
        functions = {size: compiled_updates(self.experiment, size) for _, size in calls}
        with _stop_signals(self.console) as stop, _prefetched(self.stacked_batches, calls) as batches:
            for (first, size), batch in zip(calls, batches, strict=True):
                first_update = tf.constant(first, tf.int64)
                self.carry, metrics = functions[size](first_update, batch, self.carry)
                self.account({name: values.numpy() for name, values in metrics.items()}, display)
                if stop.is_set():
                    self.save()
                    raise TrainingInterrupted(self.update)
                if self.save_is_due():
                    self.save()

    def stacked_batches(self, first, size):
        batches = [self.experiment.batch(update) for update in range(first, first + size)]
        return tf.nest.map_structure(lambda *arrays: np.stack(arrays), *batches)

    def account(self, metrics, display):
        """Counts the updates of a call: watches for NaN, writes the rows that are due."""
        config = self.config
        for values in zip(*metrics.values(), strict=True):
            self.update += 1
            for name, value in zip(metrics, values, strict=True):
                if name in ("loss", "gradient_norm") and not np.isfinite(value):
                    raise TrainingDivergedError(
                        f"{name} is {value} at update {self.update}; the last good checkpoint is kept"
                    )
                self.pending.setdefault(name, []).append(float(value))
            row, last = {}, self.update == config.num_updates
            if self.update % config.log_every == 0 or last:
                row = {f"train/{name}": np.mean(values) for name, values in self.pending.items()}
                display.loss = row["train/loss"]
                self.pending = {}
            if last or (config.eval_every and self.update % config.eval_every == 0):
                self.evaluation = self.experiment.evaluate()
                row |= {f"eval/{name}": value for name, value in self.evaluation.items()}
                display.say(", ".join(f"{name} {value:.4g}" for name, value in self.evaluation.items()), self.update)
            if row:
                self.folder.append_metrics(self.update, row)
                for name, value in row.items():
                    tf.summary.scalar(name, value, step=self.update)
        display.show(self.update)

    def save_is_due(self):
        config = self.config
        return (
            self.update == config.num_updates
            or (config.checkpoint_every and self.update % config.checkpoint_every == 0)
            or time.monotonic() - self.last_save >= config.checkpoint_seconds
        )

    def save(self):
        self.folder.save(make_checkpoint(self.experiment, self.update, self.carry, self.pending, self.wall_time()))
        self.last_save = time.monotonic()

    def wall_time(self):
        """Seconds of training up to here over all resumes; what a kill threw away is not counted."""
        return self.wall_before + time.monotonic() - self.start


@contextlib.contextmanager
def _prefetched(make, calls):
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
def _stop_signals(console):
    """An Event that SIGINT and SIGTERM set; the second one stops at once."""
    stop = threading.Event()

    def request(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        console.print("stopping after this call, with a checkpoint; once more stops at once and without")

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

    def __init__(self, console, update, num_updates):
        self.console, self.first, self.num_updates = console, update, num_updates
        self.loss = float("nan")
        self.clock = self.counted_from = None
        self.last_line = time.monotonic()
        self.bar = Progress(
            TextColumn("updates"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=num_updates, completed=update, status="compiling")

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *_):
        self.bar.stop()

    def show(self, update):
        now = time.monotonic()
        if self.clock is None:  # the first call compiles: the rate is counted from its end
            self.clock, self.counted_from = now, update
        status = f"loss {self.loss:.4g}"
        if update > self.counted_from:
            rate = (update - self.counted_from) / (now - self.clock)
            left = (self.num_updates - update) / rate
            status = f"{rate:.3g} updates/s, {status}, {_duration(left)} left"
        self.bar.update(self.task, completed=update, status=status)
        if not self.console.is_terminal and (
            now - self.last_line >= SECONDS_BETWEEN_LINES or update == self.num_updates
        ):
            self.console.print(f"update {update} of {self.num_updates}: {status}", soft_wrap=True)
            self.last_line = now

    def say(self, text, update):
        self.console.print(f"update {update}: {text}", soft_wrap=True)


def _duration(seconds):
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
