"""The DNC against the public code's arrays, a slow float64 reference, and the bounds that its paper promises."""

import json

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

import tfmem.checkpoints.dnc  # noqa: F401  registers the name table
from tests.references import dnc as reference
from tests.support import first_of, golden_cases, relative_error
from tfmem.checkpoints.base import CheckpointMismatchError, load_tf1
from tfmem.cores.dnc import DNC, AccessState, DNCState, MemoryAccess, TemporalLinkageState, addressing
from tfmem.cores.dnc.access import erase_and_write
from tfmem.recurrence import unroll
from tfmem.tasks.repeat_copy import RepeatCopy

CASES = golden_cases("dnc/case*")
PER_SLOT = ["memory", "usage", "read_weights", "write_weights", "precedence_weights", "link"]
INTERFACE = [
    "write_vectors",
    "erase_vectors",
    "free_gate",
    "allocation_gate",
    "write_gate",
    "read_mode",
    "write_keys",
    "write_strengths",
    "read_keys",
    "read_strengths",
]


def make_state(arrays, dtype=tf.float32):
    """A `DNCState` from arrays by the goldens' names."""
    a = {name: tf.constant(value, dtype) for name, value in arrays.items()}
    linkage = TemporalLinkageState(a["link"], a["precedence_weights"])
    access = AccessState(a["memory"], a["read_weights"], a["write_weights"], linkage, a["usage"])
    return DNCState(a["access_output"], access, snt.LSTMState(a["hidden"], a["cell"]))


def by_name(state):
    """The goldens' names of a `DNCState` or a structure like it."""
    access, controller = state.access_state, state.controller_state
    return {
        "access_output": state.access_output,
        "memory": access.memory,
        "read_weights": access.read_weights,
        "write_weights": access.write_weights,
        "link": access.linkage.link,
        "precedence_weights": access.linkage.precedence_weights,
        "usage": access.usage,
        "hidden": controller.hidden,
        "cell": controller.cell,
    }


def with_public_names(core, values):
    """Values of the core's trainable variables, e.g. gradients, under the public names below the core's scope."""
    ours = {v.ref(): value for v, value in zip(core.trainable_variables, values, strict=True)}
    get = lambda variable: np.asarray(ours[variable.ref()])  # noqa: E731
    controller = core.controller
    named = {
        "lstm/w_gates": np.concatenate([get(controller.inputs[0].w), get(controller.recurrent[0].w)]),
        "lstm/b_gates": get(controller.inputs[0].b),
        "output_linear/w": get(core.output_linear.w),
        "output_linear/b": get(core.output_linear.b),
    }
    for kind, variable in (("w", core.access.interface.w), ("b", core.access.interface.b)):
        blocks = np.split(get(variable), np.cumsum(core.access.interface_sizes)[:-1], axis=-1)
        named.update({f"memory_access/{name}/{kind}": block for name, block in zip(INTERFACE, blocks, strict=True)})
    return named


class StatesToo:
    """The core with its state as a second output."""

    def __init__(self, core):
        self.project_inputs = core.project_inputs
        self.core = core

    def step(self, projected, state):
        output, state = self.core.step(projected, state)
        return (output, state), state


def load_case(golden, case):
    config = json.loads(golden(f"dnc/{case}/config.json").read_text())
    arrays = np.load(golden(f"dnc/{case}/io.npz"))
    core = DNC(config["access_config"], config["controller_config"], config["output_size"], config["clip_value"])
    core.project_inputs(tf.zeros([1, config["input_size"]]))
    report = load_tf1(core, golden(f"dnc/{case}/model.ckpt"), scope="dnc")
    state = {name: arrays[f"initial_state/{name}"] for name in by_name(core.state_size)}
    return core, arrays, state, report


# ---- the public code's arrays ----------------------------------------------------------------------------------------


UNITS = {
    "cosine_weights": addressing.cosine_weights,
    "temporal_linkage": lambda write_weights, link, precedence: addressing.temporal_linkage(
        write_weights, TemporalLinkageState(link, precedence)
    ),
    "directional_forward": lambda link, read_weights: addressing.directional_read_weights(link, read_weights)[0],
    "directional_backward": lambda link, read_weights: addressing.directional_read_weights(link, read_weights)[1],
    "usage": addressing.update_usage,
    "allocation": addressing.allocation,
    "allocation_with_ties": addressing.allocation,
    "write_allocation": addressing.write_allocation_weights,
    "erase_and_write": lambda memory, address, reset, values: erase_and_write(memory, address, reset, values),
}


def cosine_reference(memory, keys, strengths):
    """In float64, whose squares do not overflow."""
    memory, keys = memory.astype(np.float64), keys.astype(np.float64)
    lengths = [np.sqrt(np.sum(x**2, -1) + 1e-6) for x in (keys, memory)]
    norms = lengths[0][:, :, None] * lengths[1][:, None]
    logits = np.einsum("bhw,bnw->bhn", keys, memory) / (norms + 1e-6) * np.log1p(np.exp(strengths))[:, :, None]
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def cosine_and_gradients(*inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        weights = addressing.cosine_weights(*inputs)
        loss = tf.reduce_sum(weights[..., 0])
    return weights, tape.gradient(loss, inputs)


COMPILED_COSINE = {jit: tf.function(cosine_and_gradients, jit_compile=jit) for jit in (False, True)}


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("of_keys", [1e-20, 1e-3, 1.0, 1e20, 1e30])
@pytest.mark.parametrize("of_memory", [0.0, 1e-20, 1e-3, 1.0, 1e19, 1e20, 1e30])
def test_cosine_at_every_scale(rng, of_memory, of_keys, jit_compile):
    memory = (rng.normal(size=[2, 5, 4]) * of_memory).astype(np.float32)
    keys, strengths = (rng.normal(size=[2, 3, 4]) * of_keys).astype(np.float32), rng.normal(size=[2, 3]) * 3
    inputs = (tf.constant(x, tf.float32) for x in (memory, keys, strengths))
    weights, gradients = COMPILED_COSINE[jit_compile](*inputs)
    np.testing.assert_allclose(weights, cosine_reference(memory, keys, strengths), atol=1e-6)
    assert all(np.all(np.isfinite(g)) for g in gradients)


def test_cosine_of_usual_numbers_is_not_changed_by_its_scale(rng):
    memory, keys = (tf.constant(rng.normal(size=[4, n, 6]), tf.float32) for n in (9, 3))
    memory *= tf.constant(10.0 ** rng.integers(-3, 4, [4, 9, 1]), tf.float32)

    def norm(x):
        return tf.sqrt(tf.reduce_sum(tf.square(x), axis=-1) + 1e-6)

    norms = norm(keys)[:, :, tf.newaxis] * norm(memory)[:, tf.newaxis, :]
    plain = tf.nn.softmax(
        tf.matmul(keys, memory, transpose_b=True) / (norms + 1e-6) * tf.nn.softplus(tf.ones([4, 3, 1]))
    )
    np.testing.assert_array_equal(addressing.cosine_weights(memory, keys, tf.ones([4, 3])), plain)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("unit", UNITS)
def test_public_units(golden, unit, jit_compile):
    arrays = np.load(golden("dnc/addressing_units.npz"))
    order = UNITS[unit].__code__.co_varnames[: UNITS[unit].__code__.co_argcount]
    inputs = {name: tf.constant(arrays[f"{unit}/in_{name}"]) for name in order}
    results = ["link", "precedence"] if unit == "temporal_linkage" else ["output"]

    @tf.function(jit_compile=jit_compile)
    def run(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = tf.nest.flatten(UNITS[unit](**inputs))
            target = tf.add_n(
                [tf.reduce_sum(o * arrays[f"{unit}/cotangent_{r}"]) for o, r in zip(outputs, results, strict=True)]
            )
        gradients = tape.gradient(target, inputs)
        return outputs, {name: g for name, g in gradients.items() if g is not None}

    outputs, gradients = run(inputs)
    for output, result in zip(outputs, results, strict=True):
        assert relative_error(output, arrays[f"{unit}/{result}"]) <= 1e-5
    stored = {key.removeprefix(f"{unit}/grad_") for key in arrays if key.startswith(f"{unit}/grad_")}
    assert set(gradients) == stored
    for name, gradient in gradients.items():
        assert relative_error(gradient, arrays[f"{unit}/grad_{name}"]) <= 1e-4, name


@pytest.mark.parametrize("case", CASES)
def test_public_outputs_and_states(golden, case):
    core, arrays, state, report = load_case(golden, case)
    (outputs, states), _ = unroll(StatesToo(core), tf.constant(arrays["inputs"]), make_state(state))
    assert relative_error(outputs, arrays["outputs"]) <= 1e-5
    states = {name: value.numpy() for name, value in by_name(states).items()}
    theirs = {name: arrays[f"state/{name}"] for name in states}
    if not any(np.any(value) for value in state.values()):  # slots tie: equal up to their order in a batch element
        for b in range(outputs.shape[1]):
            slots = match_slots({n: states[n][:, b] for n in PER_SLOT}, {n: theirs[n][:, b] for n in PER_SLOT})
            for name in PER_SLOT:
                states[name][:, b] = permute_slots(name, states[name][:, b], slots)
    for name in states:
        assert relative_error(states[name], theirs[name]) <= 1e-5, name
    assert report.num_parameters == sum(arrays[key].size for key in arrays if key.startswith("var/"))


def permute_slots(name, value, slots):
    if name == "link":
        return value[..., slots, :][..., slots]
    return value[..., slots, :] if name == "memory" else value[..., slots]


def match_slots(ours, theirs):
    """For each of their slots, the slot of the core with the nearest history."""

    def histories(state):
        rows = [np.moveaxis(state[n], -1, 0) for n in ("usage", "read_weights", "write_weights", "precedence_weights")]
        rows.append(np.moveaxis(state["memory"], 1, 0))
        return np.concatenate([r.reshape(len(r), -1) for r in rows], axis=1)

    ours, theirs = histories(ours), histories(theirs)
    distance = np.abs(theirs[:, None] - ours[None]).max(axis=-1)
    slots = []
    for row in distance:
        slots.append(min(set(range(len(row))) - set(slots), key=lambda slot: row[slot]))
    return slots


@pytest.mark.parametrize("case", CASES)
def test_public_gradients(golden, case):
    core, arrays, state, _ = load_case(golden, case)
    inputs, state = tf.constant(arrays["inputs"]), make_state(state)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch((inputs, state))
        outputs, _ = unroll(core, inputs, state)
        losses = {
            "": tf.reduce_mean(tf.square(outputs)),
            "_weighted": tf.reduce_sum(outputs * arrays["output_weights"]),
        }
    for suffix, loss in losses.items():
        d_variables, d_inputs, d_state = tape.gradient(loss, (core.trainable_variables, inputs, state))
        assert relative_error(loss, arrays[f"loss{suffix}"]) <= 1e-5
        assert relative_error(d_inputs, arrays[f"grad{suffix}_inputs"]) <= 1e-4
        for name, gradient in with_public_names(core, d_variables).items():
            assert relative_error(gradient, arrays[f"grad{suffix}/dnc/{name}"]) <= 1e-4, name
        prefix, d_state = f"grad{suffix}_initial_state/", by_name(d_state)
        assert d_state.pop("write_weights") is None  # no gradient through the usage
        stored = {key.removeprefix(prefix) for key in arrays if key.startswith(prefix)}
        assert stored in (set(), set(d_state))
        for name in stored:
            assert relative_error(d_state[name], arrays[prefix + name]) <= 1e-4, name


def training_core(config):
    core = DNC(config["access_config"], config["controller_config"], config["output_size"], config["clip_value"])
    core.project_inputs(tf.zeros([1, config["num_bits"] + 2]))
    return core


@pytest.mark.parametrize(("file", "norm"), [("io_clip50", 50.0), ("io_clip_small", 0.05)])
def test_public_training_steps(golden, file, norm):
    config = json.loads(golden("dnc/train_steps/config.json").read_text())
    batch = np.load(golden("dnc/train_steps/io_clip50.npz"))
    arrays = np.load(golden(f"dnc/train_steps/{file}.npz"))
    core = training_core(config)
    load_tf1(core, golden("dnc/train_steps/model_step0.ckpt"), scope="dnc")
    task = RepeatCopy(num_bits=config["num_bits"], batch_size=config["batch"])
    variables = core.trainable_variables
    mean_squares = [tf.Variable(tf.ones_like(v)) for v in variables]  # TF 1's RMSProp starts at one

    def loss_and_gradients():
        with tf.GradientTape() as tape:
            logits, _ = unroll(core, tf.constant(batch["observations"]), core.initial_state(config["batch"]))
            loss = task.cost(logits, batch["target"], batch["mask"])
        return logits, loss, tape.gradient(loss, variables)

    losses = []
    for step in range(len(arrays["loss_per_step"])):
        logits, loss, gradients = loss_and_gradients()
        losses.append(loss.numpy())
        clipped, global_norm = tf.clip_by_global_norm(gradients, norm)
        if step == 0:
            assert relative_error(logits, arrays["logits"]) <= 1e-5
            assert relative_error(global_norm, arrays["global_norm"]) <= 1e-5
            # From the zero state slots tie: rounding alone moves these gradients by up to 1e-4 (README of the goldens).
            for name, gradient in with_public_names(core, gradients).items():
                assert relative_error(gradient, arrays[f"grad/dnc/{name}"]) <= 2e-4, name
        if any(key.startswith(f"after{step}/") for key in arrays):
            for name, value in with_public_names(core, variables).items():
                assert relative_error(value, arrays[f"after{step}/dnc/{name}"]) <= 1e-5, name
        for v, g, ms in zip(variables, clipped, mean_squares, strict=True):
            ms.assign(0.9 * ms + 0.1 * g * g)
            v.assign_sub(1e-4 * g * tf.math.rsqrt(ms + 1e-10))
    assert relative_error(losses, arrays["loss_per_step"]) <= 1e-5


def test_checkpoint_with_optimiser_slots(golden):
    prefix = golden("dnc/train_steps/model_step3_with_rmsprop.ckpt")
    core = training_core(json.loads(golden("dnc/train_steps/config.json").read_text()))
    report = load_tf1(core, prefix, scope="dnc")
    after = np.load(golden("dnc/train_steps/io_clip50.npz"))
    for name, value in with_public_names(core, core.trainable_variables).items():
        np.testing.assert_array_equal(value, after[f"after3/dnc/{name}"])
    assert "global_step" in report.optimiser
    assert len(report.optimiser) == 1 + 2 * (2 + 20 + 2)


@pytest.mark.parametrize(
    ("access", "hidden_size"),
    [
        ({"memory_size": 8, "word_size": 5, "num_reads": 3, "num_writes": 3}, 12),
        ({"memory_size": 8, "word_size": 4, "num_reads": 2, "num_writes": 3}, 12),
        ({"memory_size": 8, "word_size": 5, "num_reads": 2, "num_writes": 3}, 13),
    ],
)
def test_checkpoint_of_other_sizes_is_refused(golden, access, hidden_size):
    core = DNC(access, {"hidden_size": hidden_size}, 3)
    core.project_inputs(tf.zeros([1, 4]))
    before = [v.numpy() for v in core.variables]
    with pytest.raises(CheckpointMismatchError):
        load_tf1(core, golden("dnc/case4_random_state/model.ckpt"), scope="dnc")
    for v, value in zip(core.variables, before, strict=True):
        np.testing.assert_array_equal(v, value)


def test_name_table_wants_a_built_core_with_the_public_controller(golden):
    prefix = golden("dnc/case4_random_state/model.ckpt")
    with pytest.raises(ValueError, match="must be built"):
        load_tf1(DNC({}, {"hidden_size": 12}, 3), prefix, scope="dnc")
    with pytest.raises(ValueError, match="controller_config"):
        load_tf1(DNC({}, {"hidden_size": 12, "num_layers": 2}, 3), prefix, scope="dnc")


# ---- the slow reference, at other sizes ------------------------------------------------------------------------------


def random_state(rng, access, batch, hidden_sizes):
    n, w, r, h = (access[k] for k in ("memory_size", "word_size", "num_reads", "num_writes"))

    def weights(heads):
        return rng.dirichlet(np.ones(n), size=(batch, heads)) * rng.uniform(0.2, 1, (batch, heads, 1))

    state = {
        "access_output": rng.normal(size=(batch, r, w)),
        "memory": rng.normal(size=(batch, n, w)),
        "read_weights": weights(r),
        "write_weights": weights(h),
        "link": rng.uniform(0, 1 / n, (batch, h, n, n)),
        "precedence_weights": weights(h),
        "usage": rng.uniform(size=(batch, n)),
    }
    return state, [(rng.normal(size=(batch, s)), rng.normal(size=(batch, s))) for s in hidden_sizes]


@pytest.mark.parametrize(
    ("access", "controller", "clip_value"),
    [
        ({"memory_size": 13, "word_size": 7, "num_reads": 3, "num_writes": 1}, {"hidden_size": 11}, None),
        ({"memory_size": 5, "word_size": 3, "num_reads": 1, "num_writes": 4}, {"hidden_size": 9, "num_layers": 2}, 0.6),
        ({"memory_size": 9, "word_size": 4, "num_reads": 2, "num_writes": 2}, {"hidden_size": 8, "num_layers": 3}, 20),
        (
            {"memory_size": 1, "word_size": 2, "num_reads": 2, "num_writes": 2},
            {"hidden_size": 10, "num_layers": 2, "type": "feedforward"},
            1.5,
        ),
        (
            {"memory_size": 12, "word_size": 6, "num_reads": 2, "num_writes": 1},
            {"hidden_size": 10, "type": "feedforward"},
            0,
        ),
    ],
)
def test_slow_reference(rng, access, controller, clip_value):
    input_size, output_size, steps, batch = 6, 4, 5, 3
    core = DNC(access, controller, output_size, clip_value)
    inputs = rng.normal(size=(steps, batch, input_size), scale=2.0)
    core.project_inputs(tf.constant(inputs))
    for v in core.trainable_variables:
        v.assign(v * 2 + rng.normal(size=v.shape, scale=0.3))
    recurrent = controller.get("type", "lstm") == "lstm"
    layers = controller.get("num_layers", 1)
    state, controller_state = random_state(rng, access, batch, [controller["hidden_size"]] * layers * recurrent)

    c = core.controller
    if recurrent:
        slow_controller = reference.lstm(
            [(np.concatenate([i.w, r.w]), i.b.numpy()) for i, r in zip(c.inputs, c.recurrent, strict=True)]
        )
    else:
        first = (np.concatenate([c.inputs.w, c.reads.w]), c.inputs.b.numpy())
        slow_controller = reference.feedforward([first] + [(d.w.numpy(), d.b.numpy()) for d in c.layers])
    variables = {"output_linear/w": core.output_linear.w.numpy(), "output_linear/b": core.output_linear.b.numpy()}
    for kind, value in (("w", core.access.interface.w.numpy()), ("b", core.access.interface.b.numpy())):
        blocks = np.split(value, np.cumsum(core.access.interface_sizes)[:-1], axis=-1)
        variables.update({f"memory_access/{n}/{kind}": block for n, block in zip(INTERFACE, blocks, strict=True)})

    lstm_states = [snt.LSTMState(tf.constant(h), tf.constant(c)) for h, c in controller_state]
    ours_state = make_state(state | {"hidden": 0.0, "cell": 0.0}, tf.float64)
    ours_state = ours_state._replace(controller_state=lstm_states[0] if len(lstm_states) == 1 else tuple(lstm_states))
    outputs, final = unroll(core, tf.constant(inputs), ours_state)
    final_access = by_name(final._replace(controller_state=snt.LSTMState(None, None)))
    for b in range(batch):
        expected, states = reference.dnc(
            variables,
            access,
            slow_controller,
            [(hidden[b], cell[b]) for hidden, cell in controller_state],
            clip_value,
            inputs[:, b],
            {name: value[b] for name, value in state.items()},
        )
        assert relative_error(outputs[:, b], expected) <= 1e-9
        for name, value in states[-1].items():
            assert relative_error(final_access[name][b], value) <= 1e-9, name


def test_gradients_by_finite_differences(rng):
    """The gradient written by hand, and its own gradient; links of any numbers, also on the diagonal."""
    w = rng.dirichlet(np.ones(4), size=(1, 2)) * 0.8
    link, p, r = rng.uniform(size=(1, 2, 4, 4)), rng.uniform(size=(1, 2, 4)), rng.uniform(size=(1, 3, 4))
    c, of_link = rng.normal(size=(1, 3, 2, 4)), rng.normal(size=(1, 2, 4, 4))

    def value(forward, backward, state):
        read = tf.reduce_sum(tf.square(forward) * c + backward * forward)
        return read + tf.reduce_sum(state.link * of_link) + tf.reduce_sum(tf.square(state.precedence_weights))

    def together(w, link, p, r):
        return value(*addressing.linked_reads(w, r, TemporalLinkageState(link, p)))

    def apart(w, link, p, r):
        state = addressing.temporal_linkage(w, TemporalLinkageState(link, p))
        return value(*addressing.directional_read_weights(state.link, r), state)

    def gradients(function, arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            result = function(*arguments)
        return result, tape.gradient(result, arguments)

    def gradient_norm(*arguments):
        return tf.add_n([tf.reduce_sum(tf.square(g)) for g in gradients(together, arguments)[1]])

    arguments = [tf.constant(a) for a in (w, link, p, r)]
    for a, b in zip(*(tf.nest.flatten(gradients(f, arguments)) for f in (together, apart)), strict=True):
        assert relative_error(a, b) <= 1e-14
    for function in (together, gradient_norm):
        theoretical, numerical = tf.test.compute_gradient(function, arguments, delta=1e-5)
        for a, b in zip(theoretical, numerical, strict=True):
            assert relative_error(a, b) <= 1e-6


# ---- bounds ----------------------------------------------------------------------------------------------------------

UNIT = st.one_of(st.sampled_from([0.0, 1.0, 1e-7, 1 - 6e-8, 0.5]), st.floats(0, 1, width=32))


def unit_arrays(*shape):
    return hnp.arrays(np.float32, shape, elements=UNIT)


def weightings(x):
    """Scales the last axis to sum to at most one, as every write or read weighting does."""
    total = x.astype(np.float64).sum(axis=-1, keepdims=True)
    return (x / np.maximum(total, 1)).astype(np.float32)


@hypothesis.given(unit_arrays(2, 2, 7), unit_arrays(2, 3), unit_arrays(2, 3, 7), unit_arrays(2, 7), unit_arrays(2, 2))
def test_usage_and_allocation_are_bounded(write, free_gate, read, usage, gates):
    next_usage = addressing.update_usage(weightings(write), free_gate, weightings(read), usage).numpy()
    assert np.all(next_usage >= 0)
    assert np.all(next_usage <= 1 + 1e-6)
    for allocated in (addressing.allocation(usage).numpy(), addressing.allocation(next_usage).numpy()):
        assert np.all(allocated >= -1e-6)
        assert np.all(allocated.sum(axis=-1) <= 1 + 1e-6)
    heads = addressing.write_allocation_weights(usage, gates).numpy()
    assert np.all(heads >= -1e-6)
    assert np.all(heads.sum(axis=-1) <= 1 + 1e-6)


@hypothesis.given(unit_arrays(8, 1, 2, 6))
def test_linkage_rows_and_columns_are_bounded(writes):
    state = TemporalLinkageState(tf.zeros([1, 2, 6, 6]), tf.zeros([1, 2, 6]))
    for write in weightings(writes):
        state = addressing.temporal_linkage(write, state)
        link = state.link.numpy()
        assert np.all(link >= -1e-6)
        assert np.all(link.sum(axis=-1) <= 1 + 1e-5)
        assert np.all(link.sum(axis=-2) <= 1 + 1e-5)
        assert not np.any(np.diagonal(link, axis1=-2, axis2=-1))
        assert np.all(state.precedence_weights.numpy().sum(axis=-1) <= 1 + 1e-6)


def test_links_follow_the_order_of_writing():
    """Sharp writes to slots 3, 0, 4: forward of 3 is 0, of 0 is 4; backward the other way."""
    state = TemporalLinkageState(tf.zeros([1, 1, 5, 5]), tf.zeros([1, 1, 5]))
    for slot in (3, 0, 4):
        state = addressing.temporal_linkage(tf.one_hot([[slot]], 5), state)
    forward, backward = addressing.directional_read_weights(state.link, tf.one_hot([[3, 0, 4]], 5))
    np.testing.assert_array_equal(forward[0, :, 0], [np.eye(5)[0], np.eye(5)[4], np.zeros(5)])
    np.testing.assert_array_equal(backward[0, :, 0], [np.zeros(5), np.eye(5)[3], np.eye(5)[0]])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_ties_go_to_the_lower_slot(jit_compile):
    allocate = tf.function(addressing.allocation, jit_compile=jit_compile)
    usage = tf.constant([[0.5] * 40, [1.0] * 20 + [0.0] * 20])
    allocated = allocate(usage).numpy()
    np.testing.assert_allclose(allocated[0], 0.5 ** np.arange(1, 41), rtol=1e-4)
    assert allocated[1].argmax() == 20


@pytest.mark.slow
@pytest.mark.parametrize("controller", first_of([{"hidden_size": 16}, {"hidden_size": 16, "type": "feedforward"}]))
def test_ten_thousand_steps_at_the_clip(rng, controller):
    core = DNC({"memory_size": 8, "word_size": 4, "num_reads": 2, "num_writes": 2}, controller, 3, clip_value=20)
    inputs = tf.constant(rng.choice([-1e4, 0, 1e4], size=(10_000, 2, 4)), tf.float32)
    core.project_inputs(inputs[0])
    for v in core.trainable_variables:
        v.assign(v * 10)

    @tf.function
    def run(inputs, state):
        (outputs, states), final = unroll(StatesToo(core), inputs, state)
        return outputs, states, final

    outputs, states, final = run(inputs, core.initial_state(2))
    for tensor in tf.nest.flatten((outputs, states)):
        assert np.all(np.isfinite(tensor))
    assert np.abs(outputs).max() == 20
    usage, link = states.access_state.usage.numpy(), states.access_state.linkage.link.numpy()
    assert usage.min() >= 0
    assert usage.max() <= 1 + 1e-6
    assert link.sum(axis=-1).max() <= 1 + 1e-4
    assert link.sum(axis=-2).max() <= 1 + 1e-4
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(unroll(core, inputs[:20], final)[0])
    for gradient in tape.gradient(loss, core.trainable_variables):
        assert np.all(np.isfinite(gradient))


# ---- the contract ----------------------------------------------------------------------------------------------------


def small_core(rng, controller=None, num_writes=2):
    access = {"memory_size": 6, "word_size": 4, "num_reads": 2, "num_writes": num_writes}
    core = DNC(access, controller or {"hidden_size": 8}, 3, clip_value=20)
    core.project_inputs(tf.zeros([1, 5]))
    for v in core.trainable_variables:
        v.assign(v * 2)
    state, hidden = random_state(rng, access, 2, [8])
    state = make_state(state | {"hidden": hidden[0][0], "cell": hidden[0][1]})
    if controller and controller.get("type") == "feedforward":
        state = state._replace(controller_state=())
    return core, tf.constant(rng.normal(size=(4, 2, 5)), tf.float32), state


def test_unknown_batch_and_steps(rng):
    core, inputs, _ = small_core(rng)

    @tf.function(input_signature=[tf.TensorSpec([None, None, 5])])
    def run(inputs):
        return unroll(core, inputs, core.initial_state(tf.shape(inputs)[1]))

    # The order of equal slots, and with it the state, is decided by rounding; the outputs are not.
    assert relative_error(run(inputs)[0], unroll(core, inputs, core.initial_state(2))[0]) <= 1e-5


def test_state_hand_over_and_one_call_per_step(rng):
    core, inputs, state = small_core(rng)
    whole, final = unroll(core, inputs, state)
    first, between = unroll(core, inputs[:2], state)
    output, between = core(inputs[2], between)
    last, end = core(inputs[3], between)
    assert relative_error(tf.concat([first, [output, last]], axis=0), whole) <= 1e-6
    for a, b in zip(tf.nest.flatten(end), tf.nest.flatten(final), strict=True):
        assert relative_error(a, b) <= 1e-6


def test_every_variable_gets_a_gradient(rng):
    for controller in ({"hidden_size": 8}, {"hidden_size": 8, "type": "feedforward", "num_layers": 2}):
        core, inputs, state = small_core(rng, controller)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(unroll(core, inputs, state)[0]))
        for v, gradient in zip(core.trainable_variables, tape.gradient(loss, core.trainable_variables), strict=True):
            assert np.any(gradient), v.name


def test_bfloat16_keeps_dtypes_and_addresses_in_float32(rng):
    core, inputs, state = small_core(rng)
    low = tf.nest.map_structure(lambda s: tf.cast(s, tf.bfloat16), state)
    output, next_state = core(tf.cast(inputs[0], tf.bfloat16), low)
    assert output.dtype == tf.bfloat16
    assert {s.dtype for s in tf.nest.flatten(next_state)} == {tf.bfloat16}
    assert {v.dtype for v in core.variables} == {tf.float32}
    exact, _ = core(inputs[0], state)
    assert relative_error(tf.cast(output, tf.float32), exact) <= 0.05

    interface = tf.cast(core.access.project_inputs(tf.ones([2, 8])), tf.bfloat16)
    _, from_low = core.access.step(interface, state.access_state)
    _, from_high = core.access.step(tf.cast(interface, tf.float32), state.access_state)
    for a, b in zip(tf.nest.flatten(from_low), tf.nest.flatten(from_high), strict=True):
        np.testing.assert_array_equal(a, b)


def test_initialisers_are_the_public_ones():
    tf.random.set_seed(1)
    core = DNC({"memory_size": 4, "word_size": 20, "num_reads": 4, "num_writes": 2}, {"hidden_size": 200}, 40)
    core.project_inputs(tf.zeros([1, 60]))
    deviation = np.std(tf.random.truncated_normal([100_000]))
    recurrent = (60 + 80 + 200) ** -0.5
    controller = core.controller
    for variable, stddev in (
        (controller.inputs[0].w, recurrent),
        (controller.recurrent[0].w, recurrent),
        (controller.inputs[0].b, recurrent),
        (core.access.interface.w, 200**-0.5),
        (core.output_linear.w, 280**-0.5),
    ):
        assert abs(np.std(variable) / (deviation * stddev) - 1) < 0.1, variable.name
    assert not np.any(core.access.interface.b)
    assert not np.any(core.output_linear.b)


def test_sizes_and_configs():
    core = DNC({"memory_size": 4}, {"hidden_size": 8, "num_layers": 2}, 3, clip_value=5)
    again = DNC(core.access_config, core.controller_config, core.output_size, core.clip_value)
    assert again.access_config == {"memory_size": 4, "word_size": 20, "num_reads": 1, "num_writes": 1}
    assert again.controller_config == {"type": "lstm", "hidden_size": 8, "num_layers": 2}
    state = core.initial_state(3, tf.float64)
    for tensor, size in zip(tf.nest.flatten(state), tf.nest.flatten(core.state_size), strict=True):
        assert tensor.shape == [3, *size]
        assert tensor.dtype == tf.float64


def test_memory_access_alone(rng):
    access = MemoryAccess(memory_size=6, word_size=4, num_reads=3, num_writes=2)
    inputs = tf.constant(rng.normal(size=(5, 2, 7)), tf.float32)
    reads, state = unroll(access, inputs, access.initial_state(2))
    assert reads.shape == [5, 2, *access.output_size]
    assert relative_error(reads[-1], tf.matmul(state.read_weights, state.memory)) <= 1e-6


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("memory_size", {"access_config": {"memory_size": 0}}),
        ("num_writes", {"access_config": {"num_writes": 1.5}}),
        (
            "access_config: keys 'slots', must be among memory_size, word_size, num_reads, num_writes$",
            {"access_config": {"slots": 4}},
        ),
        ("access_config: 16, must be a dict, whose keys must be among memory_size", {"access_config": 16}),
        ("hidden_size", {"controller_config": {"hidden_size": -1}}),
        (
            "controller_config: keys none, must include hidden_size and be among hidden_size, num_layers, type$",
            {"controller_config": {}},
        ),
        ("controller_config", {"controller_config": {"hidden_size": 4, "units": 3}}),
        ("type", {"controller_config": {"hidden_size": 4, "type": "gru"}}),
        ("num_layers", {"controller_config": {"hidden_size": 4, "num_layers": 0}}),
        ("output_size", {"output_size": None}),
        ("clip_value", {"clip_value": -1}),
    ],
)
def test_bad_arguments(name, arguments):
    good = {"access_config": {}, "controller_config": {"hidden_size": 4}, "output_size": 2}
    with pytest.raises(ValueError, match=name):
        DNC(**(good | arguments))


def test_bad_shapes(rng):
    core, inputs, state = small_core(rng)
    with pytest.raises(ValueError, match="inputs"):
        core(tf.zeros([2, 4]), state)
    with pytest.raises(ValueError, match="inputs"):
        core(tf.zeros([5]), state)
    with pytest.raises(ValueError, match="state"):
        core(inputs[0], state._replace(access_output=tf.zeros([2, 3, 4])))
