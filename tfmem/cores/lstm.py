"""A stack of LSTM layers with skip connections: the baseline of Santoro et al. 2018 (App. A.2) for program evaluation.

Layer l = 1..L at step t sees the input and the layer below, and every layer is part of the output:

    a_t^l = W_x^l x_t + W_z^l h_t^{l-1} + W_h^l h_{t-1}^l + b^l      (no W_z for l = 1)
    i, f, g, o = split(a_t^l)
    c_t^l = sigmoid(f) c_{t-1}^l + sigmoid(i) tanh(g)
    h_t^l = sigmoid(o) tanh(c_t^l)
    y_t = [h_t^1; ...; h_t^L]

The paper says "skip connections and layer-wise outputs concatenated on the final layer"; that the skip runs from the
input to every layer is our reading (it is Graves's, arXiv 1308.0850). Gate order and the forget bias inside the
bias variable are those of keras.layers.LSTM, so that weights can be exchanged.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmem.backend import keras
from tfmem.cores.keras_base import Cell, check_positive, drop, linear


class LSTMState(NamedTuple):
    hidden: tf.Tensor  # [B, units]
    cell: tf.Tensor  # [B, units]


def lstm_update(gates, cell):
    """The LSTM's new state from its four pre-activations [B, 4 units], in the order i, f, g, o, and its cell."""
    i, f, g, o = tf.split(gates, 4, axis=-1)
    cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(g)
    return LSTMState(tf.sigmoid(o) * tf.tanh(cell), cell)


def lstm_bias(units, forget_bias=1.0, rest=None):
    """Initializer of an LSTM's bias [4 units]: `forget_bias` for the forget gate, for the others zeros or `rest`."""

    def initialize(shape, dtype=None):
        i, _, g, o = tf.split(tf.zeros(shape, dtype) if rest is None else rest(shape, dtype), 4)
        return tf.concat([i, tf.fill([units], tf.cast(forget_bias, dtype)), g, o], 0)

    return initialize


@keras.saving.register_keras_serializable(package="tfmem")
class LSTMStack(Cell):
    """LSTM layers of equal width, by default with skip connections.

    The input's share of all layers' gates is one product for the whole sequence.

    Input [B, features]; output [B, num_layers * units] (without skip connections: the top layer's [B, units]); state:
    a tuple of `num_layers` `LSTMState`s, zero at first.

    Args:
      units: width of each layer.
      num_layers: number of layers. Default 2, as in the paper.
      skip_connections: whether the input goes to every layer and every layer to the output. Default True.
      forget_bias: initial value of the forget gates' bias, whatever `bias_initializer` is. Default 1.0.
      **kwargs: initializers, regularizers, constraints, dropout (`tfmem.cores.keras_base`).

    Raises:
      ValueError: units or num_layers is not a positive integer.
    """

    def __init__(self, units, num_layers=2, skip_connections=True, forget_bias=1.0, **kwargs):
        super().__init__(**kwargs)
        check_positive(units=units, num_layers=num_layers)
        self.units = int(units)
        self.num_layers = int(num_layers)
        self.skip_connections = skip_connections
        self.forget_bias = forget_bias

    @property
    def state_size(self):
        shape = tf.TensorShape([self.units])
        return tuple(LSTMState(shape, shape) for _ in range(self.num_layers))

    @property
    def output_size(self):
        return self.units * (self.num_layers if self.skip_connections else 1)

    def build(self, input_shape):
        input_layers = self.num_layers if self.skip_connections else 1
        self.kernels = [
            self.add_weight(
                shape=(input_shape[-1], 4 * self.units),
                initializer="glorot_uniform",
                role="kernel",
                name=f"kernel_{layer}",
            )
            for layer in range(input_layers)
        ]
        # Rows: the layer below (from the second layer on), then the layer itself one step ago.
        self.recurrent_kernels = [
            self.add_weight(
                shape=(self.units * (1 if layer == 0 else 2), 4 * self.units),
                initializer="orthogonal",
                role="recurrent",
                name=f"recurrent_kernel_{layer}",
            )
            for layer in range(self.num_layers)
        ]
        self.biases = [
            self.add_weight(
                shape=(4 * self.units,),
                initializer=lstm_bias(self.units, self.forget_bias, self.next_initializer("bias")),
                role="bias",
                own_initializer=True,
                name=f"bias_{layer}",
            )
            for layer in range(self.num_layers)
        ]

    def get_initial_state(self, batch_size=None, dtype=None):
        return self.zero_state(batch_size, dtype)

    def project_inputs(self, inputs):
        """W_x^l x_t of all layers that see the input: [..., 4 units] for each."""
        self.ensure_built(inputs)
        kernel = tf.concat([tf.cast(k, inputs.dtype) for k in self.kernels], axis=1)
        return tuple(tf.split(linear(inputs, kernel), len(self.kernels), axis=-1))

    def recurrent_units(self, states):
        return [state.hidden for state in states]

    def step(self, projected, states, mask=None):
        next_states = []
        for layer, state in enumerate(states):
            below = [] if layer == 0 else [next_states[-1].hidden]
            recurrent = tf.concat([*below, drop(state.hidden, mask and mask[layer])], axis=-1)
            gates = linear(recurrent, self.recurrent_kernels[layer], self.biases[layer])
            if layer < len(projected):
                gates += projected[layer]
            next_states.append(lstm_update(gates, state.cell))
        if self.skip_connections:
            output = tf.concat([s.hidden for s in next_states], axis=-1)
        else:
            output = next_states[-1].hidden
        return output, tuple(next_states)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "num_layers": self.num_layers,
            "skip_connections": self.skip_connections,
            "forget_bias": self.forget_bias,
        }
