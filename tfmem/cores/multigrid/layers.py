"""Layers over pyramids: normalization, multigrid convolution and multigrid memory layer."""

import math

import tensorflow as tf

from tfmem.axes import merge_leading, split_leading
from tfmem.backend import hand_on_trainable, keras
from tfmem.cores.keras_base import Cell
from tfmem.cores.multigrid.conv_lstm import ConvLSTM, ConvLSTMState, conv_lstm_scan
from tfmem.cores.multigrid.routing import (
    check_odd,
    check_sizes,
    routed_channels,
    routed_convolution,
)
from tfmem.validation import check_choice, positive_int


@keras.saving.register_keras_serializable(package="tfmem")
class UniformFanIn(keras.initializers.Initializer):
    """Uniform in +-1/sqrt(fan-in): weights and biases of the public code's convolutions and output layer.

    Args:
      fan_in: number of inputs of a unit. Default: product of all axes of the shape but the last.
      seed: int or `keras.random.SeedGenerator`.
    """

    def __init__(self, fan_in=None, seed=None):
        self.fan_in = fan_in
        self.seed = seed

    def __call__(self, shape, dtype=None):
        bound = 1.0 / math.sqrt(self.fan_in or math.prod(shape[:-1]))
        return keras.random.uniform(shape, -bound, bound, dtype=dtype, seed=self.seed)

    def get_config(self):
        return {"fan_in": self.fan_in, "seed": self.seed}


@keras.saving.register_keras_serializable(package="tfmem")
class GridNormalization(keras.layers.Layer):
    """Normalization by the statistics of the input, over [T, B, s, (s,) C].

    Args:
      over: "batch" (all axes but channels: the public recall code, which never uses moving statistics) or "sequence"
        (time and space, for each sequence of the batch: the paper's question answering).
      epsilon: default 1e-3 (public code).
    """

    def __init__(self, over="batch", epsilon=1e-3, **kwargs):
        super().__init__(**kwargs)
        check_choice("over", over, ("batch", "sequence"))
        self.over = over
        self.epsilon = epsilon

    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="ones")
        self.beta = self.add_weight(name="beta", shape=(input_shape[-1],), initializer="zeros")

    def call(self, inputs, valid=None):
        """Normalized inputs, by the statistics of the steps that are `valid`, bool [T, B] (default: all).

        Other steps give the output of zeros, whatever they hold.
        """
        x = tf.cast(inputs, self.variable_dtype)
        axes = [a for a in range(x.shape.rank - 1) if a != 1 or self.over == "batch"]
        if valid is None:
            mean, variance = tf.nn.moments(x, axes, keepdims=True)
        else:
            valid = tf.reshape(valid, tf.concat([tf.shape(x)[:2], [1] * (x.shape.rank - 2)], 0))
            x = tf.where(valid, x, tf.zeros_like(x))  # a product with 0 would keep NaN
            mean, variance = tf.nn.weighted_moments(x, axes, tf.cast(valid, x.dtype), keepdims=True)
        y = tf.nn.batch_normalization(x, mean, variance, self.beta, self.gamma, self.epsilon)
        return tf.cast(y, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "over": self.over, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="tfmem")
class MultigridConv(keras.layers.Layer):
    """Multigrid convolution (MG-conv): routing, convolution + bias and ReLU at every level.

    Args:
      sizes: sides of the output levels, doubling, e.g. (3, 6, 12).
      filters: output channels of every level.
      kernel_size: odd. Default 3.
      rank: 2 for grids [s, s, C], 1 for [s, C]. Default 2.
      activation: default "relu".

    Call arguments: a pyramid, tuple of grids [..., s, (s,) C]. Returns a pyramid with the sides `sizes`.

    Raises:
      ValueError: `sizes` do not double, or a level has no source among the inputs.
    """

    def __init__(self, sizes, filters, kernel_size=3, rank=2, activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.sizes = check_sizes(sizes)
        self.filters = positive_int("filters", filters)
        self.kernel_size = check_odd("kernel_size", kernel_size)
        self.rank = rank
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        self.kernels, self.biases = [], []
        for size, channels in zip(self.sizes, routed_channels(input_shape, self.sizes), strict=True):
            shape = (*[self.kernel_size] * self.rank, channels, self.filters)
            fan_in = math.prod(shape[:-1])
            self.kernels.append(self.add_weight(name=f"kernel_{size}", shape=shape, initializer=UniformFanIn()))
            self.biases.append(
                self.add_weight(name=f"bias_{size}", shape=(self.filters,), initializer=UniformFanIn(fan_in))
            )

    def call(self, pyramid):
        merged = [merge_leading(grid, len(grid.shape) - self.rank - 1) for grid in pyramid]
        outputs, dtype = [], merged[0].dtype
        for size, kernel, bias in zip(self.sizes, self.kernels, self.biases, strict=True):
            y = routed_convolution(merged, size, tf.cast(kernel, dtype))
            y = self.activation(y + tf.cast(bias, dtype))
            outputs.append(split_leading(y, pyramid[0], self.rank + 1))
        return tuple(outputs)

    def compute_output_shape(self, input_shape):
        leading = input_shape[0][: -self.rank - 1]
        return tuple((*leading, *[size] * self.rank, self.filters) for size in self.sizes)

    def get_config(self):
        return {
            **super().get_config(),
            "sizes": self.sizes,
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "rank": self.rank,
            "activation": keras.activations.serialize(self.activation),
        }


@keras.saving.register_keras_serializable(package="tfmem")
class MultigridConvLSTM(Cell):
    """Multigrid memory layer (MG-conv-LSTM) as an RNN cell over pyramids: routing, and a `ConvLSTM` at every level.

    Args:
      sizes: sides of the levels, doubling, e.g. (3, 6, 12).
      filters: channels of every level's state.
      kernel_size, rank, peepholes, forget_bias, **kwargs: as in `ConvLSTM`.

    Call arguments: a pyramid (tuple of [B, s, (s,) C]; a single grid is a pyramid of one) and the state, a tuple of
    `ConvLSTMState`, one per level. Returns (pyramid of hidden grids, state). `tfmem.RNN` runs it over sequences.

    Raises:
      ValueError: `sizes` do not double, or a level has no source among the inputs.
    """

    roles = ("kernel", "bias")

    def __init__(self, sizes, filters, kernel_size=3, rank=2, peepholes=False, forget_bias=1.0, **kwargs):
        super().__init__(**kwargs)
        self.sizes = check_sizes(sizes)
        self.cells = [
            ConvLSTM(
                filters,
                kernel_size,
                rank,
                peepholes,
                forget_bias,
                name=f"level_{size}",
                dtype=self.dtype_policy,
                **self.given_options(),
            )
            for size in self.sizes
        ]
        self.filters, self.kernel_size, self.rank = int(filters), check_odd("kernel_size", kernel_size), rank
        self.peepholes, self.forget_bias = peepholes, forget_bias
        hand_on_trainable(self)

    def build(self, input_shape):
        shapes = as_pyramid(input_shape, is_leaf=lambda s: not isinstance(s[0], (tuple, list, tf.TensorShape)))
        for cell, size, channels in zip(self.cells, self.sizes, routed_channels(shapes, self.sizes), strict=True):
            cell.build((*[size] * self.rank, channels))

    @property
    def input_layout(self):
        return "side, side, channels" if self.rank == 2 else "side, channels"

    @property
    def state_size(self):
        return tuple(cell.state_size for cell in self.cells)

    @property
    def output_size(self):
        return tuple(cell.output_size for cell in self.cells)

    def get_initial_state(self, batch_size=None):
        return tuple(cell.get_initial_state(batch_size) for cell in self.cells)

    def project_inputs(self, inputs):
        """Routing and the input's convolutions, for a pyramid of [..., s, (s,) C]."""
        pyramid = as_pyramid(inputs, is_leaf=tf.is_tensor)
        merged = [merge_leading(grid, len(grid.shape) - self.rank - 1) for grid in pyramid]
        projected = (cell.project_pyramid(merged) for cell in self.cells)
        return tuple(split_leading(p, pyramid[0], self.rank + 1) for p in projected)

    def recurrent_units(self, states):
        return [state.hidden for state in states]

    def step(self, projected, states, mask=None):
        masks = mask or [None] * len(self.cells)
        steps = [cell.step(*given) for cell, *given in zip(self.cells, projected, states, masks, strict=True)]
        return tuple(hidden for hidden, _ in steps), tuple(state for _, state in steps)

    def scan(self, projected, states):
        """All steps of a projected pyramid [T, B, s, (s,) 4 C]: (pyramid of hidden grids, final state)."""
        weights = [cell.recurrent_weights(p.dtype) for cell, p in zip(self.cells, projected, strict=True)]
        hidden, states = conv_lstm_scan(
            list(projected),
            [ConvLSTMState(*s) for s in states],
            [kernel for kernel, _ in weights],
            self.forget_bias,
            [peepholes for _, peepholes in weights] if self.peepholes else None,
        )
        return tuple(hidden), tuple(states)

    def get_config(self):
        return {
            **super().get_config(),
            "sizes": self.sizes,
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "rank": self.rank,
            "peepholes": self.peepholes,
            "forget_bias": self.forget_bias,
        }


def as_pyramid(value, is_leaf):
    """A single grid (or its shape) as a pyramid of one."""
    return (value,) if is_leaf(value) else tuple(value)
