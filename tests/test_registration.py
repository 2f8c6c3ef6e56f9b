"""Files load after `import tfmem` alone, Keras imported before it or after; other backends of Keras are refused."""

import importlib
import inspect
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import sonnet as snt

import tfmem
from tests.support import first_of
from tfmem.cores import DNC, LSTM, EntityMemory, LSTMStack, MetalearnedMemory, PlasticRNN
from tfmem.models import LanguageModel, SequenceModel
from tfmem.optimizers import TF1RMSprop
from tfmem.registration import HOMES

ROOT = Path(__file__).parents[1]


def dnc():
    return DNC({"memory_size": 4, "word_size": 3}, {"hidden_size": 5}, output_size=4)


def models():
    """Models of sequences [B, T, 3], by name."""
    layers = {
        "cell": tfmem.RNN(PlasticRNN(4)),
        "sonnet_core": tfmem.RNN(tfmem.as_keras_cell(dnc())),
        "cores_in_a_core": tfmem.RNN(
            tfmem.as_keras_cell(snt.DeepRNN([tfmem.as_sonnet_core(EntityMemory(2, 4)), snt.LSTM(3), dnc()]))
        ),
        "cells_in_a_list": tfmem.RNN([LSTMStack(4), PlasticRNN(3), tfmem.as_keras_cell(snt.GRU(2))]),
        "keras_rnn_of_a_list": keras.layers.RNN([keras.layers.LSTMCell(3), PlasticRNN(4)]),
        "keras_bidirectional": keras.layers.Bidirectional(tfmem.RNN(MetalearnedMemory(4, memory_size=3, word_size=2))),
    }
    found = {name: keras.Sequential([keras.Input([None, 3]), layer]) for name, layer in layers.items()}
    found["sequence_model"] = SequenceModel(LSTMStack(4), 2, mlp_sizes=(3,))
    found["nested"] = keras.Sequential([keras.Input([None, 3]), SequenceModel(dnc(), 2, (3,), return_sequences=True)])
    compiled = keras.Sequential([keras.Input([None, 3]), tfmem.RNN(EntityMemory(2, 4)), keras.layers.Dense(1)])
    compiled.compile(TF1RMSprop(0.1, momentum=0.9), "mse")
    compiled.fit(np.ones([2, 4, 3], np.float32), np.ones([2, 1], np.float32), verbose=0)
    found["compiled"] = compiled
    return found


def run_fresh(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


LOAD = """
import sys
from pathlib import Path
{first}
assert "tensorflow" not in sys.modules or {keras_first}
{second}
import numpy as np

folder = Path(sys.argv[1])
x = np.load(folder / "x.npy")
for path in sorted(folder.glob("*.keras")):
    model = keras.models.load_model(path)
    tolerance = 1e-5 if path.stem.startswith("before") else 0.0  # outputs from another machine
    np.testing.assert_allclose(model(x), np.load(path.with_suffix(".npy")), tolerance, tolerance, err_msg=path.stem)
    if path.stem == "compiled":
        assert type(model.optimizer).__name__ == "TF1RMSprop" and int(model.optimizer.iterations) == 1
words = keras.models.load_model(folder / "words" / "model.keras")
np.testing.assert_array_equal(words(np.load(folder / "words" / "x.npy")), np.load(folder / "words" / "y.npy"))
print("loaded", len(list(folder.glob("*.keras"))))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    x = np.random.default_rng(0).standard_normal([2, 5, 3]).astype(np.float32)
    np.save(folder / "x.npy", x)
    for name, model in models().items():
        np.save(folder / f"{name}.npy", model(x))
        model.save(folder / f"{name}.keras")
    for saved in (ROOT / "tests" / "goldens" / "saved").iterdir():
        shutil.copy(saved, folder)
    (folder / "words").mkdir()
    words = np.array([[1, 2, 0]], np.int32)
    model = LanguageModel(dnc(), 5, embedding_size=4)
    np.save(folder / "words" / "x.npy", words)
    np.save(folder / "words" / "y.npy", model(words))
    model.save(folder / "words" / "model.keras")
    return folder


@pytest.mark.parametrize("keras_first", first_of([True, False]))
def test_files_load_after_importing_tfmem_alone(files, keras_first):
    first, second = ("import keras", "import tfmem") if keras_first else ("import tfmem", "import keras")
    done = run_fresh(LOAD.format(first=first, second=second, keras_first=keras_first), files)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["loaded", "10"]


def test_a_sonnet_core_loads_by_the_module_it_had_before():
    config = {"module": "tfmem.models.belief", "class": "LSTM", "arguments": {"hidden_size": 3, "name": "lstm"}}
    assert type(tfmem.interop.SonnetObject.from_config(config)) is LSTM


def test_every_registered_class_has_a_home():
    found = {}
    for module in pkgutil.walk_packages(tfmem.__path__, "tfmem."):
        if module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(value) and value.__module__ == module.name:
                registered = keras.saving.get_registered_name(value)
                if registered.startswith("tfmem>"):
                    assert registered == f"tfmem>{name}"
                    found[name] = module.name
    assert found == HOMES


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_keras_parts_refuse_another_backend_by_one_clear_error(backend):
    code = """
import importlib
import tfmem, tfmem.tasks, tfmem.losses.geco  # no Keras parts
parts = ("rnn", "interop", "export", "optimizers", "models", "cores.plastic", "cores.multigrid", "training.experiment")
for module in parts:
    try:
        importlib.import_module(f"tfmem.{module}")
    except ImportError as error:
        print(error)
"""
    done = run_fresh(code, KERAS_BACKEND=backend)
    assert done.returncode == 0, done.stderr[-3000:]
    messages = [line for line in done.stdout.splitlines() if "KERAS_BACKEND" in line]
    assert len(messages) == 8
    assert len(set(messages)) == 1
    assert messages[0].startswith(f"KERAS_BACKEND: '{backend}', must be 'tensorflow'")


def test_keras_parts_refuse_the_backend_of_a_keras_imported_before(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    code = "import keras\ntry:\n    import tfmem.rnn\nexcept ImportError as error:\n    print(error)"
    done = run_fresh(code, KERAS_HOME=str(tmp_path))
    assert done.stdout.startswith("KERAS_BACKEND: 'jax', must be 'tensorflow'"), done.stderr[-3000:]
