"""The scan of the metalearned memory against its steps, over several chunks. Its equations: test_metalearned.py."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.cores.keras_cells import randomize
from tests.support import first_of, relative_error
from tfmem.cores.metalearned import MetalearnedMemory
from tfmem.cores.metalearned_scan import FACTOR_ROWS
from tfmem.interop import as_keras_cell, as_sonnet_core
from tfmem.recurrence import unroll
from tfmem.rnn import RNN

SMALL = {"units": 5, "num_heads": 2, "memory_layers": 3, "memory_size": 4, "word_size": 3}
STEPS, BATCH, FEATURES = FACTOR_ROWS // 2 + 3, 3, 4  # two chunks, the first of which is not full


def random_cell(rng, dtype="float64", **changes):
    """A cell, inputs, a random state and a random mask."""
    cell = MetalearnedMemory(**{**SMALL, **changes}, dtype=dtype)
    randomize(cell, rng, FEATURES)
    inputs = tf.constant(rng.standard_normal([STEPS, BATCH, FEATURES]), dtype)
    state = tf.nest.map_structure(
        lambda s: s + tf.constant(0.3 * rng.standard_normal(s.shape), dtype), cell.get_initial_state(BATCH)
    )
    return cell, inputs, state, tf.constant(rng.random([STEPS, BATCH]) < 0.6)


def run(core, weights, inputs, state, mask=None):
    """Outputs, final state and the gradients for weights, inputs and the state, in one list."""
    with tf.GradientTape() as tape:
        tape.watch([inputs, state])
        results = tf.nest.flatten(unroll(core, inputs, state, mask=mask))
        loss = 0.0
        for x in results:
            ramp = tf.reshape(tf.range(tf.size(x)), tf.shape(x))
            loss += tf.reduce_sum(tf.sin(1.0 + 1.3 * tf.cast(ramp, x.dtype)) * x)
    return [*results, *tape.gradient(loss, [*weights, inputs, *tf.nest.flatten(state)])]


def assert_scan_equals_steps(cell, inputs, state, mask, tolerance, compiled=run):
    weights = [w.value for w in cell.trainable_variables]
    # A function has no scan: `unroll` runs it step by step.
    expected = run(lambda x, s: cell(x, s), weights, inputs, state, mask)
    for a, e in zip(compiled(cell, weights, inputs, state, mask), expected, strict=True):
        assert np.any(e)
        assert relative_error(a, e) <= tolerance


@pytest.mark.parametrize("masked", first_of([True, False]))
@pytest.mark.parametrize(
    ("write", "read_first", "output_activation"),
    list(itertools.product(["gradient", "local"], [False, True], ["tanh", "linear"])),
)
def test_scan_equals_steps(rng, write, read_first, output_activation, masked):
    cell, inputs, state, mask = random_cell(
        rng,
        write=write,
        read_first=read_first,
        output_activation=output_activation,
        return_meta_loss=True,
        recall_delay=2,
        recall_weights=[1.0, 0.5, 0.25],
        mean_error=True,
    )
    assert_scan_equals_steps(cell, inputs, state, mask if masked else None, 1e-10)


@pytest.mark.parametrize("write", ["gradient", "local"])
@pytest.mark.parametrize(("memory_layers", "num_heads"), [(1, 1), (2, 1), (4, 3), (2, FACTOR_ROWS + 1)])
def test_scan_of_any_depth_and_number_of_heads(rng, write, memory_layers, num_heads):
    cell, inputs, state, _ = random_cell(
        rng, write=write, memory_layers=memory_layers, num_heads=num_heads, feedback_activation="gelu"
    )
    assert_scan_equals_steps(cell, inputs, state, None, 1e-10)


@pytest.mark.parametrize(("heads", "steps"), first_of([(1, 12), (5, 3), (1, 11), (1, 13), (1, 25), (5, 2), (3, 8)], 2))
@pytest.mark.parametrize("cut", ["chunk", "first step"])
def test_any_length_and_any_cut_of_a_sequence(rng, heads, steps, cut):
    """Sequences that end just before, at and after a chunk's end, handed over there or within a chunk."""
    cell, inputs, state, _ = random_cell(rng, write="local", num_heads=heads)
    inputs = tf.constant(rng.standard_normal([steps, BATCH, FEATURES]))
    assert_scan_equals_steps(cell, inputs, state, None, 1e-10)
    cut = min(steps - 1, FACTOR_ROWS // heads) if cut == "chunk" else 1
    whole, last = unroll(cell, inputs, state)
    first, between = unroll(cell, inputs[:cut], state)
    second, end = unroll(cell, inputs[cut:], between)
    assert relative_error(tf.concat([first, second], 0), whole) <= 1e-10
    for a, e in zip(tf.nest.flatten(end), tf.nest.flatten(last), strict=True):
        assert relative_error(a, e) <= 1e-10


@pytest.mark.parametrize("write", first_of(["local", "gradient"]))
def test_second_derivatives_and_jacobians_of_the_scan(rng, write):
    cell, inputs, state, _ = random_cell(rng, write=write, num_heads=1)
    inputs = inputs[:, :1]
    state = tf.nest.map_structure(lambda s: s[:1], state)
    weights = [w.value for w in cell.trainable_variables]

    def derivatives(core):
        with tf.GradientTape() as outer:
            outer.watch(inputs)
            with tf.GradientTape() as inner:
                inner.watch(inputs)
                loss = tf.reduce_sum(unroll(core, inputs, state)[0] ** 2)
            penalty = tf.reduce_sum(inner.gradient(loss, inputs) ** 2)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(inputs)
            last = unroll(core, inputs, state)[0][-1, 0]
        return [*outer.gradient(penalty, [inputs, *weights]), tape.jacobian(last, inputs, experimental_use_pfor=False)]

    for a, e in zip(derivatives(cell), derivatives(lambda x, s: cell(x, s)), strict=True):
        assert (a is None) == (e is None)
        assert a is None or relative_error(a, e) <= 1e-9


@pytest.mark.parametrize(("write", "mode"), [("gradient", "XLA"), ("local", "graph")])
def test_scan_in_a_graph(rng, write, mode):
    cell, inputs, state, mask = random_cell(
        rng, "float32", write=write, return_meta_loss=True, recall_delay=1, recall_weights=[1.0, 0.5]
    )

    def compiled(core, weights, inputs, state, mask):
        sizes = (STEPS, BATCH) if mode == "XLA" else (None, None)
        specs = [
            tf.TensorSpec([*sizes, FEATURES]),
            tf.nest.map_structure(lambda s: tf.TensorSpec([sizes[1], *s.shape[1:]]), state),
            tf.TensorSpec(sizes, tf.bool),
        ]
        function = tf.function(
            lambda inputs, state, mask: run(core, weights, inputs, state, mask),
            input_signature=specs,
            jit_compile=mode == "XLA",
        )
        return function(inputs, state, mask)

    assert_scan_equals_steps(cell, inputs, state, mask, 1e-4, compiled)


def test_masked_inputs_may_be_anything(rng):
    cell, inputs, state, mask = random_cell(rng)
    wrong = tf.where(mask[..., tf.newaxis], inputs, np.nan)
    expected = unroll(cell, inputs, state, mask=mask)
    tf.nest.map_structure(np.testing.assert_array_equal, unroll(cell, wrong, state, mask=mask), expected)


def test_memory_of_the_gradient_does_not_grow_with_every_step(rng):
    """The gradient keeps matrices of chunks: no tensor of the graph has a matrix for every step."""
    cell, inputs, _, _ = random_cell(rng, "float32", num_heads=1, memory_size=7, word_size=7)
    steps = 4 * FACTOR_ROWS
    inputs = tf.zeros([steps, BATCH, FEATURES])

    def gradient(inputs):
        weights = [w.value for w in cell.trainable_variables]
        with tf.GradientTape() as tape:
            outputs, _ = unroll(cell, inputs, cell.get_initial_state(BATCH))
            loss = tf.reduce_sum(outputs**2)
        return tape.gradient(loss, weights)

    compiled = tf.function(gradient, jit_compile=True)
    text = compiled.experimental_get_compiler_ir(inputs)(stage="hlo")
    assert f"f32[4,{BATCH},7,7]" in text
    assert f"f32[{steps},{BATCH},7,7]" not in text


def test_adapters_and_dropout_of_inputs_keep_the_scan(rng):
    cell, inputs, state, mask = random_cell(rng, "float32", dropout=0.5)
    expected = unroll(cell, inputs, state, mask=mask)
    for core in (as_sonnet_core(cell), as_keras_cell(as_sonnet_core(cell))):
        assert core.scan.__self__ is cell
        tf.nest.map_structure(np.testing.assert_array_equal, unroll(core, inputs, state, mask=mask), expected)
    layer = RNN(cell, return_sequences=True)
    sequences = tf.transpose(inputs, [1, 0, 2])
    assert np.all(np.isfinite(layer(sequences, training=True)))
    assert np.any(layer(sequences, training=True) != layer(sequences))
