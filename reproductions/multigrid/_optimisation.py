"""What the public Multigrid scripts share: their optimiser and their clipping."""

import keras
import tensorflow as tf

from tfmem.optimizers import TF1RMSprop


def public_rmsprop(learning_rate):
    """The optimiser of the public scripts."""
    return TF1RMSprop(learning_rate, rho=0.99, momentum=0.0, epsilon=0.1)


def make_optimizer(config):
    """The optimiser of `config.optimizer`; its learning rate is set in every update."""
    if config.optimizer == "rmsprop":
        return public_rmsprop(config.learning_rate)
    return keras.optimizers.Adam(config.learning_rate)


def apply_clipped(optimizer, gradients, variables, clip, learning_rate):
    """One update with the gradients clipped by global norm; returns the norm before clipping."""
    norm = tf.linalg.global_norm(gradients)
    gradients, _ = tf.clip_by_global_norm(gradients, clip, use_norm=norm)
    optimizer.learning_rate.assign(learning_rate)
    optimizer.apply(gradients, variables)
    return norm
