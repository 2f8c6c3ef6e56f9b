"""Convolutional LSTM: its gates, a scan with a gradient of its own, and the Keras cell.

    i = sigmoid(W_xi * x + W_hi * h + w_ci . c + b_i)
    f = sigmoid(W_xf * x + W_hf * h + w_cf . c + b_f)
    c' = f . c + i . tanh(W_xc * x + W_hc * h + b_c)
    o = sigmoid(W_xo * x + W_ho * h + w_co . c' + b_o)
    h' = o . tanh(c')

Paper: peepholes w_c. Public code: none, and 1 is added to b_f; so by default here.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmem.axes import merge_leading, split_leading
from tfmem.backend import keras
from tfmem.cores.keras_base import Cell, drop
from tfmem.cores.multigrid.routing import routed_convolution
from tfmem.validation import is_integer, positive_int


class ConvLSTMState(NamedTuple):
    """State of one grid: `cell` (the memory) and `hidden`, both [B, side, (side,) filters]."""

    cell: tf.Tensor
    hidden: tf.Tensor


def activate(gates, cell, forget_bias=1.0, peepholes=None):
    """The gates' values (i, tanh of the candidate, f, o) and c' from the sum of convolutions; arguments as below."""
    i, candidate, f, o = tf.split(gates, 4, axis=-1)
    if peepholes is not None:
        i += peepholes[0] * cell
        f += peepholes[1] * cell
    i, candidate, f = tf.sigmoid(i), tf.tanh(candidate), tf.sigmoid(f + forget_bias)
    new_cell = f * cell + i * candidate
    if peepholes is not None:
        o += peepholes[2] * new_cell
    return (i, candidate, f, tf.sigmoid(o)), new_cell


def lstm_gates(gates, cell, forget_bias=1.0, peepholes=None):
    """The gate equations above from the sum of convolutions, in the order i, c, f, o of the public code.

    Args:
      gates: W_x * x + W_h * h + b, [N, s, (s,) 4 C].
      cell: c, [N, s, (s,) C].
      forget_bias: added to the forget gate.
      peepholes: None or (w_ci, w_cf, w_co), each [s, (s,) C].

    Returns:
      `ConvLSTMState(c', h')`.
    """
    (_, _, _, o), new_cell = activate(gates, cell, forget_bias, peepholes)
    return ConvLSTMState(new_cell, o * tf.tanh(new_cell))


def lstm_gates_gradient(values, cell, new_cell, d_cell, d_hidden, peepholes=None):
    """The derivative of `lstm_gates`.

    Args:
      values, new_cell: as `activate` returns them for `cell`.
      d_cell, d_hidden: gradients for c' and h'.
      peepholes: as there.

    Returns:
      Gradients for the gates' sum and the cell.
    """
    i, candidate, f, o = values
    squashed = tf.tanh(new_cell)
    d_o = sigmoid_gradient(o, d_hidden * squashed)
    d_cell += tanh_gradient(squashed, d_hidden * o)
    if peepholes is not None:
        d_cell += peepholes[2] * d_o
    d_i, d_f = sigmoid_gradient(i, d_cell * candidate), sigmoid_gradient(f, d_cell * cell)
    d_candidate, d_before = tanh_gradient(candidate, d_cell * i), d_cell * f
    if peepholes is not None:
        d_before += peepholes[0] * d_i + peepholes[1] * d_f
    return tf.concat([d_i, d_candidate, d_f, d_o], -1), d_before


def sigmoid_gradient(y, dy):
    return tf.raw_ops.SigmoidGrad(y=y, dy=dy)


def tanh_gradient(y, dy):
    return tf.raw_ops.TanhGrad(y=y, dy=dy)


def conv_lstm_scan(projected, states, kernels, forget_bias=1.0, peepholes=None):
    """`lstm_gates` over time for several grids at once, with a gradient that keeps little and batches its kernels.

    Each step keeps only the gates' values, the cell and the hidden grid. The gradients of the recurrent kernels are one
    convolution over all steps. (A plain loop's gradient keeps every intermediate and sums one kernel gradient a step.)

    Args:
      projected: list (one per grid) of W_x * x + b, [T, B, s, (s,) 4 C].
      states: list of `ConvLSTMState`.
      kernels: list of W_h, [k, (k,) C, 4 C].
      forget_bias, peepholes: as in `lstm_gates`; `peepholes` a list, one entry per grid.

    Returns:
      (list of hidden grids [T, B, s, (s,) C], list of final `ConvLSTMState`).
    """
    count, steps = len(projected), tf.shape(projected[0])[0]
    static_steps = projected[0].shape[0]

    def unpack(flat):
        lists = [flat[i * count : (i + 1) * count] for i in range(4)]
        flat_peepholes = flat[4 * count :]
        return *lists, [flat_peepholes[3 * i : 3 * i + 3] or None for i in range(count)]

    def loop(body, variables):
        return tf.while_loop(lambda t, *_: t < steps, body, (0, *variables), maximum_iterations=static_steps)[1:]

    def empty(shapes, dtype):
        return [tf.TensorArray(dtype, steps, element_shape=shape, clear_after_read=False) for shape in shapes]

    def write(group, t, tensors):
        return [a.write(t, x) for a, x in zip(group, tensors, strict=True)]

    def stack(group):
        return [a.stack() for a in group]

    def shifted(first, sequence):
        return tf.concat([first[None], sequence[:-1]], 0)

    @tf.custom_gradient
    def run(*flat):
        projected, first_cells, first_hiddens, kernels, peepholes = unpack(flat)
        dtype, grids, wide = projected[0].dtype, [h.shape for h in first_hiddens], [x.shape[1:] for x in projected]

        def forward(t, cells, hiddens, all_values, all_cells, all_hiddens):
            values, new_cells = [], []
            for x, h, k, c, p in zip(projected, hiddens, kernels, cells, peepholes, strict=True):
                value, cell = activate(x[t] + tf.nn.convolution(h, k, padding="SAME"), c, forget_bias, p)
                values.append(value)
                new_cells.append(cell)
            hiddens = [o * tf.tanh(c) for (_, _, _, o), c in zip(values, new_cells, strict=True)]
            all_values = write(all_values, t, [v for value in values for v in value])
            return t + 1, new_cells, hiddens, all_values, write(all_cells, t, cells), write(all_hiddens, t, hiddens)

        kept = empty([grid for grid in grids for _ in range(4)], dtype), empty(grids, dtype), empty(grids, dtype)
        last_cells, last_hiddens, *kept = loop(forward, (list(first_cells), list(first_hiddens), *kept))
        # As tensors: a SavedModel cannot keep a gradient function that captures lists.
        all_values, all_cells, all_hiddens = map(stack, kept)

        def gradient(*upstream):
            d_all_hiddens, d_cells, d_hiddens = (list(upstream[i * count : (i + 1) * count]) for i in range(3))

            def backward(step, new_cells, d_cells, d_hiddens, d_all_gates):
                t = steps - 1 - step
                cells = [c[t] for c in all_cells]
                d_before, d_hiddens_before, d_gates = [], [], []
                for i, p in enumerate(peepholes):
                    values = [v[t] for v in all_values[4 * i : 4 * i + 4]]
                    d_gate, d_cell = lstm_gates_gradient(
                        values, cells[i], new_cells[i], d_cells[i], d_hiddens[i] + d_all_hiddens[i][t], p
                    )
                    d_before.append(d_cell)
                    d_hiddens_before.append(tf.nn.conv_transpose(d_gate, kernels[i], tf.shape(d_cell), 1, "SAME"))
                    d_gates.append(d_gate)
                return step + 1, cells, d_before, d_hiddens_before, write(d_all_gates, t, d_gates)

            _, d_cells, d_hiddens, d_all_gates = loop(
                backward, (list(last_cells), d_cells, d_hiddens, empty(wide, dtype))
            )
            d_projected, d_kernels, d_peepholes = stack(d_all_gates), [], []
            for i, (d, k, p) in enumerate(zip(d_projected, kernels, peepholes, strict=True)):
                before = merge_leading(shifted(first_hiddens[i], all_hiddens[i]), 2)
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(k)
                    convolved = tf.nn.convolution(before, k, padding="SAME")
                d_kernels.append(tape.gradient(convolved, k, merge_leading(d, 2)))
                if p is not None:
                    d_i, _, d_f, d_o = tf.split(d, 4, axis=-1)
                    new_cells = tf.concat([all_cells[i][1:], last_cells[i][None]], 0)
                    seen = (d_i, all_cells[i]), (d_f, all_cells[i]), (d_o, new_cells)
                    d_peepholes += [tf.reduce_sum(d_gate * c, (0, 1)) for d_gate, c in seen]
            return [*d_projected, *d_cells, *d_hiddens, *d_kernels, *d_peepholes]

        return [*all_hiddens, *last_cells, *last_hiddens], gradient

    flat_peepholes = [p for group in peepholes or () for p in group]
    flat = run(*projected, *(s.cell for s in states), *(s.hidden for s in states), *kernels, *flat_peepholes)
    hidden_seq, cells, hiddens = (flat[i * count : (i + 1) * count] for i in range(3))
    for seq, x in zip(hidden_seq, projected, strict=True):
        seq.set_shape([*x.shape[:-1], x.shape[-1] // 4])
    return hidden_seq, [ConvLSTMState(c, h) for c, h in zip(cells, hiddens, strict=True)]


@keras.saving.register_keras_serializable(package="tfmem")
class ConvLSTM(Cell):
    """Convolutional LSTM cell (Shi et al. 2015; TF 1.15 `contrib.rnn.Conv2DLSTMCell`).

    One convolution over concat[x, h] with zero SAME padding; its kernel is one variable
    [k, (k,) input channels + filters, 4 filters], so that TF 1 weights load as they are.

    Args:
      filters: channels of the state.
      kernel_size: side of the kernel. Default 3.
      rank: 2 for grids [s, s, C], 1 for [s, C]. Default 2.
      peepholes: the gates see the cell through weights of the grid's shape, zeros at first. Paper: yes. Public code:
        no (default).
      forget_bias: constant added to the forget gate. Default 1.0 (public code).
      kernel_initializer, bias_initializer: defaults "glorot_uniform" and "zeros" (public code).
      **kwargs: regularizers, constraints, dropout (`tfmem.cores.keras_base`). The kernel is that of input and state.

    Call arguments: inputs [B, s, (s,) C] and a `ConvLSTMState`. Returns (hidden [B, s, (s,) filters], state).

    Raises:
      ValueError: a size is not a positive integer, or `rank` is neither 1 nor 2.
    """

    roles = ("kernel", "bias")

    def __init__(
        self,
        filters,
        kernel_size=3,
        rank=2,
        peepholes=False,
        forget_bias=1.0,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(kernel_initializer=kernel_initializer, bias_initializer=bias_initializer, **kwargs)
        self.filters = positive_int("filters", filters)
        self.kernel_size = positive_int("kernel_size", kernel_size)
        if not is_integer(rank) or rank > 2:
            raise ValueError(f"rank: {rank!r}, must be 1 or 2")
        self.rank = int(rank)
        self.peepholes = bool(peepholes)
        self.forget_bias = float(forget_bias)

    def build(self, input_shape):
        *_, self.input_channels = input_shape
        self.grid = tuple(input_shape[-self.rank - 1 : -1])
        if len(input_shape) < self.rank + 1 or None in (*self.grid, self.input_channels):
            raise ValueError(f"inputs: shape {tuple(input_shape)}, must end in {self.rank} known sides and a depth")
        window = [self.kernel_size] * self.rank
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*window, self.input_channels + self.filters, 4 * self.filters),
            role="kernel",
        )
        self.bias = self.add_weight(name="bias", shape=(4 * self.filters,), role="bias")
        if self.peepholes:
            self.peephole = [
                self.add_weight(name=f"peephole_{gate}", shape=(*self.grid, self.filters), initializer="zeros")
                for gate in "ifo"
            ]

    @property
    def input_layout(self):
        return "side, side, channels" if self.rank == 2 else "side, channels"

    @property
    def state_size(self):
        return ConvLSTMState(self.output_size, self.output_size)

    @property
    def output_size(self):
        grid = self.grid if self.built else [None] * self.rank
        return tf.TensorShape([*grid, self.filters])

    def get_initial_state(self, batch_size=None):
        zeros = tf.zeros([batch_size, *self.grid, self.filters], self.compute_dtype)
        return ConvLSTMState(zeros, zeros)

    def project_inputs(self, inputs):
        """W_x * x + b of inputs [..., s, (s,) C]."""
        merged = merge_leading(inputs, len(inputs.shape) - self.rank - 1)
        return split_leading(self.project_pyramid((merged,)), inputs, self.rank + 1)

    def project_pyramid(self, pyramid):
        """W_x * x + b of the input that `routed_convolution` routes to this grid from a pyramid [N, s, (s,) C]."""
        dtype = pyramid[0].dtype
        kernel = tf.cast(self.kernel[..., : self.input_channels, :], dtype)
        # Not bias_add: its gradient adds up 10^5 cells one by one in float32, with an error of 2e-4.
        return routed_convolution(pyramid, self.grid[0], kernel) + tf.cast(self.bias, dtype)

    def recurrent_weights(self, dtype):
        """W_h and the peepholes (None without) in `dtype`."""
        peepholes = [tf.cast(w, dtype) for w in self.peephole] if self.peepholes else None
        return tf.cast(self.kernel[..., self.input_channels :, :], dtype), peepholes

    def step(self, projected, states, mask=None):
        cell, hidden = states
        kernel, peepholes = self.recurrent_weights(projected.dtype)
        gates = projected + tf.nn.convolution(drop(hidden, mask), kernel, padding="SAME")
        state = lstm_gates(gates, cell, self.forget_bias, peepholes)
        return state.hidden, state

    def scan(self, projected, states):
        """All steps of projected inputs [T, B, s, (s,) 4 C]: (hidden [T, B, s, (s,) C], final state)."""
        kernel, peepholes = self.recurrent_weights(projected.dtype)
        (hidden,), (state,) = conv_lstm_scan(
            [projected], [ConvLSTMState(*states)], [kernel], self.forget_bias, peepholes and [peepholes]
        )
        return hidden, state

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "rank": self.rank,
            "peepholes": self.peepholes,
            "forget_bias": self.forget_bias,
        }
