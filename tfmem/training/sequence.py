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

Several devices: `replicas` of the configuration split a batch. `batch_axis` says along which axis; `summed_scores`
names the scalar scores that are sums over a batch, where others are means.

Optimizer: the one that the configuration names; `learning_rate(update)` is a schedule.
Figures: one picture of each score against updates; `figures` may draw more.
"""

import abc
import dataclasses
import functools

import tensorflow as tf

from tfmem import training
from tfmem.optimizers import apply_clipped, make_optimizer
from tfmem.training import Evaluation, OptimizedConfig, numbered, replicas, uses_xla
from tfmem.validation import check_integer

EVALUATION_SEED = -1  # config.seed is not negative


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceConfig(OptimizedConfig):
    """Fields of every sequence experiment. Presets name the source of their values."""

    batch_size: int
    """Sequences of an update."""
    eval_batches: int = 10
    """Batches of unseen data in an evaluation."""
    replicas: int = 1
    """Devices that share a batch (tf.distribute.MirroredStrategy, without XLA)."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("batch_size", "eval_batches", "replicas"):
            check_integer(name, getattr(self, name), 1)
        if self.batch_size % self.replicas:
            raise ValueError(f"replicas: {self.replicas}, must divide batch_size ({self.batch_size})")
        if self.replicas > 1:
            if self.jit_compile is True:
                raise ValueError("jit_compile: True, must be False if replicas is above 1")
            object.__setattr__(self, "jit_compile", False)


def value_of(score):
    """Convert a score, a scalar or (sum, count), to a scalar."""
    return score[0] / tf.maximum(score[1], 1e-9) if isinstance(score, tuple) else score


class SequenceExperiment(training.Experiment):
    """Model, data and loss; see the top of this file."""

    summed_scores: tuple[str, ...] = ()

    def __init__(self, config):
        self.strategy = replicas.replica_strategy(config.replicas)
        super().__init__(config)
        with replicas.scope(self.strategy):
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
        if self.strategy is not None:
            return self._replicated_step(update, batch, carry)
        gradients, scores, carry = self.gradients(batch, carry)
        rate = tf.cast(self.learning_rate(update), tf.float32)
        norm = apply_clipped(
            self.optimizer, gradients, self.model.trainable_variables, self.config.gradient_norm_clip, rate
        )
        return carry, {**scores, "gradient_norm": norm, "learning_rate": rate}

    # Several devices

    def batch_axis(self, name, array):
        """Return the axis of an array of a batch along which replicas split it, or None: all get all of it.

        By default arrays are time-major, vectors have an entry for each sequence, and scalars are for all.
        """
        return min(array.shape.rank, 2) - 1 if array.shape.rank else None

    def replica_batch(self, batch, replica):
        """Return a replica's part of a batch; `replica` is its number, an integer tensor."""
        number = self.config.replicas
        return {n: replicas.share(x, self.batch_axis(n, x), replica, number) for n, x in batch.items()}

    def _replicated_step(self, update, batch, carry):
        number, clip, variables = self.config.replicas, self.config.gradient_norm_clip, self.model.trainable_variables
        rate = tf.cast(self.learning_rate(update), tf.float32)
        self.optimizer.learning_rate.assign(rate)

        def replica_step():
            context = tf.distribute.get_replica_context()
            replica = tf.convert_to_tensor(context.replica_id_in_sync_group)
            part = self.replica_batch(batch, replica)
            state = tf.nest.map_structure(lambda s: replicas.share(s, 0, replica, number), carry)

            def loss():
                outputs, after = self.forward(part, state, training=True)
                shares = {
                    name: replicas.score_share(score, name in self.summed_scores, number)
                    for name, score in self.scores(part, outputs).items()
                }
                return shares["loss"], (shares, after)

            gradients, (shares, after) = replicas.replicated_gradient(loss, [v.value for v in variables])
            norm = tf.linalg.global_norm(gradients)
            if clip is not None:
                gradients, _ = tf.clip_by_global_norm(gradients, clip, use_norm=norm)
            # Keras's optimizer sums the gradients of the replicas.
            self.optimizer.apply([g if g is None else g / number for g in gradients], variables)
            scores = context.all_reduce(tf.distribute.ReduceOp.SUM, shares)
            return replicas.gathered(after), {**scores, "gradient_norm": norm}

        results = self.strategy.run(replica_step)
        after, scores = tf.nest.map_structure(lambda x: self.strategy.experimental_local_results(x)[0], results)
        carry = tf.nest.map_structure(lambda new, old: tf.ensure_shape(new, old.shape), after, carry)
        return carry, {**scores, "learning_rate": rate}

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
