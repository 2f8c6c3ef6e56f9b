import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.cores.keras_cells import assert_follows_contract, assert_hands_over, assert_modes_agree, randomize
from tests.references.lookup import lookup
from tests.support import relative_error
from tfmem.cores.lookup import LookupMemory
from tfmem.recurrence import unroll


@pytest.mark.parametrize(
    ("units", "num_heads", "word_size", "steps", "batch", "features"),
    [(5, 1, 4, 7, 2, 3), (4, 3, 2, 5, 3, 6), (3, 2, 6, 9, 1, 2)],
)
def test_equals_reference(rng, units, num_heads, word_size, steps, batch, features):
    cell = LookupMemory(units, num_heads, word_size, output_size=4, dtype="float64")
    weights = randomize(cell, rng, features)
    inputs = rng.standard_normal([steps, batch, features])
    outputs, state = unroll(cell, tf.constant(inputs), cell.get_initial_state(batch))
    assert state.keys.shape == [batch, steps, num_heads, word_size]
    assert relative_error(outputs, lookup(inputs, weights, units, num_heads, word_size)) <= 1e-12


@pytest.fixture
def small(rng):
    """A cell, a sequence, and what the reference makes of it."""

    def make(**arguments):
        cell = LookupMemory(4, 2, 3, **arguments)
        weights = randomize(cell, rng, 3)
        inputs = rng.standard_normal([11, 2, 3])
        return cell, tf.constant(inputs, tf.float32), lookup(inputs, weights, 4, 2, 3)

    return make


@pytest.mark.parametrize("max_steps", [None, 5])
def test_eager_steps_grow_the_table_past_any_capacity(small, max_steps):
    cell, inputs, expected = small(max_steps=max_steps)
    state, capacities = cell.get_initial_state(2), []
    for x, y in zip(inputs, expected, strict=True):
        output, state = cell(x, state)
        capacities.append(int(state.keys.shape[1]))
        assert relative_error(output, y) <= 1e-5
    assert capacities == ([1, 2, 4, 4, 8, 8, 8, 8, 16, 16, 16] if max_steps is None else [5] * 5 + [10] * 5 + [20])
    np.testing.assert_array_equal(np.sum(state.written, axis=1), 11)


def test_compiled_steps_retrace_log_times_with_reserve_between(small):
    cell, inputs, expected = small()
    traces = []

    @tf.function(jit_compile=True)
    def step(x, state):
        traces.append(state.keys.shape[1])
        return cell(x, state)

    state = cell.get_initial_state(2)
    for x, y in zip(inputs, expected, strict=True):
        output, state = step(x, cell.reserve(state, 1))
        assert relative_error(output, y) <= 1e-5
    assert sorted(set(traces)) == [1, 2, 4, 8, 16]


def test_graph_of_unknown_capacity_grows_without_retracing(small):
    cell, inputs, expected = small()
    state, traces = cell.get_initial_state(2), []
    specs = [tf.TensorSpec([None, *size], s.dtype) for size, s in zip(cell.state_size, state, strict=True)]

    @tf.function(input_signature=[tf.TensorSpec([None, 3]), type(state)(*specs)])
    def step(x, state):
        traces.append(0)
        return cell(x, state)

    for x, y in zip(inputs, expected, strict=True):
        output, state = step(x, state)
        assert relative_error(output, y) <= 1e-5
    assert len(traces) == 1


@pytest.mark.parametrize("jit_compile", [False, True])
def test_unrolls_follow_each_other_in_compiled_code(small, jit_compile):
    cell, inputs, expected = small()
    run = tf.function(lambda x, s: unroll(cell, x, s), jit_compile=jit_compile)
    first, state = run(inputs[:6], cell.get_initial_state(2))
    second, state = run(inputs[6:], state)
    assert relative_error(tf.concat([first, second], 0), expected) <= 1e-5
    assert state.keys.shape[1] == 11


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_table_that_cannot_grow_is_never_silent(small, jit_compile):
    cell, inputs, expected = small(max_steps=7)
    outputs, state = tf.function(lambda x: unroll(cell, x, cell.get_initial_state(2)), jit_compile=jit_compile)(inputs)
    assert state.keys.shape[1] == 7
    assert relative_error(outputs[:7], expected[:7]) <= 1e-5
    assert np.all(np.isnan(outputs[7:]))

    empty = small()[0]
    with pytest.raises(ValueError, match=r"states: capacity 0 .*must have room for the step"):
        tf.function(empty)(inputs[0], empty.get_initial_state(2))


def test_sequences_of_different_lengths_share_a_table(small):
    cell, inputs, _ = small()
    lengths = tf.constant([2, 6])
    _, state = unroll(cell, inputs[:6], cell.get_initial_state(2), lengths)
    np.testing.assert_array_equal(np.sum(state.written, axis=1), lengths)
    output, _ = cell(inputs[6], state)
    _, state = unroll(cell, inputs[:2, :1], cell.get_initial_state(1))
    np.testing.assert_allclose(output[:1], cell(inputs[6, :1], state)[0], atol=1e-6)


def test_runs_in_keras_rnn_where_max_steps_is_given(small):
    cell, inputs, expected = small(max_steps=11)
    model = keras.Sequential([keras.layers.Input([11, 3]), keras.layers.RNN(cell, return_sequences=True)])
    outputs = model.predict(np.swapaxes(inputs, 0, 1), verbose=0)
    assert relative_error(np.swapaxes(outputs, 0, 1), expected) <= 1e-5


def test_modes_agree(rng):
    assert_modes_agree(LookupMemory(5, 2, 4), rng)


def test_hands_over_and_contract(rng):
    assert_hands_over(LookupMemory(5, 2, 4), rng)
    assert_follows_contract(LookupMemory(5, 2, 4, output_size=3), rng)
    assert_follows_contract(LookupMemory(5, max_steps=4), rng)


@pytest.mark.parametrize(
    "bad", [{"units": 0}, {"num_heads": 0}, {"word_size": -1}, {"output_size": 0}, {"max_steps": 0}]
)
def test_bad_arguments(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}: .*, must be a positive integer"):
        LookupMemory(**{"units": 4, **bad})
