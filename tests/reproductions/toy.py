"""A recurrent regression of a few weights, for the tests of the loop and the command line.

It has all that real experiments have: slots, in-graph noise, data by update, a carry.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from tfmem.optimizers import TF1RMSprop, linear_decay
from tfmem.training import Experiment as Base
from tfmem.training import RunConfig, numbered
from tfmem.validation import check_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    width: int = 4
    """Inputs of the model; S-App Z."""
    rate: float = 1e-2
    """Learning rate at the start; public code, train.py."""
    sizes: tuple[int, ...] = (1, 2)
    """Field with several numbers. Not specified; we use one."""
    nan_at: int = -1
    """Update with NaN in its data. Not specified; we use none."""
    slow: float = 0.0
    """Seconds that the data of an update take. Not specified; we use none."""

    def __post_init__(self):
        super().__post_init__()
        check_range("width", self.width, 1, 64)


PRESETS = {
    "paper": Config(num_updates=60, updates_per_call=4, log_every=6, eval_every=20, checkpoint_every=8),
    "smoke": Config(num_updates=6, log_every=2),
}
PAPER = {"error": (0.25, "Table 9"), "unknown": (None, "not published")}
DATASETS = ("nothing",)


@keras.saving.register_keras_serializable(package="tfmem_tests")
class Average(keras.layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 1), name="kernel")

    def call(self, inputs):
        return tf.matmul(inputs, self.kernel)


@keras.saving.register_keras_serializable(package="toy")
class Regression(keras.Sequential):
    """A class of its own, for a name table that holds for no other model."""


class Experiment(Base):
    name = "toy/regression"

    def __init__(self, config):
        super().__init__(config)
        self.model = Regression([keras.Input([config.width]), Average(), keras.layers.Dense(1)])
        self.optimizer = TF1RMSprop(config.rate, rho=0.99, epsilon=0.1, global_clipnorm=10.0)
        self.optimizer.build(self.model.trainable_variables)

    def variables(self):
        return {**numbered("model", self.model.variables), **numbered("optimizer", self.optimizer.variables)}

    def initial_carry(self):
        return {"trace": tf.zeros([8, 1]), "count": tf.constant(0, tf.int32)}

    def batch(self, update):
        import time

        time.sleep(self.config.slow)
        rng = np.random.default_rng([self.config.seed, update])
        inputs = rng.normal(size=(8, self.config.width)).astype(np.float32)
        if update == self.config.nan_at:
            inputs[3, 0] = np.nan
        return {"inputs": inputs, "targets": inputs.sum(-1, keepdims=True)}

    def train_step(self, update, batch, carry):
        seed = tf.stack([tf.constant(self.config.seed, tf.int64), update])
        noise = tf.random.stateless_normal([8, 1], seed=seed, stddev=0.01, alg="philox")  # auto differs under XLA
        with tf.GradientTape() as tape:
            error = self.model(batch["inputs"]) + noise + 0.1 * carry["trace"] - batch["targets"]
            loss = tf.reduce_mean(tf.square(error))
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.learning_rate.assign(linear_decay(update, self.config.rate, 0.0, 100))
        self.optimizer.apply(gradients, self.model.trainable_variables)
        carry = {"trace": tf.stop_gradient(error), "count": carry["count"] + 1}
        return carry, {"loss": loss, "gradient_norm": tf.linalg.global_norm(gradients)}

    def evaluate(self):
        inputs = np.random.default_rng(99).normal(size=(64, self.config.width)).astype(np.float32)
        return {"error": float(np.mean((self.model(inputs) - inputs.sum(-1, keepdims=True)) ** 2))}

    def figures(self, folder):
        (folder / "weights.txt").write_text(str(self.model.get_weights()), "utf-8")

    def export(self, folder):
        self.model.export(folder, verbose=False)
