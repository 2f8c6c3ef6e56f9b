"""Keras, once it is certain that it computes with TensorFlow.

The Keras parts of this package import `keras` from here: their tensors are TensorFlow's.
"""

import os
import sys


def _check(backend):
    if backend != "tensorflow":
        raise ImportError(
            f"KERAS_BACKEND: {backend!r}, must be 'tensorflow' for the Keras parts of tfmem; set the environment "
            'variable KERAS_BACKEND=tensorflow before Keras is imported, or "backend" in keras.json'
        )


if "keras" not in sys.modules:  # before Keras fails, where the other backend is not installed
    _check(os.environ.get("KERAS_BACKEND") or "tensorflow")

import keras  # noqa: E402

_check(keras.config.backend())


def hand_on_trainable(layer):
    """Freezes what is inside a layer that was made with `trainable=False`, as Keras does where that is set later."""
    if not layer.trainable:
        type(layer).trainable.fset(layer, False)  # `layer.trainable = False` does nothing where it is False already
