"""Experiments for bundles: the toy regression with a source of its own, and a training step around any core."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from tests.conformance.descriptors import BATCH, STEPS
from tests.conformance.properties import loss_of
from tests.reproductions import toy
from tfmem import training
from tfmem.recurrence import unroll
from tfmem.training import Evaluation, RunConfig, numbered


class Toy(toy.Experiment):
    """As the toy, and its bundle has data and an evaluation."""

    def data_source(self, split="train"):
        seed = self.config.seed + 1000 * (split == "evaluation")
        return "tests.aot.source:source", {"width": self.config.width, "seed": seed}

    def evaluation(self):
        return Evaluation(3, tf.constant(0.0), self._evaluation_step)

    def _evaluation_step(self, number, batch, total):
        total += tf.reduce_mean(tf.square(self.model(batch["inputs"]) - batch["targets"]))
        return total, {"error": total / tf.cast(number + 1, tf.float32)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoreConfig(RunConfig):
    learning_rate: float = 1e-3
    """Of Adam."""


class CoreStep(training.Experiment):
    """A training step around a core of the conformance table; inputs are drawn in the graph, the state is carried."""

    name = "tests/core"

    def __init__(self, row, config):
        super().__init__(config)
        self.row = row
        self.core, cell = row.make()
        self.weights = cell.trainable_variables
        self.state = cell.variables
        self.optimizer = keras.optimizers.Adam(config.learning_rate)
        self.optimizer.build(self.weights)

    def variables(self):
        return {**numbered("model", self.state), **numbered("optimizer", self.optimizer.variables)}

    def initial_carry(self):
        return self.core.initial_state(BATCH)

    def batch(self, update):
        return {}

    def train_step(self, update, batch, carry):
        specs = self.row.specs(STEPS, BATCH)
        seeds = [tf.stack([update, tf.constant(i, tf.int64)]) for i, _ in enumerate(tf.nest.flatten(specs))]
        # Integers, as XLA makes other floats of the same random bits than TensorFlow's kernels.
        inputs = [
            tf.random.stateless_uniform(spec.shape, seed, None, None, tf.int32, alg="philox")
            for spec, seed in zip(tf.nest.flatten(specs), seeds, strict=True)
        ]
        inputs = tf.nest.pack_sequence_as(specs, [tf.cast(x, tf.float32) / 2.0**31 for x in inputs])
        if hasattr(self.core, "reserve"):  # its state has room for some steps only
            carry = self.initial_carry()
        with tf.GradientTape() as tape:
            outputs, state = unroll(self.core, inputs, carry)
            loss = loss_of(outputs) + loss_of(state)
        gradients = tape.gradient(loss, [w.value for w in self.weights])
        norm = tf.linalg.global_norm(gradients)
        self.optimizer.apply(gradients, self.weights)
        return tf.nest.map_structure(tf.stop_gradient, state), {"loss": loss, "gradient_norm": norm}

    def evaluate(self):
        return {}

    def figures(self, folder):
        pass


def tensorflow_losses(experiment, num_updates):
    """The losses of the first updates, computed by TensorFlow without XLA."""
    size, carry, losses = experiment.config.updates_per_call, experiment.initial_carry(), []
    updates = training.compiled_updates(experiment, size)
    for first in range(0, num_updates, size):
        batches = training.stacked_batches(experiment, first, size)
        carry, metrics = updates(tf.constant(first, tf.int64), batches, carry)
        losses.append(metrics["loss"].numpy())
    return np.concatenate(losses)
