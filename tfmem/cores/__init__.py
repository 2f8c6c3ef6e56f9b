"""The memory systems of the four papers; one file or folder each, with its paper's equations in order.

The names are loaded when first used: one core does not bring the libraries of the others.
"""

import importlib

_MODULES = {
    "ConvLSTM": "multigrid",
    "DNC": "dnc",
    "EntityMemory": "entity",
    "KanervaCore": "kanerva",
    "KanervaMemory": "kanerva",
    "LSTM": "lstm",
    "LSTMStack": "lstm",
    "LookupMemory": "lookup",
    "MetalearnedMemory": "metalearned",
    "MultigridConv": "multigrid",
    "MultigridConvLSTM": "multigrid",
    "PlasticRNN": "plastic",
    "RMACore": "rma",
    "RelationalMemory": "relational",
    "TVTCore": "tvt",
}

__all__ = sorted(_MODULES)


def __getattr__(name):
    if name in _MODULES:
        return getattr(importlib.import_module(f"tfmem.cores.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'tfmem.cores' has no attribute {name!r}")


def __dir__():
    return __all__
