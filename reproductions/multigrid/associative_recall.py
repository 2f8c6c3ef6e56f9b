"""Associative recall of random bits (Huynh et al. 2020, Table 2; supplement B.2).

The writer gets a sequence of 3x3 patches; the reader gets one of them again and predicts the next one. P-App below is
the paper's supplement, CODE is github.com/trihuynh88/multigrid_mem (which has the task for MNIST). Not specified: the
number of items and their distribution.
"""

import dataclasses
from typing import Annotated

from tyro.conf import subcommand

from tfmem.cores.config import AnyCoreConfig, LSTMConfig
from tfmem.models.config import RecallNetworkConfig
from tfmem.tasks.associative_recall import AssociativeRecall
from tfmem.training import SupervisedConfig, SupervisedExperiment

from . import memories, settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SupervisedConfig):
    task: AssociativeRecall
    """Paper: items of 3x3 bits (P-App B.2). Not specified; we use 10 items, as CODE has images."""
    core: Annotated[RecallNetworkConfig, subcommand("multigrid")] | AnyCoreConfig
    """Paper: multigrid against DNC (P-App C)."""


PAPER_CONFIG = Config(
    **settings.PAPER,
    task=AssociativeRecall(num_items=10, num_bits=9),
    core=RecallNetworkConfig(
        writer_levels=(2, 2, 3, 3, 4),  # P-App B.2: as the encoder of priority sort
        writer_filters=(4, 4, 6, 6, 7),  # 7,983 cells of memory: 8 K, as P-App D has for mapping and the DNC here
        writer_residuals=((1, 3), (3, 5)),  # CODE
        reader_filters=(4, 4, 8, 8, 14),  # as `paper_15x15` of mapping
        reader_residuals=((1, 3), (3, 5)),  # CODE
        decoder_levels=(4, 3, 3, 2, 1),
        decoder_filters=(12, 12, 12, 12, 1),
        decoder_residuals=((2, 4),),  # CODE
    ),
)
DEMO_CONFIG = Config(
    **settings.DEMO,
    task=AssociativeRecall(num_items=6, num_bits=9),
    core=RecallNetworkConfig(
        writer_levels=(2, 2, 2),
        writer_filters=(16, 16, 16),
        reader_filters=(16, 16, 16),
        decoder_levels=(2, 1),
        decoder_filters=(16, 1),
    ),
    learning_rate=3e-3,
    final_learning_rate=3e-4,
    decay_updates=3_000,
    num_updates=3_000,
)
PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_dnc": dataclasses.replace(PAPER_CONFIG, **settings.DNC, core=settings.paper_dnc(126, answer=9)),
    "paper_lstm": dataclasses.replace(PAPER_CONFIG, **settings.LSTM, core=LSTMConfig(units=167)),
    "demo": DEMO_CONFIG,
    "demo_dnc": dataclasses.replace(DEMO_CONFIG, core=settings.demo_dnc(answer=9)),
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, core=settings.DEMO_LSTM),
    "smoke": Config(
        **settings.SMOKE,
        task=AssociativeRecall(num_items=3, num_bits=9),
        core=RecallNetworkConfig(
            writer_levels=(1, 2),
            writer_filters=(2, 2),
            reader_filters=(2, 2),
            decoder_levels=(2, 1),
            decoder_filters=(2, 1),
        ),
    ),
}
PAPER = {"error": (None, "Table 2, not readable in any source we found")}
DATASETS = ()
STATUS = "demo"
compare = memories.compare


class Experiment(SupervisedExperiment):
    name = "multigrid/associative_recall"

    def figures(self, folder):
        super().figures(folder)
        memories.draw_memory(self, memories.memory(self), folder)
