"""Multigrid writer and readers, and the models made of them: localisation, recall and sorting.

A writer is a stack of multigrid memory layers, a reader a stack of multigrid convolutions that looks at a query and at
what the writer holds at the same layer and level (Figure 2 of the supplement). A decoder brings the last pyramid to
the answer's grid. `LocalizationModel` and `MNISTRecallModel` are the networks of the public code
(github.com/trihuynh88/multigrid_mem), `RecallModel` and `SortModel` those that supplement B.2 describes. Everything
below is time-major, [T, B, ...]; the models' `call` is batch-major.

    layers are counted from 1; a residual (a, b) adds the output of layer a to that of layer b on the levels that
    both have, with zeros for the channels that a lacks.
"""

import tensorflow as tf

from tfmem.backend import hand_on_trainable, keras
from tfmem.cores.multigrid import (
    GridNormalization,
    MultigridConv,
    MultigridConvLSTM,
    UniformFanIn,
    check_positive,
    check_sizes,
)
from tfmem.recurrence import unroll
from tfmem.signatures import memory_signatures, state_specs

IMAGE_SIDE = 28


def level_sizes(base_size, first, count):
    """Sides of `count` levels from level `first` on: base_size * 2^level."""
    return tuple(base_size * 2**level for level in range(first, first + count))


def add_residual(pyramid, earlier):
    """`pyramid` plus `earlier` on the levels that both have; missing channels count as zeros (at the end)."""
    by_size = {grid.shape[-2]: grid for grid in earlier}
    out = []
    for grid in pyramid:
        other = by_size.get(grid.shape[-2])
        if other is not None:
            missing = grid.shape[-1] - other.shape[-1]
            if missing < 0:
                raise ValueError(
                    f"residuals: the earlier layer brings {other.shape[-1]} channels to the level of side "
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
    residuals = tuple((int(a), int(b)) for a, b in residuals)
    for a, b in residuals:
        if not 1 <= a < b <= num_layers:
            raise ValueError(f"{name}: was {residuals}, must be pairs 1 <= earlier < later <= {num_layers}")
    return residuals


def check_layers(names, *lists):
    lists = [tuple(check_positive(name, v) for v in values) for name, values in zip(names, lists, strict=True)]
    if len({len(values) for values in lists}) != 1:
        lengths = ", ".join(f"{n} has {len(v)}" for n, v in zip(names, lists, strict=True))
        raise ValueError(f"{names[0]}: one entry per layer is needed in each of {', '.join(names)}; {lengths}")
    return lists


class _Stack(keras.layers.Layer):
    """Layers with residuals and optional normalisation at every level."""

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
        """Normalises the output of layer `index` (from 0) and adds its residuals from `outputs`."""
        if index < len(self.norms):
            pyramid = tuple(norm(grid) for norm, grid in zip(self.norms[index], pyramid, strict=True))
        for a, b in self.residuals:
            if b == index + 1:
                pyramid = add_residual(pyramid, outputs[a - 1])
        return pyramid

    def _shapes(self, index):
        return [(None, None, size, size, self.filters[index]) for size in self.sizes[index]]

    def _build_norms(self, index):
        if index < len(self.norms):
            for norm, shape in zip(self.norms[index], self._shapes(index), strict=True):
                norm.build(shape)


class MultigridWriter(_Stack):
    """Stack of multigrid memory layers.

    Args:
      sizes: sides of the levels of every layer, e.g. ((3, 6), (3, 6), (3, 6, 12)).
      filters: channels of every layer.
      residuals: pairs (earlier, later) of layers counted from 1.
      normalization: None, "batch" or "sequence" (`GridNormalization`).
      peepholes, forget_bias: as in `ConvLSTM`.
      normalize_last: whether the last layer's grids are normalised as well; its state never is.
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
            input_shape = self._shapes(index)
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


class MultigridReader(_Stack):
    """Stack of multigrid convolutions that sees the writer's grids: after each layer and its residual, every level is
    concatenated with the writer's grid of the same layer and level.

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
            query = [(*s[:-1], s[-1] + m[-1]) for s, m in zip(self._shapes(index), memory, strict=True)]

    def call(self, query, memories):
        """Query pyramid [..., s, s, C] and the writer's pyramids (one per layer) to the last pyramid."""
        outputs = []
        for index, (layer, memory) in enumerate(zip(self.layers, memories, strict=True)):
            pyramid = self._finish(index, layer(query), outputs)
            query = tuple(tf.concat([r, m], axis=-1) for r, m in zip(pyramid, memory, strict=True))
            outputs.append(query)
        return query


class MultigridDecoder(_Stack):
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
            input_shape = self._shapes(index)
            self._build_norms(index)

    def call(self, pyramid):
        outputs = []
        for index, layer in enumerate(self.layers):
            pyramid = self._finish(index, layer(pyramid), outputs)
            outputs.append(pyramid)
        return pyramid


def model_signatures(model, step, sequence_from_state, step_inputs, sequence_inputs):
    """The four signatures of a model with memory from two functions `(state, **inputs) -> {name: nest}`."""
    state = state_specs(getattr(model, "cell", None), model.get_initial_state(1))
    return memory_signatures(step, sequence_from_state, model.get_initial_state, state, step_inputs, sequence_inputs)


def time_major(nest):
    return tf.nest.map_structure(lambda x: tf.transpose(x, [1, 0, *range(2, x.shape.rank)]), nest)


def fold_query(query, base_size):
    """A query patch [..., q, q, C] as a grid [..., base, base, (q/base)^2 C]: blocks of the patch become channels.

    How the 9x9 reader takes its query is unknown; this is our choice. 3x3 queries stay as they are.
    """
    size, channels = query.shape[-2:]
    block = size // base_size
    if block == 1:
        return query
    leading = tf.shape(query)[:-3]
    x = tf.reshape(query, [-1, base_size, block, base_size, block, channels])
    x = tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [-1, base_size, base_size, block * block * channels])
    y = tf.reshape(x, tf.concat([leading, x.shape[1:]], axis=0))
    y.set_shape([*query.shape[:-3], *x.shape[1:]])
    return y


@keras.saving.register_keras_serializable(package="tfmem")
class LocalizationModel(keras.Model):
    """Mapping and localisation: one writer, and a reader for each query size (supplement B.1, Figure 2).

    The defaults are the public code's network for 25x25 maps: 650,225 parameters, 76,968 memory cells, answers on the
    finest grid, 48x48.

    Args:
      writer_levels, writer_filters: number of levels (from the coarsest) and channels of every memory layer.
      reader_filters: channels of the reader's layers, whose levels are the writer's.
      decoder_levels, decoder_filters: number of levels (from the finest) and channels of the layers that follow.
      base_size: side of the coarsest grid. Default 3.
      query_sizes: sides of the query patches, multiples of `base_size`; one reader each. Default (3,); the paper
        also has (3, 9).
      writer_residuals, reader_residuals, decoder_residuals: pairs (earlier, later), counted from 1 in each part.
      view_channels: channels of observation and query. Default 4: free, wall, row, column.
      normalization: None (public code), "batch" or "sequence".
      peepholes, forget_bias: as in `ConvLSTM`.

    Call arguments: a dict of "observation" [B, T, base, base, view_channels] and "query_<size>"
    [B, T, size, size, view_channels]; optional `initial_state`. Returns a dict "logits_<size>" [B, T, S, S], S the
    side of the finest level; with `return_state=True`, (dict, state).

    Raises:
      ValueError: lists of unequal length, a size out of range, decoder levels that do not end at the finest.
    """

    def __init__(
        self,
        writer_levels=(2, 2, 3, 3, 4, 4, 5),
        writer_filters=(4, 4, 8, 8, 16, 16, 16),
        reader_filters=(4, 4, 8, 8, 16, 16, 16),
        decoder_levels=(4, 4, 3, 3, 2, 2, 1),
        decoder_filters=(16, 16, 16, 16, 16, 16, 1),
        base_size=3,
        query_sizes=(3,),
        writer_residuals=((1, 3), (3, 5), (5, 7)),
        reader_residuals=((1, 3), (3, 5)),
        decoder_residuals=((2, 4), (4, 6)),
        view_channels=4,
        normalization=None,
        peepholes=False,
        forget_bias=1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        writer_levels, writer_filters, reader_filters = check_layers(
            ("writer_levels", "writer_filters", "reader_filters"), writer_levels, writer_filters, reader_filters
        )
        decoder_levels, decoder_filters = check_layers(
            ("decoder_levels", "decoder_filters"), decoder_levels, decoder_filters
        )
        self.base_size = check_positive("base_size", base_size)
        self.query_sizes = tuple(check_positive("query_sizes", q) for q in query_sizes)
        if not self.query_sizes or any(q % self.base_size for q in self.query_sizes):
            raise ValueError(f"query_sizes: was {query_sizes!r}, must be multiples of base_size = {self.base_size}")
        if decoder_filters[-1] != 1 or decoder_levels[-1] != 1:
            raise ValueError(
                "decoder_filters: the last decoder layer must have 1 channel and 1 level, the map of logits; was "
                f"{decoder_filters[-1]} channels and {decoder_levels[-1]} levels"
            )
        self.view_channels = check_positive("view_channels", view_channels)
        self._config = dict(
            writer_levels=writer_levels,
            writer_filters=writer_filters,
            reader_filters=reader_filters,
            decoder_levels=decoder_levels,
            decoder_filters=decoder_filters,
            base_size=self.base_size,
            query_sizes=self.query_sizes,
            writer_residuals=check_residuals("writer_residuals", writer_residuals, len(writer_filters)),
            reader_residuals=check_residuals("reader_residuals", reader_residuals, len(reader_filters)),
            decoder_residuals=check_residuals("decoder_residuals", decoder_residuals, len(decoder_filters)),
            view_channels=self.view_channels,
            normalization=normalization,
            peepholes=peepholes,
            forget_bias=forget_bias,
        )
        finest = writer_levels[-1]
        self.map_size = base_size * 2 ** (finest - 1)
        sizes = [level_sizes(base_size, 0, n) for n in writer_levels]
        decoder_sizes = [level_sizes(base_size, finest - n, n) for n in decoder_levels]
        policy = self.dtype_policy
        self.writer = MultigridWriter(
            sizes,
            writer_filters,
            writer_residuals,
            normalization,
            peepholes,
            forget_bias,
            name="writer",
            dtype=policy,
        )
        self.readers = [
            MultigridReader(sizes, reader_filters, reader_residuals, normalization, name=f"reader_{q}", dtype=policy)
            for q in self.query_sizes
        ]
        self.decoders = [
            MultigridDecoder(
                decoder_sizes,
                decoder_filters,
                decoder_residuals,
                normalization,
                last_activation="linear",
                name=f"decoder_{q}",
                dtype=policy,
            )
            for q in self.query_sizes
        ]
        hand_on_trainable(self)

    def build(self, input_shape=None):
        base, channels = self.base_size, self.view_channels
        self.writer.build([(None, None, base, base, channels)])
        memories = [self.writer._shapes(i) for i in range(len(self.writer.layers))]
        for q, reader, decoder in zip(self.query_sizes, self.readers, self.decoders, strict=True):
            folded = [(None, None, base, base, (q // base) ** 2 * channels)]
            reader.build([folded, *memories])
            last = [
                (*s[:-1], s[-1] + m[-1])
                for s, m in zip(reader._shapes(len(reader.layers) - 1), memories[-1], strict=True)
            ]
            decoder.build(last)
        self.built = True

    def get_initial_state(self, batch_size):
        """Zeros for every layer and level: a tuple (layers) of tuples (levels) of `ConvLSTMState`."""
        return self.writer.get_initial_state(batch_size)

    def write(self, observation, state, sequence_length=None):
        """Observations [T, B, base, base, C] into memory: (the writer's pyramids, one per layer; final state)."""
        return self.writer((observation,), state, sequence_length=sequence_length)

    def read(self, size, query, memories):
        """Logits [..., S, S] for queries [..., size, size, C] against the writer's pyramids."""
        index = self.query_sizes.index(size)
        pyramid = self.readers[index]((fold_query(query, self.base_size),), memories)
        (logits,) = self.decoders[index](pyramid)
        return logits[..., 0]

    def run(self, inputs, state, sequence_length=None):
        """`call`, time-major: inputs [T, B, ...] and state to (dict of logits [T, B, S, S], state)."""
        memories, state = self.write(inputs["observation"], state, sequence_length)
        logits = {f"logits_{q}": self.read(q, inputs[f"query_{q}"], memories) for q in self.query_sizes}
        return logits, state

    def call(self, inputs, initial_state=None, return_state=False):
        if initial_state is None:
            initial_state = self.get_initial_state(tf.shape(inputs["observation"])[0])
        logits, state = self.run(time_major(inputs), initial_state)
        logits = time_major(logits)
        return (logits, state) if return_state else logits

    def export_functions(self):
        """Signatures of `tfmem.export.saved_model`: `step`, `sequence`, `sequence_from_state`, `initial_state`."""
        patches = {"observation": self.base_size, **{f"query_{q}": q for q in self.query_sizes}}

        def specs(*leading):
            return {n: tf.TensorSpec([*leading, s, s, self.view_channels]) for n, s in patches.items()}

        def step(state, **patches):
            inputs = {name: patch[None] for name, patch in patches.items()}
            logits, state = self.run(inputs, state)
            return {**{name: x[0] for name, x in logits.items()}, "state": state}

        def sequence_from_state(state, **patches):
            logits, state = self(patches, initial_state=state, return_state=True)
            return {**logits, "state": state}

        return model_signatures(self, step, sequence_from_state, specs(None), specs(None, None))

    def get_config(self):
        return {**super().get_config(), **self._config}


class _ItemModel(keras.Model):
    """What recall and sorting share: items as pyramids, a writer, and an answer from the coarsest grid."""

    item_name, items_name = "item", "items"  # of the signatures' inputs

    def _add_layers(self, config):
        """`config` holds the arguments that `RecallModel` and `SortModel` have in common; checks and keeps them."""
        writer_levels, writer_filters = check_layers(
            ("writer_levels", "writer_filters"), config["writer_levels"], config["writer_filters"]
        )
        decoder_levels, decoder_filters = check_layers(
            ("decoder_levels", "decoder_filters"), config["decoder_levels"], config["decoder_filters"]
        )
        base_size = check_positive("base_size", config["base_size"])
        finest = writer_levels[-1]
        if max(decoder_levels) > finest or decoder_levels[-1] != 1:
            raise ValueError(f"decoder_levels: was {decoder_levels}, must be at most {finest} levels and end with 1")
        item_shape = tuple(check_positive("item_shape", n) for n in config["item_shape"])
        input_levels = check_positive("input_levels", config["input_levels"])
        if len(item_shape) != 3 or item_shape[0] != item_shape[1]:
            raise ValueError(f"item_shape: was {item_shape}, must be (side, side, channels)")
        num_classes = config["num_classes"]
        if num_classes is None and decoder_filters[-1] != 1:
            raise ValueError(
                "decoder_filters: the last decoder layer must have 1 channel, the item's logits, where num_classes is "
                f"None; was {decoder_filters[-1]}"
            )
        self._config = dict(
            config,
            writer_levels=writer_levels,
            writer_filters=writer_filters,
            decoder_levels=decoder_levels,
            decoder_filters=decoder_filters,
            base_size=base_size,
            item_shape=item_shape,
            input_levels=input_levels,
            num_classes=None if num_classes is None else check_positive("num_classes", num_classes),
            writer_residuals=check_residuals("writer_residuals", config["writer_residuals"], len(writer_filters)),
            decoder_residuals=check_residuals("decoder_residuals", config["decoder_residuals"], len(decoder_filters)),
        )
        self.item_shape = item_shape
        self.sizes = level_sizes(base_size, 0, input_levels)
        self.writer_sizes = [level_sizes(base_size, 0, n) for n in writer_levels]
        self.decoder_sizes = [level_sizes(base_size, 0, n) for n in decoder_levels]

    def _writer(self, name, normalize_last=True):
        config = self._config
        return MultigridWriter(
            self.writer_sizes,
            config["writer_filters"],
            config["writer_residuals"],
            config["normalization"],
            config["peepholes"],
            config["forget_bias"],
            normalize_last,
            name=name,
            dtype=self.dtype_policy,
        )

    def _add_answer(self):
        """The decoder, and behind it the classifier where there are classes."""
        config = self._config
        num_classes, fan_in = config["num_classes"], self.sizes[0] ** 2 * config["decoder_filters"][-1]
        self.decoder = MultigridDecoder(
            self.decoder_sizes,
            config["decoder_filters"],
            config["decoder_residuals"],
            config["normalization"],
            last_activation="linear" if num_classes is None else "relu",
            name="decoder",
            dtype=self.dtype_policy,
        )
        self.classifier = num_classes and keras.layers.Dense(
            num_classes,
            kernel_initializer=UniformFanIn(),
            bias_initializer=UniformFanIn(fan_in),
            name="classifier",
            dtype=self.dtype_policy,
        )
        hand_on_trainable(self)

    def _build_answer(self, last):
        self.decoder.build(last)
        if self.classifier:
            self.classifier.build((None, self.sizes[0] ** 2 * self.decoder.filters[-1]))
        self.built = True

    def answer(self, pyramid):
        """Logits [..., classes] or, without classes, [..., base^2] from the last pyramid [..., s, s, C]."""
        (grid,) = self.decoder(pyramid)
        leading, size = tf.shape(grid)[:-3], self.sizes[0] ** 2 * self.decoder.filters[-1]
        flat = tf.reshape(grid, tf.concat([leading, [size]], 0))
        flat.set_shape([*grid.shape[:-3], size])
        return self.classifier(flat) if self.classifier else flat

    def get_initial_state(self, batch_size):
        """Zeros for every layer and level: a tuple (layers) of tuples (levels) of `ConvLSTMState`."""
        return self.writer.get_initial_state(batch_size)

    @property
    def memory_cells(self):
        """Numbers in the memory: cells of all layers and levels."""
        layers = zip(self.writer.sizes, self.writer.filters, strict=True)
        return sum(sum(s * s for s in sizes) * f for sizes, f in layers)

    def pyramid(self, items):
        """Items [..., side, side, C] to grids of `sizes`."""
        return tuple(tf.cast(nearest_neighbour(items, size), self.compute_dtype) for size in self.sizes)

    def write(self, items, state, sequence_length=None):
        """Items [T, B, side, side, C] into memory: (the writer's pyramids, one per layer; final state)."""
        return self.writer(self.pyramid(items), state, sequence_length=sequence_length)

    def get_config(self):
        return {**super().get_config(), **self._config}


@keras.saving.register_keras_serializable(package="tfmem")
class RecallModel(_ItemModel):
    """Associative recall (supplement B.2.1): a writer sees items, a reader one of them again; which item followed it?

    Args:
      writer_levels, writer_filters: number of levels (from the coarsest) and channels of every memory layer.
      reader_filters: channels of the reader's layers, whose levels are the writer's.
      decoder_levels, decoder_filters: number of levels (from the coarsest) and channels of the layers that follow; the
        last has one level.
      base_size: side of the coarsest grid. Default 3.
      item_shape: (side, side, channels) of an item. Default (3, 3, 1).
      input_levels: number of levels (from the coarsest) that an item is resized to. Default 1.
      num_classes: answers are classes, by a linear map of the last grid; None (the default): they are items, whose
        logits are the last grid, with 1 channel and no ReLU.
      writer_residuals, reader_residuals, decoder_residuals: pairs (earlier, later), counted from 1 in each part.
      normalization: "batch" (statistics of the data at hand, in training and inference), "sequence" or None.
      peepholes, forget_bias: as in `ConvLSTM`.

    Call arguments: a dict of "items" [B, T, *item_shape] and "query" [B, *item_shape]; optional `initial_state`.
    Returns logits [B, num_classes] or [B, base_size^2]; with `return_state=True`, (logits, state).

    Raises:
      ValueError: lists of unequal length, a size out of range, decoder levels that do not end at the coarsest.
    """

    def __init__(
        self,
        writer_levels=(2, 2, 3, 3, 4),
        writer_filters=(4, 4, 6, 6, 7),
        reader_filters=(4, 4, 8, 8, 14),
        decoder_levels=(4, 3, 3, 2, 1),
        decoder_filters=(12, 12, 12, 12, 1),
        base_size=3,
        item_shape=(3, 3, 1),
        input_levels=1,
        num_classes=None,
        writer_residuals=((1, 3), (3, 5)),
        reader_residuals=((1, 3), (3, 5)),
        decoder_residuals=((2, 4),),
        normalization=None,
        peepholes=False,
        forget_bias=1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        writer_filters, reader_filters = check_layers(
            ("writer_filters", "reader_filters"), writer_filters, reader_filters
        )
        self._add_layers(
            dict(
                writer_levels=writer_levels,
                writer_filters=writer_filters,
                reader_filters=reader_filters,
                decoder_levels=decoder_levels,
                decoder_filters=decoder_filters,
                base_size=base_size,
                item_shape=item_shape,
                input_levels=input_levels,
                num_classes=num_classes,
                writer_residuals=writer_residuals,
                reader_residuals=check_residuals("reader_residuals", reader_residuals, len(reader_filters)),
                decoder_residuals=decoder_residuals,
                normalization=normalization,
                peepholes=peepholes,
                forget_bias=forget_bias,
            )
        )
        self.writer = self._writer("writer")
        self.reader = MultigridReader(
            self.writer_sizes, reader_filters, reader_residuals, normalization, name="reader", dtype=self.dtype_policy
        )
        self._add_answer()

    def build(self, input_shape=None):
        pyramid = [(None, None, s, s, self.item_shape[-1]) for s in self.sizes]
        self.writer.build(pyramid)
        memories = [self.writer._shapes(i) for i in range(len(self.writer.layers))]
        self.reader.build([pyramid, *memories])
        last = zip(self.reader._shapes(len(self.reader.layers) - 1), memories[-1], strict=True)
        self._build_answer([(*s[:-1], s[-1] + m[-1]) for s, m in last])

    def read(self, query, memories):
        """Logits [B, K] for query items [B, side, side, C] against the memory after the last step."""
        last = [tuple(grid[-1:] for grid in pyramid) for pyramid in memories]
        return self.answer(self.reader(self.pyramid(query[None]), last))[0]

    def run(self, inputs, state, sequence_length=None):
        """`call`, time-major: items [T, B, ...], query [B, ...] and state to (logits [B, K], state)."""
        memories, state = self.write(inputs[self.items_name], state, sequence_length)
        return self.read(inputs["query"], memories), state

    def call(self, inputs, initial_state=None, return_state=False):
        items = inputs[self.items_name]
        if initial_state is None:
            initial_state = self.get_initial_state(tf.shape(items)[0])
        logits, state = self.run({self.items_name: time_major(items), "query": inputs["query"]}, initial_state)
        return (logits, state) if return_state else logits

    def export_functions(self):
        """Signatures of `tfmem.export.saved_model`: `step`, `sequence`, `sequence_from_state`, `initial_state`.

        Each answers the query from the memory after its last item. With normalisation by the data at hand, a step
        normalises over that step alone, a sequence over all of its steps, as the public code does.
        """

        def step(state, query, **item):
            logits, state = self.run({self.items_name: item[self.item_name][None], "query": query}, state)
            return {"logits": logits, "state": state}

        def sequence_from_state(state, **inputs):
            logits, state = self(inputs, initial_state=state, return_state=True)
            return {"logits": logits, "state": state}

        query = tf.TensorSpec([None, *self.item_shape])
        return model_signatures(
            self,
            step,
            sequence_from_state,
            {self.item_name: query, "query": query},
            {self.items_name: tf.TensorSpec([None, None, *self.item_shape]), "query": query},
        )


@keras.saving.register_keras_serializable(package="tfmem")
class MNISTRecallModel(RecallModel):
    """MNIST associative recall and classification (supplement B.2): which digit followed the queried image?

    The defaults are the public code's network: 211,408 parameters, 7,560 memory cells. Images are resized to
    3x3, 6x6 and 12x12 by nearest neighbour and stay in 0..255.

    Args:
      writer_filters: channels of the memory layers, all with the three levels. Default (4, 4, 8, 8, 16).
      reader_filters: channels of the reader's layers.
      decoder_levels, decoder_filters: number of levels (from the coarsest) and channels of the layers that follow.
      sizes: sides of the pyramid. Default (3, 6, 12).
      num_classes: default 10.
      writer_residuals, reader_residuals, decoder_residuals: pairs (earlier, later), counted from 1 in each part.
      normalization: "batch" (public code: statistics of the data at hand, in training and inference), "sequence" or
        None.
      peepholes, forget_bias: as in `ConvLSTM`.

    Call arguments: a dict of "images" [B, T, 28, 28, 1] (0..255) and "query" [B, 28, 28, 1]; optional
    `initial_state`. Returns logits [B, num_classes]; with `return_state=True`, (logits, state).
    """

    item_name, items_name = "image", "images"

    def __init__(
        self,
        writer_filters=(4, 4, 8, 8, 16),
        reader_filters=(4, 4, 8, 8, 16),
        decoder_levels=(3, 3, 2, 2, 1),
        decoder_filters=(16, 16, 16, 16, 10),
        sizes=(3, 6, 12),
        num_classes=10,
        writer_residuals=((1, 3), (3, 5)),
        reader_residuals=((1, 3), (3, 5)),
        decoder_residuals=((2, 4),),
        normalization="batch",
        peepholes=False,
        forget_bias=1.0,
        **kwargs,
    ):
        sizes = check_sizes(sizes)
        common = dict(
            writer_filters=tuple(writer_filters),
            reader_filters=tuple(reader_filters),
            decoder_levels=tuple(decoder_levels),
            decoder_filters=tuple(decoder_filters),
            num_classes=check_positive("num_classes", num_classes),
            writer_residuals=tuple(writer_residuals),
            reader_residuals=tuple(reader_residuals),
            decoder_residuals=tuple(decoder_residuals),
            normalization=normalization,
            peepholes=peepholes,
            forget_bias=forget_bias,
        )
        super().__init__(
            writer_levels=[len(sizes)] * len(common["writer_filters"]),
            base_size=sizes[0],
            item_shape=(IMAGE_SIDE, IMAGE_SIDE, 1),
            input_levels=len(sizes),
            **common,
            **kwargs,
        )
        self._config = dict(common, sizes=sizes)


@keras.saving.register_keras_serializable(package="tfmem")
class SortModel(_ItemModel):
    """Priority sort (supplement B.2.1): an encoder of memory layers sees items, a decoder tells them in order.

    The decoder's first half has layers like the encoder's, which start from what the encoder's hold; its second half
    are multigrid convolutions down to the coarsest grid. What goes into the decoder, and how the memory is handed
    over, is unknown; ours: every step a grid of ones says that an answer is asked for, and each layer and level starts
    from cell and hidden grid of the encoder's.

    Args:
      writer_levels, writer_filters: number of levels (from the coarsest) and channels of every memory layer, of the
        encoder and of the decoder's first half.
      decoder_levels, decoder_filters: the same of the decoder's second half; the last has one level.
      base_size, item_shape, input_levels, num_classes, normalization, peepholes, forget_bias: as in `RecallModel`.
        Default item_shape: (3, 3, 2), with the priority in all cells of the second channel.
      writer_residuals, decoder_residuals: pairs (earlier, later), counted from 1: the first in the encoder and in the
        decoder's first half, the second in its second half.

    Call arguments: items [B, T, *item_shape]; `num_outputs`, how many answers are asked for, default T; optional
    `initial_state` of the encoder. Returns logits [B, num_outputs, num_classes] or [B, num_outputs, base_size^2]; with
    `return_state=True`, (logits, state of the decoder).

    Raises:
      ValueError: lists of unequal length, a size out of range, decoder levels that do not end at the coarsest.
    """

    def __init__(
        self,
        writer_levels=(2, 2, 3, 3, 4),
        writer_filters=(4, 4, 6, 6, 7),
        decoder_levels=(4, 3, 3, 2, 1),
        decoder_filters=(12, 12, 12, 12, 1),
        base_size=3,
        item_shape=(3, 3, 2),
        input_levels=1,
        num_classes=None,
        writer_residuals=((1, 3), (3, 5)),
        decoder_residuals=((2, 4),),
        normalization=None,
        peepholes=False,
        forget_bias=1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._add_layers(
            dict(
                writer_levels=writer_levels,
                writer_filters=writer_filters,
                decoder_levels=decoder_levels,
                decoder_filters=decoder_filters,
                base_size=base_size,
                item_shape=item_shape,
                input_levels=input_levels,
                num_classes=num_classes,
                writer_residuals=writer_residuals,
                decoder_residuals=decoder_residuals,
                normalization=normalization,
                peepholes=peepholes,
                forget_bias=forget_bias,
            )
        )
        self.writer = self._writer("encoder", normalize_last=False)  # its state goes on, not its grids
        self.teller = self._writer("teller")
        self._add_answer()

    def build(self, input_shape=None):
        for writer, channels in ((self.writer, self.item_shape[-1]), (self.teller, 1)):
            writer.build([(None, None, s, s, channels) for s in self.sizes])
        self._build_answer(self.teller._shapes(len(self.teller.layers) - 1))

    def tell(self, state, num_outputs):
        """`num_outputs` answers from the memory: (logits [num_outputs, B, K], the decoder's pyramids, its state)."""
        leading = [num_outputs, tf.shape(tf.nest.flatten(state)[0])[0]]
        ones = tuple(tf.ones([*leading, s, s, 1], self.compute_dtype) for s in self.sizes)
        memories, state = self.teller(ones, state)
        return self.answer(memories[-1]), memories, state

    def run(self, items, num_outputs, state=None):
        """`call`, time-major: items [T, B, ...] to (logits [num_outputs, B, K], state)."""
        if state is None:
            state = self.get_initial_state(items.shape[1] or tf.shape(items)[1])
        _, state = self.write(items, state)
        logits, _, state = self.tell(state, num_outputs)
        return logits, state

    def call(self, items, num_outputs=None, initial_state=None, return_state=False):
        items = time_major(tf.convert_to_tensor(items))
        if num_outputs is None:
            num_outputs = items.shape[0] or tf.shape(items)[0]
        logits, state = self.run(items, num_outputs, initial_state)
        return (time_major(logits), state) if return_state else time_major(logits)

    def export_functions(self):
        """Signatures of `tfmem.export.saved_model`.

        `step` puts one item into the memory, `answer` takes one answer from it and goes on to the next; `sequence` sees
        `items` and gives `num_outputs` answers. With normalisation by the data at hand, a step normalises over itself.
        """
        state = tf.nest.map_structure(lambda s: tf.TensorSpec([None, *s.shape[1:]], s.dtype), self.get_initial_state(1))

        def step(item, state):
            return {"state": self.write(item[None], state)[1]}

        def answer(state):
            logits, _, state = self.tell(state, 1)
            return {"logits": logits[0], "state": state}

        def sequence(items, num_outputs):
            return {"logits": self(items, num_outputs=num_outputs)}

        def initial_state(batch_size):
            return {"state": self.get_initial_state(batch_size)}

        scalar, item = tf.TensorSpec([], tf.int32), tf.TensorSpec([None, *self.item_shape])
        items = tf.TensorSpec([None, None, *self.item_shape])
        return {
            "step": (step, {"item": item, "state": state}),
            "answer": (answer, {"state": state}),
            "sequence": (sequence, {"items": items, "num_outputs": scalar}),
            "initial_state": (initial_state, {"batch_size": scalar}),
        }
