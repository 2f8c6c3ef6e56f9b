"""Priority sort of random bits (Huynh et al. 2020, Table 2; supplement B.2).

Vectors come with priorities, as 3x3 patches; they are to be told in the order of their priorities. P-App below is the
paper's supplement; how many vectors there are and how they are drawn is in no source we found.
"""

import dataclasses

import numpy as np

from reproductions.multigrid._algorithmic import (
    DEMO_SETTINGS,
    DNC_SETTINGS,
    LSTM_SETTINGS,
    PAPER_SETTINGS,
    SMOKE_SETTINGS,
    AlgorithmicConfig,
    SortExperiment,
    check_bits,
)
from tfmem.tasks.priority_sort import PrioritySort, patches
from tfmem.training import check_range
from tfmem.validation import check_array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(AlgorithmicConfig):
    num_items: int = 20
    """Vectors of the input; unknown, ours: as Graves et al. 2014."""
    num_outputs: int = 20
    """Vectors of the output; unknown, ours: all."""
    num_bits: int = 9
    """Size of a vector; P-App B.2: 3x3."""

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "num_outputs", 1, self.num_items)
        check_bits(self)
        task = self.data()
        check_array(
            task.num_steps, self.batch_size, task.input_size, num_items=self.num_items, batch_size=self.batch_size
        )

    def data(self):
        return PrioritySort(self.num_items, self.num_outputs, self.num_bits)


PAPER_CONFIG = Config(
    **PAPER_SETTINGS,
    writer_levels=(2, 2, 3, 3, 4),  # P-App B.2: five layers, 3x3 to 24x24; the steps are CODE's of mapping
    writer_filters=(4, 4, 6, 6, 7),  # 7,983 cells of memory: 8 K, as P-App D has for mapping and the DNC here
    decoder_levels=(4, 3, 3, 2, 1),
    decoder_filters=(12, 12, 12, 12, 1),
)
DEMO_CONFIG = Config(
    **DEMO_SETTINGS,
    num_items=6,
    num_outputs=6,
    writer_levels=(2, 2, 2),
    writer_filters=(16, 16, 16),
    decoder_levels=(2, 1),
    decoder_filters=(16, 1),
    learning_rate=4e-3,
    final_learning_rate=4e-4,
    decay_updates=2_000,
    num_updates=2_000,
)
PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_dnc": dataclasses.replace(PAPER_CONFIG, **DNC_SETTINGS),
    "paper_lstm": dataclasses.replace(PAPER_CONFIG, **LSTM_SETTINGS, units=170),
    "demo": DEMO_CONFIG,
    "demo_dnc": dataclasses.replace(DEMO_CONFIG, model="dnc"),
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, model="lstm"),
    "smoke": Config(
        **SMOKE_SETTINGS,
        num_items=3,
        num_outputs=2,
        writer_levels=(1, 2),
        writer_filters=(2, 2),
        decoder_levels=(2, 1),
        decoder_filters=(2, 1),
    ),
}
PAPER = {"error": (None, "Table 2, not readable in any source we found")}
DATASETS = ()


class Experiment(SortExperiment):
    name = "multigrid/priority_sort"

    def __init__(self, config):
        self.data = config.data()
        super().__init__(config)

    def baseline_sizes(self):
        return self.data.input_size, self.data.num_bits

    def task(self, seed):
        batch = self.data(seed, self.config.batch_size)
        return {"inputs": batch.inputs, "target": batch.targets[-self.data.num_outputs :]}

    def items(self, batch):
        """The inputs as patches [n, B, 3, 3, 2] of bits and priority."""
        shown = batch["inputs"][: self.config.num_items]
        return patches(shown[..., : self.data.num_bits], shown[..., self.data.num_bits])

    def baseline_inputs(self, batch):
        return batch["inputs"]

    def guess(self, batch):
        bits = batch["inputs"].numpy()[: self.config.num_items, :, : self.data.num_bits]
        return np.broadcast_to(bits.mean(0) > 0.5, batch["target"].shape)
