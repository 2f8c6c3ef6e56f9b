"""Multigrid memory (Huynh, Maire & Walter, ICML 2020, "Multigrid Memory Layer"; github.com/trihuynh88/multigrid_mem).

A pyramid is a tuple of grids whose sides double from one to the next. The input to a level of a layer is

    x_j = concat( up(g_{j-1}), g_j, down(g_{j+1}) )                  (routing; those that the previous layer has)

with nearest-neighbour x2 `up` and 2x2 max-pool `down`. A multigrid convolution applies a convolution and ReLU to it, a
multigrid memory layer a convolutional LSTM whose cell is the memory:

    i = sigmoid(W_xi * x + W_hi * h + w_ci . c + b_i)
    f = sigmoid(W_xf * x + W_hf * h + w_cf . c + b_f)
    c' = f . c + i . tanh(W_xc * x + W_hc * h + b_c)
    o = sigmoid(W_xo * x + W_ho * h + w_co . c' + b_o)
    h' = o . tanh(c')

The public code has no peepholes w_c, and adds 1 to b_f; so by default here.
"""

import itertools
import math
from typing import NamedTuple

import tensorflow as tf

from tfmem.backend import hand_on_trainable, keras
from tfmem.cores.base import is_integer
from tfmem.cores.keras_base import Cell, drop

LARGE = 12  # sides from which `upsampled_convolution` is faster than a convolution of the upsampled grid (measured)


class ConvLSTMState(NamedTuple):
    """State of one grid: `cell` (the memory) and `hidden`, both [B, side, (side,) filters]."""

    cell: tf.Tensor
    hidden: tf.Tensor


# ---------------------------------------------------------------------------------------------------- routing


def downsample(grid):
    """2x2 (1-D: 2) max-pool of stride 2, no padding: [N, s, (s,) C] to [N, s/2, (s/2,) C]."""
    window = [2] * (grid.shape.rank - 2)
    return tf.nn.pool(grid, window, "MAX", strides=window, padding="VALID")


def upsample(grid):
    """Nearest neighbour x2: [N, s, (s,) C] to [N, 2 s, (2 s,) C]."""
    for axis in range(1, grid.shape.rank - 1):
        grid = tf.repeat(grid, 2, axis)
    return grid


def upsampled_convolution(grid, kernel):
    """W * up(x) of x [N, s, (s,) C] without making up(x).

    It is the transposed convolution of stride 2 whose kernel is W spread over the 2x2 cells that share a value: less
    than half of the multiplications.
    """
    rank = grid.shape.rank - 2
    spread = tf.add_n(
        [
            tf.pad(kernel, [*((o, 1 - o) for o in offset), (0, 0), (0, 0)])
            for offset in itertools.product((0, 1), repeat=rank)
        ]
    )
    spread = tf.reverse(tf.linalg.matrix_transpose(spread), list(range(rank)))
    shape = [tf.shape(grid)[0], *(2 * side for side in grid.shape[1:-1]), kernel.shape[-1]]
    return tf.nn.conv_transpose(grid, spread, shape, 2, "SAME")


def sources(input_sizes, size):
    """Indices of the input grids that feed a grid of side `size`: (coarser, same, finer), None where there is none."""
    index = {s: i for i, s in enumerate(input_sizes)}
    return index.get(size // 2 if size % 2 == 0 else None), index.get(size), index.get(size * 2)


def routed_convolution(pyramid, size, kernel):
    """W * x_j of the routing above, for the level of side `size`.

    Args:
      pyramid: grids [N, s, (s,) C].
      size: side of the output level.
      kernel: W, [k, (k,) sum of the sources' C, F], channels in the order coarser, same, finer.

    Returns:
      [N, size, (size,) F].
    """
    coarser, same, finer = (
        None if i is None else pyramid[i] for i in sources([grid.shape[1] for grid in pyramid], size)
    )
    found = sum(grid.shape[-1] for grid in (coarser, same, finer) if grid is not None)
    if found != kernel.shape[-2]:
        shapes = [tuple(grid.shape) for grid in pyramid]
        raise ValueError(
            f"inputs: grids of shapes {shapes} bring {found} channels to the level of side {size}, which was built "
            f"for {kernel.shape[-2]}"
        )
    terms, rest, used = [], [], 0
    if coarser is not None and coarser.shape[1] >= LARGE:
        used = coarser.shape[-1]
        terms.append(upsampled_convolution(coarser, kernel[..., :used, :]))
    elif coarser is not None:
        rest.append(upsample(coarser))
    rest += [] if same is None else [same]
    rest += [] if finer is None else [downsample(finer)]
    if rest:
        x = tf.concat(rest, axis=-1) if len(rest) > 1 else rest[0]
        terms.append(tf.nn.convolution(x, kernel[..., used:, :], padding="SAME"))
    return tf.add_n(terms) if len(terms) > 1 else terms[0]


def routed_channels(input_shapes, sizes):
    """Number of channels of each routed input, checked: every output level must have a source.

    Raises:
      ValueError: a side in `sizes` has no input grid of half, the same or twice its side.
    """
    input_sizes = [shape[-2] for shape in input_shapes]
    channels = []
    for size in sizes:
        found = [i for i in sources(input_sizes, size) if i is not None]
        if not found:
            raise ValueError(
                f"sizes: no input grid feeds the level of side {size}; the inputs have sides {input_sizes} and a "
                "level reads those of half, the same and twice its side"
            )
        channels.append(sum(input_shapes[i][-1] for i in found))
    return channels


def check_sizes(sizes):
    sizes = tuple(sizes)
    if not sizes or not all(map(is_integer, sizes)) or any(b != 2 * a for a, b in itertools.pairwise(sizes)):
        raise ValueError(f"sizes: was {sizes}, must be sides that double from level to level, such as (3, 6, 12)")
    return tuple(map(int, sizes))


def check_odd(name, value):
    value = check_positive(name, value)
    if value % 2 == 0:
        raise ValueError(f"{name}: was {value!r}, must be odd: the levels of a pyramid share their centres")
    return value


def check_positive(name, value):
    if not is_integer(value):
        raise ValueError(f"{name}: was {value!r}, must be a positive integer")
    return int(value)


def merge_leading(x, rank):
    """[..., s, (s,) C] to [N, s, (s,) C], and the leading shape."""
    grid = x.shape[-rank - 1 :]
    leading = tf.shape(x)[: -rank - 1]
    return tf.reshape(x, [-1, *grid]), leading


def split_leading(x, leading, static):
    """The inverse of `merge_leading`; `static` is the known leading shape."""
    y = tf.reshape(x, tf.concat([leading, x.shape[1:]], axis=0))
    y.set_shape([*static, *x.shape[1:]])
    return y


# -------------------------------------------------------------------------------------------------- ConvLSTM


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

    Of each step only the gates' values, the cell and the hidden grid are kept, and the gradients of the recurrent
    kernels are one convolution over all steps. (The gradient of a plain loop keeps every intermediate and adds up one
    kernel gradient per step.)

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
                rank = d.shape.rank - 3
                before, _ = merge_leading(shifted(first_hiddens[i], all_hiddens[i]), rank)
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(k)
                    convolved = tf.nn.convolution(before, k, padding="SAME")
                d_kernels.append(tape.gradient(convolved, k, merge_leading(d, rank)[0]))
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
      peepholes: whether the gates see the cell through weights of the grid's shape (the paper's equations; zeros at
        first). Default False, as the public code.
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
        self.filters = check_positive("filters", filters)
        self.kernel_size = check_positive("kernel_size", kernel_size)
        if not is_integer(rank) or rank > 2:
            raise ValueError(f"rank: was {rank!r}, must be 1 or 2")
        self.rank = int(rank)
        self.peepholes = bool(peepholes)
        self.forget_bias = float(forget_bias)

    def build(self, input_shape):
        *_, self.input_channels = input_shape
        self.grid = tuple(input_shape[-self.rank - 1 : -1])
        if len(input_shape) < self.rank + 1 or None in (*self.grid, self.input_channels):
            raise ValueError(f"inputs: shape was {tuple(input_shape)}, must end in {self.rank} known sides and a depth")
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
        merged, leading = merge_leading(inputs, self.rank)
        projected = self.project_pyramid((merged,))
        return split_leading(projected, leading, inputs.shape[: -self.rank - 1])

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


# ------------------------------------------------------------------------------------------ multigrid layers


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
    """Normalisation by the statistics of the data at hand, over [T, B, s, (s,) C].

    Args:
      over: "batch" (all axes but channels: the public recall code, which never uses moving statistics) or "sequence"
        (time and space, for each sequence of the batch: the paper's question answering).
      epsilon: default 1e-3 (public code).
    """

    def __init__(self, over="batch", epsilon=1e-3, **kwargs):
        super().__init__(**kwargs)
        if over not in ("batch", "sequence"):
            raise ValueError(f"over: was {over!r}, must be 'batch' or 'sequence'")
        self.over = over
        self.epsilon = epsilon

    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="ones")
        self.beta = self.add_weight(name="beta", shape=(input_shape[-1],), initializer="zeros")

    def call(self, inputs, valid=None):
        """Normalised inputs; the statistics are those of the steps that are `valid`, bool [T, B] (default: all).

        The others give what zeros give, whatever they hold.
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
        self.filters = check_positive("filters", filters)
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
        merged, leadings = zip(*[merge_leading(grid, self.rank) for grid in pyramid], strict=True)
        static = pyramid[0].shape[: -self.rank - 1]
        outputs, dtype = [], merged[0].dtype
        for size, kernel, bias in zip(self.sizes, self.kernels, self.biases, strict=True):
            y = routed_convolution(merged, size, tf.cast(kernel, dtype))
            y = self.activation(y + tf.cast(bias, dtype))
            outputs.append(split_leading(y, leadings[0], static))
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
        merged, leadings = zip(*[merge_leading(grid, self.rank) for grid in pyramid], strict=True)
        static = pyramid[0].shape[: -self.rank - 1]
        return tuple(split_leading(cell.project_pyramid(merged), leadings[0], static) for cell in self.cells)

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
