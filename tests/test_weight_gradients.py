"""Gradients of weights after a loop: equal to the eager ones for any course of a step, in a graph and under XLA."""

import concurrent.futures

import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

from tests.conformance import properties
from tests.conformance.descriptors import ROWS
from tests.support import relative_error
from tfmem import weight_gradients
from tfmem.backend import keras
from tfmem.cores import LSTMStack
from tfmem.cores.keras_base import linear
from tfmem.recurrence import unroll
from tfmem.rnn import RNN

STEPS, BATCH, SIZE = 5, 2, 48


@pytest.fixture
def weights(rng):
    return [tf.Variable(rng.normal(size=[SIZE, SIZE]) / 7, dtype=tf.float32) for _ in range(2)]


@pytest.fixture
def bias(rng):
    return tf.Variable(rng.normal(size=[SIZE]), dtype=tf.float32)


@pytest.fixture
def sequence(rng):
    return tf.constant(rng.normal(size=[STEPS, BATCH, SIZE]), tf.float32)


def gradients(core, variables, sequence, mask=None):
    with tf.GradientTape() as tape:
        outputs, state = unroll(core, sequence, tf.zeros([BATCH, SIZE]), mask=mask)
        loss = tf.reduce_sum(outputs**2) + tf.reduce_sum(state)
    return tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def collected(function, *arguments):
    """Number of lists that a function's graph reserves: two for each map whose gradient is collected."""
    graph = tf.function(function).get_concrete_function(*arguments).graph
    return sum(op.type == "TensorListReserve" for op in graph.get_operations())


def simple(weights, bias):
    def core(x, state):
        state = tf.tanh(x + linear(state, weights[0], bias))
        return state, state

    return core


def used_twice(weights, bias):
    def core(x, state):
        state = tf.tanh(linear(tf.tanh(x + linear(state, weights[0], bias)), weights[0]))
        return linear(state, weights[1], bias), state

    return core


def without_a_gradient(weights, bias):
    def core(x, state):
        state = tf.tanh(x + linear(state, weights[0], bias) + tf.stop_gradient(linear(x, weights[1])))
        return state, state

    return core


def in_a_condition(weights, bias):
    def core(x, state):
        chosen = tf.cond(x[0, 0] > 0, lambda: linear(x, weights[1]), lambda: x)
        state = tf.tanh(chosen + linear(state, weights[0], bias))
        return state, state

    return core


def in_an_inner_loop(weights, bias):
    def core(x, state):
        _, state = unroll(simple(weights, bias), tf.stack([x, linear(x, weights[1])]), state)
        return state, state

    return core


def of_another_course(weights, bias):
    """A step that computes other products in the loop than in the trial before it."""
    calls = []

    def core(x, state):
        calls.append(len(calls))
        order = weights if len(calls) % 2 else weights[:1]
        for weight in order:
            state = tf.tanh(x + linear(state, weight, bias))
        return state, state

    return core


STEPS_OF = [simple, used_twice, without_a_gradient, in_a_condition, in_an_inner_loop]


@pytest.mark.parametrize("make", STEPS_OF, ids=lambda f: f.__name__)
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_gradients_equal_the_eager_ones(make, jit_compile, masked, weights, bias, sequence):
    variables = [*weights, bias]
    mask = tf.constant(np.arange(STEPS)[:, None] < [STEPS, 3]) if masked else None

    def run(sequence):
        return gradients(make(weights, bias), variables, sequence, mask)

    assert collected(run, sequence) >= 2
    for found, expected in zip(tf.function(run, jit_compile=jit_compile)(sequence), run(sequence), strict=True):
        assert relative_error(found, expected) < 1e-5


def test_a_step_of_another_course_than_the_trial_has_the_gradient_of_what_it_computes(weights, bias, sequence):
    core = of_another_course(weights, bias)
    found = tf.function(lambda x: gradients(core, [*weights, bias], x))(sequence)

    def only_first(x, state):
        state = tf.tanh(x + linear(state, weights[0], bias))
        return state, state

    for a, b in zip(found, gradients(only_first, [*weights, bias], sequence), strict=True):
        assert relative_error(a, b) < 1e-5


def test_a_second_derivative(weights, bias, sequence):
    def run(sequence):
        with tf.GradientTape() as tape:
            first = gradients(simple(weights, bias), weights[:1], sequence)[0]
            loss = tf.reduce_sum(first**2)
        return tape.gradient(loss, weights[0])

    assert relative_error(tf.function(run)(sequence), run(sequence)) < 1e-4


def test_few_rows_for_a_large_weight_are_collected_and_many_are_not(weights, bias):
    def run(x):
        with tf.GradientTape() as tape:
            outputs, _ = unroll(simple(weights, bias), x, tf.zeros([x.shape[1], SIZE]))
        return tape.gradient(outputs, weights[0])

    assert collected(run, tf.zeros([STEPS, BATCH, SIZE])) == 2
    assert collected(run, tf.zeros([STEPS, 8 * SIZE, SIZE])) == 0
    assert collected(run, tf.TensorSpec([STEPS, BATCH, SIZE])) == 2


def test_a_core_that_announces_nothing(sequence):
    core = snt.LSTM(SIZE)
    core(sequence[0], core.initial_state(BATCH))

    def run(sequence):
        with tf.GradientTape() as tape:
            outputs, _ = unroll(core, sequence, core.initial_state(BATCH))
        return tape.gradient(outputs, core.trainable_variables)

    assert collected(run, sequence) == 0
    for found, expected in zip(tf.function(run)(sequence), run(sequence), strict=True):
        assert relative_error(found, expected) < 1e-5


CORES = ("RelationalMemory", "DNC", "RMACore", "KanervaCore", "LSTMStack", "EntityMemory")


@pytest.mark.long
@pytest.mark.parametrize("row", [row for row in ROWS if row.name in CORES], ids=lambda row: row.name)
def test_cores_whose_every_weight_is_collected(row, monkeypatch):
    """Static sizes and no least share: the maps of each core, compared with the eager gradients."""
    monkeypatch.setattr(weight_gradients, "LEAST_SHARE", 0)
    core, _ = row.make()
    inputs = row.inputs(STEPS, BATCH)
    compiled = tf.function(lambda x: properties.run(core, x), input_signature=[row.specs(STEPS, BATCH)])
    operations = compiled.get_concrete_function().graph.get_operations()
    assert sum(op.type == "TensorListReserve" for op in operations) > 0
    properties.assert_same_run(core, compiled, inputs)


def test_collected_gradients_in_a_saved_model(tmp_path, weights, bias, sequence):
    """Functions of a static batch: one that computes gradients, and a forward pass."""
    module = tf.Module()
    module.weights = [*weights, bias]
    module.gradient = tf.function(
        lambda x: gradients(used_twice(weights, bias), module.weights, x),
        input_signature=[tf.TensorSpec(sequence.shape)],
    )
    module.forward = tf.function(
        lambda x: unroll(used_twice(weights, bias), x, tf.zeros([BATCH, SIZE]))[0],
        input_signature=[tf.TensorSpec(sequence.shape)],
    )
    operations = module.gradient.get_concrete_function().graph.get_operations()
    assert any(op.type == "TensorListReserve" for op in operations)
    tf.saved_model.save(module, tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    for found, expected in zip(loaded.gradient(sequence), module.gradient(sequence), strict=True):
        assert relative_error(found, expected) < 1e-6
    np.testing.assert_allclose(loaded.forward(sequence), module.forward(sequence), rtol=1e-6)


def test_mixed_precision_collects_in_the_dtype_of_the_step(rng):
    sequence = tf.constant(rng.normal(size=[BATCH, STEPS, SIZE]), tf.float32)
    layer = RNN(LSTMStack(SIZE, dtype="mixed_bfloat16"), return_sequences=True, dtype="mixed_bfloat16")
    layer(sequence)

    def run(sequence):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.cast(layer(sequence), tf.float32) ** 2)
        return tape.gradient(loss, layer.trainable_weights)

    assert collected(run, sequence) > 0
    for found, expected in zip(tf.function(run)(sequence), run(sequence), strict=True):
        assert found.dtype == tf.float32
        assert relative_error(found, expected) < 3e-2


def test_a_frozen_weight_is_no_obstacle(rng):
    sequence = tf.constant(rng.normal(size=[BATCH, STEPS, SIZE]), tf.float32)
    layer = RNN(LSTMStack(SIZE), return_sequences=True)
    layer(sequence)
    layer.cell.recurrent_kernels[0].trainable = False
    model = keras.Sequential([layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    before = [w.numpy() for w in layer.weights]
    model.fit(sequence, rng.normal(size=[BATCH, STEPS, 1]), verbose=0)
    changed = {w.name for w, b in zip(layer.weights, before, strict=True) if not np.array_equal(w.numpy(), b)}
    assert "recurrent_kernel_0" not in changed
    assert "recurrent_kernel_1" in changed


def test_threads_collect_for_themselves(weights, bias, sequence):
    expected = gradients(used_twice(weights, bias), weights, sequence)

    def trace(_):
        return tf.function(lambda x: gradients(used_twice(weights, bias), weights, x))(sequence)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for found in pool.map(trace, range(8)):
            assert all(relative_error(a, b) < 1e-5 for a, b in zip(found, expected, strict=True))


def test_outside_a_loop_a_product_is_a_product(weights, bias, sequence):
    found = weight_gradients.product(sequence[0], weights[0], bias)
    np.testing.assert_allclose(found, sequence[0] @ weights[0] + bias, rtol=1e-5, atol=1e-5)
