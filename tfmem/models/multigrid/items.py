"""Base of the models of item sequences: items as pyramids, a writer, and an answer from the coarsest grid."""

import tensorflow as tf

from tfmem.backend import hand_on_trainable, keras
from tfmem.cores.multigrid import UniformFanIn
from tfmem.models.multigrid.stacks import (
    MultigridDecoder,
    MultigridWriter,
    check_layers,
    check_residuals,
    level_sizes,
    nearest_neighbour,
)
from tfmem.validation import positive_int


class ItemModel(keras.Model):
    """Base of recall and sorting: items as pyramids, a writer, and an answer from the coarsest grid."""

    item_name, items_name = "item", "items"  # of the signatures' inputs

    def configure(self, config):
        """Check and keep the arguments that `RecallModel` and `SortModel` have in common."""
        writer_levels, writer_filters = check_layers(
            ("writer_levels", "writer_filters"), config["writer_levels"], config["writer_filters"]
        )
        decoder_levels, decoder_filters = check_layers(
            ("decoder_levels", "decoder_filters"), config["decoder_levels"], config["decoder_filters"]
        )
        base_size = positive_int("base_size", config["base_size"])
        finest = writer_levels[-1]
        if max(decoder_levels) > finest or decoder_levels[-1] != 1:
            raise ValueError(f"decoder_levels: {decoder_levels}, must be at most {finest} levels and end with 1")
        item_shape = tuple(positive_int("item_shape", n) for n in config["item_shape"])
        input_levels = positive_int("input_levels", config["input_levels"])
        if len(item_shape) != 3 or item_shape[0] != item_shape[1]:
            raise ValueError(f"item_shape: {item_shape}, must be (side, side, channels)")
        num_classes = config["num_classes"]
        if num_classes is None and decoder_filters[-1] != 1:
            raise ValueError(
                f"decoder_filters: {decoder_filters}, must end with 1 where num_classes is None: "
                "the last decoder layer is the map of the item's logits"
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
            num_classes=None if num_classes is None else positive_int("num_classes", num_classes),
            writer_residuals=check_residuals("writer_residuals", config["writer_residuals"], len(writer_filters)),
            decoder_residuals=check_residuals("decoder_residuals", config["decoder_residuals"], len(decoder_filters)),
        )
        self.item_shape = item_shape
        self.sizes = level_sizes(base_size, 0, input_levels)
        self.writer_sizes = [level_sizes(base_size, 0, n) for n in writer_levels]
        self.decoder_sizes = [level_sizes(base_size, 0, n) for n in decoder_levels]

    def make_writer(self, name, normalize_last=True):
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

    def add_answer(self):
        """Add the decoder, then the classifier where there are classes."""
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

    def build_answer(self, last):
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
