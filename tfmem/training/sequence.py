"""What all supervised sequence experiments share. How to write one:

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(SequenceConfig):
        num_objects: int = 8
        \"\"\"Vectors of a sequence; appendix A.1.\"\"\"

    class Experiment(SequenceExperiment):
        name = "paper/experiment"

        def make_model(self):             # a built Keras model; see tfmem.models.sequence
        def task(self, seed):             # the batch of a seed, drawn in the graph; or `batch` (below)
        def scores(self, batch, outputs): # {"loss": ..., "accuracy": ...}

Model: `forward` runs it. By default it is `self.model.run(batch["inputs"])`, from the core's own initial state; another
experiment overrides it, to give the model other inputs, to evaluate in another way than it trains
(`training=False`), or to hand states from update to update (`initial_carry`, `carry`). What it returns goes to `scores`
as it is: a loss of the core's own (the metalearned memory's) is in `SequenceOutput.outputs` and is added there.

Data: `task(seed)` in the graph, where it is natural; else `batch(update)` and `evaluation_batch(number)` make nests of
numpy arrays, and `data_source` says how a compiled bundle makes the same. Evaluation seeds are the same for every run
and never seeds of training.

Scores: scalars, or pairs (sum, count) where batches are to be averaged by what they count (tfmem.losses.sequence).
Their names become train/<name> and eval/<name> in metrics.csv. "loss" is what is minimised.

Optimiser: `make_optimizer`, by default the one that the configuration names; `learning_rate(update)` is a schedule.
Figures: one picture of each score against updates; `figures` may draw more.
"""

import abc
import dataclasses
import functools
from typing import Literal

import numpy as np
import tensorflow as tf

from tfmem import plotting, training
from tfmem.backend import keras
from tfmem.optimizers import TF1RMSprop
from tfmem.training import Evaluation, RunConfig, check_range, numbered, uses_xla
from tfmem.training.run_folder import RunFolder

EVALUATION_SEED = -1  # config.seed is not negative


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceConfig(RunConfig):
    """Fields of every sequence experiment. Presets name the source of their values."""

    batch_size: int
    """Sequences of an update."""
    optimizer: Literal["adam", "rmsprop", "tf1_rmsprop", "sgd"] = "adam"
    """Adam with epsilon 1e-8 (TF 1's), Keras's RMSprop, TF 1's RMSProp, or plain gradient descent."""
    learning_rate: float
    """Of the optimiser, at the start."""
    momentum: float = 0.0
    """Of the optimiser; Adam has none of it."""
    gradient_norm_clip: float | None = None
    """Largest global norm of the gradient; none: no clipping."""
    eval_batches: int = 10
    """Batches of unseen data in an evaluation."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("batch_size", "eval_batches"):
            check_range(self, name, 1)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: {self.learning_rate}, must be greater than 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: {self.momentum}, must be from 0 to less than 1")
        if self.gradient_norm_clip is not None and not self.gradient_norm_clip > 0:
            raise ValueError(f"gradient_norm_clip: {self.gradient_norm_clip}, must be greater than 0, or None")


def make_optimizer(config):
    """The Keras optimiser that a `SequenceConfig` names."""
    rate = config.learning_rate
    match config.optimizer:
        case "adam":
            return keras.optimizers.Adam(rate, epsilon=1e-8)
        case "rmsprop":
            return keras.optimizers.RMSprop(rate, momentum=config.momentum)
        case "tf1_rmsprop":
            return TF1RMSprop(rate, momentum=config.momentum)
        case "sgd":
            return keras.optimizers.SGD(rate, momentum=config.momentum)


def value_of(score):
    """A score, given as a scalar or as (sum, count), as a scalar."""
    return score[0] / tf.maximum(score[1], 1e-9) if isinstance(score, tuple) else score


class SequenceExperiment(training.Experiment):
    """A model, data, a loss; see the top of this file."""

    def __init__(self, config):
        super().__init__(config)
        self.model = self.make_model()
        if not self.model.built:
            raise ValueError("make_model: its model has no variables yet, must be built")
        self.optimizer = self.make_optimizer()
        self.optimizer.build(self.model.trainable_variables)
        self._evaluate_step = tf.function(self._evaluation_step, jit_compile=uses_xla(config), autograph=False)

    # What an experiment gives

    @abc.abstractmethod
    def make_model(self):
        """The model of `self.config`: a built Keras model."""

    def task(self, seed):
        """The batch of `seed`, int32 [2], drawn in the graph: a nest of tensors, time-major where there is time."""
        raise NotImplementedError("an experiment has `task`, or `batch` and `evaluation_batch`")

    def batch(self, update):
        return {}

    def evaluation_batch(self, number):
        """As `batch`, of the evaluation's data; `{}` where `task` draws them."""
        return {}

    def forward(self, batch, carry, training):
        """What the model makes of a batch: (outputs for `scores`, carry for the next batch)."""
        return self.model.run(batch["inputs"]), carry

    @abc.abstractmethod
    def scores(self, batch, outputs):
        """`{name: scalar or (sum, count)}` with "loss"."""

    def make_optimizer(self):
        return make_optimizer(self.config)

    def learning_rate(self, update):
        """The learning rate of an update (int64 scalar tensor); constant by default."""
        return self.config.learning_rate

    # What follows from it

    def variables(self):
        return {**numbered("model", self.model.variables), **numbered("optimizer", self.optimizer.variables)}

    def _drawn(self, batch, seed, number):
        if tf.nest.flatten(batch):
            return batch
        return self.task(tf.stack([tf.constant(seed, tf.int32), tf.cast(number, tf.int32)]))

    def train_step(self, update, batch, carry):
        batch = self._drawn(batch, self.config.seed, update)
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            outputs, carry = self.forward(batch, carry, training=True)
            scores = {name: value_of(score) for name, score in self.scores(batch, outputs).items()}
        gradients = tape.gradient(scores["loss"], [v.value for v in variables])
        norm = tf.linalg.global_norm(gradients)
        if self.config.gradient_norm_clip is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.config.gradient_norm_clip, use_norm=norm)
        rate = tf.cast(self.learning_rate(update), tf.float32)
        self.optimizer.learning_rate.assign(rate)
        self.optimizer.apply(gradients, variables)
        return carry, {**scores, "gradient_norm": norm, "learning_rate": rate}

    def _evaluate_batch(self, number, batch, carry):
        batch = self._drawn(batch, EVALUATION_SEED, number)
        outputs, carry = self.forward(batch, carry, training=False)
        return carry, self.scores(batch, outputs)

    @functools.cached_property
    def _score_names(self):
        number, batch = tf.constant(0, tf.int64), tf.nest.map_structure(tf.constant, self.evaluation_batch(0))
        traced = tf.function(self._evaluate_batch, autograph=False).get_concrete_function(
            number, batch, self.initial_carry()
        )
        return sorted(traced.structured_outputs[1])

    def evaluation(self):
        """`eval_batches` batches of unseen data; carries are the model's and, of each score, (sum, count) so far."""
        totals = {name: tf.zeros([2]) for name in self._score_names}
        return Evaluation(self.config.eval_batches, (self.initial_carry(), totals), self._evaluate_step)

    def _evaluation_step(self, number, batch, carry):
        carry, totals = carry
        carry, scores = self._evaluate_batch(number, batch, carry)
        pairs = {name: score if isinstance(score, tuple) else (score, 1.0) for name, score in scores.items()}
        totals = {name: total + tf.stack(pairs[name]) for name, total in totals.items()}
        return (carry, totals), {name: total[0] / tf.maximum(total[1], 1.0) for name, total in totals.items()}

    def evaluate(self):
        return self.evaluation().scores(self.evaluation_batch)

    def figures(self, folder):
        rows = RunFolder(folder.parent).metrics()
        own = {f"{kind}/{name}" for kind in ("train", "eval") for name in ("gradient_norm", "learning_rate")}
        names = dict.fromkeys(key.split("/", 1)[1] for row in rows for key in row if "/" in key and key not in own)
        for name in names:
            curves = {}
            for kind in ("train", "eval"):
                points = [(row["update"], row[key]) for row in rows if (key := f"{kind}/{name}") in row]
                if points:
                    curves[kind] = [tuple(np.array(points).T)]
            figure = plotting.curves_figure(curves, "updates", name.replace("_", " "), self.name)
            figure.savefig(folder / f"curve_{name}.png", dpi=120)
