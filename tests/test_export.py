"""Contents of a core's or model's SavedModel: names, shapes, the asset, and the errors."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

import tfmem
from tests.conformance.toys import KerasToy, SonnetToy
from tests.support import first_of
from tfmem.cores import EntityMemory, LookupMemory, LSTMStack, MultigridConvLSTM, PlasticRNN
from tfmem.models import EncoderDecoder, LanguageModel, QuestionAnsweringModel, SequenceModel
from tfmem.recurrence import unroll

ROOT = Path(__file__).parents[1]
T = 6  # steps of the models' inputs


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
    with pytest.raises(ValueError, match=r"input_shape: \(3,\), must be None"):
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
    with pytest.raises(ValueError, match="input_shape: None, must be"):
        tfmem.export.saved_model(SonnetToy(5, {}), tmp_path / "a")
    for model in (SequenceModel(PlasticRNN(3), 2), keras.Sequential([tfmem.RNN(PlasticRNN(3))])):
        with pytest.raises(ValueError, match=r"model_or_core: .*, must be built: give it an input or call it once"):
            tfmem.export.saved_model(model, tmp_path / "a")
    for wrong in (keras.layers.Dense(3), snt.Linear(3), "core", PlasticRNN, SequenceModel):
        with pytest.raises(ValueError, match=r"model_or_core: .*, must be"):
            tfmem.export.saved_model(wrong, tmp_path / "a", input_shape=(4,))
    for shape in (4, np.int64(4), "4", (None,), (4, True), ((4,), (0,)), 4.0):
        with pytest.raises(ValueError, match=r"input_shape: .*, such as \(4,\)"):
            tfmem.export.saved_model(SonnetToy(5, {}), tmp_path / "a", input_shape=shape)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match=r"path: .* must be a folder that does not exist or is empty"):
        tfmem.export.saved_model(SonnetToy(5, {}), tmp_path, input_shape=(4,))
    assert (tmp_path / "file").read_text() == "kept"


def sequential(*layers, shape=(None, 3), **options):
    return keras.Sequential([keras.Input(shape, **options), *layers])


def embeddings():
    words = keras.Input([None], dtype="int32")
    x = keras.layers.Embedding(7, 5, mask_zero=True)(words)
    y = tfmem.RNN(PlasticRNN(5), return_sequences=True)(x)
    x = keras.layers.LayerNormalization()(keras.layers.Add()([x, y]))
    x = keras.layers.Dropout(0.5)(x)
    x = tfmem.RNN(LSTMStack(4), return_sequences=True, zero_output_for_mask=True)(x)
    return keras.Model(words, {"words": keras.layers.Dense(7)(x), "memory": y})


def two_inputs():
    frames, goal = keras.Input([T, 4, 4, 2], name="frames"), keras.Input([3], name="goal")
    x = keras.layers.TimeDistributed(keras.layers.Conv2D(3, 3, activation="relu"))(frames)
    x = keras.layers.TimeDistributed(keras.layers.Flatten())(x)
    x = tfmem.RNN([PlasticRNN(4), tfmem.as_keras_cell(snt.GRU(3))], return_sequences=True)(x)
    x = keras.layers.Activation("relu")(x * 2.0)
    last = tfmem.RNN(EntityMemory(2, 4))(x)
    return keras.Model({"frames": frames, "goal": goal}, keras.layers.Concatenate()([last, goal]))


def shared_and_nested():
    part = sequential(
        tfmem.RNN(LSTMStack(3), return_sequences=True, name="memory"), keras.layers.Dense(3), shape=(T, 3)
    )
    x = keras.Input([T, 3])
    y = part(part(keras.layers.Masking()(x)))
    return keras.Model(x, tfmem.RNN(PlasticRNN(2), return_sequences=True)(keras.ops.tanh(y)))


MODELS = {
    "last output": lambda: sequential(tfmem.RNN(PlasticRNN(4)), keras.layers.Dense(4)),
    "Sonnet core": lambda: sequential(
        keras.layers.Dense(3), tfmem.RNN(tfmem.as_keras_cell(snt.LSTM(5)), return_sequences=True)
    ),
    "table that grows": lambda: sequential(
        keras.layers.Dense(4),
        tfmem.RNN(LookupMemory(4, word_size=3), return_sequences=True),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(2),
    ),
    "masked": lambda: sequential(keras.layers.Masking(), tfmem.RNN(PlasticRNN(4)), keras.layers.Dense(2)),
    "stateful": lambda: sequential(tfmem.RNN(LSTMStack(3), stateful=True), shape=None, batch_shape=(3, T, 3)),
    "embeddings": embeddings,
    "two inputs": two_inputs,
    "shared and nested": shared_and_nested,
}


def model_inputs(model, rng):
    def draw(x):
        if x.dtype == "int32":
            return tf.constant(rng.integers(7, size=[3, T]) * (rng.random([3, T]) < 0.6), tf.int32)
        shape = [3, *x.shape[1:]] if len(x.shape) == 2 else [3, T, *x.shape[2:]]
        values = rng.standard_normal(shape)
        if len(shape) == 3:
            values *= rng.random([3, T, 1]) < 0.6
        return tf.constant(values, tf.float32)

    return tf.nest.map_structure(draw, model.input if isinstance(model, keras.Function) else model.inputs[0])


# Keras warns of a mask that a nested model gets and cannot hand on.
@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask attached:UserWarning")
@pytest.mark.parametrize("kind", first_of([*MODELS], 4))
def test_a_model_of_layers_runs_step_by_step(tmp_path, rng, kind):
    keras.utils.set_random_seed(0)
    model = MODELS[kind]()
    inputs = model_inputs(model, rng)
    whole = model(inputs)
    tfmem.export.saved_model(model, tmp_path)
    signatures = tf.saved_model.load(str(tmp_path)).signatures
    flat = {n: t for n, (_, t) in tfmem.export._flatten({"inputs": inputs}).items()}
    expected = {n: t for n, (_, t) in tfmem.export._flatten({"outputs": whole}).items()}
    timed = {n: t.shape.rank > 2 or t.dtype == tf.int32 for n, t in flat.items()}

    def check(result, t=slice(None)):
        for name, e in expected.items():
            in_time = e.shape[1:2] == [T] and e.shape.rank > 2
            if in_time or t in (slice(None), T - 1):  # an output without time is that of the last step
                np.testing.assert_allclose(result[name], e[:, t] if in_time else e, atol=1e-5, err_msg=name)

    def state_of(result):
        return {name: x for name, x in result.items() if name.startswith("state")}

    check(signatures["sequence"](**flat))
    state = signatures["initial_state"](batch_size=tf.constant(3))
    check(signatures["sequence_from_state"](**flat, **state))
    for t in range(T):
        result = signatures["step"](**{n: x[:, t] if timed[n] else x for n, x in flat.items()}, **state)
        check(result, t)
        state = state_of(result)
    final = state_of(signatures["sequence"](**flat))
    assert final.keys() == state.keys()
    for name, x in final.items():
        if "table" not in kind:  # its capacity depends on how it grew
            np.testing.assert_allclose(x, state[name], atol=1e-5, err_msg=name)
    empty = {n: x[:, :0] if timed[n] else x for n, x in flat.items()}
    if not all(e.shape[1:2] == [T] and e.shape.rank > 2 for e in expected.values()):
        with pytest.raises(tf.errors.InvalidArgumentError, match="inputs: 0 steps, must be at least 1"):
            signatures["sequence_from_state"](**empty, **state)
        return
    result = signatures["sequence_from_state"](**empty, **state)
    for name, x in state.items():
        np.testing.assert_array_equal(result[name], x)
    for name, e in expected.items():
        assert result[name].shape == [3, 0, *e.shape[2:]]


def memory(**options):
    return tfmem.RNN(PlasticRNN(4), return_sequences=True, **options)


REFUSED = {
    "bidirectional": lambda: [keras.layers.Bidirectional(memory(), name="bad"), memory()],
    "keras.layers.LSTM": lambda: [keras.layers.LSTM(4, return_sequences=True, name="bad"), memory()],
    "convolution": lambda: [keras.layers.Conv1D(4, 3, padding="causal", dilation_rate=9, name="bad"), memory()],
    "convolution of valid steps": lambda: [memory(), keras.layers.Conv1D(4, 2, name="bad")],
    "pooling": lambda: [memory(), keras.layers.GlobalAveragePooling1D(name="bad")],
    "strides": lambda: [keras.layers.MaxPooling1D(2, padding="same", name="bad"), memory()],
    "backwards": lambda: [memory(go_backwards=True, name="bad")],
    "a sum over time": lambda: [memory(), keras.layers.Lambda(lambda x: tf.cumsum(x, 1), name="bad")],
    "softmax over time": lambda: [memory(), keras.layers.Softmax(axis=1, name="bad")],
    "nested": lambda: [keras.Sequential([memory(), keras.layers.UpSampling1D(2, name="bad")])],
}


# Keras warns of the softmax over the one step of `step`.
@pytest.mark.filterwarnings("ignore:You are using a softmax over axis 1:UserWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_layer_that_sees_other_steps_is_refused_by_name(tmp_path, kind):
    model = sequential(*REFUSED[kind]())
    with pytest.raises(ValueError, match="model_or_core: layer 'bad', must compute the same at every step"):
        tfmem.export.saved_model(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_without_memory_or_of_a_given_state_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must hold a tfmem.RNN"):
        tfmem.export.saved_model(sequential(keras.layers.Dense(3)), tmp_path)
    with pytest.raises(ValueError, match=r"input_shape: .*, must be None"):
        tfmem.export.saved_model(sequential(memory()), tmp_path, input_shape=(3,))
    x, state = keras.Input([None, 3]), [keras.Input([4]), keras.Input([4, 4])]
    model = keras.Model([x, *state], memory(name="bad")(x, initial_state=state))
    with pytest.raises(ValueError, match=r"layer 'bad', must compute .*: the model gives it an init"):
        tfmem.export.saved_model(model, tmp_path)


def test_a_model_of_layers_is_served_without_tfmem(tmp_path, rng):
    model = sequential(keras.layers.Dense(4), memory(), keras.layers.Dense(2))
    folder = tmp_path / "0"
    folder.mkdir()
    x = tf.constant(rng.standard_normal([3, 4, 3]), tf.float32)
    tfmem.export.saved_model(model, folder / "saved_model")
    final = tf.saved_model.load(str(folder / "saved_model")).signatures["sequence"](inputs=x)
    layout = json.loads((folder / "saved_model" / tfmem.export.ASSET).read_text())["signatures"]["sequence"]["outputs"]
    states = [final[name] for name, entry in layout.items() if entry["nest"][0] == "state"]
    np.savez(folder / "run.npz", input_0=x, output_0=model(x), **{f"state_{i}": s for i, s in enumerate(states)})
    subprocess.run([sys.executable, ROOT / "tests/conformance/serve.py", tmp_path], check=True, capture_output=True)
    assert json.loads((tmp_path / "results.json").read_text()) == ["ok"]


@pytest.mark.long
def test_models_with_sequences_of_no_steps(tmp_path):
    words = LanguageModel(LSTMStack(3), 5, embedding_size=4)
    words.build()
    answers = QuestionAnsweringModel(5, (1, 2), (2, 2), (1,), (2,), writer_residuals=())
    answers.build()
    every = SequenceModel(MultigridConvLSTM((3,), 2), 4, (3,), return_sequences=True)
    every.build([None, None, 3, 3, 2])
    last = SequenceModel(LSTMStack(3), 4, (3,))
    last.build([None, None, 3])
    both = EncoderDecoder(LSTMStack(3), 5, start_token=0, mlp_sizes=())
    both.build()
    loaded = {}
    for name, model in {"words": words, "answers": answers, "every": every, "last": last, "both": both}.items():
        tfmem.export.saved_model(model, tmp_path / name)
        loaded[name] = tf.saved_model.load(str(tmp_path / name))
    call = {name: model.signatures["sequence"] for name, model in loaded.items()}
    assert call["words"](words=tf.zeros([2, 0], tf.int32))["logits"].shape == [2, 0, 5]
    assert call["answers"](inputs=tf.zeros([2, 0, 5]))["logits"].shape == [2, 0, 5]
    assert call["every"](inputs=tf.zeros([2, 0, 3, 3, 2]))["logits"].shape == [2, 0, 4]
    with pytest.raises(tf.errors.InvalidArgumentError, match="inputs: 0 steps, must be at least 1"):
        call["last"](inputs=tf.zeros([2, 0, 3]))
    zero, two = tf.zeros([2], tf.int32), tf.constant(2)
    none = call["both"](tokens=tf.zeros([2, 0], tf.int32), lengths=zero, num_steps=two)["logits"]
    np.testing.assert_allclose(none, both(tf.ones([2, 3], tf.int32), lengths=zero, num_steps=2), atol=1e-6)
    assert (
        call["both"](tokens=tf.ones([2, 3], tf.int32), lengths=zero, num_steps=tf.constant(0))["logits"].shape[1] == 0
    )
