"""Interop: identity of variables, configurations, and the errors of cores that would not train."""

import json

import keras
import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

import tfmem
from tests.conformance.toys import KerasToy, SonnetToy
from tfmem.cores import MetalearnedMemory
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
        with pytest.raises(ValueError, match=f"{named}.*would not be trained"):
            cell.build((None, 3))


def test_arguments_that_are_no_cores_are_errors():
    with pytest.raises(ValueError, match=r"core was .*must be an snt.RNNCore"):
        tfmem.as_keras_cell(keras.layers.LSTMCell(3))
    with pytest.raises(ValueError, match=r"cell was .*must be a Keras RNN cell"):
        tfmem.as_sonnet_core(snt.LSTM(3))
    for layer in (keras.layers.LSTM(3), tfmem.RNN(keras.layers.LSTMCell(3))):
        with pytest.raises(ValueError, match=r"cell was .*must be a Keras RNN cell: give the layer's `cell`"):
            tfmem.as_sonnet_core(layer)
    with pytest.raises(ValueError, match=r"inputs had the shape .*must be known"):
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
