"""Double copy: repeat 50 random characters twice (Munkhdalai et al. 2019, §4.1 and Figure 4)."""

import dataclasses

from reproductions.metalearned._models import (
    DEMO_SETTINGS,
    PAPER_SETTINGS,
    TINY,
    AlgorithmicConfig,
    AlgorithmicExperiment,
)
from tfmem.tasks.double_copy import DoubleCopy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(AlgorithmicConfig):
    length: int = 50
    """Characters of an episode; App. A."""
    num_characters: int = 10
    """Different characters; App. A."""

    def data(self):
        return DoubleCopy(self.length, self.num_characters, self.batch_size)


PAPER_CONFIG = Config(**PAPER_SETTINGS)
# A shorter sequence.
DEMO_CONFIG = Config(length=8, num_updates=4_000, **DEMO_SETTINGS)
PRESETS = {
    "paper": PAPER_CONFIG,
    "demo": DEMO_CONFIG,
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, model="lstm"),
    "smoke": Config(length=2, model="lstm_salu", **TINY),
}
PAPER = {"error": (None, "§4.1, Fig. 4: MNM solves it quickly; curves alone")}
DATASETS = ()


class Experiment(AlgorithmicExperiment):
    name = "metalearned/double_copy"
