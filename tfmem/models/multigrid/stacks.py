"""Stacks of multigrid layers: the writer, readers and decoders that the models are made of.

A writer is a stack of multigrid memory layers. A reader is a stack of multigrid convolutions over a query; after each
layer it also sees the writer's grids of the same layer and level (Figure 2 of the supplement). A decoder brings the
last pyramid to the answer's grid. All are time-major, [T, B, ...].

Layers are counted from 1. A residual (a, b) adds the output of layer a to that of layer b on the levels that both
have, with zeros for the channels that a lacks.
"""

import tensorflow as tf

from tfmem.backend import hand_on_trainable, keras
from tfmem.cores.multigrid import GridNormalization, MultigridConv, MultigridConvLSTM
from tfmem.recurrence import project_inputs, step, unroll
from tfmem.validation import positive_ints


def level_sizes(base_size, first, count):
    """Sides of `count` levels from level `first` on: base_size * 2^level."""
    return tuple(base_size * 2**level for level in range(first, first + count))


def add_residual(pyramid, earlier):
    """`pyramid` plus `earlier` on the levels that both have; missing channels, the last ones, count as zeros."""
    by_size = {grid.shape[-2]: grid for grid in earlier}
    out = []
    for grid in pyramid:
        other = by_size.get(grid.shape[-2])
        if other is not None:
            missing = grid.shape[-1] - other.shape[-1]
            if missing < 0:
                raise ValueError(
                    f"residuals: {other.shape[-1]} channels of the earlier layer at the level of side "
                    f"{grid.shape[-2]}, must be at most the later layer's {grid.shape[-1]}"
                )
            if missing:
                other = tf.pad(other, [[0, 0]] * (grid.shape.rank - 1) + [[0, missing]])
            grid += other
        out.append(grid)
    return tuple(out)


def nearest_neighbour(grid, size):
    """[..., side, side, C] to [..., size, size, C] as TF 1 resizes: row r reads floor(r side / size)."""
    side = grid.shape[-2]
    if size == side:
        return grid
    index = [r * side // size for r in range(size)]
    return tf.gather(tf.gather(grid, index, axis=-3), index, axis=-2)


def check_residuals(name, residuals, num_layers):
    """Return `residuals` as pairs of ints; raise a ValueError unless each is (earlier, later) among the layers."""
    try:
        pairs = tuple((int(a), int(b)) for a, b in residuals)
    except TypeError:  # a number, or a single pair
        pairs = ((0, 0),)
    if any(not 1 <= a < b <= num_layers for a, b in pairs):
        raise ValueError(f"{name}: {residuals}, must be pairs 1 <= earlier < later <= {num_layers}")
    return pairs


def check_layers(names, *lists):
    """Return the lists as tuples of ints; raise a ValueError unless they have one entry per layer."""
    lists = [positive_ints(name, values) for name, values in zip(names, lists, strict=True)]
    if len({len(values) for values in lists}) != 1:
        lengths = ", ".join(f"{len(v)} {n}" for n, v in zip(names[1:], lists[1:], strict=True))
        raise ValueError(f"{names[0]}: {lists[0]}, must have one entry per layer, as many as {lengths}")
    return lists


class Stack(keras.layers.Layer):
    """Layers with residuals and optional normalization at every level."""

    def _add_layers(self, make, sizes, filters, residuals, normalization, normalize_last=True):
        self.sizes, self.filters = sizes, filters
        self.residuals = check_residuals("residuals", residuals, len(filters))
        self.normalization = normalization
        self.layers = [make(s, f, i + 1) for i, (s, f) in enumerate(zip(sizes, filters, strict=True))]
        self.norms = [
            [GridNormalization(normalization, name=f"norm_{i + 1}_{size}", dtype=self.dtype_policy) for size in s]
            for i, s in enumerate(sizes)
            if normalization and (normalize_last or i + 1 < len(sizes))
        ]
        hand_on_trainable(self)

    def _finish(self, index, pyramid, outputs):
        """Normalize the output of layer `index` (from 0) and add its residuals from `outputs`."""
        if index < len(self.norms):
            pyramid = tuple(norm(grid) for norm, grid in zip(self.norms[index], pyramid, strict=True))
        for a, b in self.residuals:
            if b == index + 1:
                pyramid = add_residual(pyramid, outputs[a - 1])
        return pyramid

    def output_shapes(self, index):
        return [(None, None, size, size, self.filters[index]) for size in self.sizes[index]]

    def _build_norms(self, index):
        if index < len(self.norms):
            for norm, shape in zip(self.norms[index], self.output_shapes(index), strict=True):
                norm.build(shape)


class MultigridWriter(Stack):
    """Stack of multigrid memory layers.

    Args:
      sizes: sides of the levels of every layer, e.g. ((3, 6), (3, 6), (3, 6, 12)).
      filters: channels of every layer.
      residuals: pairs (earlier, later) of layers counted from 1.
      normalization: None, "batch" or "sequence" (`GridNormalization`).
      peepholes, forget_bias: as in `ConvLSTM`.
      normalize_last: normalize the last layer's grids too. States are never normalized.
    """

    def __init__(
        self,
        sizes,
        filters,
        residuals=(),
        normalization=None,
        peepholes=False,
        forget_bias=1.0,
        normalize_last=True,
        **kwargs,
    ):
        super().__init__(**kwargs)

        def make(s, f, i):
            return MultigridConvLSTM(
                s, f, peepholes=peepholes, forget_bias=forget_bias, name=f"layer_{i}", dtype=self.dtype_policy
            )

        self._add_layers(make, sizes, filters, residuals, normalization, normalize_last)

    def build(self, input_shape):
        for index, layer in enumerate(self.layers):
            layer.build(tuple(shape[1:] for shape in input_shape))
            input_shape = self.output_shapes(index)
            self._build_norms(index)

    def get_initial_state(self, batch_size):
        return tuple(layer.get_initial_state(batch_size) for layer in self.layers)

    def call(self, pyramid, initial_state, sequence_length=None):
        """Pyramid of [T, B, s, s, C] and state to (list of pyramids, one per layer; final state)."""
        outputs, states = [], []
        for index, (layer, state) in enumerate(zip(self.layers, initial_state, strict=True)):
            pyramid, state = unroll(layer, pyramid, state, sequence_length)
            pyramid = self._finish(index, pyramid, outputs)
            outputs.append(pyramid)
            states.append(state)
        return outputs, tuple(states)

    def step(self, pyramid, state):
        """One step: pyramid of [B, s, s, C] and state to (list of pyramids, one per layer; next state).

        Raises:
          ValueError: the writer normalizes, which needs whole sequences.
        """
        if self.normalization:
            raise ValueError(f"normalization: {self.normalization!r}, must be None for single steps")
        outputs, states = [], []
        for index, (layer, layer_state) in enumerate(zip(self.layers, state, strict=True)):
            pyramid, new = step(layer, project_inputs(layer, pyramid), layer_state)
            pyramid = self._finish(index, pyramid, outputs)
            outputs.append(pyramid)
            states.append(new)
        return outputs, tuple(states)


class MultigridReader(Stack):
    """Stack of multigrid convolutions over a query, with the writer's grids.

    After each layer and its residual, every level is concatenated with the writer's grid of the same layer and level.

    Args: as `MultigridWriter`; `sizes` are the writer's.
    """

    def __init__(self, sizes, filters, residuals=(), normalization=None, **kwargs):
        super().__init__(**kwargs)

        def make(s, f, i):
            return MultigridConv(s, f, name=f"layer_{i}", dtype=self.dtype_policy)

        self._add_layers(make, sizes, filters, residuals, normalization)

    def build(self, input_shape):
        query, *memories = input_shape
        for index, (layer, memory) in enumerate(zip(self.layers, memories, strict=True)):
            layer.build(query)
            self._build_norms(index)
            query = [(*s[:-1], s[-1] + m[-1]) for s, m in zip(self.output_shapes(index), memory, strict=True)]

    def call(self, query, memories):
        """Query pyramid [..., s, s, C] and the writer's pyramids (one per layer) to the last pyramid."""
        outputs = []
        for index, (layer, memory) in enumerate(zip(self.layers, memories, strict=True)):
            pyramid = self._finish(index, layer(query), outputs)
            query = tuple(tf.concat([r, m], axis=-1) for r, m in zip(pyramid, memory, strict=True))
            outputs.append(query)
        return query


class MultigridDecoder(Stack):
    """Stack of multigrid convolutions from a reader's pyramid to one grid.

    Args: as `MultigridWriter`; `last_activation` is that of the last layer ("linear" for logits).
    """

    def __init__(self, sizes, filters, residuals=(), normalization=None, last_activation="relu", **kwargs):
        super().__init__(**kwargs)

        def make(s, f, i):
            activation = last_activation if i == len(filters) else "relu"
            return MultigridConv(s, f, activation=activation, name=f"layer_{i}", dtype=self.dtype_policy)

        self._add_layers(make, sizes, filters, residuals, normalization)

    def build(self, input_shape):
        for index, layer in enumerate(self.layers):
            layer.build(input_shape)
            input_shape = self.output_shapes(index)
            self._build_norms(index)

    def call(self, pyramid):
        outputs = []
        for index, layer in enumerate(self.layers):
            pyramid = self._finish(index, layer(pyramid), outputs)
            outputs.append(pyramid)
        return pyramid
