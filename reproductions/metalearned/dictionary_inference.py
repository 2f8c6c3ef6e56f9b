"""Dictionary inference: translate a word after k examples of an unknown language (Munkhdalai et al. 2019, §4.1).

Every episode, of training and of evaluation, draws a new mapping of 13 letters to the 13 others; evaluation draws from
seeds that training never meets.
"""

import dataclasses

from reproductions.metalearned._models import (
    DEMO_SETTINGS,
    PAPER_SETTINGS,
    TINY,
    AlgorithmicConfig,
    AlgorithmicExperiment,
)
from tfmem.tasks.dictionary_inference import DictionaryInference


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(AlgorithmicConfig):
    support_size: int = 16
    """Examples of an episode, k; §4.1 has (k, l) = (4, 1), (8, 4), (12, 8) and (16, 12)."""
    length: int = 12
    """Letters of a word, l; §4.1."""
    new_alphabets: bool = True
    """Whether an episode also draws which 13 letters are the source's; §4.1 can be read so, our choice."""

    def data(self):
        return DictionaryInference(self.support_size, self.length, self.batch_size, self.new_alphabets)


PAPER_CONFIG = Config(**PAPER_SETTINGS)
# The paper's two easier tasks.
DEMO_CONFIG = Config(support_size=4, length=1, num_updates=3_000, **DEMO_SETTINGS)
DEMO_8_4_CONFIG = dataclasses.replace(DEMO_CONFIG, support_size=8, length=4, num_updates=10_000, eval_batches=10)
PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_4_1": dataclasses.replace(PAPER_CONFIG, support_size=4, length=1),
    "paper_8_4": dataclasses.replace(PAPER_CONFIG, support_size=8, length=4),
    "paper_12_8": dataclasses.replace(PAPER_CONFIG, support_size=12, length=8),
    "demo": DEMO_CONFIG,
    "demo_mnm_g": dataclasses.replace(DEMO_CONFIG, model="mnm_g"),
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, model="lstm"),
    "demo_lstm_salu": dataclasses.replace(DEMO_CONFIG, model="lstm_salu"),
    "demo_8_4": DEMO_8_4_CONFIG,
    "demo_8_4_mnm_g": dataclasses.replace(DEMO_8_4_CONFIG, model="mnm_g"),
    "demo_8_4_lstm": dataclasses.replace(DEMO_8_4_CONFIG, model="lstm"),
    "smoke": Config(support_size=2, length=1, **TINY),
}
PAPER = {"error": (0.0, "§4.1, Fig. 2: both MNM on all four tasks, LSTM+SALU on two, LSTM on (4, 1)")}
DATASETS = ()


class Experiment(AlgorithmicExperiment):
    name = "metalearned/dictionary_inference"
