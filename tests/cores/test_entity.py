import numpy as np
import pytest
import tensorflow as tf

from tests.cores.keras_cells import assert_follows_contract, assert_hands_over, assert_modes_agree, randomize
from tests.references.entity import entity
from tests.support import relative_error
from tfmem.cores.entity import EntityMemory, EntityState, normalize
from tfmem.recurrence import unroll


@pytest.mark.parametrize(
    ("num_cells", "units", "steps", "batch", "features"), [(3, 5, 6, 2, 4), (1, 2, 4, 3, 6), (8, 4, 3, 1, 2)]
)
def test_equals_reference(rng, num_cells, units, steps, batch, features):
    cell = EntityMemory(num_cells, units, dtype="float64")
    weights = randomize(cell, rng, features)
    inputs = rng.standard_normal([steps, batch, features])
    outputs, _ = unroll(cell, tf.constant(inputs), cell.get_initial_state(batch))
    assert relative_error(outputs, entity(inputs, weights)) <= 1e-12


def test_cells_start_from_their_keys_and_stay_on_the_sphere(rng):
    cell = EntityMemory(4, 6)
    randomize(cell, rng, 3)
    state = cell.get_initial_state(2)
    np.testing.assert_array_equal(state.cells[1], cell.keys)
    _, state = unroll(cell, tf.constant(rng.standard_normal([5, 2, 3]), tf.float32), state)
    np.testing.assert_allclose(np.linalg.norm(state.cells, axis=-1), 1.0, atol=1e-6)


def test_zero_is_normalised_to_zero_with_a_finite_gradient():
    x = tf.zeros([2, 3])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = normalize(x)
    assert not np.any(y)
    assert np.all(np.isfinite(tape.gradient(y, x)))


def test_cells_do_not_mix(rng):
    cell = EntityMemory(3, 4)
    randomize(cell, rng, 2)
    state = cell.get_initial_state(1)
    disturbed = EntityState(state.cells + tf.constant([0.0, 1.0, 0.0])[None, :, None])
    x = tf.ones([1, 2])
    (_, a), (_, b) = cell(x, state), cell(x, disturbed)
    np.testing.assert_array_equal(tf.gather(a.cells, [0, 2], axis=1), tf.gather(b.cells, [0, 2], axis=1))
    assert np.any(a.cells[:, 1] != b.cells[:, 1])


def test_modes_agree(rng):
    assert_modes_agree(EntityMemory(3, 5), rng)


def test_hands_over_and_contract(rng):
    assert_hands_over(EntityMemory(3, 5), rng)
    assert_follows_contract(EntityMemory(3, 5), rng)


@pytest.mark.parametrize("bad", [{"num_cells": 0, "units": 3}, {"num_cells": 2, "units": None}])
def test_bad_arguments(bad):
    with pytest.raises(ValueError, match="must be a positive integer, got"):
        EntityMemory(**bad)
