"""Every Keras model of the package can be loaded from a file once `tfmem.models` is imported, and nothing else is."""

import inspect
import subprocess
import sys

import keras

from tfmem import models


def test_models_are_registered_by_importing_their_room():
    named = [getattr(models, name) for name in models.__all__]
    names = [f"tfmem>{c.__name__}" for c in named if inspect.isclass(c) and issubclass(c, keras.Model)]
    assert len(names) >= 8
    code = f"import keras, tfmem.models\nprint([n for n in {names} if keras.saving.get_registered_object(n) is None])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
