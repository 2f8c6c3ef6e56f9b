"""tfmem: neural memory for TensorFlow 2, as Keras 3 layers and Sonnet 2 modules.

The names below are loaded at first use, so `import tfmem` alone needs only numpy; the bundle runner and the actors
depend on that. `keras.models.load_model` still knows every class of this package.
"""

import importlib

import tfmem.registration  # noqa: F401 (registers the names of the classes with Keras)

__version__ = "0.1.0"

_LAZY_ATTRIBUTES = {
    "RNN": "tfmem.rnn",
    "unroll": "tfmem.recurrence",
    "as_keras_cell": "tfmem.interop",
    "as_sonnet_core": "tfmem.interop",
}
_SUBMODULES = (
    "checkpoints",
    "cores",
    "envs",
    "export",
    "losses",
    "models",
    "optimizers",
    "plotting",
    "pretrained",
    "rl",
    "tasks",
    "training",
)

__all__ = [*_LAZY_ATTRIBUTES, *_SUBMODULES, "__version__"]


def __getattr__(name):
    if name in _LAZY_ATTRIBUTES:
        return getattr(importlib.import_module(_LAZY_ATTRIBUTES[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"tfmem.{name}")
    raise AttributeError(f"module 'tfmem' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
