"""Priority sort: give the 16 of 20 vectors that have the highest priority, in order (Munkhdalai et al. 2019, §4.1)."""

import dataclasses

from reproductions.metalearned._models import (
    DEMO_SETTINGS,
    PAPER_SETTINGS,
    TINY,
    AlgorithmicConfig,
    AlgorithmicExperiment,
)
from tfmem.losses.sequence import binary_cross_entropy, bit_accuracy
from tfmem.tasks.priority_sort import PrioritySort


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(AlgorithmicConfig):
    num_inputs: int = 20
    """Vectors of the input; App. A."""
    num_outputs: int = 16
    """Vectors of the output; App. A."""
    num_bits: int = 8
    """Size of a vector; App. A."""

    def data(self):
        return PrioritySort(self.num_inputs, self.num_outputs, self.num_bits, self.batch_size)


PAPER_CONFIG = Config(**PAPER_SETTINGS)
# Fewer and shorter vectors.
DEMO_CONFIG = Config(num_inputs=5, num_outputs=4, num_bits=4, num_updates=4_000, **DEMO_SETTINGS)
PRESETS = {
    "paper": PAPER_CONFIG,
    "demo": DEMO_CONFIG,
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, model="lstm"),
    "demo_lstm_salu": dataclasses.replace(DEMO_CONFIG, model="lstm_salu"),
    "smoke": Config(num_inputs=3, num_outputs=2, num_bits=2, model="mnm_g", **TINY),
}
PAPER = {"error": (None, "§4.1, Fig. 4: LSTM+SALU is best; curves alone")}
DATASETS = ()


class Experiment(AlgorithmicExperiment):
    """`error` is the share of wrong bits."""

    name = "metalearned/priority_sort"

    def input_size(self):
        return self.data.observation_size

    def task(self, seed):
        observations, target, mask = self.data(seed)
        return {"inputs": observations, "target": target, "mask": mask}

    def task_scores(self, logits, target, mask):
        right, count = bit_accuracy(logits, target, mask)
        return {"task_loss": binary_cross_entropy(logits, target, mask), "error": (count - right, count)}
