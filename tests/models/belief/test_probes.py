"""Probes of beliefs: they learn and leave the beliefs alone."""

import numpy as np
import pytest
import tensorflow as tf

from tfmem.models.belief import MapDecoder, PositionDecoder, map_mse, position_cells


def test_probes_learn_but_do_not_teach(rng):
    beliefs = tf.constant(rng.normal(size=(3, 4, 5)), tf.float32)
    maps = tf.constant(rng.uniform(size=(4, 9, 12, 3)), tf.float32)
    cells = tf.constant(rng.integers(6, size=(3, 4)))
    decoder, position = MapDecoder(5, (9, 12, 3), (4, 4, 2)), PositionDecoder(5, 6, 7)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(beliefs)
        decoded, logits = decoder(beliefs), position(beliefs)
        errors = map_mse(decoded, maps)
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(cells, logits)
    assert decoded.shape == [3, 4, 9, 12, 3]
    assert logits.shape == [3, 4, 6]
    np.testing.assert_allclose(errors[2, 1], np.mean((decoded[2, 1] - maps[1]) ** 2), rtol=1e-5)
    for loss, probe in ((errors, decoder), (cross_entropy, position)):
        assert tape.gradient(loss, beliefs) is None
        assert all(np.any(g) for g in tape.gradient(loss, probe.trainable_variables))


@pytest.mark.parametrize("side", [8, 16, 32])
def test_differences_of_beliefs_reach_the_maps_from_the_start(rng, side):
    beliefs = rng.normal(scale=0.25, size=[64, 128]).astype(np.float32)
    maps = MapDecoder(128, (side, side, 3))(tf.constant(beliefs)).numpy()
    assert 0.01 < np.std(maps, axis=0).mean() < 0.1
    assert abs(np.mean(maps) - 0.5) < 0.1


def test_position_cells():
    positions = tf.constant([[-5.0, -5.0], [-5.0, -4.9], [0.1, -0.1], [4.9, 4.9], [5.0, 99.0], [-99.0, 2.6]])
    np.testing.assert_array_equal(position_cells(positions, 10.0, 4), [0, 0, 9, 15, 15, 3])


@pytest.mark.parametrize(("argument", "value"), [("map_shape", (8, 8)), ("channels", (4, 4))])
def test_bad_arguments(argument, value):
    with pytest.raises(ValueError, match=f"{argument}: .*, must be three integers"):
        MapDecoder(**{"belief_size": 5, "map_shape": (8, 8, 3), argument: value})
