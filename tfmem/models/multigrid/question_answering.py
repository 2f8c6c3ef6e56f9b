"""Question answering with multigrid memory (Huynh et al. 2020, supplement B.3): words in, words out, on 1-D grids."""

import tensorflow as tf

from tfmem.backend import hand_on_trainable, keras
from tfmem.cores.multigrid import GridNormalization, MultigridConv, MultigridConvLSTM
from tfmem.models.multigrid.stacks import add_residual, check_layers, check_residuals
from tfmem.models.sequence import SequenceOutput
from tfmem.recurrence import swap_batch_and_time, unroll
from tfmem.signatures import model_signatures
from tfmem.validation import positive_int


@keras.saving.register_keras_serializable(package="tfmem")
class QuestionAnsweringModel(keras.Model):
    """Memory layers whose grids grow from 1x1 to 1x16, then multigrid convolutions back to 1x1, at every word.

    Level n has side 2^(n-1). Words enter one-hot on the coarsest grid; the last layer's channels are the logits.
    Numbers of layers and channels are not specified; we use the defaults below.

    Args:
      vocabulary_size: number of words; the paper's is 159.
      writer_levels, writer_filters: number of levels (from the coarsest) and channels of every memory layer.
      decoder_levels, decoder_filters: the same of the convolutions that follow. A last 1x1 convolution with
        `vocabulary_size` channels and no activation is added.
      writer_residuals, decoder_residuals: pairs (earlier, later) of layers, counted from 1 in each part.
      normalization: "sequence" (the paper: over the steps and places of a sequence), "batch" or None, after each layer
        but the last.
      peepholes, forget_bias: as in `tfmem.cores.ConvLSTM`.

    Call arguments: one-hot words [B, T, vocabulary_size]; `initial_state`, by default zeros. Returns logits [B, T,
    vocabulary_size]; with `return_state=True`, (logits, state). In a single step the statistics are
    those of that step.

    Raises:
      ValueError: lists of unequal length, or a number out of range.
    """

    def __init__(
        self,
        vocabulary_size,
        writer_levels=(1, 2, 3, 4, 5),
        writer_filters=(64, 64, 64, 64, 64),
        decoder_levels=(4, 3, 2),
        decoder_filters=(64, 64, 64),
        writer_residuals=((1, 3), (3, 5)),
        decoder_residuals=(),
        normalization="sequence",
        peepholes=False,
        forget_bias=1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        writer_levels, writer_filters = check_layers(("writer_levels", "writer_filters"), writer_levels, writer_filters)
        decoder_levels, decoder_filters = check_layers(
            ("decoder_levels", "decoder_filters"), decoder_levels, decoder_filters
        )
        self._config = dict(
            vocabulary_size=positive_int("vocabulary_size", vocabulary_size),
            writer_levels=writer_levels,
            writer_filters=writer_filters,
            decoder_levels=decoder_levels,
            decoder_filters=decoder_filters,
            writer_residuals=check_residuals("writer_residuals", writer_residuals, len(writer_filters)),
            decoder_residuals=check_residuals("decoder_residuals", decoder_residuals, len(decoder_filters)),
            normalization=normalization,
            peepholes=peepholes,
            forget_bias=forget_bias,
        )
        self.vocabulary_size = vocabulary_size
        sizes = [tuple(2**level for level in range(count)) for count in (*writer_levels, *decoder_levels)]
        writer_sizes, decoder_sizes = sizes[: len(writer_levels)], sizes[len(writer_levels) :]
        policy = self.dtype_policy
        self.writer = [
            MultigridConvLSTM(
                s, f, rank=1, peepholes=peepholes, forget_bias=forget_bias, name=f"writer_{i}", dtype=policy
            )
            for i, (s, f) in enumerate(zip(writer_sizes, writer_filters, strict=True), start=1)
        ]
        self.decoder = [
            MultigridConv(s, f, rank=1, name=f"decoder_{i}", dtype=policy)
            for i, (s, f) in enumerate(zip(decoder_sizes, decoder_filters, strict=True), start=1)
        ]
        self.answer = MultigridConv((1,), vocabulary_size, rank=1, activation="linear", name="answer", dtype=policy)
        self.norms = [
            [GridNormalization(normalization, name=f"norm_{i}_{size}", dtype=policy) for size in layer_sizes]
            for i, layer_sizes in enumerate(sizes, start=1)
            if normalization
        ]
        hand_on_trainable(self)

    def build(self, input_shape=None):
        shapes = [(None, 1, self.vocabulary_size)]
        for index, layer in enumerate([*self.writer, *self.decoder]):
            layer.build(tuple(shapes))
            shapes = [(None, size, layer.filters) for size in layer.sizes]
            for norm, shape in zip(self.norms[index] if self.norms else [], shapes, strict=False):
                norm.build((None, *shape))
        self.answer.build(shapes)
        self.built = True

    def get_initial_state(self, batch_size):
        """Zeros for every memory layer and level: a tuple (layers) of tuples (levels) of `ConvLSTMState`."""
        return tuple(layer.get_initial_state(batch_size) for layer in self.writer)

    @property
    def memory_cells(self):
        """Numbers in the memory: cells of all layers and levels."""
        return sum(sum(layer.sizes) * layer.filters for layer in self.writer)

    def _finish(self, number, pyramid, outputs, residuals, valid):
        """Normalize the output of layer `number` (from 1 over both parts) and add its residuals."""
        if self.norms:
            pyramid = tuple(norm(g, valid=valid) for norm, g in zip(self.norms[number - 1], pyramid, strict=True))
        for earlier, later in residuals:
            if later == len(outputs) + 1:
                pyramid = add_residual(pyramid, outputs[earlier - 1])
        return pyramid

    def run(self, inputs, state=None, lengths=None):
        """Time-major: one-hot words [T, B, V] to a `SequenceOutput` with logits [T, B, V].

        Steps after `lengths` [B] take no part in the normalization.
        """
        inputs = tf.cast(inputs, self.compute_dtype)
        if state is None:
            state = self.get_initial_state(inputs.shape[1] or tf.shape(inputs)[1])
        valid = None if lengths is None else tf.range(tf.shape(inputs)[0])[:, tf.newaxis] < tf.cast(lengths, tf.int32)
        pyramid, states, outputs = (inputs[:, :, tf.newaxis],), [], []
        for number, (layer, layer_state) in enumerate(zip(self.writer, state, strict=True), start=1):
            pyramid, layer_state = unroll(layer, pyramid, layer_state)
            pyramid = self._finish(number, pyramid, outputs, self._config["writer_residuals"], valid)
            outputs.append(pyramid)
            states.append(layer_state)
        memory, outputs = pyramid, []
        for number, layer in enumerate(self.decoder, start=len(self.writer) + 1):
            pyramid = self._finish(number, layer(pyramid), outputs, self._config["decoder_residuals"], valid)
            outputs.append(pyramid)
        (logits,) = self.answer(pyramid)
        return SequenceOutput(tf.cast(logits[:, :, 0], tf.float32), memory, tuple(states))

    def call(self, inputs, initial_state=None, return_state=False):
        logits, _, state = self.run(swap_batch_and_time(tf.convert_to_tensor(inputs)), initial_state)
        return (swap_batch_and_time(logits), state) if return_state else swap_batch_and_time(logits)

    def export_functions(self):
        """Signatures of `tfmem.export.saved_model`: `step`, `sequence`, `sequence_from_state`, `initial_state`."""

        def step(state, inputs):
            logits, _, state = self.run(inputs[tf.newaxis], state)
            return {"logits": logits[0], "state": state}

        def sequence_from_state(state, inputs):
            logits, state = self(inputs, initial_state=state, return_state=True)
            return {"logits": logits, "state": state}

        inputs, sequences = ({"inputs": tf.TensorSpec([*[None] * n, self.vocabulary_size])} for n in (1, 2))
        return model_signatures(self, step, sequence_from_state, inputs, sequences)

    def get_config(self):
        return {**super().get_config(), **self._config}
