"""The ConvLSTM cell against its equations in numpy, the scan against the step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmem
from tests.cores.multigrid.support import randomized
from tests.references import multigrid as reference
from tests.support import relative_error
from tfmem.cores.multigrid import ConvLSTM, ConvLSTMState
from tfmem.recurrence import unroll


@pytest.mark.parametrize(
    ("rank", "peepholes", "kernel_size"), [(2, False, 3), (2, True, 3), (1, False, 3), (1, True, 5)]
)
def test_conv_lstm_equals_the_equations(rng, rank, peepholes, kernel_size):
    cell = ConvLSTM(3, kernel_size, rank, peepholes, forget_bias=0.7, dtype="float64")
    side, batch, steps = 4, 2, 3
    cell.build((None, *[side] * rank, 2))
    randomized(cell, rng)
    inputs = rng.normal(size=(steps, batch, *[side] * rank, 2))
    state = ConvLSTMState(*rng.normal(size=(2, batch, *[side] * rank, 3)))
    outputs, final = unroll(cell, tf.constant(inputs), ConvLSTMState(*map(tf.constant, state)))
    weights = [w.numpy() for w in cell.weights]
    expected, expected_final = reference.conv_lstm(inputs, state, *weights[:2], 0.7, weights[2:] or None)
    assert relative_error(outputs, expected) < 1e-12
    assert relative_error(final.cell, expected_final[0]) < 1e-12
    assert relative_error(final.hidden, expected_final[1]) < 1e-12


def test_scan_has_second_order_gradients(rng):
    cell = ConvLSTM(2, dtype="float64")
    cell.build((None, 3, 3, 1))
    x = tf.constant(rng.normal(size=(3, 1, 3, 3, 1)))

    def penalty(use_scan):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                hidden, _ = unroll(cell, x, cell.get_initial_state(1), None if use_scan else 3)
                loss = tf.reduce_sum(hidden**2)
            value = tf.reduce_sum(inner.gradient(loss, x) ** 2)
        return outer.gradient(value, x)

    assert relative_error(tf.function(penalty)(True), tf.function(penalty)(False)) < 1e-10

    def jacobian(use_scan):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            hidden, _ = unroll(cell, x, cell.get_initial_state(1), None if use_scan else 3)
            last = hidden[-1, 0, 0]
        return tape.jacobian(last, x, experimental_use_pfor=False)

    assert relative_error(jacobian(True), jacobian(False)) < 1e-10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvLSTM(4, rank=3), "rank: 3, must be 1 or 2"),
        (lambda: ConvLSTM(4).build((None, None, 3, 1)), "inputs: shape .*, must end in"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_as_a_keras_layer_over_sequences(rng):
    inputs = keras.Input((5, 4, 4, 2))
    hidden = tfmem.RNN(ConvLSTM(3), return_sequences=True)(inputs)
    assert hidden.shape == (None, 5, 4, 4, 3)
    model = keras.Model(inputs, hidden)
    model.compile("adam", "mse")
    x = rng.normal(size=(4, 5, 4, 4, 2)).astype(np.float32)
    y = 0.1 * x[..., :1].repeat(3, -1)
    history = model.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]
