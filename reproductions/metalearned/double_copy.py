"""Double copy: repeat 50 random characters twice (Munkhdalai et al. 2019, §4.1 and Figure 4)."""

import dataclasses

from tfmem.cores.config import LookupMemoryConfig
from tfmem.tasks.double_copy import DoubleCopy
from tfmem.training import SupervisedConfig, SupervisedExperiment

from .settings import DEMO_LSTM, DEMO_SETTINGS, PAPER_SETTINGS, SMOKE_SETTINGS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SupervisedConfig):
    task: DoubleCopy
    """Paper: 50 of ten characters (App. A)."""


PAPER_CONFIG = Config(task=DoubleCopy(length=50, num_characters=10), **PAPER_SETTINGS)
# A shorter sequence.
DEMO_CONFIG = Config(task=DoubleCopy(length=8), num_updates=4_000, **DEMO_SETTINGS)
PRESETS = {
    "paper": PAPER_CONFIG,
    "demo": DEMO_CONFIG,
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, core=DEMO_LSTM),
    "smoke": Config(task=DoubleCopy(length=2), core=LookupMemoryConfig(units=8, word_size=4), **SMOKE_SETTINGS),
}
PAPER = {"error": (None, "§4.1, Fig. 4: MNM solves it quickly; curves alone")}
DATASETS = ()
STATUS = "demo; paper 4%"


class Experiment(SupervisedExperiment):
    name = "metalearned/double_copy"
