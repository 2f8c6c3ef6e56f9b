"""Experiments: configuration, update and evaluation, and updates as compiled functions."""

import abc
import collections
import dataclasses
import os
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import tensorflow as tf

from tfmem import plotting
from tfmem.backend import keras
from tfmem.optimizers import OptimizerName
from tfmem.training.config import config_fields
from tfmem.training.loop import fitting_arrays, pending_metrics
from tfmem.training.run_folder import RunFolder
from tfmem.validation import check_above_zero, check_bool, check_choice, check_integer, check_range, is_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The fields of every run. Experiments' configurations inherit it and extend `__post_init__`.

    The papers specify none of these but the number of updates; the values are of the presets.
    """

    seed: int = 0
    """Seed of the weights, the data and all noise; a run is a function of it."""
    num_updates: int
    """Updates of the weights in the whole run."""
    updates_per_call: int = 1
    """Updates in one compiled call; without effect on the numbers."""
    log_every: int = 10
    """Updates that a row of metrics.csv is the mean of."""
    eval_every: int = 0
    """Updates between evaluations, a multiple of updates_per_call; 0: at the end alone."""
    figures_every: int = 0
    """Updates between pictures, a multiple of updates_per_call, each time in figures_<update>; 0: at the end alone.
    Public code: Multigrid's SAVE_VIS_INTERVAL."""
    checkpoint_every: int = 0
    """Updates between checkpoints, a multiple of updates_per_call; 0: by time alone."""
    checkpoint_seconds: float = 300.0
    """Seconds between checkpoints."""
    jit_compile: Literal["auto"] | bool = "auto"
    """Compile the update by XLA; auto: on a GPU, not on a CPU. Presets that XLA makes faster on a CPU say True."""
    mixed_precision: bool = False
    """Compute products in bfloat16 (weights, softmax and normalization in float32)."""

    supports_mixed_precision: ClassVar[bool] = False  # an experiment whose models take `policy` says True

    def __post_init__(self):
        check_integer("seed", self.seed, 0, 2**31 - 1)
        for name in ("num_updates", "updates_per_call", "log_every"):
            check_integer(name, getattr(self, name), 1)
        for name in ("eval_every", "figures_every", "checkpoint_every"):
            check_integer(name, getattr(self, name), 0)
            if getattr(self, name) % self.updates_per_call:
                raise ValueError(
                    f"{name}: {getattr(self, name)}, must be a multiple of updates_per_call ({self.updates_per_call})"
                )
        check_above_zero(checkpoint_seconds=self.checkpoint_seconds)
        check_choice("jit_compile", self.jit_compile, ("auto", True, False))
        check_bool("mixed_precision", self.mixed_precision)
        if self.mixed_precision and not self.supports_mixed_precision:
            raise ValueError("mixed_precision: True, must be False: this experiment computes in float32 alone")

    @property
    def policy(self):
        """The Keras dtype policy of the models, by its name."""
        return "mixed_bfloat16" if self.mixed_precision else "float32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizedConfig(RunConfig):
    """The fields of runs with one optimizer (`tfmem.optimizers.make_optimizer`). Presets name the source of values."""

    optimizer: OptimizerName = "adam"
    """Adam, Sonnet's Adam (epsilon after the bias correction), Keras's RMSprop, TF 1's RMSProp (epsilon inside the
    root, mean square from 1), or gradient descent."""
    learning_rate: float
    """Learning rate at the start."""
    momentum: float = 0.0
    """Momentum of every optimizer except the Adams."""
    rms_decay: float = 0.9
    """Decay of the mean square of the two RMSProps."""
    epsilon: float | None = None
    """Epsilon of the optimizer; None: 1e-8 for the Adams (as in TF 1), 1e-7 for RMSprop, 1e-10 for TF 1's RMSProp."""
    gradient_norm_clip: float | None = None
    """Largest global norm of the gradient; None: no clipping."""

    def __post_init__(self):
        super().__post_init__()
        check_choice("optimizer", self.optimizer, get_args(OptimizerName))
        check_above_zero(learning_rate=self.learning_rate)
        for name in ("momentum", "rms_decay"):
            if not is_number(getattr(self, name)) or not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)!r}, must be from 0 to less than 1")
        if self.epsilon is not None:
            check_range("epsilon", self.epsilon, 0)
        clip = self.gradient_norm_clip
        if clip is not None and not (is_number(clip) and clip > 0):
            raise ValueError(f"gradient_norm_clip: {clip!r}, must be greater than 0, or None")


class Evaluation(NamedTuple):
    """An evaluation as a function that can be compiled: `num_steps` calls, each with a batch of its own."""

    num_steps: int
    carry: Any
    """Nest of tensors that the first step gets."""
    step: Callable
    """`(number, batch, carry) -> (carry, scores)`, as `Experiment.train_step`; scores are those of all steps so far."""

    @classmethod
    def mean_of(cls, num_steps, names, scores):
        """The evaluation of means over steps; `scores(number, batch)` is a dict of scalars with these names."""

        def step(number, batch, totals):
            found = scores(number, batch)
            totals = {name: total + found[name] for name, total in totals.items()}
            done = tf.cast(number + 1, tf.float32)
            return totals, {name: total / done for name, total in totals.items()}

        totals = {name: tf.constant(0.0) for name in sorted(names)}
        return cls(num_steps, totals, tf.function(step, autograph=False))

    def scores(self, batch):
        """All steps with the batches `batch(0)`, `batch(1)`, ...; the scores as floats by name."""
        return self.run(batch)[1]

    def run(self, batch):
        """All steps as in `scores`: `(carry, scores)`, the last carry and the scores as floats by name."""
        carry = self.carry
        for number in range(self.num_steps):
            carry, scores = self.step(
                tf.constant(number, tf.int64), tf.nest.map_structure(tf.constant, batch(number)), carry
            )
        return carry, {name: float(score) for name, score in scores.items()}


class Experiment(abc.ABC):
    """One experiment: a model, its data, its update and its evaluation, made from a configuration.

    The constructor seeds Python, NumPy and Keras with `config.seed` and must make every variable (build models and
    optimizers), so that `variables` is complete before the first update.

    Attributes:
      name: "<paper>/<experiment>", a class attribute.
      config: the configuration, a `RunConfig`.
      model: the core or model to load, save and export.
      top_scores: scores whose best value over a run's evaluations result.json holds as top_<score>: `{score: max}`, or
        min; a class attribute, by default empty.
    """

    name: str
    top_scores: ClassVar[dict] = {}

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
          update: int64 scalar tensor, from 0; seeds and schedules follow from it, not from `num_updates`: a run may be
            made longer. Stateless random ops need `alg="philox"` to draw the same integers under XLA and without;
            floats differ all the same.
          batch: the nest that `batch` made, as tensors.
          carry: nest of tensors; the result has the same structure, shapes and dtypes.

        Returns:
          `(carry, metrics)`: metrics is a dict of scalars with "loss"; with "gradient_norm" (before clipping) it is
          watched for NaN as well.
        """

    @abc.abstractmethod
    def evaluate(self):
        """Scores on unseen data as a dict of floats; changes nothing that training reads, nor its random state."""

    def data_source(self, split="train"):
        """Name the `tfmem.data.source.DataSource` that feeds a compiled bundle (`tfmem.aot`), without TensorFlow.

        Args:
          split: "train" for the batches of updates, "evaluation" for those of `evaluation`'s steps.

        Returns:
          `(factory, arguments)`: "module:function" of a module without TensorFlow, and what JSON can hold;
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
        """Draw the experiment's own pictures into `folder`; `train` draws the learning curve."""

    def draw_curves(self, folder, names=None):
        """Draw train/<name> and eval/<name> of metrics.csv against updates, a picture of each name, into `folder`.

        Args:
          names: default: all but the gradient's norm and the learning rate.
        """
        rows = RunFolder(folder.parent).metrics()
        if names is None:
            columns = dict.fromkeys(key.split("/", 1)[1] for row in rows for key in row if "/" in key)
            names = [name for name in columns if name not in ("gradient_norm", "learning_rate")]
        for name in names:
            curves = {}
            for kind in ("train", "eval"):
                points = [(row["update"], row[key]) for row in rows if (key := f"{kind}/{name}") in row]
                if points:
                    curves[kind] = [tuple(np.array(points).T)]
            window = plotting.window_of(name)
            figure = plotting.curves_figure(curves, "updates", name.replace("_", " "), self.name, window=window)
            figure.savefig(folder / f"curve_{name}.png", dpi=120)

    def export(self, folder):
        """Write the SavedModel with `step` and `sequence` signatures."""
        from tfmem import export

        export.saved_model(self.model, folder)

    def save_model(self, path):
        """Save the model as `.keras` or `.weights.h5`."""
        path = os.path.expanduser(path)
        if str(path).endswith(".weights.h5"):
            self.model.save_weights(path)
        else:
            self.model.save(path)


def numbered(prefix, variables):
    """`{"prefix/000": variable, ...}`: names for `Experiment.variables` that hold however often a model is built."""
    return {f"{prefix}/{index:03d}": variable for index, variable in enumerate(variables)}


def variable_names(experiment):
    """The paths of attributes at which an experiment holds its variables, by their names in `variables`.

    They distinguish two variables of equal shape where the order of `variables` changes, as it does in a Sonnet module
    when an attribute is renamed.
    """
    wanted = {id(v): name for name, v in experiment.variables().items()}
    wanted |= {id(v.value): name for name, v in experiment.variables().items() if isinstance(v, keras.Variable)}
    paths, seen, queue = {}, set(), collections.deque([("", experiment)])
    while queue:
        path, value = queue.popleft()
        if id(value) in wanted:
            paths.setdefault(wanted[id(value)], []).append(path)
        elif id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, dict):
                queue.extend((f"{path}.{key}", item) for key, item in value.items())
            elif isinstance(value, list | tuple):
                queue.extend((f"{path}.{index}", item) for index, item in enumerate(value))
            elif isinstance(value, Experiment | tf.Module | keras.Layer | keras.Optimizer):
                # Neither Keras's lists, nor the configuration, whose task may hold a data set.
                named = ((k, v) for k, v in vars(value).items() if not k.endswith("_variables") and k != "config")
                queue.extend((f"{path}.{key}", item) for key, item in named)
            elif dataclasses.is_dataclass(value) and not isinstance(value, type):
                queue.extend((f"{path}.{key}", item) for key, item in vars(value).items())
    return {name: min(found, key=_plainness).removeprefix(".") for name, found in paths.items()}


def _plainness(path):
    """Orders paths: public ones first, then short ones."""
    return path.count("._"), path.count("."), path


def uses_xla(config):
    """True if `config.jit_compile` means XLA on this machine."""
    if config.jit_compile == "auto":
        return bool(tf.config.list_physical_devices("GPU"))
    return config.jit_compile


def stacked_batches(experiment, first, size):
    """`batch(first)`, ..., `batch(first + size - 1)`, stacked."""
    batches = [experiment.batch(update) for update in range(first, first + size)]
    return tf.nest.map_structure(lambda *arrays: np.stack(arrays), *batches)


def compiled_updates(experiment, num_updates):
    """Compile the function of `num_updates` updates in one call.

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
    return {"experiment": experiment.name, "preset": preset, "config": config_fields(experiment.config)}


def load_checkpoint(experiment, checkpoint):
    """Load a run's `Checkpoint` into an experiment's variables.

    Returns:
      `(carry, pending)`: what the next update gets, and the metrics of the unfinished row, lists by name.

    Raises:
      RunFolderError: the checkpoint has other variables than the experiment; nothing was assigned.
    """
    carry = experiment.initial_carry()
    shapes = {f"variables/{name}": variable.shape for name, variable in experiment.variables().items()}
    shapes |= {f"carry/{index}": tensor.shape for index, tensor in enumerate(tf.nest.flatten(carry))}
    stored = fitting_arrays(checkpoint, shapes, experiment.name, variable_names(experiment))
    for name, variable in experiment.variables().items():
        variable.assign(stored[f"variables/{name}"])
    flat = [tf.constant(stored[f"carry/{i}"], t.dtype) for i, t in enumerate(tf.nest.flatten(carry))]
    return tf.nest.pack_sequence_as(carry, flat), pending_metrics(checkpoint)


def checkpoint_arrays(experiment, carry):
    """Variables and carry as numpy arrays, by their names in a checkpoint."""
    arrays = {f"variables/{name}": variable.numpy() for name, variable in experiment.variables().items()}
    return arrays | {f"carry/{index}": tensor.numpy() for index, tensor in enumerate(tf.nest.flatten(carry))}
