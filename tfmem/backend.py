"""Import of Keras with a check that its backend is TensorFlow.

The Keras parts of this package import `keras` from here, because they compute with TensorFlow tensors.
"""

import os
import sys


def _check(backend):
    if backend != "tensorflow":
        raise ImportError(
            f"KERAS_BACKEND: {backend!r}, must be 'tensorflow' for the Keras parts of tfmem; set the environment "
            'variable KERAS_BACKEND=tensorflow before Keras is imported, or "backend" in keras.json'
        )


if "keras" not in sys.modules:  # importing Keras fails if the other backend is not installed
    _check(os.environ.get("KERAS_BACKEND") or "tensorflow")

import keras  # noqa: E402

_check(keras.config.backend())


def hand_on_trainable(layer):
    """Freeze the sublayers of a layer built with `trainable=False`, as Keras does if the attribute is set later."""
    if not layer.trainable:
        type(layer).trainable.fset(layer, False)  # `layer.trainable = False` does nothing if it is False already
