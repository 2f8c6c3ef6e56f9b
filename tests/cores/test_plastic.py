import numpy as np
import pytest
import tensorflow as tf

from tests.cores.keras_cells import assert_follows_contract, assert_hands_over, assert_modes_agree, randomize
from tests.references.plastic import plastic
from tests.support import relative_error
from tfmem.cores.plastic import PlasticRNN
from tfmem.recurrence import unroll


@pytest.mark.parametrize("rule", ["hebb", "oja"])
@pytest.mark.parametrize("homogeneous", [False, True])
@pytest.mark.parametrize(("units", "steps", "batch", "features"), [(5, 6, 2, 4), (2, 4, 3, 7)])
def test_equals_reference(rng, rule, homogeneous, units, steps, batch, features):
    cell = PlasticRNN(units, rule, homogeneous, dtype="float64")
    weights = randomize(cell, rng, features)
    inputs = rng.standard_normal([steps, batch, features])
    outputs, _ = unroll(cell, tf.constant(inputs), cell.get_initial_state(batch))
    assert relative_error(outputs, plastic(inputs, weights, units, rule)) <= 1e-12


def test_ojas_rule_keeps_the_trace_bounded_where_input_repeats(rng):
    cell = PlasticRNN(4, "oja", initial_eta=0.5)
    randomize(cell, rng, 3, scale=0.0)
    inputs = tf.tile(tf.constant(rng.standard_normal([1, 2, 3]), tf.float32), [300, 1, 1])
    outputs, state = unroll(cell, inputs, cell.get_initial_state(2))
    # Eq. 3 rests where y_i = y_j Hebb_ij; it goes there at the rate eta y_j^2.
    y = outputs[-1].numpy()
    settled = np.broadcast_to(np.abs(y)[:, None, :] > 0.25, state.hebb.shape)
    assert settled.any()
    np.testing.assert_allclose((y[:, :, None] / y[:, None, :])[settled], state.hebb.numpy()[settled], rtol=1e-2)


@pytest.mark.parametrize(("rule", "homogeneous"), [("hebb", False), ("oja", True)])
def test_modes_agree(rng, rule, homogeneous):
    assert_modes_agree(PlasticRNN(5, rule, homogeneous), rng)


@pytest.mark.parametrize(("rule", "homogeneous"), [("hebb", True), ("oja", False)])
def test_hands_over_and_contract(rng, rule, homogeneous):
    assert_hands_over(PlasticRNN(5, rule, homogeneous), rng)
    assert_follows_contract(PlasticRNN(5, rule, homogeneous, initial_eta=0.1), rng)


def test_bad_arguments():
    with pytest.raises(ValueError, match="units: -3, must be a positive integer"):
        PlasticRNN(-3)
    with pytest.raises(ValueError, match="rule: 'bcm', must be one of 'hebb', 'oja'"):
        PlasticRNN(3, rule="bcm")
