"""Dictionary inference: translate a word after k examples of an unknown language (Munkhdalai et al. 2019, §4.1).

Every episode, of training and of evaluation, draws a new mapping of 13 letters to the 13 others; evaluation draws from
seeds that training never meets.
"""

import dataclasses

from reproductions.metalearned._models import PAPER_SETTINGS, SMALL, TINY, AlgorithmicConfig, AlgorithmicExperiment
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
# Ours: the paper's easiest task with a small memory, batch and learning rate as in the paper.
DEMO_CONFIG = Config(
    support_size=4,
    length=1,
    **SMALL,
    batch_size=32,
    learning_rate=1e-3,
    gradient_norm_clip=10.0,
    num_updates=4_000,
    updates_per_call=20,
    log_every=20,
    eval_every=500,
    eval_batches=40,
)
PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_4_1": dataclasses.replace(PAPER_CONFIG, support_size=4, length=1),
    "paper_8_4": dataclasses.replace(PAPER_CONFIG, support_size=8, length=4),
    "paper_12_8": dataclasses.replace(PAPER_CONFIG, support_size=12, length=8),
    "demo": DEMO_CONFIG,
    "demo_mnm_g": dataclasses.replace(DEMO_CONFIG, model="mnm_g"),
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, model="lstm"),
    "demo_lstm_salu": dataclasses.replace(DEMO_CONFIG, model="lstm_salu"),
    "demo_8_4": dataclasses.replace(DEMO_CONFIG, support_size=8, length=4, eval_batches=10),
    "demo_8_4_lstm": dataclasses.replace(DEMO_CONFIG, support_size=8, length=4, eval_batches=10, model="lstm"),
    "smoke": Config(support_size=2, length=1, **TINY),
}
PAPER = {"error": (0.0, "§4.1, Fig. 2: both MNM on all four tasks, LSTM+SALU on two, LSTM on (4, 1)")}
DATASETS = ()


class Experiment(AlgorithmicExperiment):
    name = "metalearned/dictionary_inference"
