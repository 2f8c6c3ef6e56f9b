"""The gradient of `unroll` in a graph: what a loop keeps for it, loops in loops. Its numbers: tests/conformance."""

import numpy as np
import pytest
import tensorflow as tf

from tfmem.recurrence import unroll

STEPS, BATCH, SIZE = 13, 3, 7


@pytest.fixture
def weights(rng):
    return tf.Variable(rng.normal(size=[SIZE, SIZE]) / 3, dtype=tf.float32)


@pytest.fixture
def sequence(rng):
    return tf.constant(rng.normal(size=[STEPS, BATCH, SIZE]), tf.float32)


def gradient(core, weights, sequence):
    with tf.GradientTape() as tape:
        outputs, _ = unroll(core, sequence, tf.zeros([BATCH, SIZE]))
        loss = tf.reduce_sum(outputs**2)
    return tape.gradient(loss, weights)


def test_xla_keeps_weights_once_and_not_for_every_step(weights, sequence):
    def core(x, state):
        state = tf.tanh(x + state @ weights)
        return state, state

    compiled = tf.function(lambda x: gradient(core, weights, x), jit_compile=True)
    text = compiled.experimental_get_compiler_ir(sequence)(stage="hlo")
    assert f"f32[{STEPS},{BATCH},{SIZE}]" in text
    assert f"f32[{STEPS},{SIZE},{SIZE}]" not in text
    np.testing.assert_allclose(compiled(sequence), gradient(core, weights, sequence), rtol=1e-4, atol=1e-4)


def test_a_loop_in_a_loop_leaves_the_variables_as_they_were(weights, sequence):
    def inner(x, state):
        state = tf.tanh(x + state @ weights)
        return state, state

    def outer(x, state):
        _, state = unroll(inner, tf.stack([x, x @ weights]), state)
        return state @ weights, state

    in_graph = tf.function(lambda x: gradient(outer, weights, x))
    np.testing.assert_allclose(in_graph(sequence), gradient(outer, weights, sequence), rtol=1e-4, atol=1e-4)
    weights.assign(2 * weights)
    np.testing.assert_allclose(in_graph(sequence), gradient(outer, weights, sequence), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(tf.convert_to_tensor(weights), weights.numpy())
