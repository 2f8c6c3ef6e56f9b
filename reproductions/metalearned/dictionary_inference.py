"""Dictionary inference: translate a word after k examples of an unknown language (Munkhdalai et al. 2019, §4.1).

Every episode, in training and in evaluation, draws a new mapping of 13 letters to the 13 others; evaluation uses seeds
that training never uses.
"""

import dataclasses

from tfmem.tasks.dictionary_inference import DictionaryInference
from tfmem.training import SupervisedConfig, SupervisedExperiment

from .settings import (
    DEMO_LSTM,
    DEMO_LSTM_SALU,
    DEMO_MNM_G,
    DEMO_SETTINGS,
    PAPER_SETTINGS,
    SMOKE_MNM_P,
    SMOKE_SETTINGS,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SupervisedConfig):
    task: DictionaryInference
    """Paper: (support_size, length) = (4, 1), (8, 4), (12, 8) and (16, 12) (§4.1)."""


PAPER_CONFIG = Config(task=DictionaryInference(support_size=16, length=12), **PAPER_SETTINGS)
# The paper's two easier tasks.
DEMO_CONFIG = Config(task=DictionaryInference(support_size=4, length=1), num_updates=3_000, **DEMO_SETTINGS)
DEMO_8_4_CONFIG = dataclasses.replace(
    DEMO_CONFIG, task=DictionaryInference(support_size=8, length=4), num_updates=10_000, eval_batches=10
)
PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_4_1": dataclasses.replace(PAPER_CONFIG, task=DictionaryInference(support_size=4, length=1)),
    "paper_8_4": dataclasses.replace(PAPER_CONFIG, task=DictionaryInference(support_size=8, length=4)),
    "paper_12_8": dataclasses.replace(PAPER_CONFIG, task=DictionaryInference(support_size=12, length=8)),
    "demo": DEMO_CONFIG,
    "demo_mnm_g": dataclasses.replace(DEMO_CONFIG, core=DEMO_MNM_G),
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, core=DEMO_LSTM),
    "demo_lstm_salu": dataclasses.replace(DEMO_CONFIG, core=DEMO_LSTM_SALU),
    "demo_8_4": DEMO_8_4_CONFIG,
    "demo_8_4_mnm_g": dataclasses.replace(DEMO_8_4_CONFIG, core=DEMO_MNM_G),
    "demo_8_4_lstm": dataclasses.replace(DEMO_8_4_CONFIG, core=DEMO_LSTM),
    "demo_8_4_lstm_salu": dataclasses.replace(DEMO_8_4_CONFIG, core=DEMO_LSTM_SALU),
    "smoke": Config(task=DictionaryInference(support_size=2, length=1), core=SMOKE_MNM_P, **SMOKE_SETTINGS),
}
PAPER = {"error": (0.0, "§4.1, Fig. 2: both MNM on all four tasks, LSTM+SALU on two, LSTM on (4, 1)")}
DATASETS = ()
STATUS = "demo; paper_8_4 7%"


class Experiment(SupervisedExperiment):
    name = "metalearned/dictionary_inference"
