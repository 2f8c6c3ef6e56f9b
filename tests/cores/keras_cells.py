"""Common part of the tests of the Keras cells: random weights, and properties of every cell."""

import keras
import numpy as np
import tensorflow as tf

from tests.support import relative_error
from tfmem.recurrence import unroll


def randomize(cell, rng, features, scale=0.5):
    """Build a cell and give every weight, biases too, a random value: {name: float64 array}."""
    cell.build([None, features])
    for weight in cell.weights:
        weight.assign(weight.numpy() + scale * rng.standard_normal(weight.shape))
    return {w.name: np.asarray(w, np.float64) for w in cell.weights}


def run(cell, inputs, sequence_length=None):
    """Outputs, final state, and the gradients with respect to the weights and inputs of a random-looking loss."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        result = unroll(cell, inputs, cell.get_initial_state(tf.shape(inputs)[1]), sequence_length)
        loss = 0.0
        for tensor in tf.nest.flatten(result):
            if tensor.dtype.is_floating:
                shape = tf.shape(tensor)
                ramp = tf.cast(tf.reshape(tf.range(tf.reduce_prod(shape)), shape), tensor.dtype)
                loss += tf.reduce_mean(tf.sin(ramp) * tensor)
    return *result, tape.gradient(loss, [*(w.value for w in cell.trainable_variables), inputs])


def assert_modes_agree(cell, rng, features=4, steps=4, batch=3):
    """Eager, a graph of unknown batch and length, and XLA agree: states to 1e-5, gradients, none missing, to 1e-4."""
    randomize(cell, rng, features)
    inputs = tf.constant(rng.standard_normal([steps, batch, features]), tf.float32)
    *eager, eager_gradients = run(cell, inputs)
    assert all(g is not None and np.any(g.numpy()) for g in eager_gradients)
    graph = tf.function(lambda x: run(cell, x), input_signature=[tf.TensorSpec([None, None, features])])
    for compiled in (graph, tf.function(lambda x: run(cell, x), jit_compile=True)):
        *results, gradients = compiled(inputs)
        for actual, expected in zip(tf.nest.flatten(results), tf.nest.flatten(eager), strict=True):
            assert relative_error(actual, expected) <= 1e-5
        for actual, expected in zip(gradients, eager_gradients, strict=True):
            assert relative_error(actual, expected) <= 1e-4


def assert_hands_over(cell, rng, features=4):
    """A sequence in two halves equals the whole; invalid steps change nothing."""
    randomize(cell, rng, features)
    inputs = tf.constant(rng.standard_normal([6, 2, features]), tf.float32)
    whole, final = unroll(cell, inputs, cell.get_initial_state(2))
    first, state = unroll(cell, inputs[:3], cell.get_initial_state(2))
    second, state = unroll(cell, inputs[3:], state)
    halves = tf.nest.map_structure(lambda a, b: tf.concat([a, b], axis=0), first, second)
    for actual, expected in zip(tf.nest.flatten([halves, state]), tf.nest.flatten([whole, final]), strict=True):
        assert relative_error(actual, expected) <= 1e-6
    shorter, _ = unroll(cell, inputs, cell.get_initial_state(2), tf.constant([3, 6]))
    for actual, expected in zip(tf.nest.flatten(shorter), tf.nest.flatten(whole), strict=True):
        assert relative_error(actual[:, 1], expected[:, 1]) <= 1e-6
        assert not np.any(actual[3:, 0])


def assert_follows_contract(cell, rng, features=4):
    """Sizes are as declared; the configuration round-trips; `call` is one step; bfloat16 stays bfloat16."""
    randomize(cell, rng, features)
    inputs = tf.constant(rng.standard_normal([2, features]), tf.float32)
    state = cell.get_initial_state(2)
    output, next_state = cell(inputs, state)
    assert type(next_state) is type(state)
    for size, tensor in zip(tf.nest.flatten(cell.state_size), tf.nest.flatten(state), strict=True):
        assert size.is_compatible_with(tensor.shape[1:])
    for size, tensor in zip(tf.nest.flatten(cell.output_size), tf.nest.flatten(output), strict=True):
        assert tf.TensorShape(size).as_list() == tensor.shape[1:].as_list()
    by_parts, _ = cell.step(cell.project_inputs(inputs), state)
    tf.nest.map_structure(np.testing.assert_array_equal, output, by_parts)

    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(cell))
    assert copy.get_config() == cell.get_config()
    copy.set_weights(cell.get_weights())
    tf.nest.map_structure(np.testing.assert_array_equal, output, copy(inputs, copy.get_initial_state(2))[0])

    half = type(cell).from_config({**cell.get_config(), "dtype": "mixed_bfloat16"})
    half.build([None, features])
    assert all(w.dtype == "float32" for w in half.weights)
    half.set_weights(cell.get_weights())
    half_output, half_state = half(inputs, half.get_initial_state(2))
    for tensor, exact in zip(tf.nest.flatten(half_output), tf.nest.flatten(output), strict=True):
        assert tensor.dtype == tf.bfloat16
        assert relative_error(tf.cast(tensor, tf.float32), exact) <= 0.1
    assert all(t.dtype == tf.bfloat16 for t in tf.nest.flatten(half_state))
