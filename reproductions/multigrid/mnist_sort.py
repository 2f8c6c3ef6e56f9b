"""Priority sort and classification of MNIST digits (Huynh et al. 2020, Table 2; supplement B.2).

Images come with priorities; the answer is their digits in the order of the priorities. P-App below is the paper's
supplement, CODE is github.com/trihuynh88/multigrid_mem. Figure 8, the network, is not in the sources that we found;
the supplement describes MNIST recall's network as similar.
"""

import dataclasses
from typing import Annotated

from tyro.conf import subcommand

from tfmem.cores.config import AnyCoreConfig, LSTMConfig
from tfmem.models.config import SortNetworkConfig
from tfmem.tasks.mnist_sort import MNISTSort
from tfmem.training import SupervisedConfig, SupervisedExperiment

from . import memories, settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SupervisedConfig):
    task: MNISTSort
    """Not specified; we use 20 images, as in the standard variant, and all their digits, at the finest grid's size."""
    core: Annotated[SortNetworkConfig, subcommand("multigrid")] | AnyCoreConfig
    """Paper: multigrid against DNC (P-App C)."""


PAPER_CONFIG = Config(
    **settings.PAPER,
    task=MNISTSort(num_items=20, num_outputs=20, side=12),
    core=SortNetworkConfig(
        writer_levels=(3, 3, 3, 3, 3),  # P-App B.2: five layers of three scales, 3x3 to 12x12
        writer_filters=(4, 4, 8, 8, 16),  # CODE, MNIST recall; the following as well
        writer_residuals=((1, 3), (3, 5)),
        decoder_levels=(3, 3, 2, 2, 1),
        decoder_filters=(16, 16, 16, 16, 10),
        decoder_residuals=((2, 4),),
        normalization="batch",
    ),
)
DEMO_CONFIG = Config(
    **settings.DEMO,
    task=MNISTSort(num_items=3, num_outputs=3, side=12),
    core=SortNetworkConfig(
        writer_levels=(3, 3, 3),
        writer_filters=(8, 8, 16),
        decoder_levels=(3, 2, 1),
        decoder_filters=(16, 16, 10),
        normalization="batch",
    ),
    learning_rate=6e-3,
    final_learning_rate=6e-4,
    decay_updates=800,
    num_updates=800,
)
PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_dnc": dataclasses.replace(PAPER_CONFIG, **settings.DNC, core=settings.paper_dnc(165, answer=10)),
    "paper_lstm": dataclasses.replace(PAPER_CONFIG, **settings.LSTM, core=LSTMConfig(units=197)),
    "demo": DEMO_CONFIG,
    "demo_dnc": dataclasses.replace(DEMO_CONFIG, core=settings.demo_dnc(answer=10)),
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, core=settings.DEMO_LSTM),
    "smoke": Config(
        **settings.SMOKE,
        task=MNISTSort(num_items=3, num_outputs=2, side=6),
        core=SortNetworkConfig(
            writer_levels=(2, 2),
            writer_filters=(2, 2),
            decoder_levels=(2, 1),
            decoder_filters=(2, 2),
            normalization="batch",
        ),
    ),
}
PAPER = {"error": (None, "Table 2, not readable in any source we found")}
DATASETS = ("mnist",)
STATUS = "demo"
compare = memories.compare


class Experiment(SupervisedExperiment):
    """MNIST sort; all models get images at the multigrid's finest size, the priority and the end mark."""

    name = "multigrid/mnist_sort"

    def figures(self, folder):
        super().figures(folder)
        memories.draw_memory(self, memories.memory(self), folder)
