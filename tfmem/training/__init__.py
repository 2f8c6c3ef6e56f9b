"""Training: experiments, the loop that runs them in a folder, supervised experiments of any core on any task.

The names are loaded when first used.
"""

import importlib

_MODULES = {
    "Evaluation": "tfmem.training.experiment",
    "Experiment": "tfmem.training.experiment",
    "OptimizedConfig": "tfmem.training.experiment",
    "RunConfig": "tfmem.training.experiment",
    "SequenceConfig": "tfmem.training.sequence",
    "SequenceExperiment": "tfmem.training.sequence",
    "SupervisedConfig": "tfmem.training.supervised",
    "SupervisedExperiment": "tfmem.training.supervised",
    "TrainingDivergedError": "tfmem.training.loop",
    "TrainingInterrupted": "tfmem.training.loop",
    "UpdateError": "tfmem.training.trainer",
    "WorkerError": "tfmem.training.loop",
    "checkpoint_arrays": "tfmem.training.experiment",
    "compiled_updates": "tfmem.training.experiment",
    "config_defaults": "tfmem.training.config",
    "config_fields": "tfmem.training.config",
    "config_from_fields": "tfmem.training.config",
    "load_checkpoint": "tfmem.training.experiment",
    "nested_classes": "tfmem.training.config",
    "numbered": "tfmem.training.experiment",
    "run_description": "tfmem.training.experiment",
    "stacked_batches": "tfmem.training.experiment",
    "train": "tfmem.training.trainer",
    "uses_xla": "tfmem.training.experiment",
    "variable_names": "tfmem.training.experiment",
}

__all__ = sorted(_MODULES)


def __getattr__(name):
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'tfmem.training' has no attribute {name!r}")


def __dir__():
    return __all__
