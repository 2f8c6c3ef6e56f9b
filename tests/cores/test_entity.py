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
    with pytest.raises(ValueError, match=", must be a positive integer"):
        EntityMemory(**bad)


SCALES = [1e-37, 1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e19, 1e20, 1e30, 1e38]


def normalized_and_gradient(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = normalize(x)
        first = tf.reduce_sum(y[:, 0])
    return y, tape.gradient(first, x)


COMPILED_NORMALIZE = {jit: tf.function(normalized_and_gradient, jit_compile=jit) for jit in (False, True)}


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("scale", SCALES)
def test_normalize_has_length_1_at_every_scale(rng, scale, jit_compile):
    directions = rng.uniform(0.3, 1, size=[4, 6]) * rng.choice([-1, 1], [4, 6])
    x = (directions * scale).astype(np.float32)
    y, gradient = COMPILED_NORMALIZE[jit_compile](tf.constant(x))
    unit = x / np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True)
    np.testing.assert_allclose(y, unit, rtol=1e-6)
    length = np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True)
    expected = (np.eye(6)[0] - unit[:, :1] * unit) / length
    if 1e-30 <= scale <= 1e30:  # beyond, 1 / scale leaves float32
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6 / scale)


def test_normalize_is_unscaled_where_squares_fit(rng):
    x = tf.constant(rng.normal(size=[50, 8]) * 10.0 ** rng.integers(-6, 6, [50, 1]), tf.float32)
    plain = x * tf.math.rsqrt(tf.reduce_sum(x**2, axis=-1, keepdims=True))
    np.testing.assert_array_equal(normalize(x), plain)
    np.testing.assert_array_equal(normalize(tf.zeros([2, 3])), np.zeros([2, 3]))
