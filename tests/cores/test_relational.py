"""RelationalMemory against the public code's arrays, a float64 reference and its own symmetries."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.references import relational as reference
from tests.support import first_of, golden_cases, relative_error
from tfmem.checkpoints import load_tf1, sonnet_v1
from tfmem.cores.relational import OutputGatedState, RelationalMemory, RelationalMemoryState, attend
from tfmem.recurrence import unroll

CASES = golden_cases("rmc/case*")


def shifted(core, rng):
    """Move every variable off its initial value, so that biases and norms matter."""
    for v in core.trainable_variables:
        v.assign_add(tf.cast(rng.normal(size=v.shape, scale=0.2), v.dtype))
    return core


def built(rng, num_features=5, num_rows=None, dtype=tf.float64, **kwargs):
    core = RelationalMemory(**kwargs)
    core.project_inputs(tf.zeros([1, num_features] if num_rows is None else [1, num_rows, num_features], dtype))
    return shifted(core, rng)


@pytest.mark.parametrize("case", first_of(CASES, 2))
def test_equals_public_code(case, golden):
    config = json.loads(golden(f"rmc/{case}/config.json").read_text())
    arrays = np.load(golden(f"rmc/{case}/io.npz"))
    core = RelationalMemory(**config["config"], treat_input_as_matrix=config["treat_input_as_matrix"])
    inputs = tf.constant(arrays["inputs"])
    core.project_inputs(inputs)
    report = load_tf1(core, golden(f"rmc/{case}/model.ckpt"), scope="relational_memory")
    assert len(report.loaded) == len(core.trainable_variables)

    initial = core.initial_state(config["B"])
    assert relative_error(initial.memory, arrays["initial_state"]) == 0
    entries = sonnet_v1.relational_memory(core)
    names = [f"relational_memory/{e.name}" for e in entries] + ["inputs", "initial_state"]

    @tf.function
    def run(inputs, memory):
        sources = [e.variable for e in entries] + [inputs, memory]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([inputs, memory])
            outputs, _ = unroll(core, inputs, RelationalMemoryState(memory))
            loss = tf.reduce_mean(tf.square(outputs))
            loss_weighted = tf.reduce_sum(outputs * arrays["output_weights"])
        return outputs, loss, loss_weighted, tape.gradient(loss, sources), tape.gradient(loss_weighted, sources)

    outputs, loss, loss_weighted, gradients, weighted_gradients = run(inputs, initial.memory)
    errors = {
        "outputs": relative_error(outputs, arrays["outputs"]),
        "memory": relative_error(tf.reshape(outputs, arrays["memory"].shape), arrays["memory"]),
        "loss": relative_error(loss, arrays["loss"]),
        "loss_weighted": relative_error(loss_weighted, arrays["loss_weighted"]),
    }
    assert max(errors.values()) <= 1e-5, errors
    gradient_errors = {}
    for name, gradient, weighted in zip(names, gradients, weighted_gradients, strict=True):
        plain = name in ("inputs", "initial_state")
        for prefix, value in (("grad", gradient), ("grad_weighted", weighted)):
            key = f"{prefix}_{name}" if plain else f"{prefix}/{name}"
            gradient_errors[key] = relative_error(value, arrays[key])
    assert max(gradient_errors.values()) <= 1e-4, gradient_errors
    expected = [k for k in arrays.files if k.startswith("grad")]
    assert sorted(gradient_errors) == sorted(expected)
    print(f"\n{case}: outputs {max(errors.values()):.1e}, gradients {max(gradient_errors.values()):.1e}")


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradient_of_attention_is_the_derived_one(rng, jit_compile):
    shapes = [(2, 3, 4, 5)] + [(2, 3, rows, width) for width in (5, 6) for rows in (4, 1)]
    arguments = [tf.constant(rng.normal(size=shape)) for shape in shapes]
    direction = tf.constant(rng.normal(size=(2, 3, 4, 6)))

    def by_hand(queries, keys, more_keys, values, more_values):
        return attend(queries, [(keys, values), (more_keys, more_values)])

    def derived(queries, keys, more_keys, values, more_values):
        keys, values = tf.concat([keys, more_keys], 2), tf.concat([values, more_values], 2)
        return tf.nn.softmax(queries @ tf.linalg.matrix_transpose(keys) / 5**0.5) @ values

    def derivatives(function):
        @tf.function(jit_compile=jit_compile)
        def run(*arguments):
            with tf.GradientTape() as outer:
                outer.watch(arguments)
                with tf.GradientTape() as tape:
                    tape.watch(arguments)
                    output = function(*arguments)
                first = tape.gradient(output, arguments, direction)
                norm = tf.add_n([tf.reduce_sum(g**2) for g in first])
            return output, first, outer.gradient(norm, arguments)

        return tf.nest.flatten(run(*arguments))

    for a, b in zip(derivatives(by_hand), derivatives(derived), strict=True):
        assert relative_error(a, b) <= 1e-13


def test_initial_state_is_a_cut_or_padded_identity(golden):
    arrays = np.load(golden("rmc/initial_states.npz"))
    for key in arrays.files:
        slots, mem_size = map(int, key.rsplit("_", 1)[1].split("x"))
        state = RelationalMemory(slots, mem_size).initial_state(2)
        np.testing.assert_array_equal(state.memory, arrays[key])
    assert RelationalMemory(3, 2).initial_state(4, dtype=tf.bfloat16).memory.dtype == tf.bfloat16


OPTIONS = {
    "defaults": {"mem_slots": 3, "head_size": 4},
    "blocks2_memory": {"mem_slots": 3, "head_size": 4, "num_heads": 2, "num_blocks": 2, "gate_style": "memory"},
    "blocks3_keys": {"mem_slots": 2, "head_size": 3, "num_heads": 3, "num_blocks": 3, "key_size": 5},
    "ungated": {"mem_slots": 5, "head_size": 2, "num_heads": 2, "num_blocks": 2, "gate_style": None, "key_size": 1},
    "deep_mlp_biases": {
        "mem_slots": 4, "head_size": 3, "attention_mlp_layers": 4, "forget_bias": -0.5, "input_bias": 0.7,
    },
    "matrix": {"mem_slots": 3, "head_size": 4, "num_heads": 2, "num_rows": 3},
    "matrix_blocks3_memory": {
        "mem_slots": 2, "head_size": 4, "num_heads": 2, "num_blocks": 3, "num_rows": 4, "gate_style": "memory",
    },
    "output_gate": {"mem_slots": 3, "head_size": 4, "num_heads": 2, "output_gate": True},
    "output_gate_memory_blocks2": {
        "mem_slots": 3, "head_size": 4, "num_blocks": 2, "gate_style": "memory", "output_gate": True, "input_bias": 0.3,
    },
}  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_equals_reference(options, rng):
    options = dict(options)
    num_rows = options.pop("num_rows", None)
    core = built(rng, num_rows=num_rows, treat_input_as_matrix=num_rows is not None, **options)
    steps, batch = 4, 2
    inputs = rng.normal(size=[steps, batch, num_rows or 1, 5])
    state = core.initial_state(batch, tf.float64)
    outputs, final = unroll(core, inputs if num_rows else inputs[:, :, 0], state)

    weights = reference.weights_of(core)
    config = {name: getattr(core, name) for name in OPTIONS["defaults"]} | {
        name: getattr(core, name) for name in ("num_heads", "key_size", "gate_style", "forget_bias", "input_bias")
    }
    for b in range(batch):
        memory = state.memory[b].numpy()
        hidden = np.tanh(memory) if core.output_gate else None
        for t in range(steps):
            output, memory = reference.step(weights, config, inputs[t, b], memory, hidden)
            hidden = output if core.output_gate else None
            np.testing.assert_allclose(outputs[t, b], output.reshape(-1), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(final.memory[b], memory, rtol=1e-10, atol=1e-12)
        if core.output_gate:
            np.testing.assert_allclose(final.hidden[b], hidden, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("num_blocks", [1, 3])
def test_permuting_memory_rows_permutes_the_result(num_blocks, rng):
    core = built(rng, mem_slots=5, head_size=3, num_heads=2, num_blocks=num_blocks)
    inputs = tf.constant(rng.normal(size=[2, 5]))
    memory = rng.normal(size=[2, 5, 6])
    order = np.array([3, 0, 4, 1, 2])
    output, state = core(inputs, RelationalMemoryState(tf.constant(memory)))
    permuted_output, permuted_state = core(inputs, RelationalMemoryState(tf.constant(memory[:, order])))
    np.testing.assert_allclose(permuted_state.memory, state.memory.numpy()[:, order], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        np.reshape(permuted_output, [2, 5, 6]), np.reshape(output, [2, 5, 6])[:, order], rtol=1e-12, atol=1e-14
    )


def test_permuting_input_rows_changes_only_the_gates(rng):
    """Attention does not see the order of a matrix's rows; without gates nothing does."""
    core = built(rng, num_rows=3, treat_input_as_matrix=True, mem_slots=4, head_size=3, num_blocks=2, gate_style=None)
    inputs = rng.normal(size=[2, 3, 5])
    state = core.initial_state(2, tf.float64)
    np.testing.assert_allclose(
        core(tf.constant(inputs), state)[0], core(tf.constant(inputs[:, ::-1]), state)[0], rtol=1e-12, atol=1e-14
    )


def test_output_gate_follows_equation_8(rng):
    """h is the output and the next step's gates read it: a changed h changes the step, a changed memory scales h."""
    core = built(rng, mem_slots=2, head_size=3, output_gate=True)
    inputs = tf.constant(rng.normal(size=[1, 5]))
    state = core.initial_state(1, tf.float64)
    output, after = core(inputs, state)
    np.testing.assert_array_equal(output, np.reshape(after.hidden, [1, -1]))
    assert np.all(np.abs(after.hidden) < np.abs(np.tanh(after.memory)))
    other, _ = core(inputs, OutputGatedState(state.memory, state.hidden + 1.0))
    assert relative_error(other, output) > 1e-3


@pytest.mark.long
def test_eager_graph_and_xla_agree_without_gates(rng):
    core = built(rng, dtype=tf.float32, **OPTIONS["ungated"])
    inputs = tf.constant(rng.normal(size=[3, 2, 5]), tf.float32)

    def run(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs, final = unroll(core, inputs, core.initial_state(tf.shape(inputs)[1]))
            loss = tf.reduce_mean(tf.square(outputs))
        return outputs, final, tape.gradient(loss, [inputs, *core.trainable_variables])

    outputs, final, gradients = run(inputs)
    unknown = tf.TensorSpec([None, None, *inputs.shape[2:]], tf.float32)
    for compiled in (tf.function(run, input_signature=[unknown]), tf.function(run, jit_compile=True)):
        other_outputs, other_final, other_gradients = compiled(inputs)
        assert relative_error(other_outputs, outputs) <= 1e-5
        for other, one in zip(other_final, final, strict=True):
            assert relative_error(other, one) <= 1e-5
        for other, one in zip(other_gradients, gradients, strict=True):
            assert one is not None
            assert relative_error(other, one) <= 1e-4 or np.max(np.abs(other - one)) < 1e-7


def test_bfloat16_keeps_variables_in_float32(rng):
    core = built(rng, dtype=tf.bfloat16, mem_slots=4, head_size=8, num_heads=2, num_blocks=2)
    assert {v.dtype for v in core.trainable_variables} == {tf.float32}
    inputs = rng.normal(size=[3, 5])
    output, state = core(tf.cast(inputs, tf.bfloat16), core.initial_state(3))
    assert (output.dtype, state.memory.dtype) == (tf.bfloat16, tf.float32)
    expected, _ = core(tf.cast(inputs, tf.float32), core.initial_state(3))
    assert relative_error(tf.cast(output, tf.float32), expected) < 0.05


def test_sizes_and_arguments_are_kept():
    core = RelationalMemory(3, 4, num_heads=2, key_size=0)
    assert (core.output_size, core.state_size.memory.as_list(), core.key_size) == (24, [3, 8], 4)
    gated = RelationalMemory(3, 4, output_gate=True).state_size
    assert (gated.memory.as_list(), gated.hidden.as_list()) == ([3, 4], [3, 4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mem_slots": 0}, "mem_slots: 0"),
        ({"head_size": -1}, "head_size: -1"),
        ({"num_heads": 1.5}, "num_heads: 1.5"),
        ({"num_blocks": 0}, "num_blocks: 0"),
        ({"attention_mlp_layers": 0}, "attention_mlp_layers: 0"),
        ({"key_size": -2}, "key_size: -2"),
        ({"gate_style": "row"}, "gate_style: 'row'"),
        ({"gate_style": None, "output_gate": True}, "output_gate: True"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}.*must be"):
        RelationalMemory(**({"mem_slots": 2, "head_size": 3} | arguments))


def test_bad_shapes(rng):
    core = built(rng, dtype=tf.float32, mem_slots=2, head_size=3)
    with pytest.raises(ValueError, match=r"^inputs: shape \(5,\).*must be"):
        core(tf.zeros([5]), core.initial_state(1))
    with pytest.raises(ValueError, match=r"^inputs: shape \(4, 1, 5\), must be \[B, features\]"):
        core(tf.zeros([4, 1, 5]), core.initial_state(4))
    with pytest.raises(ValueError, match=r"^state.memory: shape \(1, 3, 2\), must be \[B, 2, 3\]"):
        core(tf.zeros([1, 5]), RelationalMemoryState(tf.zeros([1, 3, 2])))
    with pytest.raises(ValueError, match=r"^inputs: shape.*n, features"):
        RelationalMemory(2, 3, treat_input_as_matrix=True)(tf.zeros([4, 5]), core.initial_state(4))


def test_output_gated_core_has_no_public_checkpoint(rng):
    core = built(rng, mem_slots=2, head_size=3, output_gate=True)
    with pytest.raises(ValueError, match="output_gate"):
        sonnet_v1.relational_memory(core)
