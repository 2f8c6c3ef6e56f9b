"""`unroll` in a graph: what its gradient keeps, loops in loops, threads, batches. Its numbers: tests/conformance."""

import concurrent.futures
import functools
import threading

import keras
import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

from tests.conformance.toys import SonnetToy
from tests.support import first_of, relative_error
from tfmem.cores import LSTMStack, MetalearnedMemory, RelationalMemory
from tfmem.cores.keras_base import linear
from tfmem.interop import as_keras_cell, as_sonnet_core
from tfmem.recurrence import same_batch, scan_of, unroll, with_reads

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


def test_a_gradient_sums_no_three_terms_with_the_loops_own_variable(weights, sequence):
    """TensorFlow's optimizer of memory breaks such sums: paper-size updates of multigrid/exploration failed."""

    def core(x, state):
        state = tf.tanh(x[:, :4] @ weights[:4] + state @ weights)
        return state, state * weights[0]

    of_sequence = tf.function(functools.partial(gradient, core, weights), autograph=False)
    library = of_sequence.get_concrete_function(sequence).graph.as_graph_def().library
    (body,) = [f for f in library.function if "body" in f.signature.name and "_grad_" in f.signature.name]
    sums = [node.input for node in body.node_def if node.op == "AddN" and "grad_ys" in node.input[0]]
    assert len(sums) == 3  # one for each read of the weights
    assert all(len(terms) == 2 for terms in sums)
    np.testing.assert_allclose(of_sequence(sequence), gradient(core, weights, sequence), rtol=1e-4, atol=1e-4)


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


def with_default(step):
    return lambda x, state, step=step: step(x, state)


def with_keyword(step):
    return lambda x, state, *, step=step: step(x, state)


def dense(weights):
    """A step that reads `weights` twice."""

    def core(x, state):
        state = tf.tanh(x @ weights + state @ weights.value())
        return state, state

    return core


class Holder(snt.Module):
    def __init__(self, core):
        super().__init__()
        self.parts = {"core": [core]}

    def __call__(self, x, state):
        return self.parts["core"][0](x, state)


class KerasHolder(keras.layers.Layer):
    def __init__(self, core):
        super().__init__()
        self.inner = Holder(core)

    def __call__(self, x, state):
        return self.inner(x, state)


def keras_cell(**options):
    cell = keras.layers.GRUCell(SIZE, **options)
    cell.build((None, SIZE))
    return cell


HOLDERS = {
    "closure": dense,
    "default": lambda w: with_default(dense(w)),
    "keyword": lambda w: with_keyword(dense(w)),
    "partial": lambda w: functools.partial(lambda step, x, state: step(x, state), dense(w)),
    "module": lambda w: Holder(dense(w)),
    "method": lambda w: Holder(dense(w)).__call__,
    "layer": lambda w: KerasHolder(dense(w)),
    "Keras cell": lambda w: keras_cell(),
    "Keras cell, mixed precision": lambda w: keras_cell(dtype="mixed_bfloat16"),
    "Keras cells, stacked": lambda w: keras.layers.StackedRNNCells([keras_cell(), keras_cell()]),
    "Sonnet core": lambda w: snt.GRU(SIZE),
    "Sonnet core of a Keras cell": lambda w: as_sonnet_core(keras_cell()),
    "Keras cell of a Sonnet core": lambda w: as_keras_cell(SonnetToy(SIZE, {})),
    "function of a Keras cell": lambda w: with_default(keras_cell()),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_loop_takes_weights_as_tensors_wherever_a_core_holds_them(holder, weights, sequence):
    core = HOLDERS[holder](weights)
    if not getattr(core, "built", True):
        core.build((None, SIZE))
    own = getattr(core, "initial_state", getattr(core, "get_initial_state", lambda batch: tf.zeros([batch, SIZE])))
    if holder == "function of a Keras cell":
        own = keras_cell().get_initial_state
    unroll(core, sequence, own(BATCH))  # makes the variables

    def run(x):
        with tf.GradientTape() as tape:
            results = unroll(core, x, own(BATCH))
            loss = tf.add_n([tf.reduce_sum(tf.cast(r, tf.float32) ** 2) for r in tf.nest.flatten(results)])
        return results, tape.gradient(loss, tape.watched_variables())

    before = {name: id(value) for name, value in getattr(core, "__dict__", {}).items()}
    in_graph = tf.function(run).get_concrete_function(sequence)
    loops = [op for op in in_graph.graph.get_operations() if op.type in ("While", "StatelessWhile")]
    assert len(loops) == 2
    assert all(x.dtype != tf.resource for loop in loops for x in loop.inputs)
    for a, e in zip(tf.nest.flatten(in_graph(sequence)), tf.nest.flatten(run(sequence)), strict=True):
        assert relative_error(tf.cast(a, tf.float32), tf.cast(e, tf.float32)) <= (0.05 if "mixed" in holder else 1e-5)
    assert {name: id(value) for name, value in getattr(core, "__dict__", {}).items()} == before


def test_a_copy_with_reads_shares_what_holds_no_variable(weights):
    other = Holder(tf.Variable(1.0))
    holder = Holder([dense(weights), other, (weights, None)])
    copy = with_reads(holder, [weights])
    assert copy is not holder
    assert copy.parts["core"][0][1] is other
    read = copy.parts["core"][0][2][0]
    value = weights.numpy()
    weights.assign(2 * weights)
    np.testing.assert_array_equal(tf.convert_to_tensor(read), value)
    np.testing.assert_array_equal((1 - read) @ read, (1 - value) @ tf.constant(value))
    np.testing.assert_array_equal(read.read_value(), value)
    assert read.shape == weights.shape
    assert read.name == weights.name
    assert with_reads(other, [weights]) is other


def test_a_cell_draws_new_numbers_and_counts_in_every_step(sequence):
    class Noisy(keras.layers.Layer):
        state_size = SIZE

        def build(self, shape):
            self.scale = self.add_weight(shape=(), initializer="ones")
            self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)
            self.seed = keras.random.SeedGenerator(3)

        def call(self, x, states):
            self.count.assign_add(1)
            noise = keras.random.normal([1, 1], seed=self.seed)
            return self.scale * noise * tf.ones_like(x), states

    cell = Noisy()
    cell.build((None, SIZE))
    outputs = tf.function(lambda: unroll(cell, sequence, [tf.zeros([BATCH, SIZE])])[0])()
    assert len(np.unique(outputs[:, 0, 0])) == STEPS
    assert cell.count.numpy() >= STEPS


@pytest.mark.parametrize("framework", first_of(["Keras", "Sonnet"]))
def test_four_threads_trace_one_core(sequence, framework):
    core = SonnetToy(SIZE, {}) if framework == "Sonnet" else as_sonnet_core(keras_cell())
    expected, _ = unroll(core, sequence, core.initial_state(BATCH))
    start = threading.Barrier(4)

    def trace():
        start.wait()
        return [tf.function(lambda: unroll(core, sequence, core.initial_state(BATCH))[0])() for _ in range(8)]

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        results = [future.result() for future in [threads.submit(trace) for _ in range(4)]]
    for result in [r for of_thread in results for r in of_thread]:
        for a, e in zip(tf.nest.flatten(result), tf.nest.flatten(expected), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)
    again, _ = unroll(core, sequence, core.initial_state(BATCH))
    for a, e in zip(tf.nest.flatten(again), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(a, e)


def test_a_batch_of_state_is_compared_where_sizes_are_unknown():
    state = {"a": tf.ones([2, 3]), "steps": tf.constant(7)}
    assert same_batch(tf.ones([2, 4]), state) is state
    specs = [tf.TensorSpec([None, 4]), {"a": tf.TensorSpec([None, 3]), "steps": tf.TensorSpec([], tf.int32)}]
    for jit_compile in (False, True):
        checked = tf.function(lambda x, s: same_batch(x, s)["a"] * 2, input_signature=specs, jit_compile=jit_compile)
        np.testing.assert_array_equal(checked(tf.ones([2, 4]), state), 2 * np.ones([2, 3]))
        with pytest.raises(tf.errors.InvalidArgumentError):
            checked(tf.ones([4, 4]), state)
        with pytest.raises(tf.errors.InvalidArgumentError):
            checked(tf.ones([1, 4]), state)


def test_inputs_of_two_batches_are_refused():
    with pytest.raises(ValueError, match=r"inputs: tensors with batches of \[1, 8\], must be of one batch"):
        same_batch((tf.ones([8, 4]), tf.ones([1, 4])), tf.ones([8, 2]))
    with pytest.raises(ValueError, match=r"initial_state: batch of 5, must be 8, that of the inputs \[T, B, ...\]"):
        unroll(dense(tf.eye(4)), tf.ones([5, 8, 4]), tf.ones([5, 4]))


def test_lengths_and_masks_of_another_shape():
    core, x, state = SonnetToy(5, {}), tf.ones([6, 4, 3]), SonnetToy(5, {}).initial_state(4)
    for mask in (np.ones([4, 6], bool), np.ones([6], bool), np.ones([6, 1], bool), np.ones([6, 4], np.float32)):
        with pytest.raises(ValueError, match=r"mask: .*must be bool \[T, B\], here \(6, 4\)"):
            unroll(core, x, state, mask=mask)
    for length in (np.ones([6], int), np.ones([4, 1], int), 2.5, np.ones([4])):
        with pytest.raises(ValueError, match=r"sequence_length: .*must be integers, a scalar or \[B\], here \(4,\)"):
            unroll(core, x, state, sequence_length=length)
    expected = unroll(core, x, state, sequence_length=[2, 2, 2, 2])
    for length in (2, np.int64(2), np.full([4], 2, np.int64), tf.fill([4], tf.constant(2, tf.int64))):
        for a, e in zip(
            tf.nest.flatten(unroll(core, x, state, sequence_length=length)), tf.nest.flatten(expected), strict=True
        ):
            np.testing.assert_array_equal(a, e)


def test_inputs_of_too_few_or_too_many_axes():
    core, cell = RelationalMemory(2, 3), LSTMStack(4)
    for run in (lambda x: core(x, core.initial_state(4)), lambda x: cell(x, cell.get_initial_state(4))):
        for shape in ([4], [4, 1, 3]):
            with pytest.raises(ValueError, match=r"inputs: .*must be \[B, features\]"):
                run(tf.ones(shape))
    for shape in ([5, 4], [5, 4, 1, 3]):
        with pytest.raises(ValueError, match=rf"inputs: shape \({str(shape)[1:-1]}\), must be \[T, B, features\]"):
            unroll(core, tf.ones(shape), core.initial_state(4))
        with pytest.raises(ValueError, match=r"inputs: .*must be \[T, B, features\]"):
            unroll(as_sonnet_core(cell), tf.ones(shape), cell.get_initial_state(4))
    with pytest.raises(ValueError, match=r"inputs: shape \(0, 4, 3\), must be .* with at least one time step"):
        unroll(core, tf.ones([0, 4, 3]), core.initial_state(4))


@pytest.mark.parametrize("dtype", [tf.int32, tf.uint8, tf.bool, tf.float64])
def test_inputs_are_computed_with_in_the_dtype_of_the_state(dtype):
    core, x = SonnetToy(5, {}), tf.cast(tf.reshape(tf.range(24) % 2, [2, 4, 3]), dtype)
    expected = unroll(core, tf.cast(x, tf.float32), core.initial_state(4))
    for actual in (unroll(core, x, core.initial_state(4)), unroll(as_keras_cell(core), x, core.initial_state(4))):
        for a, e in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
            np.testing.assert_array_equal(a, e)
    with pytest.raises(ValueError, match=r"inputs: shape \(2, 4\), must be \[T, B, ...\]"):
        unroll(core, x[:, :, 0], core.initial_state(4))


class QuietMemory(MetalearnedMemory):
    """A memory that never reads."""

    def read(self, memory, keys):
        return tf.zeros_like(super().read(memory, keys))

    def get_config(self):
        return super().get_config()


class NamedMemory(MetalearnedMemory):
    """A memory with another configuration alone."""

    def get_config(self):
        return {**super().get_config(), "name": "named"}


@pytest.mark.parametrize("wrapped", [lambda cell: cell, as_sonnet_core])
def test_what_a_subclass_overrides_is_unrolled(sequence, wrapped):
    cell = QuietMemory(units=4, memory_size=3, word_size=3)
    cell.build((None, SIZE))
    core = wrapped(cell)
    assert not hasattr(core, "scan") or scan_of(core) is None
    _, state = unroll(core, sequence, cell.get_initial_state(BATCH))
    np.testing.assert_array_equal(state.read_out, np.zeros([BATCH, 3]))
    assert scan_of(NamedMemory(units=4, memory_size=3, word_size=3)) is not None
    assert scan_of(MetalearnedMemory(units=4, memory_size=3, word_size=3)) is not None
    assert scan_of(LSTMStack(3)) is None
    assert hasattr(as_sonnet_core(NamedMemory(units=4, memory_size=3, word_size=3)), "scan")


def test_a_generated_weight_of_unknown_size_is_no_variable(sequence, weights):
    @tf.function
    def run(weights):
        return unroll(lambda x, s: (linear(x, tf.reshape(weights, [SIZE, -1])), s), sequence, tf.zeros([BATCH, 1]))[0]

    np.testing.assert_allclose(run(weights), sequence @ weights, atol=1e-5)
