"""Properties of every row of the table. A property is a function of a row that raises AssertionError."""

import concurrent.futures
import contextlib
import functools
import json
import threading

import keras
import numpy as np
import sonnet as snt
import tensorflow as tf

import tfmem
from tests.conformance.descriptors import BATCH, ROWS, STEPS, Row
from tests.support import relative_error
from tfmem.aot.lowering import obstacles
from tfmem.interop import as_keras_cell, as_sonnet_core
from tfmem.recurrence import unroll

FORWARD, GRADIENT = 1e-5, 1e-4


def assert_close(actual, expected, tolerance=FORWARD):
    """Equal structures of arrays, each to `tolerance` of its largest magnitude."""
    tf.nest.assert_same_structure(actual, expected, check_types=False)
    for i, (a, e) in enumerate(zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True)):
        error = relative_error(a, e)
        assert error <= tolerance, f"tensor {i}: relative error {error:.1e} above {tolerance:.0e}"


def loss_of(nest):
    """A scalar that depends on every floating element of a nest, each with its own weight."""
    loss = 0.0
    for tensor in tf.nest.flatten(nest):
        if tensor.dtype.is_floating:
            weights = tf.reshape(tf.sin(1.0 + tf.range(tf.size(tensor), dtype=tf.float32)), tf.shape(tensor))
            loss += tf.reduce_mean(weights * tf.cast(tensor, tf.float32))
    return loss


def run(core, inputs):
    """Outputs and final state of a sequence [T, B, ...], and the gradients for the variables and inputs."""
    batch_size = tf.shape(tf.nest.flatten(inputs)[0])[1]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        results = unroll(core, inputs, core.initial_state(batch_size))
        loss = loss_of(results)
    return results, tape.gradient(loss, [*core.trainable_variables, *tf.nest.flatten(inputs)])


def assert_same_run(core, compiled, inputs):
    (results, gradients), (expected_results, expected_gradients) = compiled(inputs), run(core, inputs)
    assert_close(results, expected_results)
    assert_close(gradients, expected_gradients, GRADIENT)


def graph_of_unknown_batch_and_time(row: Row):
    core, _ = row.make()
    compiled = tf.function(lambda x: run(core, x), input_signature=[row.specs(None, None)])
    assert_same_run(core, compiled, row.inputs(STEPS, BATCH))


@functools.cache
def compiled_run(name):
    """A row's core and its `run` for XLA; tracing is most of the cost, so two properties share it."""
    row = next(row for row in ROWS if row.name == name)
    core, _ = row.make()
    # The batch is unknown when the function is traced, as in Keras's fit; XLA then sees its size.
    return core, tf.function(lambda x: run(core, x), input_signature=[row.specs(STEPS, None)], jit_compile=True)


def xla(row: Row):
    assert_same_run(*compiled_run(row.name), row.inputs(STEPS, BATCH))


def compiles_to_stablehlo(row: Row):
    _, compiled = compiled_run(row.name)
    text = compiled.experimental_get_compiler_ir(row.inputs(STEPS, BATCH))(stage="stablehlo")
    assert "stablehlo." in text
    assert obstacles(text) == []


def gradient_reaches_every_variable(row: Row):
    core, _ = row.make()
    _, gradients = run(core, row.inputs(STEPS, BATCH))
    assert core.trainable_variables
    for variable, gradient in zip(core.trainable_variables, gradients, strict=False):
        assert gradient is not None, f"no gradient for {variable.name}"
        assert np.all(np.isfinite(gradient)), f"gradient for {variable.name} is not finite"
        assert np.any(gradient), f"gradient for {variable.name} is zero"


def state_hand_over(row: Row):
    core, _ = row.make()
    inputs = row.inputs(STEPS, BATCH)
    whole, final = unroll(core, inputs, core.initial_state(BATCH))
    first, state = unroll(core, tf.nest.map_structure(lambda x: x[:1], inputs), core.initial_state(BATCH))
    second, state = unroll(core, tf.nest.map_structure(lambda x: x[1:], inputs), state)
    assert_close(tf.nest.map_structure(lambda a, b: tf.concat([a, b], 0), first, second), whole)
    assert_close(state, final)


def all_conventions_agree(row: Row):
    core, cell = row.make()
    inputs = row.inputs(STEPS, BATCH)
    expected, final = unroll(core, inputs, core.initial_state(BATCH))
    assert_close(snt.static_unroll(core, inputs, core.initial_state(BATCH)), (expected, final))
    assert_close(tf.function(snt.dynamic_unroll)(core, inputs, core.initial_state(BATCH)), (expected, final))
    layer = tfmem.RNN(cell, return_sequences=True, return_state=True)
    output, *state = layer(batch_major(inputs))
    assert_close(batch_major(output), expected)
    assert_close(tf.nest.flatten(state), tf.nest.flatten(final))
    for weight, variable in zip(cell.variables, core.variables, strict=True):
        assert weight.value is variable


def declared_sizes(row: Row):
    core, _ = row.make()
    for batch_size in (2, tf.constant(2)):
        state = core.initial_state(batch_size)
        output, next_state = core(row.inputs(2), state)
        tf.nest.assert_same_structure(state, next_state)
        assert tf.nest.map_structure(lambda s: s.dtype, state) == tf.nest.map_structure(lambda s: s.dtype, next_state)
        for nest, declared in ((state, core.state_size), (next_state, core.state_size), (output, core.output_size)):
            for tensor, size in zip(tf.nest.flatten(nest), tf.nest.flatten(declared), strict=True):
                assert tensor.shape == [2, *([size] if isinstance(size, int) else size)]


def symbolic_shapes(row: Row):
    _, cell = row.make()
    symbolic = build_model(row, cell).outputs
    layer = tfmem.RNN(cell, return_sequences=True, return_state=True)
    values = tf.nest.flatten(layer(batch_major(row.inputs(STEPS, BATCH))))
    for tensor, value in zip(symbolic, values, strict=True):
        known = [d for d in tensor.shape if d is not None]
        assert known == value.shape[value.shape.rank - len(known) :], f"{tensor.shape} for {value.shape}"
        assert len(tensor.shape) == value.shape.rank
        assert tensor.dtype == value.dtype.name


def configuration(row: Row):
    core, cell = row.make()
    config = json.loads(json.dumps(cell.get_config()))
    copy = type(cell).from_config(config)
    assert json.loads(json.dumps(copy.get_config())) == json.loads(json.dumps(cell.get_config()))
    copy.build(keras.tree.map_shape_structure(lambda shape: (None, *shape), row.input_shape))
    copy.set_weights(cell.get_weights())
    expected = cell(row.inputs(2), core.initial_state(2))
    assert_close(copy(row.inputs(2), core.initial_state(2)), expected, 1e-6)


def mixed_bfloat16(row: Row):
    _, exact_cell = row.make()
    with dtype_policy("mixed_bfloat16"):
        core, cell = row.make()
        cell.set_weights(exact_cell.get_weights())
        layer = tfmem.RNN(cell, return_sequences=True, return_state=True)
        with tf.GradientTape() as tape:
            output, *state = layer(batch_major(row.inputs(STEPS, BATCH)))
            loss = loss_of(output)
        gradients = tape.gradient(loss, core.trainable_variables)
    assert all(v.dtype in (tf.float32, tf.int32, tf.int64) for v in core.variables)
    assert all(np.all(np.isfinite(g)) for g in gradients if g is not None)
    exact_output = tfmem.RNN(exact_cell, return_sequences=True)(batch_major(row.inputs(STEPS, BATCH)))
    own = tf.nest.flatten(cell.get_initial_state(1))
    for tensor, initial in zip(tf.nest.flatten(state), own, strict=True):
        assert tensor.dtype == initial.dtype
    assert any(s.dtype == tf.bfloat16 for s in own)
    for actual, exact in zip(tf.nest.flatten([output]), tf.nest.flatten([exact_output]), strict=True):
        if exact.dtype.is_floating:
            assert actual.dtype == tf.bfloat16
            assert relative_error(tf.cast(actual, tf.float32), exact) <= 0.1


def bad_arguments(row: Row):
    assert row.bad
    for argument, create in row.bad.items():
        message = value_error(create)
        assert argument in message, f"the error for {argument} says: {message}"
    core, cell = row.make()
    wider = keras.tree.map_shape_structure(lambda shape: tf.zeros([2, *shape[:-1], shape[-1] + 1]), row.input_shape)
    message = value_error(lambda: core(wider, core.initial_state(2)))
    assert "inputs" in message, f"the error for inputs of another size says: {message}"
    value_error(lambda: tfmem.RNN(cell)(batch_major(row.inputs(STEPS, BATCH)), initial_state=[tf.zeros([BATCH, 77])]))


def four_threads_trace_at_once(row: Row):
    """Each thread has a `tf.function` of its own; the core is theirs together, and as before when they are done."""
    core, _ = row.make()
    inputs = row.inputs(STEPS, 2)
    expected = unroll(core, inputs, core.initial_state(2))
    start = threading.Barrier(4)

    def trace():
        start.wait()
        return tf.function(lambda: unroll(core, inputs, core.initial_state(2)), autograph=False)()

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        results = [future.result() for future in [threads.submit(trace) for _ in range(4)]]
    for result in results:
        assert_close(result, expected)
    assert_close(unroll(core, inputs, core.initial_state(2)), expected, 0.0)


def state_of_another_batch_is_refused(row: Row):
    core, cell = row.make()
    inputs = row.inputs(STEPS, BATCH)
    step = tf.nest.map_structure(lambda x: x[0], inputs)
    layer = tfmem.RNN(cell)
    kept = tfmem.RNN(cell, stateful=True)
    kept(batch_major(inputs))
    before = [s.numpy() for s in kept.states]
    one = batch_major(tf.nest.map_structure(lambda x: x[:, :1], inputs))
    for size in (1, BATCH - 1, BATCH + 1):
        other = core.initial_state(size)
        calls = [
            lambda s=other: core(step, s),
            lambda s=other: unroll(core, inputs, s),
            lambda s=other: unroll(cell, inputs, s),
            lambda s=other: layer(batch_major(inputs), initial_state=tf.nest.flatten(s)),
            lambda s=other: kept(batch_major(inputs), initial_state=tf.nest.flatten(s)),
            lambda: kept(one),
            lambda: kept(one, initial_state=tf.nest.flatten(core.initial_state(1))),
        ]
        if type(cell).__module__.startswith("tfmem."):
            calls.append(lambda s=other: cell(step, s))
        for call in calls:
            assert "batch" in value_error(call)
    specs = tf.nest.map_structure(lambda s: tf.TensorSpec([None, *s.shape[1:]], s.dtype), other)
    sequence = tf.function(lambda x, s: unroll(core, x, s), input_signature=[row.specs(None, None), specs])
    run = tf.function(lambda x: kept(x), input_signature=[row.specs(None, None)])
    sequence(inputs, core.initial_state(BATCH))
    assert "batch" in raised(tf.errors.InvalidArgumentError, lambda: sequence(inputs, core.initial_state(1)))
    for _ in range(50):  # a state that does not wait for the assertion is assigned now and then
        assert "batch" in raised(tf.errors.InvalidArgumentError, lambda: run(one))
    for state, value in zip(kept.states, before, strict=True):
        np.testing.assert_array_equal(state, value)


def mask_in_reverse(row: Row):
    """The mask of the outputs is in their order: what is padding does not count."""
    _, cell = row.make()
    inputs = batch_major(row.inputs(STEPS, BATCH))
    mask = tf.sequence_mask([STEPS - 1] * BATCH, STEPS)
    layer = tfmem.RNN(cell, return_sequences=True, go_backwards=True)
    outputs = layer(inputs, mask=mask)
    expected = layer(tf.nest.map_structure(lambda x: x[:, : STEPS - 1], inputs))
    masks = layer.compute_mask(inputs, mask)
    for output, output_mask, e in zip(tf.nest.flatten(outputs), masks, tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(output_mask, mask[:, ::-1])
        assert_close(tf.boolean_mask(output, output_mask), tf.reshape(e, [-1, *e.shape[2:]]))


def frozen(row: Row):
    native = row.create()
    cell = as_keras_cell(native) if row.framework == "sonnet" else native
    inputs = keras.tree.map_shape_structure(lambda shape: keras.Input([None, *shape]), row.input_shape)
    layer = tfmem.RNN(cell, return_sequences=True)
    layer.trainable = False
    first = tf.nest.flatten(layer(inputs))[0]
    model = keras.Model(inputs, keras.layers.Dense(1)(first))
    assert len(model.trainable_variables) == 2
    assert not as_sonnet_core(cell).trainable_variables
    copy = keras.saving.deserialize_keras_object(json.loads(json.dumps(keras.saving.serialize_keras_object(model))))
    _, trained = row.make()
    for m in (model, copy):
        assert len(m.trainable_variables) == 2
        recurrent = next(x for x in m.layers if isinstance(x, tfmem.RNN))
        recurrent.trainable = True
        assert len(m.trainable_variables) == len(trained.trainable_variables) + 2
        assert len(as_sonnet_core(recurrent.cell).trainable_variables) == len(trained.trainable_variables)


PROPERTIES = {
    "graph": graph_of_unknown_batch_and_time,
    "XLA": xla,
    "StableHLO": compiles_to_stablehlo,
    "gradient": gradient_reaches_every_variable,
    "hand-over": state_hand_over,
    "conventions": all_conventions_agree,
    "sizes": declared_sizes,
    "symbolic": symbolic_shapes,
    "config": configuration,
    "bfloat16": mixed_bfloat16,
    "errors": bad_arguments,
    "threads": four_threads_trace_at_once,
    "batch of state": state_of_another_batch_is_refused,
    "mask in reverse": mask_in_reverse,
    "frozen": frozen,
}


def value_error(call):
    return raised(ValueError, call)


def raised(kind, call):
    """The message of the error that a call raises."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__} was raised")


def batch_major(nest):
    return tf.nest.map_structure(lambda x: tf.transpose(x, [1, 0, *range(2, x.shape.rank)]), nest)


def build_model(row, cell):
    """A functional model of `tfmem.RNN`: batch-major inputs to a flat list of outputs and final state."""
    inputs = keras.tree.map_shape_structure(lambda shape: keras.Input([None, *shape]), row.input_shape)
    results = tfmem.RNN(cell, return_sequences=True, return_state=True)(inputs)
    return keras.Model(inputs, tf.nest.flatten(results))


@contextlib.contextmanager
def dtype_policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
