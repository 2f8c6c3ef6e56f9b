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
import dataclasses
import os
import shutil
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from tfmem import plotting
from tfmem.backend import keras
from tfmem.loop import Loop, TrainingDivergedError, TrainingInterrupted, fitting_arrays, pending_metrics
from tfmem.runfolder import RunFolder, RunFolderError, describe_machine

__all__ = [
    "Evaluation",
    "Experiment",
    "RunConfig",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "check_range",
    "checkpoint_arrays",
    "compiled_updates",
    "load_checkpoint",
    "numbered",
    "run_description",
    "stacked_batches",
    "train",
    "uses_xla",
]


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


class Evaluation(NamedTuple):
    """An evaluation as a function that can be compiled: `num_steps` calls, each with a batch of its own."""

    num_steps: int
    carry: Any
    """Nest of tensors that the first step gets."""
    step: Callable
    """`(number, batch, carry) -> (carry, scores)`, as `Experiment.train_step`; scores are those of all steps so far."""

    def scores(self, batch):
        """All steps with the batches `batch(0)`, `batch(1)`, ...; the scores as floats by name."""
        carry = self.carry
        for number in range(self.num_steps):
            carry, scores = self.step(
                tf.constant(number, tf.int64), tf.nest.map_structure(tf.constant, batch(number)), carry
            )
        return {name: float(score) for name, score in scores.items()}


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
            `alg="philox"` to draw the same integers under XLA and without; floats differ all the same.
          batch: the nest that `batch` made, as tensors.
          carry: nest of tensors; the result has the same structure, shapes and dtypes.

        Returns:
          `(carry, metrics)`: metrics is a dict of scalars with "loss"; with "gradient_norm" (before clipping) it is
          watched for NaN as well.
        """

    @abc.abstractmethod
    def evaluate(self):
        """Scores on unseen data as a dict of floats; changes nothing that training reads, nor its random state."""

    def pipeline(self, split="train"):
        """Where the data come from without TensorFlow: what a compiled bundle (`tfmem.aot`) is fed by.

        Args:
          split: "train" for the batches of updates, "evaluation" for those of `evaluation`'s steps.

        Returns:
          `(factory, arguments)`: "module:function" of a module that needs numpy only, and what JSON can hold;
          `function(**arguments).batch(number)` is the data. None (the default) where the steps draw their own.
        """
        return None

    def evaluation(self):
        """The `Evaluation` that goes into a compiled bundle; None (the default): a bundle has none."""
        return None

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


def stacked_batches(experiment, first, size):
    """`batch(first)`, ..., `batch(first + size - 1)`, stacked."""
    batches = [experiment.batch(update) for update in range(first, first + size)]
    return tf.nest.map_structure(lambda *arrays: np.stack(arrays), *batches)


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
    shapes = {f"variables/{name}": variable.shape for name, variable in experiment.variables().items()}
    shapes |= {f"carry/{index}": tensor.shape for index, tensor in enumerate(tf.nest.flatten(carry))}
    stored = fitting_arrays(checkpoint, shapes, experiment.name)
    for name, variable in experiment.variables().items():
        variable.assign(stored[f"variables/{name}"])
    flat = [tf.constant(stored[f"carry/{i}"], t.dtype) for i, t in enumerate(tf.nest.flatten(carry))]
    return tf.nest.pack_sequence_as(carry, flat), pending_metrics(checkpoint)


def checkpoint_arrays(experiment, carry):
    """Variables and carry as numpy arrays, by their names in a checkpoint."""
    arrays = {f"variables/{name}": variable.numpy() for name, variable in experiment.variables().items()}
    return arrays | {f"carry/{index}": tensor.numpy() for index, tensor in enumerate(tf.nest.flatten(carry))}


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


class _Run(Loop):
    """A run with TensorFlow."""

    def __init__(self, experiment, folder):
        super().__init__(folder, experiment.config, experiment.config.num_updates)
        self.experiment, self.carry, self.functions = experiment, experiment.initial_carry(), {}
        self.resume()

    def finish(self, preset, paper):
        """Trains to the end and writes what a finished run has."""
        experiment, folder, config = self.experiment, self.folder, self.schedule
        writer = tf.summary.create_file_writer(str(folder.tensorboard))
        with writer.as_default():
            self.run()
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

    def load(self, checkpoint):
        self.carry, _ = load_checkpoint(self.experiment, checkpoint)

    def arrays(self):
        return checkpoint_arrays(self.experiment, self.carry)

    def batches(self, first, size):
        return stacked_batches(self.experiment, first, size)

    def call(self, first, size, batches):
        if size not in self.functions:
            self.functions[size] = compiled_updates(self.experiment, size)
        self.carry, metrics = self.functions[size](tf.constant(first, tf.int64), batches, self.carry)
        return {name: values.numpy() for name, values in metrics.items()}

    def evaluate(self):
        return self.experiment.evaluate()

    def record(self, row):
        super().record(row)
        for name, value in row.items():
            tf.summary.scalar(name, value, step=self.update)
