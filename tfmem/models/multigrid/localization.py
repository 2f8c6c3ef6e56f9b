"""Mapping and localization: the network of the public code (github.com/trihuynh88/multigrid_mem)."""

import tensorflow as tf

from tfmem.backend import hand_on_trainable, keras
from tfmem.models.multigrid.stacks import (
    MultigridDecoder,
    MultigridReader,
    MultigridWriter,
    check_layers,
    check_residuals,
    level_sizes,
    nearest_neighbour,
)
from tfmem.recurrence import swap_batch_and_time
from tfmem.signatures import mapped_signatures
from tfmem.validation import positive_int, positive_ints


def fold_query(query, base_size):
    """A query patch [..., q, q, C] as a grid [..., base, base, (q/base)^2 C]: blocks of the patch become channels.

    The input of the 9x9 reader is not specified; we use this. 3x3 queries stay as they are. A patch smaller than the
    grid is enlarged to it (nearest neighbour).
    """
    size, channels = query.shape[-2:]
    block = size // base_size
    if block <= 1:
        return nearest_neighbour(query, base_size)
    leading = tf.shape(query)[:-3]
    x = tf.reshape(query, [-1, base_size, block, base_size, block, channels])
    x = tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [-1, base_size, base_size, block * block * channels])
    y = tf.reshape(x, tf.concat([leading, x.shape[1:]], axis=0))
    y.set_shape([*query.shape[:-3], *x.shape[1:]])
    return y


@keras.saving.register_keras_serializable(package="tfmem")
class LocalizationModel(keras.Model):
    """Mapping and localization: one writer, and a reader for each query size (supplement B.1, Figure 2).

    The defaults are the public code's network for 25x25 maps: 650,225 parameters, 76,968 memory cells, logits on the
    finest grid, 48x48.

    Args:
      writer_levels, writer_filters: number of levels (from the coarsest) and channels of every memory layer.
      reader_filters: channels of the reader's layers, whose levels are the writer's.
      decoder_levels, decoder_filters: number of levels (from the finest) and channels of the layers that follow.
      base_size: side of the coarsest grid. Default 3.
      view_size: side of the observation, a divisor of `base_size`; a smaller view is enlarged to the coarsest grid
        (nearest neighbour). Default None: `base_size`. With levels of 1 throughout, layers at the scale of the answer
        alone: a stack of ConvLSTMs.
      query_sizes: sides of the query patches, multiples or divisors of `base_size`; one reader each. Default (3,); the
        paper also has (3, 9).
      writer_residuals, reader_residuals, decoder_residuals: pairs (earlier, later), counted from 1 in each part.
      view_channels: channels of observation and query. Default 4: free, wall, row, column.
      normalization: None (public code), "batch" or "sequence".
      peepholes, forget_bias: as in `ConvLSTM`.

    Call arguments: a dict of "observation" [B, T, view_size, view_size, view_channels] and "query_<size>"
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
        view_size=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        writer_levels, writer_filters, reader_filters = check_layers(
            ("writer_levels", "writer_filters", "reader_filters"), writer_levels, writer_filters, reader_filters
        )
        decoder_levels, decoder_filters = check_layers(
            ("decoder_levels", "decoder_filters"), decoder_levels, decoder_filters
        )
        self.base_size = positive_int("base_size", base_size)
        self.query_sizes = positive_ints("query_sizes", query_sizes)
        self.view_size = self.base_size if view_size is None else positive_int("view_size", view_size)
        if self.base_size % self.view_size:
            raise ValueError(f"view_size: {view_size}, must divide base_size = {self.base_size}")
        if not self.query_sizes or any(q % self.base_size and self.base_size % q for q in self.query_sizes):
            raise ValueError(
                f"query_sizes: {query_sizes!r}, must be multiples or divisors of base_size = {self.base_size}"
            )
        if decoder_filters[-1] != 1 or decoder_levels[-1] != 1:
            raise ValueError(
                f"decoder_filters: {decoder_filters} with decoder_levels {decoder_levels}, must both end with 1: "
                "the last decoder layer is the map of logits"
            )
        self.view_channels = positive_int("view_channels", view_channels)
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
            view_size=self.view_size,
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
        memories = [self.writer.output_shapes(i) for i in range(len(self.writer.layers))]
        for q, reader, decoder in zip(self.query_sizes, self.readers, self.decoders, strict=True):
            folded = [(None, None, base, base, max(1, q // base) ** 2 * channels)]
            reader.build([folded, *memories])
            last = [
                (*s[:-1], s[-1] + m[-1])
                for s, m in zip(reader.output_shapes(len(reader.layers) - 1), memories[-1], strict=True)
            ]
            decoder.build(last)
        self.built = True

    def get_initial_state(self, batch_size):
        """Zeros for every layer and level: a tuple (layers) of tuples (levels) of `ConvLSTMState`."""
        return self.writer.get_initial_state(batch_size)

    def write(self, observation, state, sequence_length=None):
        """Observations [T, B, view_size, view_size, C] into memory: (the writer's pyramids by layer; final state)."""
        return self.writer((nearest_neighbour(observation, self.base_size),), state, sequence_length=sequence_length)

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
        logits, state = self.run(swap_batch_and_time(inputs), initial_state)
        logits = swap_batch_and_time(logits)
        return (logits, state) if return_state else logits

    def export_functions(self):
        """Signatures of `tfmem.export.saved_model`: `step`, `sequence`, `sequence_from_state`, `initial_state`."""
        patches = {"observation": self.view_size, **{f"query_{q}": q for q in self.query_sizes}}

        def specs(*leading):
            return {n: tf.TensorSpec([*leading, s, s, self.view_channels]) for n, s in patches.items()}

        return mapped_signatures(self, specs)

    def get_config(self):
        return {**super().get_config(), **self._config}
