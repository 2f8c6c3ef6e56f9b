"""Associative recall: the network that supplement B.2 describes, and the public code's for MNIST."""

import tensorflow as tf

from tfmem.backend import keras
from tfmem.cores.multigrid import check_sizes
from tfmem.models.multigrid.items import ItemModel
from tfmem.models.multigrid.stacks import MultigridReader, check_layers, check_residuals
from tfmem.recurrence import swap_batch_and_time
from tfmem.signatures import model_signatures
from tfmem.validation import positive_int, positive_ints

IMAGE_SIDE = 28


@keras.saving.register_keras_serializable(package="tfmem")
class RecallModel(ItemModel):
    """Associative recall (supplement B.2.1): the item that followed the queried one.

    A writer stores items. A reader sees one of them again.

    Args:
      writer_levels, writer_filters: number of levels (from the coarsest) and channels of every memory layer.
      reader_filters: channels of the reader's layers, whose levels are the writer's.
      decoder_levels, decoder_filters: number of levels (from the coarsest) and channels of the layers that follow; the
        last has one level.
      base_size: side of the coarsest grid. Default 3.
      item_shape: (side, side, channels) of an item. Default (3, 3, 1).
      input_levels: number of levels (from the coarsest) that an item is resized to. Default 1.
      num_classes: the answer is a class; its logits are a linear map of the last grid. None (the default): the answer
        is an item, whose logits are the last grid, with 1 channel and no ReLU.
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
        self.configure(
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
        self.writer = self.make_writer("writer")
        self.reader = MultigridReader(
            self.writer_sizes, reader_filters, reader_residuals, normalization, name="reader", dtype=self.dtype_policy
        )
        self.add_answer()

    def build(self, input_shape=None):
        pyramid = [(None, None, s, s, self.item_shape[-1]) for s in self.sizes]
        self.writer.build(pyramid)
        memories = [self.writer.output_shapes(i) for i in range(len(self.writer.layers))]
        self.reader.build([pyramid, *memories])
        last = zip(self.reader.output_shapes(len(self.reader.layers) - 1), memories[-1], strict=True)
        self.build_answer([(*s[:-1], s[-1] + m[-1]) for s, m in last])

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
        logits, state = self.run({self.items_name: swap_batch_and_time(items), "query": inputs["query"]}, initial_state)
        return (logits, state) if return_state else logits

    def export_functions(self):
        """Signatures of `tfmem.export.saved_model`: `step`, `sequence`, `sequence_from_state`, `initial_state`.

        Each answers the query from the memory after its last item. With `normalization`, a step uses the statistics of
        that step alone, a sequence those of all its steps, as the public code does.
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
    """MNIST associative recall and classification (supplement B.2): the digit that followed the queried image.

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
            writer_filters=positive_ints("writer_filters", writer_filters),
            reader_filters=positive_ints("reader_filters", reader_filters),
            decoder_levels=positive_ints("decoder_levels", decoder_levels),
            decoder_filters=positive_ints("decoder_filters", decoder_filters),
            num_classes=positive_int("num_classes", num_classes),
            writer_residuals=writer_residuals,
            reader_residuals=reader_residuals,
            decoder_residuals=decoder_residuals,
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
