"""Double copy: repeat 50 random characters twice (Munkhdalai et al. 2019, §4.1 and Figure 4)."""

import dataclasses

from reproductions.metalearned._models import PAPER_SETTINGS, SMALL, TINY, AlgorithmicConfig, AlgorithmicExperiment
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
# Ours: a short sequence and a small memory.
DEMO_CONFIG = Config(
    length=8,
    **SMALL,
    batch_size=32,
    learning_rate=1e-3,
    gradient_norm_clip=10.0,
    num_updates=4_000,
    updates_per_call=20,
    log_every=20,
    eval_every=500,
)
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
