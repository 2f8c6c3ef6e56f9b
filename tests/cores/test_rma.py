import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import tfmem.checkpoints.tvt as tables
from tests.references import rma as reference
from tests.support import first_of, golden_cases, relative_error
from tfmem.checkpoints import CheckpointMismatchError, load_tf1
from tfmem.cores.base import RNNCore
from tfmem.cores.rma import RMACore, RMAReader, RMAWriter
from tfmem.cores.rma_memory import inverse_norm, write
from tfmem.cores.tvt import TVTCore
from tfmem.recurrence import unroll

READERS = golden_cases("rma/reader_*.npz")
PAPER_CORES = golden_cases("rma/core_*.npz", "recipe_seed")  # weights from random numbers instead of a checkpoint
CORES = [case for case in golden_cases("rma/core_*.npz") if case not in PAPER_CORES]


def check(case, name, actual, expected, tolerance):
    error = relative_error(actual, expected)
    print(f"error {case} {name} {error:.1e}")
    assert error <= tolerance, name


def scatter(weights, indices, rows):
    """Weights [..., k] at indices [..., k], as dense weights [..., rows]."""
    dense = np.zeros([*weights.shape[:-1], rows])
    np.put_along_axis(dense, indices.astype(np.int64), np.asarray(weights, np.float64), axis=-1)
    return dense


def stored_gradients(table, variables, gradients):
    """Gradients under the stored names: those of the matrices that we keep in two parts are put together again."""
    by_variable = {v.ref(): g for v, g in zip(variables, gradients, strict=True)}
    parts = {}
    for entry in table:
        parts.setdefault(entry.name, []).append(by_variable[entry.variable.ref()].numpy())
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


# --- the public code's arrays ---


@pytest.mark.parametrize("case", READERS)
def test_reader_equals_the_public_code(golden, case):
    data = np.load(golden(f"rma/{case}.npz"))
    num_reads, rows = int(data["cfg_num_reads"]), int(data["cfg_memory_size"])
    reader = RMAReader(num_reads, int(data["cfg_word_size"]), int(data["cfg_top_k"]), rows)
    read_inputs = tf.constant(data["read_inputs"])
    memory = tf.constant(data["mem_state"].astype(np.float32))
    reader(read_inputs, memory)
    load_tf1(reader, golden(f"rma/ckpt_{case}/model.ckpt"), scope="memory_reader")

    with tf.GradientTape() as tape:
        tape.watch([read_inputs, memory])
        reads, information = reader(read_inputs, memory)
        loss = tf.reduce_sum(data["loss_w_reads"] * reads)
        loss += tf.reduce_sum(data["loss_w_strengths"] * information.strengths)
        loss += tf.reduce_sum(information.weights**2)
    d_inputs, d_memory, d_w, d_b = tape.gradient(loss, [read_inputs, memory, reader.linear.w, reader.linear.b])

    dense = scatter(information.weights.numpy(), information.indices.numpy(), rows)
    for name, actual in dict(
        reads=reads, keys=information.keys, strengths=information.strengths, weights_dense=dense, loss=loss
    ).items():
        check(case, name, actual, data[name], 1e-5)
    check(case, "grad/read_inputs", d_inputs, data["grad/read_inputs"], 1e-4)
    check(case, "grad/w", d_w, data["grad/memory_reader/linear/w"], 1e-4)
    check(case, "grad/b", d_b, data["grad/memory_reader/linear/b"], 1e-4)
    if "grad/mem_state" in data:
        check(case, "grad/mem_state", d_memory, data["grad/mem_state"], 1e-4)
    else:
        at = data["grad/mem_state_rows"]
        check(case, "grad/mem_state", d_memory.numpy()[:, at], data["grad/mem_state_at_rows"], 1e-4)
        assert not np.any(np.delete(d_memory.numpy(), at, axis=1))


def test_writer_equals_the_public_code(golden):
    data = np.load(golden("rma/writer.npz"))
    writer = RMAWriter((int(data["cfg_memory_size"]), int(data["cfg_word_size"])))
    z, first, counter = tf.constant(data["z"]), tf.constant(data["mem0"]), tf.constant(data["counter0"])
    with tf.GradientTape() as tape:
        tape.watch([z, first])
        memory = first
        for t in range(len(data["z"])):
            memory, counter = writer((z[t], memory), counter)
            check("writer", f"mem_steps[{t}]", memory, data["mem_steps"][t], 0)
            check("writer", f"counter_steps[{t}]", counter, data["counter_steps"][t], 0)
        loss = tf.reduce_sum(data["loss_w_mem"] * memory)
    d_first, d_z = tape.gradient(loss, [first, z])
    check("writer", "loss", loss, data["loss"], 1e-5)
    check("writer", "grad_mem0", d_first, data["grad_mem0"], 0)
    assert d_z is None
    assert bool(data["grad_z_is_none"])
    memory, counter = writer((z[0], first), tf.constant(data["mixed_counter_in"]))
    check("writer", "mixed_mem_out", memory, data["mixed_mem_out"], 0)
    check("writer", "mixed_counter_out", counter, data["mixed_counter_out"], 0)


def golden_core(data):
    core = TVTCore(
        num_actions=int(data["cfg_num_actions"]),
        num_latents=int(data["cfg_num_latents"]),
        control_hidden_size=int(data["cfg_control_hidden_size"]),
        control_num_layers=int(data["cfg_control_num_layers"]),
        memory_size=int(data["cfg_memory_size"]),
        memory_num_reads=int(data["cfg_memory_num_reads"]),
        memory_top_k=int(data["cfg_memory_top_k"]),
        num_policy_hiddens=data["cfg_num_policy_hiddens"].tolist(),
        baseline_mlp_num_hiddens=data["cfg_baseline_mlp_num_hiddens"].tolist(),
    )
    core.project_inputs(tf.constant(data["features"]))
    return core


def unroll_with_states(core, inputs, state):
    """As `unroll`, with the state after every step."""

    def step(projected, state):
        output, state = core.step(projected, state)
        return (output, state), state

    (outputs, states), _ = unroll(step, core.project_inputs(inputs), state)
    return outputs, states


def run_golden(core, data, memory):
    """Outputs, states, losses and the gradients of the plain and the clipped loss."""
    features = tf.constant(data["features"])
    state = core.initial_state(features.shape[1])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([features, memory])
        state = state.with_memory(memory, data["init_counter"])
        outputs, states = unroll_with_states(core, features, state)
        policy = tf.reduce_sum(data["loss_w_policy"] * outputs.policy)
        baseline = tf.reduce_sum(data["loss_w_baseline"] * outputs.baseline)
        loss = policy + baseline
        loss += tf.reduce_sum(data["loss_w_z"] * outputs.z) + tf.reduce_sum(data["loss_w_reads"] * states.reads)
        loss += tf.reduce_sum(data["loss_w_strengths"] * outputs.read_info.strengths)
        loss += tf.reduce_sum(outputs.read_info.weights**2)
        clipped = 40 * (policy + baseline)
    variables = list(core.trainable_variables)
    *gradients, d_features, d_memory = tape.gradient(loss, [*variables, features, memory])
    clipped_gradients = tape.gradient(clipped, variables, unconnected_gradients="zero")
    table = tables.tvt_table(core)
    return dict(
        outputs=outputs,
        states=states,
        loss=loss,
        loss_clipped=clipped,
        grad=stored_gradients(table, variables, gradients),
        grad_clipped=stored_gradients(table, variables, clipped_gradients),
        d_features=d_features,
        d_memory=d_memory,
    )


def check_outputs(case, data, outputs, states):
    information = outputs.read_info
    actual = dict(
        policy=outputs.policy,
        baseline=outputs.baseline,
        z=outputs.z,
        reads=states.reads,
        keys=information.keys,
        strengths=information.strengths,
        state_counter=states.write_counter,
        state_controller_outputs=np.concatenate([layer.hidden for layer in states.lstm], -1),
    )
    for i, layer in enumerate(states.lstm):
        actual |= {f"state_lstm{i}_hidden": layer.hidden, f"state_lstm{i}_cell": layer.cell}
    if "state_memory" in data:
        actual["state_memory"] = states.memory
        rows = states.memory.shape[-2]
        actual["weights_dense"] = scatter(information.weights.numpy(), information.indices.numpy(), rows)
    for name, array in actual.items():
        check(case, name, array, data[name], 1e-5)
    # The order of the k rows is unspecified, and which of several empty rows are picked.
    check(case, "weights", np.sort(information.weights), np.sort(data["weights"]), 1e-5)


@pytest.mark.parametrize("case", CORES)
def test_core_equals_the_public_code(golden, case):
    data = np.load(golden(f"rma/{case}.npz"))
    core = golden_core(data)
    report = load_tf1(core, golden(f"rma/ckpt_{case}/model.ckpt"), scope="rma_core")
    assert report.num_parameters == sum(v.shape.num_elements() for v in core.trainable_variables)
    batch_size, rows, width = data["features"].shape[1], core.memory_size, core.num_latents
    memory = data["init_memory"] if "init_memory" in data else np.zeros([batch_size, rows, width], np.float32)
    result = run_golden(core, data, tf.constant(memory))

    check_outputs(case, data, result["outputs"], result["states"])
    for name in ("loss", "loss_clipped"):
        check(case, name, result[name], data[name], 1e-5)
    check(case, "grad/features", result["d_features"], data["grad/features"], 1e-4)
    check(case, "grad/init_memory", result["d_memory"], data["grad/init_memory"], 1e-4)
    for kind in ("grad", "grad_clipped"):
        names = [key for key in data.files if key.startswith(f"{kind}/rma_core/")]
        assert {f"{kind}/rma_core/{name}" for name in result[kind]} == set(names)
        for name, gradient in result[kind].items():
            check(case, f"{kind}/{name}", gradient, data[f"{kind}/rma_core/{name}"], 1e-4)


@pytest.mark.parametrize("case", PAPER_CORES)
def test_core_of_the_papers_size_equals_the_public_code(golden, case):
    data = np.load(golden(f"rma/{case}.npz"))
    core = golden_core(data)
    seed = 100 * int(data["recipe_seed"])
    stored = {}
    for i, (name, text) in enumerate(zip(data["var_names"], data["var_shapes"], strict=True)):
        shape = tuple(int(n) for n in text.strip("()").split(",") if n)
        scale = shape[0] ** -0.5 if len(shape) == 2 else 0.1
        stored[name] = (np.random.RandomState(seed + i).standard_normal(shape) * scale).astype(np.float32)
        np.testing.assert_allclose(stored[name].sum(dtype=np.float64), data["var_sum"][i], rtol=1e-6)
    for entry in tables.tvt_table(core):
        value = stored.pop(f"rma_core/{entry.name}") if entry.convert is None else stored[f"rma_core/{entry.name}"]
        entry.variable.assign(value if entry.convert is None else entry.convert(value))

    shape = (data["features"].shape[1], core.memory_size, core.num_latents)
    memory = np.zeros(shape, np.float32)
    if "init_memory_sum" in data:
        memory = (0.7 * np.random.RandomState(seed + 99).standard_normal(shape)).astype(np.float32)
        np.testing.assert_allclose(memory.sum(dtype=np.float64), data["init_memory_sum"], rtol=1e-6)
    result = run_golden(core, data, tf.constant(memory))

    check_outputs(case, data, result["outputs"], result["states"])
    check(case, "loss", result["loss"], data["loss"], 1e-5)
    last = result["states"].memory[-1].numpy()
    check(case, "memory_final_written", last[:, data["written_rows"]], data["memory_final_written"], 1e-5)
    check(case, "memory_final_sum", last.sum(dtype=np.float64), data["memory_final_sum"], 1e-5)
    check(case, "grad/features", result["d_features"], data["grad/features"], 1e-4)
    for name, gradient in result["grad"].items():
        gradient = gradient.astype(np.float64)
        norm = data[f"grad_norm/rma_core/{name}"]
        check(case, f"grad_norm/{name}", np.linalg.norm(gradient), norm, 1e-4)
        assert abs(gradient.sum() - data[f"grad_sum/rma_core/{name}"]) <= 1e-4 * norm
        first = gradient if gradient.ndim == 1 else gradient[:2]
        check(case, f"grad_first_rows/{name}", first, data[f"grad_first_rows/rma_core/{name}"], 1e-4)
    d_memory, at = result["d_memory"].numpy().astype(np.float64), data["grad/init_memory_rows"]
    if "init_memory_sum" in data:  # from the empty memory the rows that are picked are ties
        assert not np.any(np.delete(d_memory, at, axis=1))
        totals = np.abs(d_memory[:, at]).sum(-1), d_memory[:, at] @ data["grad/init_memory_proj"]
        check(case, "grad/init_memory_abs_sum", totals[0], data["grad/init_memory_abs_sum_at_rows"], 1e-4)
        check(case, "grad/init_memory_dot_proj", totals[1], data["grad/init_memory_dot_proj_at_rows"], 1e-4)


def test_a_checkpoint_of_another_size_is_refused_and_changes_nothing(golden):
    data = np.load(golden("rma/core_wrap.npz"))
    core = golden_core(data)
    other = TVTCore(4, num_latents=16, control_hidden_size=20, memory_size=5, memory_top_k=3)
    other.project_inputs(tf.constant(data["features"]))
    before = [v.numpy() for v in other.trainable_variables]
    with pytest.raises(CheckpointMismatchError, match="lstm/w_gates"):
        load_tf1(other, golden("rma/ckpt_core_wrap/model.ckpt"), scope="rma_core")
    for v, value in zip(other.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(v, value)
    with pytest.raises(CheckpointMismatchError, match="unexpected: rma_core/Policy"):
        load_tf1(core.rma, golden("rma/ckpt_core_wrap/model.ckpt"), scope="rma_core")
    with pytest.raises(ValueError, match="target: RMACore of order 'paper', must be 'code'"):
        load_tf1(RMACore(8), golden("rma/ckpt_core_wrap/model.ckpt"), scope="rma_core")


# --- the float64 reference ---

SIZES = (
    dict(hidden_size=7, memory_size=11, word_size=5, num_reads=2, top_k=4, num_layers=1, order="paper"),
    dict(hidden_size=6, memory_size=4, word_size=3, num_reads=1, top_k=0, num_layers=3, order="paper"),
    dict(hidden_size=5, memory_size=9, word_size=4, num_reads=3, top_k=9, num_layers=2, order="code"),
    dict(hidden_size=8, memory_size=6, word_size=2, num_reads=2, top_k=0, num_layers=1, order="code"),
)


def randomize(core, features, rng, dtype=tf.float64):
    core.project_inputs(tf.zeros([1, features], dtype))
    for v in core.trainable_variables:
        v.assign(tf.cast(rng.normal(scale=0.7, size=v.shape), v.dtype))


def reference_weights(core):
    """Whole matrices with the rows in the order of the equations' concatenations."""

    def pair(layer):
        w = layer.w if hasattr(layer, "w") else tf.concat([layer.w_i, layer.w_s], 0)
        return w.numpy(), layer.b.numpy()

    return dict(
        word=[pair(core.word_hidden), pair(core.word)],
        gates=[pair(gates) for gates in core.gates],
        read_words=pair(core.read_words),
    )


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("counter", [0, 3])
def test_core_equals_the_float64_reference(rng, sizes, counter):
    core = RMACore(**sizes)
    features, steps, batch = 4, 10, 3
    randomize(core, features, rng)
    inputs = rng.normal(size=[steps, batch, features])
    memory = rng.normal(size=[batch, core.memory_size, core.word_size])
    memory[1] = 0  # one batch element starts empty
    state = core.initial_state(batch, tf.float64).with_memory(tf.constant(memory), [counter] * batch)
    outputs, final = unroll(core, tf.constant(inputs), state)
    assert outputs.shape[-1] == core.output_size
    weights = reference_weights(core)
    for b in range(batch):
        expected, last, _, _ = reference.run(
            inputs[:, b], weights, memory[b], core.order, core.num_reads, core.top_k, counter
        )
        assert relative_error(outputs[:, b], expected) <= 1e-11
        assert relative_error(final.memory[b], last) <= 1e-11
        assert relative_error(final.inverse_norms[b], inverse_norm(tf.constant(last))) <= 1e-11
    np.testing.assert_array_equal(final.write_counter, [counter + steps] * batch)


@pytest.mark.parametrize("sizes", SIZES)
def test_gradient_equals_the_references_with_written_words_held_fixed(rng, sizes):
    core = RMACore(**sizes)
    features, steps = 4, 7
    randomize(core, features, rng)
    inputs, memory = rng.normal(size=[steps, features]), rng.normal(size=[core.memory_size, core.word_size])
    loss_weights = rng.normal(size=[steps, core.output_size])
    state = core.initial_state(1, tf.float64).with_memory(tf.constant(memory[None]))
    with tf.GradientTape() as tape:
        outputs, _ = unroll(core, tf.constant(inputs[:, None]), state)
        loss = tf.reduce_sum(loss_weights * outputs[:, 0])
    gradients = tape.gradient(loss, core.trainable_variables)
    _, _, words, _ = reference.run(inputs, reference_weights(core), memory, core.order, core.num_reads, core.top_k)

    directions = [rng.normal(size=v.shape) for v in core.trainable_variables]
    values, losses = [v.numpy() for v in core.trainable_variables], []
    epsilon = 1e-6
    for sign in (1, -1):
        for v, value, d in zip(core.trainable_variables, values, directions, strict=True):
            v.assign(value + sign * epsilon * d)
        expected, *_ = reference.run(
            inputs, reference_weights(core), memory, core.order, core.num_reads, core.top_k, written=words
        )
        losses.append(np.sum(loss_weights * expected))
    slope = (losses[0] - losses[1]) / (2 * epsilon)
    ours = sum(np.sum(g.numpy() * d) for g, d in zip(gradients, directions, strict=True))
    assert abs(ours - slope) <= 1e-6 * abs(slope)


# --- properties ---


@given(rows=st.integers(1, 9), steps=st.integers(1, 25), starts=st.lists(st.integers(0, 40), min_size=1, max_size=3))
def test_the_memory_holds_the_last_words_each_in_its_steps_row(rows, steps, starts):
    words = np.arange(1, steps + 1)[:, None, None] * np.ones([steps, len(starts), 2], np.float32)
    memory, counter = tf.zeros([len(starts), rows, 2]), tf.constant(starts)
    for word in words:
        memory, counter = write(tf.constant(word, tf.float32), memory, counter), counter + 1
    for b, start in enumerate(starts):
        expected = np.zeros(rows)
        for t in range(steps):
            expected[(start + t) % rows] = t + 1
        np.testing.assert_array_equal(memory[b, :, 0], expected)


def test_nothing_learns_through_the_written_words(rng):
    core = RMACore(6, memory_size=3, word_size=4, num_reads=1, top_k=2)
    randomize(core, 5, rng, tf.float32)
    inputs = tf.constant(rng.normal(size=[4, 2, 5]), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        outputs, final = unroll(core, inputs, core.initial_state(2))
        written = tf.reduce_sum(final.memory)
        words = tf.reduce_sum(outputs[..., :4])
    assert tape.gradient(written, inputs) is None
    assert np.any(tape.gradient(words, core.word.w))


@pytest.mark.parametrize("order", ["paper", "code"])
def test_read_only_shares_the_variables_reads_the_same_and_never_writes(rng, order):
    core = RMACore(6, memory_size=8, word_size=4, num_reads=2, top_k=3, order=order)
    view = core.read_only()
    randomize(view, 5, rng, tf.float32)  # building the view builds the core
    assert isinstance(view, RNNCore)
    assert [v.ref() for v in view.trainable_variables] == [v.ref() for v in core.trainable_variables]
    assert (view.output_size, view.state_size) == (core.output_size, core.state_size)
    inputs = tf.constant(rng.normal(size=[12, 3, 5]), tf.float32)
    _, state = unroll(core, inputs[:6], core.initial_state(3))

    full, next_state = core(inputs[6], state)
    seen, view_state = view(inputs[6], state)
    np.testing.assert_array_equal(seen, full)
    np.testing.assert_array_equal(view_state.reads, next_state.reads)
    assert np.any(next_state.memory != state.memory)
    for run in (unroll, tf.function(unroll), tf.function(unroll, jit_compile=True)):
        simulated, final = run(view, inputs[6:], state)
        for name in ("memory", "inverse_norms", "write_counter"):
            np.testing.assert_array_equal(getattr(final, name), getattr(state, name))
    own = state
    for t in range(6, 12):  # a core that writes, whose memory is put back after every step
        output, own = core(inputs[t], own)
        own = own.with_memory(state.memory, state.write_counter)
        assert relative_error(simulated[t - 6], output) <= 1e-5


def make_tvt(top_k=3):
    return TVTCore(
        3,
        num_latents=4,
        control_hidden_size=6,
        memory_size=5,
        memory_num_reads=2,
        memory_top_k=top_k,
        num_policy_hiddens=(7,),
        baseline_mlp_num_hiddens=(),
    )


MAKERS = dict(
    paper=lambda top_k=3: RMACore(6, memory_size=5, word_size=4, num_reads=2, top_k=top_k),
    code_dense=lambda top_k=0: RMACore(6, memory_size=5, word_size=4, num_reads=2, top_k=top_k, order="code"),
    tvt=make_tvt,
)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_sequence_in_two_halves_equals_the_whole(rng, make):
    core = make()
    randomize(core, 4, rng, tf.float32)
    inputs = tf.constant(rng.normal(size=[8, 2, 4]), tf.float32)
    whole, final = unroll(core, inputs, core.initial_state(2))
    first, state = unroll(core, inputs[:3], core.initial_state(2))
    second, state = unroll(core, inputs[3:], state)
    halves = tf.nest.map_structure(lambda a, b: tf.concat([a, b], 0), first, second)
    for ours, theirs in zip(tf.nest.flatten((halves, state)), tf.nest.flatten((whole, final)), strict=True):
        assert relative_error(ours, theirs) <= 1e-6


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_half_precision_stays_near_float32_and_keeps_dtypes(rng, make, dtype):
    core = make(top_k=5)  # all rows, since rounding may change which are best
    randomize(core, 4, rng, tf.float32)
    assert all(v.dtype == tf.float32 for v in core.trainable_variables)
    inputs = rng.normal(size=[4, 2, 4])
    state = core.initial_state(2, dtype)
    outputs, final = unroll(core, tf.constant(inputs, dtype), state)
    assert [s.dtype for s in tf.nest.flatten(final)] == [s.dtype for s in tf.nest.flatten(state)]
    expected, _ = unroll(core, tf.constant(inputs, tf.float32), core.initial_state(2))
    outputs, expected = (o[:3] if isinstance(core, TVTCore) else [o] for o in (outputs, expected))
    for ours, theirs in zip(outputs, expected, strict=True):
        assert ours.dtype == dtype
        assert relative_error(tf.cast(ours, tf.float32), theirs) <= 0.1


def test_state_has_the_declared_sizes():
    for make in MAKERS.values():
        core = make()
        state = core.initial_state(3)
        tf.nest.map_structure(lambda s, size: s.shape[1:].assert_is_compatible_with(size), state, core.state_size)
        output, _ = core(tf.ones([3, 4]), state)
        sizes = tf.nest.flatten(core.output_size)
        for o, size in zip(tf.nest.flatten(output), sizes, strict=True):
            assert o.shape[1:] == tf.TensorShape(size if isinstance(size, tf.TensorShape) else [size])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RMACore(0), "hidden_size: 0"),
        (lambda: RMACore(4, memory_size=2.5), "memory_size: 2.5"),
        (lambda: RMACore(4, word_size=-1), "word_size: -1"),
        (lambda: RMACore(4, num_reads=0), "num_reads: 0"),
        (lambda: RMACore(4, memory_size=10), "top_k: 50, .*10"),
        (lambda: RMACore(4, top_k=-1), "top_k: -1"),
        (lambda: RMACore(4, num_layers=0), "num_layers: 0"),
        (lambda: RMACore(4, order="tvt"), "order: 'tvt'"),
        (lambda: RMAReader(0, 4), "num_reads: 0"),
        (lambda: RMAReader(1, 4, top_k=9, memory_size=8), "top_k: 9"),
        (lambda: RMAReader(1, 4, top_k=9)(tf.ones([2, 3]), tf.ones([2, 8, 4])), "top_k: 9"),
        (lambda: RMAReader(1, 4)(tf.ones([2, 3]), tf.ones([2, 8, 5])), r"memory: shape \(2, 8, 5\)"),
        (lambda: RMAReader(1, 4, memory_size=7)(tf.ones([2, 3]), tf.ones([2, 8, 4])), r"\[B, 7, 4\]"),
        (lambda: RMAWriter((4,)), "mem_shape: .*must be"),
        (lambda: RMAWriter((4, 0)), r"mem_shape\[1\]: 0"),
        (lambda: RMAWriter((4, 3))((tf.ones([2, 3]), tf.ones([2, 5, 3])), tf.zeros([2])), "memory: shape"),
        (lambda: TVTCore(0), "num_actions: 0"),
        (lambda: TVTCore(3, policy_clip_abs_value=-1.0), "policy_clip_abs_value: -1.0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- a sequence at once ---


@pytest.mark.parametrize(("order", "top_k"), [("paper", 3), ("paper", 0), ("code", 2)])
@pytest.mark.parametrize("steps", first_of([4, 7]))  # fewer than the rows, and as many
def test_scan_equals_steps(rng, order, top_k, steps):
    """Over the end of the table, from a full memory, with the gradient for the memory before the sequence."""
    core = RMACore(5, memory_size=7, word_size=3, num_reads=2, top_k=top_k, order=order)
    inputs = tf.constant(rng.normal(size=[steps, 2, 4]), tf.float32)
    core(inputs[0], core.initial_state(2))
    memory = tf.constant(rng.normal(size=[2, 7, 3]), tf.float32)
    counter = tf.constant([5, 13])

    def run(core, inputs, memory, variables):
        with tf.GradientTape() as tape:
            tape.watch([inputs, memory])
            state = rma_state.with_memory(memory, counter)
            outputs, last = unroll(core, inputs, state)
            loss = tf.reduce_sum(tf.sin(tf.range(tf.size(outputs), dtype=tf.float32)) * tf.reshape(outputs, [-1]))
            loss += tf.reduce_sum(last.memory**2)
        return [outputs, *tf.nest.flatten(last), *tape.gradient(loss, [*variables, inputs, memory])]

    rma_state = core.initial_state(2)
    expected = run(lambda x, s: core(x, s), inputs, memory, core.trainable_variables)
    eager = run(core, inputs, memory, core.trainable_variables)
    compiled = tf.function(lambda *xs: run(core, *xs, core.trainable_variables), jit_compile=steps == 7)(inputs, memory)
    for results in (eager, compiled):
        for actual, e in zip(results, expected, strict=True):
            assert relative_error(actual, e) <= 1e-5


def test_second_derivatives_and_jacobians_of_the_scan(rng):
    core = RMACore(5, memory_size=7, word_size=3, num_reads=2, top_k=3)
    inputs = tf.constant(rng.normal(size=[4, 2, 4]), tf.float32)
    core(inputs[0], core.initial_state(2))
    state = core.initial_state(2).with_memory(tf.constant(rng.normal(size=[2, 7, 3]), tf.float32), [5, 13])

    def derivatives(core, variables):
        with tf.GradientTape() as outer:
            outer.watch(inputs)
            with tf.GradientTape() as inner:
                inner.watch(inputs)
                loss = tf.reduce_sum(unroll(core, inputs, state)[0] ** 2)
            penalty = tf.reduce_sum(inner.gradient(loss, inputs) ** 2)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(inputs)
            last = unroll(core, inputs, state)[0][-1, 0]
        return [
            *outer.gradient(penalty, [inputs, *variables]),
            tape.jacobian(last, inputs, experimental_use_pfor=False),
        ]

    found, expected = (derivatives(c, core.trainable_variables) for c in (core, lambda x, s: core(x, s)))
    for a, e in zip(found, expected, strict=True):
        assert (a is None) == (e is None)
        assert a is None or relative_error(a, e) <= 1e-4


def test_states_of_all_steps(rng):
    """The memory after each step, and at chosen steps of each element, without a memory for every step."""
    core = RMACore(5, memory_size=7, word_size=3, num_reads=2, top_k=3)
    inputs = tf.constant(rng.normal(size=[5, 2, 4]), tf.float32)
    core(inputs[0], core.initial_state(2))
    state = core.initial_state(2).with_memory(tf.constant(rng.normal(size=[2, 7, 3]), tf.float32), [5, 13])
    _, states, final = core.scan_states(core.project_inputs(inputs), state)
    after = []
    for t in range(5):
        _, state = core(inputs[t], state)
        after.append(state)
        for actual, expected in zip(tf.nest.flatten(states), tf.nest.flatten(state), strict=True):
            assert actual.shape == [5, *expected.shape]
            assert relative_error(actual[t], expected) <= 1e-5
    tf.nest.map_structure(lambda a, b: np.testing.assert_array_equal(a[-1], b), states, final)
    chosen = states.memory.at(tf.constant([[1, 3], [4, 0]]))
    for n, times in enumerate([[1, 3], [4, 0]]):
        for b, t in enumerate(times):
            np.testing.assert_allclose(chosen[n, b], after[t].memory[b], rtol=1e-5)
    np.testing.assert_allclose(states.memory.at(tf.constant([[2]]))[0], after[2].memory, rtol=1e-5)
    for t in (len(after), -len(after) - 1):
        with pytest.raises(IndexError, match=f"t: {t}, must be from"):
            states.memory[t]


def test_the_initial_memorys_gradient_has_its_dtype(rng):
    core = RMACore(hidden_size=5, memory_size=6, word_size=3, num_reads=2, top_k=2)
    inputs, rows = tf.constant(rng.normal(size=[4, 2, 3]), tf.float32), rng.normal(size=[2, 6, 3])
    core(inputs[0], core.initial_state(2))

    @tf.function
    def gradient(memory):
        with tf.GradientTape() as tape:
            tape.watch(memory)
            outputs, _ = unroll(core, inputs, core.initial_state(2, memory.dtype).with_memory(memory))
            loss = tf.reduce_sum(outputs**2)
        return tape.gradient(loss, memory)

    exact, rounded = (gradient(tf.cast(rows, dtype)) for dtype in (tf.float32, tf.bfloat16))
    assert rounded.dtype == tf.bfloat16
    assert relative_error(tf.cast(rounded, tf.float32), exact) < 0.1
