import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.cores.keras_cells import assert_follows_contract, assert_hands_over, assert_modes_agree, randomize
from tests.references.lstm import lstm_stack
from tests.support import relative_error
from tfmem.cores.lstm import LSTMStack
from tfmem.recurrence import unroll


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(("units", "num_layers", "steps", "batch", "features"), [(5, 2, 6, 3, 4), (3, 3, 4, 1, 7)])
def test_equals_reference(rng, units, num_layers, skip, steps, batch, features):
    cell = LSTMStack(units, num_layers, skip_connections=skip, dtype="float64")
    weights = randomize(cell, rng, features)
    inputs = rng.standard_normal([steps, batch, features])
    outputs, _ = unroll(cell, tf.constant(inputs), cell.get_initial_state(batch))
    expected = lstm_stack(inputs, weights, num_layers, units, skip)
    assert outputs.shape[-1] == cell.output_size
    assert relative_error(outputs, expected) <= 1e-12


def test_single_layer_is_kerass_lstm(rng):
    layer = keras.layers.LSTM(5, return_sequences=True)
    layer.build([None, None, 4])
    cell = LSTMStack(5, num_layers=1)
    cell.build([None, 4])
    np.testing.assert_array_equal(cell.biases[0], layer.cell.bias)
    cell.set_weights(layer.get_weights())
    inputs = tf.constant(rng.standard_normal([3, 6, 4]), tf.float32)
    np.testing.assert_allclose(keras.layers.RNN(cell, return_sequences=True)(inputs), layer(inputs), atol=1e-6)


def test_modes_agree(rng):
    assert_modes_agree(LSTMStack(5), rng)


@pytest.mark.parametrize("skip", [True, False])
def test_hands_over_and_contract(rng, skip):
    assert_hands_over(LSTMStack(5, skip_connections=skip), rng)
    assert_follows_contract(LSTMStack(5, num_layers=3, skip_connections=skip, forget_bias=0.5), rng)


@pytest.mark.parametrize("bad", [{"units": 0}, {"units": 2.5}, {"units": 4, "num_layers": -1}])
def test_bad_arguments(bad):
    with pytest.raises(ValueError, match=", must be a positive integer"):
        LSTMStack(**bad)
