"""Interop: identity of variables, configurations, and the errors of cores that would not train."""

import json
import sys
import types
import zipfile

import keras
import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

import tfmem
from tests.conformance.toys import KerasToy, SonnetToy
from tests.support import first_of
from tfmem.cores import DNC, MetalearnedMemory, MultigridConvLSTM, PlasticRNN
from tfmem.models import LocalizationModel, SequenceModel
from tfmem.recurrence import unroll


def fit(cell, jit_compile, inputs=None):
    model = keras.Sequential([keras.Input([5, 3]), tfmem.RNN(cell), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=jit_compile)
    before = [w.numpy() for w in model.weights]
    x = np.random.default_rng(0).standard_normal([4, 5, 3]).astype(np.float32)
    model.fit(x, np.ones([4, 1], np.float32), verbose=0)
    return model, before


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_weights_of_a_wrapped_core_are_its_variables_and_train(used_before, jit_compile):
    core = snt.LSTM(4)
    if used_before:
        core(tf.zeros([2, 3]), core.initial_state(2))
    cell = tfmem.as_keras_cell(core)
    model, before = fit(cell, jit_compile)
    assert len(cell.weights) == len(core.variables) == 3
    assert all(w.value is v for w, v in zip(cell.weights, core.variables, strict=True))
    assert all(any(w is v for v in model.trainable_variables) for w in cell.weights)
    for weight, old in zip(model.weights, before, strict=True):
        assert np.any(weight.numpy() != old), weight.path
    x = tf.ones([2, 3])
    np.testing.assert_array_equal(cell(x, cell.get_initial_state(2))[0], core(x, core.initial_state(2))[0])


@pytest.mark.parametrize("built", [False, True])
def test_variables_of_a_wrapped_cell_are_its_weights_and_train(built):
    cell = keras.layers.GRUCell(4)
    if built:
        cell.build((None, 3))
    core = tfmem.as_sonnet_core(cell)
    x = tf.random.stateless_normal([5, 2, 3], [1, 2])
    snt.dynamic_unroll(core, x, core.initial_state(2))
    assert len(core.trainable_variables) == 3
    assert all(v is w.value for v, w in zip(core.variables, cell.variables, strict=True))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(snt.dynamic_unroll(core, x, core.initial_state(2))[0] ** 2)
    before = cell.get_weights()
    snt.optimizers.SGD(0.1).apply(tape.gradient(loss, core.trainable_variables), core.trainable_variables)
    assert all(np.any(a != b) for a, b in zip(before, cell.get_weights(), strict=True))
    expected = keras.layers.RNN(cell, return_sequences=True)(tf.transpose(x, [1, 0, 2]))
    again, _ = unroll(core, x, core.initial_state(2))
    np.testing.assert_allclose(tf.transpose(again, [1, 0, 2]), expected, atol=1e-6)


def test_wrapping_back_gives_the_original():
    core, cell = SonnetToy(4, {}), KerasToy(4)
    assert tfmem.as_sonnet_core(tfmem.as_keras_cell(core)) is core
    assert tfmem.as_keras_cell(tfmem.as_sonnet_core(cell)) is cell


def test_configuration_keeps_nested_arguments():
    options = {"sizes": (3, [4, 5]), "inner": {"name": "x", "rate": 0.5, "none": None}}
    core = SonnetToy(4, options, w_init=snt.initializers.TruncatedNormal(0.0, 0.25))
    cell = tfmem.as_keras_cell(core)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(cell))
    assert json.dumps(copy.get_config()) == json.dumps(cell.get_config())
    assert type(copy.core) is SonnetToy
    assert copy.core is not core
    assert copy.core.units == 4
    assert copy.core.w_init.stddev == 0.25
    assert copy.core.options == {**options, "sizes": [3, [4, 5]]}  # Keras turns tuples into lists


def test_cores_of_cores_and_of_sonnet_itself_have_configurations():
    core = snt.DeepRNN([snt.LSTM(4), snt.GRU(5)])
    cell = tfmem.as_keras_cell(core)
    model, _ = fit(cell, jit_compile=False)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    copy.set_weights(model.get_weights())
    x = np.random.default_rng(1).standard_normal([2, 5, 3]).astype(np.float32)
    np.testing.assert_allclose(copy(x), model(x), atol=1e-6)


def test_a_core_without_variables_is_a_cell_without_weights():
    class Sum(snt.RNNCore):
        def initial_state(self, batch_size, dtype=tf.float32):
            return tf.zeros([batch_size, 3], dtype)

        def __call__(self, inputs, state):
            return inputs + state, inputs + state

    cell = tfmem.as_keras_cell(Sum())
    x = tf.random.stateless_normal([2, 5, 3], [1, 2])
    outputs, state = tfmem.RNN(cell, return_state=True)(x)
    np.testing.assert_allclose(outputs, tf.reduce_sum(x, 1), atol=1e-6)
    np.testing.assert_allclose(state, tf.reduce_sum(x, 1), atol=1e-6)
    assert cell.weights == []


class Stray(snt.RNNCore):
    def __init__(self, make):
        super().__init__()
        self.linear, self.make, self.stray = snt.Linear(3), make, None

    def initial_state(self, batch_size, dtype=tf.float32):
        return tf.zeros([batch_size, 3], dtype)

    def __call__(self, inputs, state):
        self.stray = self.stray or self.make()
        output = self.linear(inputs) + self.stray(state)
        return output, output


def test_a_core_whose_variables_would_not_train_is_an_error_when_built():
    outside = tf.Variable(tf.ones([3]), name="outside")
    for make, named in ((lambda: keras.layers.Dense(3), "kernel"), (lambda: lambda x: x * outside, "outside")):
        cell = tfmem.as_keras_cell(Stray(make))
        with pytest.raises(ValueError, match=f"must have among its trainable_variables .*{named}"):
            cell.build((None, 3))


def test_arguments_that_are_no_cores_are_errors():
    with pytest.raises(ValueError, match=r"core: .*, must be an snt.RNNCore"):
        tfmem.as_keras_cell(keras.layers.LSTMCell(3))
    with pytest.raises(ValueError, match=r"cell: .*, must be a Keras RNN cell; it is a Sonnet core already"):
        tfmem.as_sonnet_core(snt.LSTM(3))
    with pytest.raises(ValueError, match=r"cell: .*, must be a Keras RNN cell: a layer with get_initial_state"):
        tfmem.as_sonnet_core(keras.layers.Dense(3))
    with pytest.raises(ValueError, match=r"cell: .*, must be a Keras RNN cell: give an instance"):
        tfmem.as_sonnet_core(PlasticRNN)
    for layer in (keras.layers.LSTM(3), tfmem.RNN(keras.layers.LSTMCell(3))):
        with pytest.raises(ValueError, match=r"cell: .*, must be a Keras RNN cell: give the layer's `cell`"):
            tfmem.as_sonnet_core(layer)
    with pytest.raises(ValueError, match=r"inputs: shape .*, must be known"):
        tfmem.as_keras_cell(snt.LSTM(3)).build((None, None))


def test_a_core_that_hides_an_argument_cannot_be_saved():
    class Hiding(SonnetToy):
        def __init__(self, secret):
            super().__init__(4, {})

    with pytest.raises(ValueError, match="argument 'secret' as an attribute"):
        tfmem.as_keras_cell(Hiding(1)).get_config()


def test_a_cell_that_needs_weights_for_its_state_says_so():
    class Learned(KerasToy):
        def get_initial_state(self, batch_size=None):
            return tf.tile(self.kernel[:1], [batch_size, 1])

    with pytest.raises(ValueError, match="must be built"):
        tfmem.as_sonnet_core(Learned(4)).initial_state(2)


def test_a_deferred_restore_is_in_the_first_initial_state(tmp_path, rng):
    """The core is restored before its cell is built, and its initial state is a weight."""
    x = tf.constant(rng.standard_normal([2, 4]), tf.float32)
    core = tfmem.as_sonnet_core(MetalearnedMemory(4, memory_size=4, word_size=3))
    core(x, core.initial_state(2))
    for variable in core.variables:
        variable.assign_add(tf.constant(0.3 * rng.standard_normal(variable.shape), tf.float32))
    expected = core(x, core.initial_state(2))
    path = tf.train.Checkpoint(core=core).save(str(tmp_path / "checkpoint"))
    copy = tfmem.as_sonnet_core(MetalearnedMemory(4, memory_size=4, word_size=3))
    status = tf.train.Checkpoint(core=copy).restore(path)
    actual = copy(x, copy.initial_state(2))
    status.assert_existing_objects_matched()
    for a, e in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, e, atol=1e-6)
    assert [v.ref() for v in copy.variables] == [v.value.ref() for v in copy.cell.variables]


def replaced(value, old, new):
    """`value`, a nest of dicts and lists, with the dicts for which `old` holds updated by `new`."""
    if isinstance(value, dict):
        value = {**value, **new} if old(value) else value
        return {key: replaced(inner, old, new) for key, inner in value.items()}
    return [replaced(inner, old, new) for inner in value] if isinstance(value, list) else value


class Options(snt.LSTM):
    def __init__(self, options):
        super().__init__(3)
        self.options = options


NESTINGS = {
    "core": ("LSTM", lambda: snt.LSTM(3)),
    "core in a core": ("GRU", lambda: snt.DeepRNN([snt.LSTM(3), snt.DeepRNN([snt.GRU(2)])])),
    "initializer": ("TruncatedNormal", lambda: snt.GRU(3, w_i_init=snt.initializers.TruncatedNormal())),
    "initializer in a core": (
        "Constant",
        lambda: snt.DeepRNN([snt.LSTM(3, b_init=snt.initializers.Constant(0.5))]),
    ),
    "initializer in a dict": ("Zeros", lambda: Options({"a": [{"b": snt.initializers.Zeros()}]})),
}


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("within", ["RNN", "Bidirectional", "list"])
def test_a_file_imports_no_foreign_module(tmp_path, monkeypatch, nesting, within):
    (tmp_path / "installed_elsewhere.py").write_text("import sonnet\nclass Core(sonnet.RNNCore):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    named, create = NESTINGS[nesting]
    cell = tfmem.as_keras_cell(create())
    layer = {
        "RNN": lambda: tfmem.RNN(cell),
        "Bidirectional": lambda: keras.layers.Bidirectional(tfmem.RNN(cell)),
        "list": lambda: tfmem.RNN([keras.layers.LSTMCell(2), cell]),
    }[within]()
    keras.Sequential([keras.Input([None, 3]), layer]).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as read, zipfile.ZipFile(tmp_path / "crafted.keras", "w") as write:
        for member in read.namelist():
            content = read.read(member)
            if member == "config.json":
                foreign = {"module": "installed_elsewhere", "class": "Core"}
                config = replaced(json.loads(content), lambda d: d.get("class") == named, foreign)
                content = json.dumps(config).encode()
                assert b"installed_elsewhere" in content
            write.writestr(member, content)
    for safe_mode in (True, False):
        with pytest.raises(
            ValueError, match=r"core: installed_elsewhere\.Core, must be a Sonnet module or initializer"
        ):
            keras.models.load_model(tmp_path / "crafted.keras", safe_mode=safe_mode)
        assert "installed_elsewhere" not in sys.modules


@pytest.mark.parametrize(
    ("module", "cls"),
    [
        ("antigravity", "fly"),
        ("os", "system"),
        ("tfmem.aot.__main__", "main"),
        ("tfmem.no_such_module", "DNCs"),
        ("tfmem.cores", "base"),
        ("sonnet", "src"),
        ("sonnet.src.conformance.descriptors", "Wrapped"),
    ],
)
def test_a_configuration_names_nothing_but_cores_that_are_exported_or_imported(module, cls):
    loaded = set(sys.modules)
    with pytest.raises(ValueError, match=rf"core: {module}\.{cls}, must be a Sonnet module or initializer"):
        tfmem.interop.SonnetObject.from_config({"module": module, "class": cls, "arguments": {}})
    assert set(sys.modules) == loaded


def test_a_module_that_loads_on_demand_is_not_asked():
    calls = []
    module = types.ModuleType("lazy_package")
    module.__getattr__ = calls.append
    sys.modules["lazy_package"] = module
    config = {"module": "lazy_package", "class": "submodule", "arguments": {}}
    with pytest.raises(ValueError, match=r"lazy_package\.submodule"):
        tfmem.interop.SonnetObject.from_config(config)
    del sys.modules["lazy_package"]
    assert calls == []


def test_configurations_of_older_files_load():
    config = {"module": "tfmem.cores.dnc.core", "class": "DNC"}
    config["arguments"] = {"access_config": {}, "controller_config": {"hidden_size": 3}, "output_size": 2}
    assert type(tfmem.interop.SonnetObject.from_config(config)) is tfmem.cores.DNC
    config = {"module": "sonnet.src.recurrent", "class": "LSTM", "arguments": {"hidden_size": 3}}
    assert type(tfmem.interop.SonnetObject.from_config(config)) is snt.LSTM


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_core_whose_state_is_one_tensor_is_one_of_several_cells(batch_size):
    cells = [tfmem.as_keras_cell(snt.GRU(4)), keras.layers.GRUCell(2), tfmem.as_keras_cell(snt.VanillaRNN(3))]
    x = tf.random.stateless_normal([batch_size, 5, 3], [1, 2])
    layer = tfmem.RNN(cells, return_sequences=True)
    layer.build(x.shape)
    outputs = x
    for cell in cells:
        outputs = tfmem.RNN(cell, return_sequences=True)(outputs)
    np.testing.assert_allclose(layer(x), outputs, atol=1e-6)
    np.testing.assert_allclose(tf.function(layer)(x), outputs, atol=1e-6)
    np.testing.assert_allclose(keras.layers.RNN(cells, return_sequences=True)(x), outputs, atol=1e-6)


def dnc():
    return DNC({"memory_size": 4, "word_size": 3}, {"hidden_size": 5}, output_size=4)


def sequential(layer):
    return keras.Sequential([keras.Input([None, 3]), layer, keras.layers.Dense(1)])


FROZEN = {
    "Sonnet core": lambda: tfmem.RNN(tfmem.as_keras_cell(dnc())),
    "Keras cell": lambda: tfmem.RNN(PlasticRNN(4)),
    "list": lambda: tfmem.RNN([tfmem.as_keras_cell(snt.GRU(2)), PlasticRNN(3)]),
    "cell in a core": lambda: tfmem.RNN(
        tfmem.as_keras_cell(snt.DeepRNN([tfmem.as_sonnet_core(PlasticRNN(3)), snt.LSTM(2)]))
    ),
    "model": lambda: SequenceModel(dnc(), 2, (3,), return_sequences=True),
}


@pytest.mark.parametrize("kind", FROZEN)
@pytest.mark.parametrize("when", first_of(["before building", "after building", "by the constructor"]))
def test_a_frozen_layer_is_frozen_saved_loaded_and_unfrozen_again(tmp_path, kind, when):
    layer = FROZEN[kind]()
    if when == "by the constructor":
        layer = type(layer).from_config({**layer.get_config(), "trainable": False})
    if when == "before building":
        layer.trainable = False
    model = sequential(layer)
    if when == "after building":
        layer.trainable = False
    assert len(model.trainable_variables) == len(model.trainable_weights) == 2
    x, y = np.ones([2, 4, 3], np.float32), np.ones([2, 1], np.float32)
    model.compile("sgd", "mse", run_eagerly=True)
    before = model.get_weights()
    model.fit(x, y if kind != "model" else np.ones([2, 4, 1]), verbose=0)
    moved = [np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert moved == [*[False] * len(layer.weights), *[True] * 2]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    for m in (model, loaded):
        recurrent = m.layers[0]
        assert len(m.trainable_variables) == 2
        assert len(recurrent.trainable_variables) == 0
        assert len(recurrent.weights) == len(layer.weights)
        recurrent.trainable = True
        assert len(m.trainable_variables) == len(m.weights) == len(layer.weights) + 2
        recurrent.trainable = False
        assert len(m.trainable_variables) == 2


def test_a_frozen_part_is_frozen_wherever_it_is(tmp_path):
    first, second = tfmem.as_keras_cell(dnc()), PlasticRNN(3)
    first.trainable = False
    model = sequential(tfmem.RNN([first, second]))
    model.save(tmp_path / "model.keras")
    for m in (model, keras.models.load_model(tmp_path / "model.keras")):
        assert len(m.trainable_variables) == len(second.weights) + 2
    second.w.trainable = False
    assert len(model.trainable_variables) == len(second.weights) - 1 + 2
    first.trainable = True
    assert len(model.trainable_variables) == len(model.weights) - 1
    first.core_variables[0].trainable = False
    assert len(model.trainable_variables) == len(model.weights) - 2

    sequence_model = SequenceModel(first, 2, (3,))
    sequence_model.build([None, None, 3])
    sequence_model.cell.trainable = False
    assert len(sequence_model.trainable_variables) == 4
    sequence_model.save(tmp_path / "sequence.keras")
    assert len(keras.models.load_model(tmp_path / "sequence.keras").trainable_variables) == 4


def test_a_frozen_cell_inside_a_core_follows_its_own_switch(tmp_path):
    inner = PlasticRNN(3)
    inner.trainable = False
    cell = tfmem.as_keras_cell(snt.DeepRNN([tfmem.as_sonnet_core(inner), snt.LSTM(2)]))
    model = sequential(tfmem.RNN(cell))
    assert len(model.trainable_variables) == 3 + 2
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).standard_normal([2, 4, 3]).astype(np.float32)
    np.testing.assert_array_equal(loaded(x), model(x))
    assert len(loaded.trainable_variables) == 3 + 2
    inner.trainable = True
    assert len(model.trainable_variables) == len(model.weights)
    model.save(tmp_path / "unfrozen.keras")
    loaded = keras.models.load_model(tmp_path / "unfrozen.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert len(loaded.trainable_variables) == len(model.weights)


@pytest.mark.parametrize("create", [lambda: PlasticRNN(4), lambda: tfmem.as_keras_cell(dnc())])
def test_the_sonnet_core_of_a_frozen_cell_has_nothing_to_train(create):
    for frozen_first in (True, False):
        cell = create()
        if frozen_first:
            cell.trainable = False
        cell.build((None, 3))
        cell.trainable = False
        core = tfmem.as_sonnet_core(cell)
        x = tf.ones([2, 5, 3])
        outputs, _ = unroll(core, x, core.initial_state(5))
        np.testing.assert_allclose(
            tf.transpose(outputs, [1, 0, 2]),
            tfmem.RNN(cell, return_sequences=True)(tf.transpose(x, [1, 0, 2])),
            atol=1e-6,
        )
        assert core.trainable_variables == ()
        assert len(core.non_trainable_variables) == len(core.variables) == len(cell.weights)
        assert tfmem.as_keras_cell(core) is cell
        cell.trainable = True
        assert len(core.trainable_variables) == len(cell.weights)
        cell.weights[0].trainable = False
        assert [v.ref() for v in core.non_trainable_variables] == [cell.weights[0].value.ref()]
        again = tfmem.as_sonnet_core(cell)
        assert len(again.trainable_variables) == len(cell.weights) - 1
    with pytest.raises(ValueError, match="variables"):
        _ = tfmem.as_sonnet_core(PlasticRNN(4)).trainable_variables  # Sonnet's own error: not connected yet


def test_layers_made_frozen_hand_it_on():
    memory = MultigridConvLSTM((3,), 2, trainable=False)
    memory.build((None, 3, 3, 1))
    for layer in (memory, LocalizationModel(trainable=False)):
        if not layer.built:
            layer.build()
        assert layer.weights
        assert not any(v.trainable for v in layer.weights)
