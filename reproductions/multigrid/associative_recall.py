"""Associative recall of random bits (Huynh et al. 2020, Table 2; supplement B.2).

The writer sees a sequence of 3x3 patches; the reader is shown one of them again and tells the next one. P-App below is
the paper's supplement, CODE github.com/trihuynh88/multigrid_mem (which has the task for MNIST); how many items there
are and how they are drawn is in no source we found.
"""

import dataclasses

import tensorflow as tf

from reproductions.multigrid._algorithmic import (
    DEMO_SETTINGS,
    DNC_SETTINGS,
    LSTM_SETTINGS,
    PAPER_SETTINGS,
    SMOKE_SETTINGS,
    AlgorithmicConfig,
    AlgorithmicExperiment,
    check_bits,
)
from tfmem.models.multigrid import RecallModel
from tfmem.tasks.associative_recall import AssociativeRecall
from tfmem.tasks.priority_sort import patches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(AlgorithmicConfig):
    num_items: int = 10
    """Items of a sequence; unknown, ours: as CODE has images."""
    num_bits: int = 9
    """Size of an item; P-App B.2: 3x3."""
    reader_filters: tuple[int, ...]
    """Channels of the reader's layers; ours, as the writer's."""
    reader_residuals: tuple[tuple[int, int], ...] = ((1, 3), (3, 5))
    """The reader's layers added to later ones; CODE."""

    def __post_init__(self):
        super().__post_init__()
        check_bits(self)
        self.data()

    def data(self):
        return AssociativeRecall(self.num_items, self.num_bits, self.batch_size)


PAPER_CONFIG = Config(
    **PAPER_SETTINGS,
    writer_levels=(2, 2, 3, 3, 4),  # P-App B.2: as the encoder of priority sort
    writer_filters=(4, 4, 6, 6, 7),  # 7,983 cells of memory: 8 K, as P-App D has for mapping and the DNC here
    reader_filters=(4, 4, 8, 8, 14),  # as `paper_15x15` of mapping
    decoder_levels=(4, 3, 3, 2, 1),
    decoder_filters=(12, 12, 12, 12, 1),
)
DEMO_CONFIG = Config(
    **DEMO_SETTINGS,
    num_items=6,
    writer_levels=(2, 2, 2),
    writer_filters=(16, 16, 16),
    reader_filters=(16, 16, 16),
    reader_residuals=(),
    decoder_levels=(2, 1),
    decoder_filters=(16, 1),
    learning_rate=3e-3,
    final_learning_rate=3e-4,
    decay_updates=3_000,
    num_updates=3_000,
)
PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_dnc": dataclasses.replace(PAPER_CONFIG, **DNC_SETTINGS, units=126),
    "paper_lstm": dataclasses.replace(PAPER_CONFIG, **LSTM_SETTINGS, units=167),
    "demo": DEMO_CONFIG,
    "demo_dnc": dataclasses.replace(DEMO_CONFIG, model="dnc"),
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, model="lstm"),
    "smoke": Config(
        **SMOKE_SETTINGS,
        num_items=3,
        writer_levels=(1, 2),
        writer_filters=(2, 2),
        reader_filters=(2, 2),
        reader_residuals=(),
        decoder_levels=(2, 1),
        decoder_filters=(2, 1),
    ),
}
PAPER = {"error": (None, "Table 2, not readable in any source we found")}
DATASETS = ()


class Experiment(AlgorithmicExperiment):
    name = "multigrid/associative_recall"

    def __init__(self, config):
        self.data = config.data()
        super().__init__(config)

    def make_multigrid(self):
        config = self.config
        return RecallModel(
            writer_levels=config.writer_levels,
            writer_filters=config.writer_filters,
            reader_filters=config.reader_filters,
            decoder_levels=config.decoder_levels,
            decoder_filters=config.decoder_filters,
            writer_residuals=config.writer_residuals,
            reader_residuals=config.reader_residuals,
            decoder_residuals=config.decoder_residuals,
            normalization=config.normalization,
            peepholes=config.peepholes,
            dtype=config.policy,
        )

    def baseline_sizes(self):
        return self.data.observation_size, self.data.num_bits

    def baseline_inputs(self, batch):
        return batch["inputs"]

    def task(self, seed):
        batch = self.data(seed)
        return {"inputs": batch.observations, "target": batch.target}

    def shown(self, batch):
        """Items [n, B, 3, 3, 1] and query [B, 3, 3, 1]."""
        shown = patches(batch["inputs"][..., : self.data.num_bits])
        return {"items": shown[: self.data.num_items], "query": shown[self.data.num_items]}

    def forward(self, batch, carry, training):
        if self.config.model == "multigrid":
            logits, _ = self.model.run(self.shown(batch), self.model.get_initial_state(self.config.batch_size))
            logits = tf.cast(logits, tf.float32)
        else:
            logits = self.model.run(self.baseline_inputs(batch)).logits[-1]
        return logits, carry

    def guess(self, batch):
        bits = batch["inputs"].numpy()[: self.data.num_items, :, : self.data.num_bits]
        return bits.mean(0) > 0.5

    def multigrid_memory(self, batch):
        items = self.shown(batch)["items"]
        memories, _ = self.model.write(items, self.model.get_initial_state(items.shape[1]))
        return memories[-1]
