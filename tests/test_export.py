"""What a SavedModel of a core or model holds: names, shapes, the asset, and the errors."""

import json

import keras
import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

import tfmem
from tests.conformance.toys import KerasToy, SonnetToy
from tfmem.recurrence import unroll


def names_and_shapes(tensors):
    return {name: tensor.shape.as_list() for name, tensor in tensors.items()}


def test_signatures_have_flat_names_and_unknown_batch_and_time(tmp_path):
    cell = KerasToy(5)
    tfmem.export.saved_model(cell, tmp_path / "out", input_shape=((4,), (4,)))
    loaded = tf.saved_model.load(str(tmp_path / "out"))
    assert set(loaded.signatures) == {"step", "sequence", "sequence_from_state", "initial_state", "serving_default"}
    state = {"state_slots": [None, 2, 5], "state_steps": [None]}
    step = loaded.signatures["step"]
    inputs = {name: spec.shape.as_list() for name, spec in step.structured_input_signature[1].items()}
    assert inputs == {"inputs_0": [None, 4], "inputs_1": [None, 4], **state}
    assert names_and_shapes(step.structured_outputs) == {
        "outputs_value": [None, 5],
        "outputs_slots": [None, 2, 5],
        **state,
    }
    default = loaded.signatures["serving_default"]
    assert default.structured_outputs.keys() == step.structured_outputs.keys()
    assert names_and_shapes(loaded.signatures["sequence"].structured_outputs) == {
        "outputs_value": [None, None, 5],
        "outputs_slots": [None, None, 2, 5],
        **state,
    }
    layout = json.loads((tmp_path / "out" / tfmem.export.ASSET).read_text())
    assert layout["class"] == "KerasToy"
    assert layout["signatures"]["step"]["inputs"]["state_slots"] == {
        "nest": ["state", "slots"],
        "shape": [None, 2, 5],
        "dtype": "float32",
    }
    assert layout["signatures"]["initial_state"]["outputs"]["state_steps"]["dtype"] == "int32"


@pytest.mark.parametrize("kind", ["core", "cell", "layer"])
def test_steps_and_sequences_equal_the_live_core(tmp_path, rng, kind):
    core = SonnetToy(5, {})
    x = tf.constant(rng.standard_normal([3, 6, 4]), tf.float32)
    core(x[:, 0], core.initial_state(3))
    exported = core if kind == "core" else tfmem.as_keras_cell(core)
    exported = tfmem.RNN(exported) if kind == "layer" else exported
    tfmem.export.saved_model(exported, tmp_path, input_shape=(4,))
    signatures = tf.saved_model.load(str(tmp_path)).signatures
    expected, final = unroll(core, tf.transpose(x, [1, 0, 2]), core.initial_state(3))
    state = signatures["initial_state"](batch_size=tf.constant(3))
    for t in range(2):
        result = signatures["step"](inputs=x[:, t], **state)
        np.testing.assert_allclose(result["outputs_value"], expected.value[t], atol=1e-6)
        state = {name: value for name, value in result.items() if name.startswith("state")}
    rest = signatures["sequence_from_state"](inputs=x[:, 2:], **state)
    whole = signatures["sequence"](inputs=x)
    np.testing.assert_allclose(rest["state_slots"], final.slots, atol=1e-6)
    np.testing.assert_allclose(whole["state_slots"], final.slots, atol=1e-6)
    np.testing.assert_allclose(tf.transpose(whole["outputs_slots"], [1, 0, 2, 3]), expected.slots, atol=1e-6)


def test_cores_of_the_two_frameworks_themselves(tmp_path):
    for name, core in (("sonnet", snt.LSTM(3)), ("keras", keras.layers.LSTMCell(3)), ("one", snt.GRU(3))):
        tfmem.export.saved_model(core, tmp_path / name, input_shape=(4,))
        step = tf.saved_model.load(str(tmp_path / name)).signatures["step"]
        state = {name for name in step.structured_outputs if name.startswith("state")}
        assert (
            state
            == {
                "sonnet": {"state_hidden", "state_cell"},
                "keras": {"state_0", "state_1"},
                "one": {"state"},
            }[name]
        )


def test_a_model_exports_what_it_says(tmp_path):
    class Counter(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)
            self.dense.build((None, 3))
            self.built = True

        def export_functions(self):
            def step(x, state):
                return {"y": self.dense(x["a"]), "state": {"count": state["count"] + 1}}

            batch = {"count": tf.TensorSpec([None], tf.int32)}
            return {"step": (step, {"x": {"a": tf.TensorSpec([None, 3])}, "state": batch})}

    model = Counter()
    tfmem.export.saved_model(model, tmp_path)
    step = tf.saved_model.load(str(tmp_path)).signatures["step"]
    result = step(x_a=tf.ones([2, 3]), state_count=tf.constant([4, 5]))
    np.testing.assert_array_equal(result["state_count"], [5, 6])
    np.testing.assert_allclose(result["y"], model.dense(tf.ones([2, 3])), atol=1e-6)
    with pytest.raises(ValueError, match=r"input_shape was \(3,\), must be left out"):
        tfmem.export.saved_model(model, tmp_path / "again", input_shape=(3,))


@pytest.mark.parametrize("signature", ["step", "sequence_from_state"])
def test_a_state_of_another_batch_is_refused_when_served(tmp_path, signature):
    core = SonnetToy(5, {})
    tfmem.export.saved_model(core, tmp_path, input_shape=(4,))
    signatures = tf.saved_model.load(str(tmp_path)).signatures
    x = tf.ones([8, 4] if signature == "step" else [8, 3, 4])
    for size in (1, 7):
        with pytest.raises(tf.errors.InvalidArgumentError, match="its batch must be that of the inputs"):
            signatures[signature](inputs=x, **signatures["initial_state"](batch_size=tf.constant(size)))
    state = signatures["initial_state"](batch_size=tf.constant(8))
    state["state_steps"] = state["state_steps"][:1]
    with pytest.raises(tf.errors.InvalidArgumentError, match="its batch must be that of the inputs"):
        signatures[signature](inputs=x, **state)


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="input_shape was None"):
        tfmem.export.saved_model(SonnetToy(5, {}), tmp_path / "a")
    for wrong in (keras.layers.Dense(3), snt.Linear(3), "core"):
        with pytest.raises(ValueError, match="model_or_core was"):
            tfmem.export.saved_model(wrong, tmp_path / "a", input_shape=(4,))
    for shape in (4, np.int64(4), "4", (None,), (4, True), ((4,), (0,)), 4.0):
        with pytest.raises(ValueError, match=r"input_shape: .*, such as \(4,\)"):
            tfmem.export.saved_model(SonnetToy(5, {}), tmp_path / "a", input_shape=shape)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match=r"path was .* must be a folder that does not exist or is empty"):
        tfmem.export.saved_model(SonnetToy(5, {}), tmp_path, input_shape=(4,))
    assert (tmp_path / "file").read_text() == "kept"
