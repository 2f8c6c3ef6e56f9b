"""Any task with any core.

    reproduce run supervised task:double-copy --task.length 8 core:dnc --core.memory-size 64

Options of the run come first, then `task:<name>` with the task's options, then `core:<name>` with the core's.
"""

import dataclasses
from typing import Annotated, Union

from tyro.conf import subcommand

from tfmem.cores.config import AnyCoreConfig, LSTMConfig
from tfmem.tasks.associative_recall import AssociativeRecall
from tfmem.tasks.dictionary_inference import DictionaryInference
from tfmem.tasks.double_copy import DoubleCopy
from tfmem.tasks.mnist_sort import MNISTSort
from tfmem.tasks.nth_farthest import NthFarthest
from tfmem.tasks.priority_sort import PrioritySort
from tfmem.tasks.question_answering import Babi
from tfmem.training import SupervisedConfig, SupervisedExperiment

AnyTask = Union[  # noqa: UP007 - of annotated types
    Annotated[DoubleCopy, subcommand("double-copy")],
    Annotated[DictionaryInference, subcommand("dictionary-inference")],
    Annotated[PrioritySort, subcommand("priority-sort")],
    Annotated[MNISTSort, subcommand("mnist-sort")],
    Annotated[AssociativeRecall, subcommand("associative-recall")],
    Annotated[NthFarthest, subcommand("nth-farthest")],
    Annotated[Babi, subcommand("babi")],
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SupervisedConfig):
    task: AnyTask
    """The task."""
    core: AnyCoreConfig
    """The core."""


PRESETS = {
    "default": Config(
        task=DoubleCopy(length=8),
        core=LSTMConfig(),
        batch_size=32,
        learning_rate=1e-3,
        num_updates=3_000,
        eval_every=500,
    )
}
PAPER = {}
DATASETS = ("mnist (mnist-sort)", "babi (babi)")
STATUS = "-"
Experiment = SupervisedExperiment


def run_name(preset, config):
    """Name of a run's folder: the task and the core."""
    return "-".join(type(part).__name__.removesuffix("Config") for part in (config.task, config.core))
