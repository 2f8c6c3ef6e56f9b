"""EntNet, the recurrent entity network (Henaff et al. 2017, arXiv 1612.03969), as used by Santoro et al. 2018.

Cells j = 1..m with keys w_j share their weights; each takes the input when it matches its key or its content:

    s_t = E x_t
    g_j = sigmoid(s_t^T h_j + s_t^T w_j)                    (2)
    h~_j = phi(U h_j + V w_j + W s_t),  phi = PReLU         (3)
    h_j <- h_j + g_j h~_j                                   (4)
    h_j <- h_j / ||h_j||                                    (5)
    y_t = sum_j h_j                                         (Santoro et al., App. A.2: "summed")

Public code: facebookarchive/MemNN EntNet-babi/entnet.lua. Cells start from their keys, PReLU slopes from 1 and all
other weights from N(0, 0.1), as there. It also adds a bias to U and one per cell to the gate.
Paper: no such biases; we follow it. Not specified; we use a linear map E to the cells' size as the sentence encoder.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmem.backend import keras
from tfmem.cores.base import variable_dtype
from tfmem.cores.keras_base import Cell, drop, linear, tile_batch
from tfmem.validation import check_positive


class EntityState(NamedTuple):
    cells: tf.Tensor  # h_j: [B, num_cells, units]


class ProjectedInput(NamedTuple):
    encoded: tf.Tensor  # s_t: [..., units]
    candidate: tf.Tensor  # W s_t: [..., units]


def normalize(x):
    """Compute x / ||x|| on the last axis in float32 or more; zero where x is zero.

    Only very large or small x are scaled before squaring, so that no digit of the others changes.
    """
    y = tf.cast(x, variable_dtype(x.dtype))
    largest = tf.stop_gradient(tf.reduce_max(tf.abs(y), axis=-1, keepdims=True))
    usual = (largest == 0) | ((largest > 1e-15) & (largest < 1e15))
    y /= tf.where(usual, tf.ones_like(largest), largest)
    squared = tf.reduce_sum(y**2, axis=-1, keepdims=True)
    return tf.cast(y * tf.math.rsqrt(tf.where(squared > 0, squared, 1.0)), x.dtype)


@keras.saving.register_keras_serializable(package="tfmem")
class EntityMemory(Cell):
    """EntNet: `num_cells` gated cells of `units` with learned keys; the output is the sum of the cells.

    Input [B, features]; output [B, units]; state: `EntityState`. The keys are weights that the constructor creates,
    because the initial state needs them.

    Args:
      num_cells: number of cells m (Santoro et al. compare 2, 4, 6 and 8).
      units: size of each cell (Santoro et al.: 1024 or 2048 divided by the number of cells).
      **kwargs: initializers, regularizers, constraints, dropout (`tfmem.cores.keras_base`); there are no biases.

    Raises:
      ValueError: an argument is not a positive integer.
    """

    roles = ("kernel", "recurrent")

    def __init__(self, num_cells, units, **kwargs):
        super().__init__(**kwargs)
        check_positive(num_cells=num_cells, units=units)
        self.num_cells = int(num_cells)
        self.units = int(units)
        self.keys = self.add_weight(shape=(num_cells, units), initializer=gaussian(), name="keys")

    @property
    def state_size(self):
        return EntityState(tf.TensorShape([self.num_cells, self.units]))

    @property
    def output_size(self):
        return self.units

    def build(self, input_shape):
        square = (self.units, self.units)
        self.encoder_kernel = self.add_weight(
            shape=(input_shape[-1], self.units), initializer=gaussian(), role="kernel", name="encoder_kernel"
        )
        self.state_kernel = self.add_weight(shape=square, initializer=gaussian(), role="recurrent", name="state_kernel")
        self.key_kernel = self.add_weight(shape=square, initializer=gaussian(), role="kernel", name="key_kernel")
        self.input_kernel = self.add_weight(shape=square, initializer=gaussian(), role="kernel", name="input_kernel")
        self.slopes = self.add_weight(shape=(self.units,), initializer="ones", name="slopes")

    def get_initial_state(self, batch_size=None, dtype=None):
        return EntityState(tile_batch(self.keys, batch_size, dtype or self.compute_dtype))

    def project_inputs(self, inputs):
        """Compute s_t and W s_t."""
        self.ensure_built(inputs)
        encoded = linear(inputs, self.encoder_kernel)
        return ProjectedInput(encoded, linear(encoded, self.input_kernel))

    def recurrent_units(self, states):
        return states.cells

    def step(self, projected, states, mask=None):
        cells, s = states.cells, projected.encoded
        keys, slopes = tf.cast(self.keys, cells.dtype), tf.cast(self.slopes, cells.dtype)
        # (2)
        gate = tf.sigmoid(tf.einsum("bd,bmd->bm", s, cells + keys))
        # (3)
        candidate = linear(drop(cells, mask), self.state_kernel) + linear(keys, self.key_kernel)
        candidate += projected.candidate[:, tf.newaxis]
        candidate = tf.maximum(candidate, 0.0) + slopes * tf.minimum(candidate, 0.0)
        # (4), (5)
        cells = normalize(cells + gate[:, :, tf.newaxis] * candidate)
        return tf.reduce_sum(cells, axis=1), EntityState(cells)

    def get_config(self):
        return {**super().get_config(), "num_cells": self.num_cells, "units": self.units}


def gaussian():
    return keras.initializers.RandomNormal(stddev=0.1)
