"""Priority sort: the network that supplement B.2 describes."""

import tensorflow as tf

from tfmem.backend import keras
from tfmem.models.multigrid.items import ItemModel
from tfmem.recurrence import swap_batch_and_time


@keras.saving.register_keras_serializable(package="tfmem")
class SortModel(ItemModel):
    """Priority sort (supplement B.2.1): an encoder of memory layers reads items, a decoder outputs them in order.

    The decoder's first half has layers like the encoder's and starts from their states. Its second half is multigrid
    convolutions down to the coarsest grid.

    The decoder's input is not specified; we use a grid of ones at every step. The transfer of the memory is not
    specified; we start each layer and level from the encoder's cell and hidden grid.

    Args:
      writer_levels, writer_filters: number of levels (from the coarsest) and channels of every memory layer, of the
        encoder and of the decoder's first half.
      decoder_levels, decoder_filters: the same of the decoder's second half; the last has one level.
      base_size, item_shape, input_levels, num_classes, normalization, peepholes, forget_bias: as in `RecallModel`.
        Default item_shape: (3, 3, 2), with the priority in all cells of the second channel.
      writer_residuals, decoder_residuals: pairs (earlier, later), counted from 1: the first in the encoder and in the
        decoder's first half, the second in its second half.

    Call arguments: items [B, T, *item_shape]; `num_outputs`, number of answers, default T; optional
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
        self.configure(
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
        self.writer = self.make_writer("encoder", normalize_last=False)  # the decoder gets its state, not its grids
        self.teller = self.make_writer("teller")  # the name in saved files
        self.add_answer()

    def build(self, input_shape=None):
        for writer, channels in ((self.writer, self.item_shape[-1]), (self.teller, 1)):
            writer.build([(None, None, s, s, channels) for s in self.sizes])
        self.build_answer(self.teller.output_shapes(len(self.teller.layers) - 1))

    def decode(self, state, num_outputs):
        """Outputs from the memory: (logits [num_outputs, B, K], the decoder's pyramids, its state)."""
        leading = [num_outputs, tf.shape(tf.nest.flatten(state)[0])[0]]
        ones = tuple(tf.ones([*leading, s, s, 1], self.compute_dtype) for s in self.sizes)
        memories, state = self.teller(ones, state)
        return self.answer(memories[-1]), memories, state

    def run(self, items, num_outputs, state=None):
        """`call`, time-major: items [T, B, ...] to (logits [num_outputs, B, K], state)."""
        if state is None:
            state = self.get_initial_state(items.shape[1] or tf.shape(items)[1])
        _, state = self.write(items, state)
        logits, _, state = self.decode(state, num_outputs)
        return logits, state

    def call(self, items, num_outputs=None, initial_state=None, return_state=False):
        items = swap_batch_and_time(tf.convert_to_tensor(items))
        if num_outputs is None:
            num_outputs = items.shape[0] or tf.shape(items)[0]
        logits, state = self.run(items, num_outputs, initial_state)
        return (swap_batch_and_time(logits), state) if return_state else swap_batch_and_time(logits)

    def export_functions(self):
        """Signatures of `tfmem.export.saved_model`.

        `step` writes one item into the memory, `answer` outputs one item of the order and the state for the next.
        `sequence` reads `items` and outputs `num_outputs` answers. With `normalization`, a step uses the statistics of
        that step alone.
        """
        state = tf.nest.map_structure(lambda s: tf.TensorSpec([None, *s.shape[1:]], s.dtype), self.get_initial_state(1))

        def step(item, state):
            return {"state": self.write(item[None], state)[1]}

        def answer(state):
            logits, _, state = self.decode(state, 1)
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
