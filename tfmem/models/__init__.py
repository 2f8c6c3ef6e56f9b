"""Models: cores put together as the papers do.

Those of Sonnet are loaded when first used: they bring TensorFlow Probability.
"""

import importlib

from tfmem.models.language import LanguageModel
from tfmem.models.mapping_cells import CoreLocalizationModel, LocalizingCell, MappingCell
from tfmem.models.multigrid import (
    LocalizationModel,
    MNISTRecallModel,
    QuestionAnsweringModel,
    RecallModel,
    SortModel,
)
from tfmem.models.sequence import EncoderDecoder, SequenceModel

_MODULES = {
    "BeliefModel": "belief",
    "ConvDRAW": "convdraw",
    "DeterministicFrameModel": "convdraw",
    "KanervaMachine": "kanerva_machine",
    "MapDecoder": "belief",
    "PositionDecoder": "belief",
    "SimCoreHead": "belief",
}

__all__ = [
    "CoreLocalizationModel",
    "EncoderDecoder",
    "LanguageModel",
    "LocalizationModel",
    "LocalizingCell",
    "MNISTRecallModel",
    "MappingCell",
    "QuestionAnsweringModel",
    "RecallModel",
    "SequenceModel",
    "SortModel",
    *_MODULES,
]


def __getattr__(name):
    if name in _MODULES:
        return getattr(importlib.import_module(f"tfmem.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'tfmem.models' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
