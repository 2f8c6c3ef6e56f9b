"""Priority sort: give the 16 of 20 vectors that have the highest priority, in order (Munkhdalai et al. 2019, §4.1)."""

import dataclasses

from tfmem.tasks.priority_sort import PrioritySort
from tfmem.training import SupervisedConfig, SupervisedExperiment

from .settings import (
    DEMO_LSTM,
    DEMO_LSTM_SALU,
    DEMO_SETTINGS,
    PAPER_SETTINGS,
    SMOKE_MNM_P,
    SMOKE_SETTINGS,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SupervisedConfig):
    task: PrioritySort
    """Paper: 16 of 20 vectors of 8 bits (App. A)."""


PAPER_CONFIG = Config(task=PrioritySort(num_inputs=20, num_outputs=16, num_bits=8), **PAPER_SETTINGS)
# Fewer and shorter vectors.
DEMO_CONFIG = Config(task=PrioritySort(num_inputs=5, num_outputs=4, num_bits=4), num_updates=4_000, **DEMO_SETTINGS)
PRESETS = {
    "paper": PAPER_CONFIG,
    "demo": DEMO_CONFIG,
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, core=DEMO_LSTM),
    "demo_lstm_salu": dataclasses.replace(DEMO_CONFIG, core=DEMO_LSTM_SALU),
    "smoke": Config(
        task=PrioritySort(num_inputs=3, num_outputs=2, num_bits=2),
        core=dataclasses.replace(SMOKE_MNM_P, write="gradient"),
        **SMOKE_SETTINGS,
    ),
}
PAPER = {"error": (None, "§4.1, Fig. 4: LSTM+SALU is best; curves alone")}
DATASETS = ()
STATUS = "demo"


class Experiment(SupervisedExperiment):
    """Priority sort; `error` is the fraction of wrong bits."""

    name = "metalearned/priority_sort"
