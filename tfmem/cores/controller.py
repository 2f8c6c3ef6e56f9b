"""Controller of Munkhdalai et al. 2019 (§3.1), shared by the metalearned memory and the look-up table.

h_t = LSTM(x_t, v_{t-1}^r, h_{t-1})
[k_1^r .. k_H^r; k_1^w .. k_H^w; v_1^w .. v_H^w; ...] = tanh(W_v h_t + b_v)        (1)
y_t = W_y [h_t; v_t^r] + b_y
"""

from typing import NamedTuple

import tensorflow as tf

from tfmem.cores.keras_base import Cell, drop, linear
from tfmem.cores.lstm import keras_lstm_update, lstm_bias
from tfmem.validation import check_positive


class Interactions(NamedTuple):
    read_keys: tf.Tensor  # [B, H, word_size]
    write_keys: tf.Tensor  # [B, H, word_size]
    write_values: tf.Tensor  # [B, H, word_size]
    others: tf.Tensor  # [B, n, word_size]: further vectors of Eq. 1 for the memory


class MemoryController(Cell):
    """LSTM controller with `num_heads` interaction vectors of each kind and `num_others` more.

    The LSTM is Keras's (gate order i, f, g, o; glorot uniform and orthogonal weights; forget bias 1 at the start).
    """

    def __init__(self, units, num_heads, word_size, output_size, num_others, **kwargs):
        super().__init__(**kwargs)
        check_positive(units=units, num_heads=num_heads, word_size=word_size)
        if output_size is not None:
            check_positive(output_size=output_size)
        self.units = int(units)
        self.num_heads = int(num_heads)
        self.word_size = int(word_size)
        self.output_units = int(output_size or units)
        self.num_interactions = 3 * num_heads + num_others

    def build(self, input_shape):
        units, word_size = self.units, self.word_size
        self.kernel = self.add_weight(
            shape=(input_shape[-1], 4 * units), initializer="glorot_uniform", role="kernel", name="kernel"
        )
        # Rows: h_{t-1}, then v_{t-1}^r.
        self.recurrent_kernel = self.add_weight(
            shape=(units + word_size, 4 * units), initializer="orthogonal", role="recurrent", name="recurrent_kernel"
        )
        bias = lstm_bias(units, rest=self.next_initializer("bias"))
        self.bias = self.add_weight(
            shape=(4 * units,), initializer=bias, role="bias", own_initializer=True, name="bias"
        )
        size = self.num_interactions * word_size
        self.interaction_kernel = self.add_weight(
            shape=(units, size), initializer="glorot_uniform", role="kernel", name="interaction_kernel"
        )
        self.interaction_bias = self.add_weight(
            shape=(size,), initializer="zeros", role="bias", name="interaction_bias"
        )
        self.output_kernel = self.add_weight(
            shape=(units + word_size, self.output_units),
            initializer="glorot_uniform",
            role="kernel",
            name="output_kernel",
        )
        self.output_bias = self.add_weight(
            shape=(self.output_units,), initializer="zeros", role="bias", name="output_bias"
        )

    def project_inputs(self, inputs):
        """Contribution of the inputs to the LSTM's gates: [..., 4 units]."""
        self.ensure_built(inputs)
        return linear(inputs, self.kernel, self.bias)

    def control(self, projected, hidden, cell, read_out, mask=None):
        """Compute h_t, c_t and the interaction vectors (Eq. 1)."""
        gates = projected + linear(tf.concat([drop(hidden, mask), read_out], axis=-1), self.recurrent_kernel)
        hidden, cell = keras_lstm_update(gates, cell)
        vectors = tf.tanh(linear(hidden, self.interaction_kernel, self.interaction_bias))
        vectors = tf.reshape(vectors, [-1, self.num_interactions, self.word_size])
        num_others = self.num_interactions - 3 * self.num_heads
        return hidden, cell, Interactions(*tf.split(vectors, [*[self.num_heads] * 3, num_others], axis=1))

    def output(self, hidden, read_out):
        """Compute y_t = W_y [h_t; v_t^r] + b_y."""
        return linear(tf.concat([hidden, read_out], axis=-1), self.output_kernel, self.output_bias)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "num_heads": self.num_heads,
            "word_size": self.word_size,
            "output_size": self.output_units,
        }
