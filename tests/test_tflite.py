"""Exported steps in TensorFlow Lite with its built-in operators alone: the table of docs/guides/export.md."""

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfmem
from tests.conformance.descriptors import ROWS
from tests.support import first_of

PAGE = (Path(__file__).parents[1] / "docs/guides/export.md").read_text("utf-8")
TABLE = {name: answer == "yes" for name, answer in re.findall(r"^\| `(\w+)` \| (yes|no)\b", PAGE, re.MULTILINE)}
CORES = {name: next(row for row in ROWS if row.name.split(":")[0] == name) for name in TABLE}


def converted(core, input_shape, folder):
    """Signature `step` of a core's SavedModel, and its TensorFlow Lite program."""
    tfmem.export.saved_model(core, folder, input_shape=input_shape)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=["step"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return tf.saved_model.load(str(folder)), converter.convert()


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
@pytest.mark.parametrize("name", first_of([name for name in TABLE if TABLE[name]], 3))
def test_steps_equal_those_of_the_saved_model(name, tmp_path, rng):
    model, program = converted(CORES[name].make()[0], CORES[name].input_shape, tmp_path / "model")
    exact, lite = model.signatures["step"], tf.lite.Interpreter(model_content=program).get_signature_runner("step")
    first = model.signatures["initial_state"](batch_size=tf.constant(1))
    state = {name: tensor.numpy() for name, tensor in first.items()}
    specs = {name: spec for name, spec in exact.structured_input_signature[1].items() if name not in state}
    lite_state = state
    for _ in range(4):
        inputs = {name: rng.standard_normal([1, *spec.shape[1:]]).astype("f") for name, spec in specs.items()}
        given = {name: tf.constant(x) for name, x in {**inputs, **state}.items()}
        expected = {name: tensor.numpy() for name, tensor in exact(**given).items()}
        actual = lite(**inputs, **lite_state)
        for part, e in expected.items():
            assert np.max(np.abs(actual[part] - e.astype("d"))) <= 1e-5 * max(np.max(np.abs(e)), 1e-12), part
        state, lite_state = ({n: results[n] for n in state} for results in (expected, actual))


@pytest.mark.parametrize("name", first_of([name for name in TABLE if not TABLE[name]]))
def test_a_core_with_other_operators_is_refused(name, tmp_path):
    with pytest.raises(Exception, match=r"Cumprod|Cholesky|BatchMatMulV2"):
        converted(CORES[name].make()[0], CORES[name].input_shape, tmp_path / "model")
