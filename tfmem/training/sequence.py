"""Common part of all supervised sequence experiments.

How to write one:

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(SequenceConfig):
        num_objects: int = 8
        \"\"\"Vectors of a sequence. Paper: 8 (App. A.1).\"\"\"

    class Experiment(SequenceExperiment):
        name = "paper/experiment"

        def make_model(self):             # a built Keras model; see tfmem.models.sequence
        def draw(self, seed):             # the batch of a seed, drawn in the graph; or `batch` (below)
        def scores(self, batch, outputs): # {"loss": ..., "accuracy": ...}

An experiment of a task and a core needs no class: `tfmem.training.supervised`.

Model: `forward` runs it. By default it is `self.model.run(batch["inputs"])`, from the core's own initial state.
Override it for other inputs, for an evaluation that differs from training (`training=False`), or to pass states from
update to update (`initial_carry`, `carry`). Its result is the second argument of `scores`.

Data: `draw(seed)` in the graph if natural; else `batch(update)` and `evaluation_batch(number)` make nests
of numpy arrays, and `data_source` describes their source for a compiled bundle. Evaluation seeds are the same for every
run and never seeds of training.

Scores: scalars, or pairs (sum, count) if batches are weighted by counts (tfmem.losses.sequence). Their
names become train/<name> and eval/<name> in metrics.csv. "loss" is minimized.

Optimizer: the one that the configuration names; `learning_rate(update)` is a schedule.
Figures: one picture of each score against updates; `figures` may draw more.
"""

import abc
import dataclasses
import functools

import tensorflow as tf

from tfmem import training
from tfmem.optimizers import apply_clipped, make_optimizer
from tfmem.training import Evaluation, OptimizedConfig, numbered, uses_xla
from tfmem.validation import check_range

EVALUATION_SEED = -1  # config.seed is not negative


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceConfig(OptimizedConfig):
    """Fields of every sequence experiment. Presets name the source of their values."""

    batch_size: int
    """Sequences of an update."""
    eval_batches: int = 10
    """Batches of unseen data in an evaluation."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("batch_size", "eval_batches"):
            check_range(name, getattr(self, name), 1)


def value_of(score):
    """Convert a score, a scalar or (sum, count), to a scalar."""
    return score[0] / tf.maximum(score[1], 1e-9) if isinstance(score, tuple) else score


class SequenceExperiment(training.Experiment):
    """Model, data and loss; see the top of this file."""

    def __init__(self, config):
        super().__init__(config)
        self.model = self.make_model()
        if not self.model.built:
            raise ValueError("make_model: its model has no variables yet, must be built")
        self.optimizer = make_optimizer(
            config.optimizer, config.learning_rate, config.momentum, config.rms_decay, config.epsilon
        )
        self.optimizer.build(self.model.trainable_variables)
        self._evaluate_step = tf.function(self._evaluation_step, jit_compile=uses_xla(config), autograph=False)

    @abc.abstractmethod
    def make_model(self):
        """Make the model of `self.config`, a built Keras model."""

    def draw(self, seed):
        """Draw the batch of `seed`, int32 [2], in the graph: a nest of tensors, time-major if there is time."""
        raise NotImplementedError("an experiment has `draw`, or `batch` and `evaluation_batch`")

    def batch(self, update):
        return {}

    def evaluation_batch(self, number):
        """Make an evaluation batch, as `batch`; `{}` if `draw` draws it."""
        return {}

    def forward(self, batch, carry, training):
        """Run the model on a batch: (outputs for `scores`, carry for the next batch)."""
        return self.model.run(batch["inputs"]), carry

    @abc.abstractmethod
    def scores(self, batch, outputs):
        """Compute `{name: scalar or (sum, count)}` with "loss"."""

    def learning_rate(self, update):
        """Learning rate of an update (int64 scalar tensor); constant by default."""
        return self.config.learning_rate

    def variables(self):
        return {**numbered("model", self.model.variables), **numbered("optimizer", self.optimizer.variables)}

    def _drawn(self, batch, seed, number):
        if tf.nest.flatten(batch):
            return batch
        return self.draw(tf.stack([tf.constant(seed, tf.int32), tf.cast(number, tf.int32)]))

    def gradients(self, batch, carry):
        """Compute the loss's gradients on a batch: (list as `model.trainable_variables`, scalar scores, next carry)."""
        with tf.GradientTape() as tape:
            outputs, carry = self.forward(batch, carry, training=True)
            scores = {name: value_of(score) for name, score in self.scores(batch, outputs).items()}
        variables = [v.value for v in self.model.trainable_variables]
        unconnected = tf.UnconnectedGradients.ZERO  # an encoder's output weights, where its state alone is used
        return tape.gradient(scores["loss"], variables, unconnected_gradients=unconnected), scores, carry

    def train_step(self, update, batch, carry):
        batch = self._drawn(batch, self.config.seed, update)
        gradients, scores, carry = self.gradients(batch, carry)
        rate = tf.cast(self.learning_rate(update), tf.float32)
        norm = apply_clipped(
            self.optimizer, gradients, self.model.trainable_variables, self.config.gradient_norm_clip, rate
        )
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
        """Evaluate `eval_batches` unseen batches; carries are the model's and (sum, count) of each score so far."""
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
        self.draw_curves(folder)
