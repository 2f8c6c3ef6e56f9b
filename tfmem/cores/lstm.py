"""LSTMs without a memory: one layer as Sonnet 1's, and a stack of layers with skip connections.

The stack is the baseline of Santoro et al. 2018 (App. A.2) for program evaluation.

Layer l = 1..L at step t sees the input and the layer below, and every layer is part of the output:

    a_t^l = W_x^l x_t + W_z^l h_t^{l-1} + W_h^l h_{t-1}^l + b^l      (no W_z for l = 1)
    i, f, g, o = split(a_t^l)
    c_t^l = sigmoid(f) c_{t-1}^l + sigmoid(i) tanh(g)
    h_t^l = sigmoid(o) tanh(c_t^l)
    y_t = [h_t^1; ...; h_t^L]

Paper: "skip connections and layer-wise outputs concatenated on the final layer". Not specified where a skip starts; we
use the input, as Graves does (arXiv 1308.0850). Gate order and the forget bias inside the bias variable are those of
keras.layers.LSTM, so that weights can be exchanged.
"""

import sonnet as snt
import tensorflow as tf

from tfmem.backend import keras
from tfmem.cores.base import RNNCore, SplitLinear, lstm_update
from tfmem.cores.keras_base import Cell, drop, linear
from tfmem.validation import check_positive


class LSTM(RNNCore):
    """Sonnet 1's LSTM. The output is the hidden state [B, hidden_size], the state an `snt.LSTMState`.

    Gates are in the order input, candidate, forget, output, and 1 is added to the forget gate. Weights and biases start
    as in Sonnet 1: truncated normal with standard deviation 1 / sqrt(fan-in).

    Args:
      hidden_size: units (Gregor et al. 2019, Table 2: 512 to 1024).

    Raises:
      ValueError: hidden_size is not a positive integer.
    """

    input_layout = "features"

    def __init__(self, hidden_size, name="lstm"):
        super().__init__(name=name)
        check_positive(hidden_size=hidden_size)
        self.hidden_size = hidden_size
        self.gates = SplitLinear(4 * hidden_size, random_bias=True, name="gates")

    @property
    def output_size(self):
        return self.hidden_size

    @property
    def state_size(self):
        return snt.LSTMState(*[tf.TensorShape([self.hidden_size])] * 2)

    def initial_state(self, batch_size, dtype=tf.float32):
        return snt.LSTMState(*[tf.zeros([batch_size, self.hidden_size], dtype)] * 2)

    def project_inputs(self, inputs):
        self.gates.initialize(inputs.shape[-1], self.hidden_size, inputs.dtype)
        return self.gates.project(inputs)

    def step(self, projected, state):
        state = lstm_update(self.gates(projected, state.hidden), state.cell)
        return state.hidden, state


def keras_lstm_update(gates, cell):
    """Keras's LSTM from its gates [B, 4 units], in the order i, f, g, o, and its cell: an `snt.LSTMState`."""
    i, f, g, o = tf.split(gates, 4, axis=-1)
    cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(g)
    return snt.LSTMState(tf.sigmoid(o) * tf.tanh(cell), cell)


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
    a tuple of `num_layers` `snt.LSTMState`s, zero at first.

    Args:
      units: width of each layer.
      num_layers: number of layers. Default 2, as in the paper.
      skip_connections: the input feeds every layer, and every layer feeds the output. Default True.
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
        return tuple(snt.LSTMState(shape, shape) for _ in range(self.num_layers))

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
            next_states.append(keras_lstm_update(gates, state.cell))
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
