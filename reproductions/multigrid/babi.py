"""bAbI, word by word, all tasks jointly, with 1-D multigrid memory (Huynh et al. 2020, Table 3; supplement B.3).

P-App below is the paper's supplement. Its Table 3, Figure 9 (the network) and all widths and lengths of training are
not readable in the sources that we found.
"""

import dataclasses
from typing import Annotated

from tyro.conf import subcommand

from tfmem.cores.config import AnyCoreConfig, DNCConfig
from tfmem.models.config import AnsweringNetworkConfig
from tfmem.tasks.question_answering import Babi
from tfmem.training import SupervisedConfig, SupervisedExperiment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SupervisedConfig):
    task: Babi
    """Paper: all 20 tasks jointly (P-App B.3). Not specified; we use en-valid-10k, whole stories with their questions,
    as in the DNC's paper (|V| = 159 counts its words)."""
    core: Annotated[AnsweringNetworkConfig, subcommand("multigrid")] | AnyCoreConfig
    """Paper: multigrid against DNC (P-App C)."""


PAPER_CONFIG = Config(
    task=Babi(),
    core=AnsweringNetworkConfig(
        writer_levels=(1, 2, 3, 4, 5),  # P-App B.3: from 1x1 to 1x16. Not specified: number of layers
        writer_filters=(64, 64, 64, 64, 64),  # Not specified; we use 64
        writer_residuals=((1, 3), (3, 5)),  # Not specified; as in the public code's other networks
        # P-App B.3: back to 1x1. Not specified: number of layers and channels.
        decoder_levels=(4, 3, 2),
        decoder_filters=(64, 64, 64),
        normalization="sequence",  # P-App B.3
    ),
    loss_reduction="sequence_sum",  # P-App B.3.2, Eq. 4: the sum over a story
    select_by="dev_mean_error",
    batch_size=1,  # P-App B.3
    learning_rate=1e-3,  # Not specified; we use 1e-3 with Adam
    gradient_norm_clip=10.0,  # Not specified; we use 10
    num_updates=500_000,  # Not specified; we use 500,000: about 9 passes over the stories of en-valid-10k
    log_every=100,
    eval_every=10_000,
    checkpoint_seconds=600.0,
)
# Not specified; we use two tasks, three levels and batches of 16 stories, so that two CPU cores learn it in minutes.
DEMO_CONFIG = Config(
    task=Babi(tasks=(1, 20), dev_questions=300),
    core=AnsweringNetworkConfig(
        writer_levels=(1, 2, 3),
        writer_filters=(24, 24, 24),
        writer_residuals=((1, 3),),
        decoder_levels=(2,),
        decoder_filters=(24,),
        normalization="sequence",
    ),
    loss_reduction="sequence_sum",
    select_by="dev_mean_error",
    batch_size=16,
    learning_rate=3e-3,
    gradient_norm_clip=10.0,
    num_updates=2_500,
    log_every=25,
    eval_every=250,
)
PRESETS = {
    "paper": PAPER_CONFIG,
    # P-App C: 256 slots of 64, four read heads. The LSTM and the training are Mostafa-Samir/DNC-tensorflow's, for bAbI.
    "paper_dnc": dataclasses.replace(
        PAPER_CONFIG,
        core=DNCConfig(memory_size=256, word_size=64, num_reads=4, hidden_size=256, output_size=159),
        optimizer="tf1_rmsprop",
        learning_rate=1e-4,
        momentum=0.9,
    ),
    "demo": DEMO_CONFIG,
    "demo_dnc": dataclasses.replace(
        DEMO_CONFIG, core=DNCConfig(memory_size=32, word_size=16, num_reads=2, hidden_size=64, output_size=45)
    ),
    "smoke": Config(
        task=Babi(version="en-valid", tasks=(1, 8), dev_questions=2),
        core=AnsweringNetworkConfig(
            writer_levels=(1, 2),
            writer_filters=(3, 3),
            writer_residuals=((1, 2),),
            decoder_levels=(),
            decoder_filters=(),
            normalization="sequence",
        ),
        loss_reduction="sequence_sum",
        select_by="dev_mean_error",
        batch_size=3,
        learning_rate=1e-3,
        num_updates=8,
        log_every=2,
        eval_every=4,
        checkpoint_every=4,
    ),
}
PAPER = {
    "mean_error": (None, "Table 3, not readable in any source we found"),
    "failed_tasks": (None, "Table 3, not readable in any source we found"),
}
DATASETS = ("babi",)
STATUS = "demo"


class Experiment(SupervisedExperiment):
    name = "multigrid/babi"
