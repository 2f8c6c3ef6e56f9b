"""Priority sort and classification of MNIST digits (Huynh et al. 2020, Table 2; supplement B.2).

Images come with priorities; their digits are to be told in the order of their priorities. P-App below is the paper's
supplement, CODE github.com/trihuynh88/multigrid_mem. Figure 8, which shows the network, is in no source we found; the
supplement says that MNIST recall's is like it.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from reproductions.multigrid._algorithmic import (
    DEMO_SETTINGS,
    DNC_SETTINGS,
    LSTM_SETTINGS,
    PAPER_SETTINGS,
    SMOKE_SETTINGS,
    AlgorithmicConfig,
    SortExperiment,
)
from tfmem.models.multigrid import IMAGE_SIDE, nearest_neighbour
from tfmem.tasks.mnist_sort import stream
from tfmem.training import check_range

NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(AlgorithmicConfig):
    num_items: int = 20
    """Images of a sequence; unknown, ours: as the standard variant."""
    num_outputs: int = 20
    """Digits to be told; unknown, ours: all."""

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "num_items", 2)
        check_range(self, "num_outputs", 1, self.num_items)
        if len(set(self.writer_levels)) > 1:
            raise ValueError(f"writer_levels: {self.writer_levels}, must be equal: images go to all levels")


PAPER_CONFIG = Config(
    **PAPER_SETTINGS,
    writer_levels=(3, 3, 3, 3, 3),  # P-App B.2: five layers of three scales, 3x3 to 12x12
    writer_filters=(4, 4, 8, 8, 16),  # CODE, MNIST recall
    decoder_levels=(3, 3, 2, 2, 1),  # CODE, MNIST recall
    decoder_filters=(16, 16, 16, 16, 10),  # CODE, MNIST recall
    normalization="batch",  # CODE, MNIST recall
)
DEMO_CONFIG = Config(
    **DEMO_SETTINGS,
    num_items=3,
    num_outputs=3,
    writer_levels=(3, 3, 3),
    writer_filters=(8, 8, 16),
    decoder_levels=(3, 2, 1),
    decoder_filters=(16, 16, 10),
    normalization="batch",
    learning_rate=6e-3,
    final_learning_rate=6e-4,
    decay_updates=800,
    num_updates=800,
)
PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_dnc": dataclasses.replace(PAPER_CONFIG, **DNC_SETTINGS, units=165),
    "paper_lstm": dataclasses.replace(PAPER_CONFIG, **LSTM_SETTINGS, units=197),
    "demo": DEMO_CONFIG,
    "demo_dnc": dataclasses.replace(DEMO_CONFIG, model="dnc"),
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, model="lstm"),
    "smoke": Config(
        **SMOKE_SETTINGS,
        num_items=3,
        num_outputs=2,
        writer_levels=(2, 2),
        writer_filters=(2, 2),
        decoder_levels=(2, 1),
        decoder_filters=(2, 2),
        normalization="batch",
    ),
}
PAPER = {"error": (None, "Table 2, not readable in any source we found")}
DATASETS = ("mnist",)


class Experiment(SortExperiment):
    """The baselines see what the multigrid's finest level sees, row by row, the priority and the mark of the end."""

    name = "multigrid/mnist_sort"
    item_shape, num_classes = (IMAGE_SIDE, IMAGE_SIDE, 2), NUM_CLASSES

    def __init__(self, config):
        self.side = 3 * 2 ** (config.writer_levels[0] - 1)
        self._streams = {}
        super().__init__(config)

    def baseline_sizes(self):
        return self.side**2 + 2, NUM_CLASSES

    def data_source(self, split="train"):
        config = self.config
        evaluation = split != "train"
        arguments = {
            "split": "test" if evaluation else split,
            "batch_size": config.batch_size,
            "steps": config.num_items,
            "seed": 0 if evaluation else config.seed,  # every run meets the same evaluation
            "num_outputs": config.num_outputs,
        }
        return "tfmem.tasks.mnist_sort:stream", arguments

    def _stream(self, split):
        if split not in self._streams:
            _, arguments = self.data_source(split)
            self._streams[split] = stream(**arguments)
        return self._streams[split]

    def batch(self, update):
        return self._stream("train").batch(update)

    def evaluation_batch(self, number):
        return self._stream("evaluation").batch(number)

    def items(self, batch):
        """Images [n, B, 28, 28, 2] of pixels from 0 to 1 (ours: beside raw ones a priority is nothing) and priority."""
        pixels = batch["images"] / 255.0
        return tf.concat([pixels, batch["priorities"][..., None, None, None] * tf.ones_like(pixels)], axis=-1)

    def baseline_inputs(self, batch):
        num_outputs = self.config.num_outputs
        small = nearest_neighbour(batch["images"] / 255.0, self.side)
        small = tf.reshape(small, [*small.shape[:2], self.side**2])
        shown = tf.concat([small, batch["priorities"][..., None], tf.zeros_like(small[..., :1])], axis=-1)
        end = tf.one_hot(tf.fill([1, shown.shape[1]], shown.shape[2] - 1), shown.shape[2])
        return tf.pad(tf.concat([shown, end], axis=0), [[0, num_outputs], [0, 0], [0, 0]])

    def guess(self, batch):
        """The most frequent digit of those asked for."""
        target = batch["target"].numpy()
        counts = np.stack([(target == digit).sum(0) for digit in range(NUM_CLASSES)])
        return np.broadcast_to(counts.argmax(0), target.shape)
