"""Priority sort of random bits (Huynh et al. 2020, Table 2; supplement B.2).

Vectors come with priorities, as 3x3 patches; the answer is the vectors in the order of their priorities. P-App below is
the paper's supplement, CODE is github.com/trihuynh88/multigrid_mem. Not specified: the number of vectors and their
distribution.
"""

import dataclasses
from typing import Annotated

from tyro.conf import subcommand

from tfmem.cores.config import AnyCoreConfig, LSTMConfig
from tfmem.models.config import SortNetworkConfig
from tfmem.tasks.priority_sort import PrioritySort
from tfmem.training import SupervisedConfig, SupervisedExperiment

from . import memories, settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SupervisedConfig):
    task: PrioritySort
    """Paper: vectors of 3x3 bits (P-App B.2). Not specified; we use 20 vectors (as Graves et al. 2014), all sorted."""
    core: Annotated[SortNetworkConfig, subcommand("multigrid")] | AnyCoreConfig
    """Paper: multigrid against DNC (P-App C)."""


PAPER_CONFIG = Config(
    **settings.PAPER,
    task=PrioritySort(num_inputs=20, num_outputs=20, num_bits=9),
    core=SortNetworkConfig(
        writer_levels=(2, 2, 3, 3, 4),  # P-App B.2: five layers, 3x3 to 24x24; the steps are CODE's of mapping
        writer_filters=(4, 4, 6, 6, 7),  # 7,983 cells of memory: 8 K, as P-App D has for mapping and the DNC here
        writer_residuals=((1, 3), (3, 5)),  # CODE
        # P-App B.2 gives the levels. Not specified: number of layers and channels.
        decoder_levels=(4, 3, 3, 2, 1),
        decoder_filters=(12, 12, 12, 12, 1),
        decoder_residuals=((2, 4),),  # CODE
    ),
)
DEMO_CONFIG = Config(
    **settings.DEMO,
    task=PrioritySort(num_inputs=6, num_outputs=6, num_bits=9),
    core=SortNetworkConfig(
        writer_levels=(2, 2, 2), writer_filters=(16, 16, 16), decoder_levels=(2, 1), decoder_filters=(16, 1)
    ),
    learning_rate=4e-3,
    final_learning_rate=4e-4,
    decay_updates=2_000,
    num_updates=2_000,
)
PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_dnc": dataclasses.replace(PAPER_CONFIG, **settings.DNC, core=settings.paper_dnc(128, answer=9)),
    "paper_lstm": dataclasses.replace(PAPER_CONFIG, **settings.LSTM, core=LSTMConfig(units=170)),
    "demo": DEMO_CONFIG,
    "demo_dnc": dataclasses.replace(DEMO_CONFIG, core=settings.demo_dnc(answer=9)),
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, core=settings.DEMO_LSTM),
    "smoke": Config(
        **settings.SMOKE,
        task=PrioritySort(num_inputs=3, num_outputs=2, num_bits=9),
        core=SortNetworkConfig(
            writer_levels=(1, 2), writer_filters=(2, 2), decoder_levels=(2, 1), decoder_filters=(2, 1)
        ),
    ),
}
PAPER = {"error": (None, "Table 2, not readable in any source we found")}
DATASETS = ()
STATUS = "demo"
compare = memories.compare


class Experiment(SupervisedExperiment):
    name = "multigrid/priority_sort"

    def figures(self, folder):
        super().figures(folder)
        memories.draw_memory(self, memories.memory(self), folder)
