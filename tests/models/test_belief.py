"""SimCore against the listing's arrays and a loop; the networks against single steps; probes; SavedModel; XLA."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

import tfmem
from tests.support import relative_error
from tfmem.checkpoints import load_tf1
from tfmem.cores.base import Linear
from tfmem.models.belief import (
    LSTM,
    BeliefModel,
    MapDecoder,
    PositionDecoder,
    SimCoreHead,
    map_mse,
    position_cells,
    unroll_sim,
    windows,
)
from tfmem.models.convdraw import ConvDRAW, DeterministicFrameModel, FrameLoss

CASES = ("base", "overshoot1", "paper_counts", "short_sequence")
MEMORIES = {
    "lstm": None,
    "rma": {"memory_size": 6, "word_size": 4, "num_reads": 2, "top_k": 5},
    "kanerva": {"memory_size": 3, "word_size": 4, "projection_hidden_size": 5},
}
STEPS, BATCH, ACTIONS, FRAME = 7, 2, 3, (16, 8, 2)
SEED = [7, 8]


# --- Appendix K: the listing's arrays ---


class LinearDecoder(snt.Module):
    """The goldens' toy: cond W + b as a frame, squared error; it keeps what it predicted."""

    def __init__(self, frame_shape):
        super().__init__()
        self.frame_shape = tuple(frame_shape)
        self.linear = Linear(int(np.prod(frame_shape)))

    def __call__(self, frames, conditioning, seed):
        prediction = tf.reshape(self.linear(conditioning), [-1, *self.frame_shape])
        error = tf.reduce_sum(tf.square(frames - prediction), [1, 2, 3])
        return FrameLoss(error, tf.zeros_like(error), prediction)


def load(golden, case):
    """Head and arrays of a case, weights from its TF 1 checkpoint."""
    arrays = np.load(golden(f"simcore/{case}.npz"))
    hidden_size, num_actions = arrays["states_h"].shape[-1], arrays["actions"].shape[-1]
    core, model = LSTM(hidden_size), LinearDecoder(arrays["frames"].shape[2:])
    core.project_inputs(tf.zeros([1, num_actions]))
    model.linear.initialize(hidden_size)
    prefix = str(golden(f"simcore/ckpt_{case}/model.ckpt"))
    assert load_tf1(core, prefix, scope="sim_core").ignored == ["linear_decoder/linear/b", "linear_decoder/linear/w"]
    checkpoint = tf.train.load_checkpoint(prefix)
    model.linear.w.assign(checkpoint.get_tensor("linear_decoder/linear/w"))
    model.linear.b.assign(checkpoint.get_tensor("linear_decoder/linear/b"))
    sizes = {name: int(arrays[f"cfg_{name}"]) for name in ("sim_length", "num_to_model_time", "num_to_model_sim")}
    return SimCoreHead(core, model, **sizes), arrays


@pytest.mark.parametrize("case", CASES)
def test_golden(golden, case):
    head, arrays = load(golden, case)
    checked = {name for name in arrays if name.startswith("cfg_")} | {"perm_time", "perm_sim", "action_ids"}

    def check(name, actual, tolerance=1e-5):
        checked.add(name)
        assert actual.dtype == arrays[name].dtype, name
        if arrays[name].dtype.kind == "i":
            np.testing.assert_array_equal(actual, arrays[name], err_msg=name)
        else:
            error = relative_error(actual, arrays[name])
            assert error <= tolerance, f"{name}: {error:.1e}"

    sources = {name: tf.constant(arrays[name]) for name in ("frames", "actions", "states_h", "states_c")}
    frames, actions, h, c = sources.values()
    states = snt.LSTMState(h, c)
    checked |= sources.keys()
    np.testing.assert_array_equal(tf.argmax(actions, -1), arrays["action_ids"])
    gates, linear = head.core.gates, head.model.linear
    variables = {"w_i": gates.w_i, "w_s": gates.w_s, "b": gates.b, "linear_w": linear.w, "linear_b": linear.b}
    with tf.GradientTape() as tape:
        tape.watch(list(sources.values()))
        told = head(frames, actions, states, SEED, arrays["perm_time"], arrays["perm_sim"])
        loss = tf.reduce_mean(told.error)
    watched = sources | variables
    gradients = {
        k: tf.convert_to_tensor(g) for k, g in zip(watched, tape.gradient(loss, [*watched.values()]), strict=True)
    }

    starts = told.sim_time_indices[:, 0]
    check("sim_time_indices", starts)
    check("dt", told.dt[:, 0])
    check("frame_indices", tf.reshape(told.frame_indices, [-1]))
    check("frames_dt", told.frames)
    check("sim_outputs", told.sim_outputs)
    check("model_cond", told.conditioning)
    check("pred", told.reconstruction)
    check("per_example_loss", told.error)
    check("loss", loss)
    assert not tf.reduce_any(told.kl != 0)

    every_start = tf.range(len(frames) - head.sim_length)[:, tf.newaxis]
    check("patches", windows(actions, every_start, head.sim_length))
    check("staggered_inputs", windows(actions, starts[:, tf.newaxis], head.sim_length))
    initial = {
        "h": tf.reshape(tf.gather(h, starts), [-1, h.shape[-1]]),
        "c": tf.reshape(tf.gather(c, starts), [-1, c.shape[-1]]),
    }
    check("initial_state_h", initial["h"])
    check("initial_state_c", initial["c"])
    _, final = unroll_sim(head.core, starts, states, actions, head.sim_length)
    check("final_state_h", final.hidden)
    check("final_state_c", final.cell)

    for name in sources:
        check(f"grad/{name}", gradients[name], 1e-4)
    check("var/sim_core/w_gates", tf.concat([gates.w_i, gates.w_s], 0))
    check("var/sim_core/b_gates", tf.convert_to_tensor(gates.b))
    check("grad/sim_core/w_gates", tf.concat([gradients["w_i"], gradients["w_s"]], 0), 1e-4)
    check("grad/sim_core/b_gates", gradients["b"], 1e-4)
    for name in ("w", "b"):
        check(f"var/linear_decoder/linear/{name}", tf.convert_to_tensor(getattr(linear, name)))
        check(f"grad/linear_decoder/linear/{name}", gradients[f"linear_{name}"], 1e-4)
    assert checked == set(arrays)


def test_elements_with_places_of_their_own(golden, rng):
    """Each element's share is what the head says of a batch of it alone, with its permutations."""
    head, arrays = load(golden, "base")
    frames, actions = tf.constant(arrays["frames"]), tf.constant(arrays["actions"])
    states = snt.LSTMState(tf.constant(arrays["states_h"]), tf.constant(arrays["states_c"]))
    head.per_element = True
    told = head(frames, actions, states, SEED)
    starts, offsets = told.sim_time_indices.numpy(), told.dt.numpy()
    assert (starts.shape, offsets.shape) == ((5, 3), (2, 3))
    assert len({tuple(column) for column in starts.T}) == 3
    head.per_element = False
    for b in range(3):
        time, sim = (np.r_[used[:, b], np.setdiff1d(range(n), used[:, b])] for used, n in ((starts, 8), (offsets, 4)))
        one = [tf.nest.map_structure(lambda x, b=b: x[:, b : b + 1], x) for x in (frames, actions, states)]
        alone = head(*one, SEED, time, sim)
        np.testing.assert_array_equal(told.frame_indices[..., b], alone.frame_indices[..., 0])
        np.testing.assert_allclose(
            tf.reshape(told.error, [2, 5, 3])[..., b], tf.reshape(alone.error, [2, 5]), rtol=1e-5
        )


def test_places_are_uniform_and_follow_from_the_seed(golden):
    head, arrays = load(golden, "short_sequence")
    head.num_to_model_time = head.num_to_model_sim = 1
    head.per_element = True
    frames, actions, *states = (
        tf.repeat(arrays[name][:, :1], 600, axis=1) for name in ("frames", "actions", "states_h", "states_c")
    )

    def places(seed):
        told = head(frames, actions, snt.LSTMState(*states), seed)
        return np.concatenate([told.sim_time_indices, told.dt])

    drawn = places([0, 1])
    np.testing.assert_array_equal(places([0, 1]), drawn)
    assert np.any(places([0, 2]) != drawn)
    counts = np.zeros([3, 4])
    np.add.at(counts, tuple(drawn), 1)
    assert np.abs(counts - 50).max() < 5 * np.sqrt(50)


def test_sizes_unknown_when_traced(golden):
    head, arrays = load(golden, "overshoot1")
    arguments = [arrays[name] for name in ("frames", "actions", "states_h", "states_c")]
    specs = [tf.TensorSpec([None, None, *a.shape[2:]]) for a in arguments]
    run = tf.function(lambda f, a, h, c: head(f, a, snt.LSTMState(h, c), SEED), input_signature=specs)
    frames, actions, *states = map(tf.constant, arguments)
    for actual, expected in zip(run(*arguments), head(frames, actions, snt.LSTMState(*states), SEED), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sim_length": 0}, "sim_length: was 0"),
        ({"num_to_model_sim": 1.5}, "num_to_model_sim: was 1.5"),
        ({"sim_length": 4}, "frames: had 4 steps, must have more than sim_length, which was 4"),
        (
            {"actions": tf.zeros([3, 2, 3])},
            r"actions: had the shape \(3, 2, 3\), must start with those of frames, \(4, 2\)",
        ),
        ({"states": (tf.zeros([4, 1, 5]),)}, r"states: had the shape \(4, 1, 5\)"),
    ],
)
def test_head_errors(change, message):
    given = {
        "sim_length": 2,
        "num_to_model_sim": 1,
        "actions": tf.zeros([4, 2, 3]),
        "states": (tf.zeros([4, 2, 5]),),
    } | change
    with pytest.raises(ValueError, match=message):
        SimCoreHead(None, None, given["sim_length"], 1, given["num_to_model_sim"])(
            tf.zeros([4, 2, 8, 8, 1]), given["actions"], given["states"], SEED
        )


# --- the networks ---


def make_model(core, frame_model=None):
    frame_model = frame_model or functools.partial(
        DeterministicFrameModel, FRAME, num_steps=1, decoder_channels=4, decoder_hidden=(4, 4), conditioning_channels=2
    )
    return BeliefModel(FRAME, ACTIONS, frame_model, core, 5, MEMORIES[core], encoder_channels=(2, 3), embedding_size=4)


@pytest.fixture
def trajectory(rng):
    frames = rng.uniform(size=(STEPS, BATCH, *FRAME)).astype(np.float32)
    actions = np.eye(ACTIONS, dtype=np.float32)[rng.integers(ACTIONS, size=(STEPS, BATCH))]
    return tf.constant(frames), tf.constant(actions)


def at(states, t):
    return tf.nest.map_structure(lambda s: s[t], states)


@pytest.mark.parametrize("core", MEMORIES)
def test_beliefs_are_steps_of_the_core_and_rollouts_do_not_write(core, trajectory):
    model = make_model(core)
    frames, actions = trajectory
    beliefs, states, final = model.belief(frames, actions)
    assert beliefs.shape == [STEPS, BATCH, model.belief_size]
    state = model.initial_state(BATCH)
    for t in range(STEPS):
        belief, state = model.core(tf.concat([model.encoder(frames[t]), actions[t]], -1), state)
        np.testing.assert_allclose(beliefs[t], belief, atol=1e-5)
        tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), at(states, t), state)
    tf.nest.map_structure(np.testing.assert_array_equal, final, at(states, -1))
    second_half = model.belief(frames[3:], actions[3:], at(states, 2))
    np.testing.assert_allclose(second_half.beliefs, beliefs[3:], atol=1e-5)

    simulated, end = model.simulate(at(states, 2), actions[3:])
    assert simulated.shape == [STEPS - 3, BATCH, model.belief_size]
    if core != "lstm":
        tf.nest.map_structure(np.testing.assert_array_equal, end.memory, at(states, 2).memory)
        # What the belief network wrote is what the simulation reads.
        other = at(states, 2)._replace(memory=at(states, 5).memory)
        assert relative_error(model.simulate(other, actions[3:])[0], simulated) > 1e-4
    shared = {v.ref() for v in model.core.variables} & {v.ref() for v in model.simulation.variables}
    assert not shared
    assert len(model.simulation.trainable_variables) >= 3
    assert model.render(simulated, SEED).shape == [STEPS - 3, BATCH, *FRAME]


def update_of(model, per_element=False):
    head = SimCoreHead(model.simulation, model.frame_model, 3, 3, 2, per_element)

    def update(frames, actions):
        with tf.GradientTape() as tape:
            told = head(frames, actions, model.belief(frames, actions).states, SEED)
            loss = tf.reduce_mean(told.error)
        return loss, told.frame_indices, tape.gradient(loss, model.trainable_variables)

    return update


@pytest.mark.parametrize("core", MEMORIES)
def test_the_loss_teaches_every_variable(core, trajectory):
    model = make_model(core)
    _, _, gradients = tf.function(update_of(model))(*trajectory)
    untaught = [v.name for v, g in zip(model.trainable_variables, gradients, strict=True) if g is None or not np.any(g)]
    assert not untaught


def test_update_under_xla(trajectory):
    model = make_model("lstm")
    update = update_of(model, per_element=True)
    loss, indices, gradients = tf.function(update)(*trajectory)
    compiled_loss, compiled_indices, compiled_gradients = tf.function(update, jit_compile=True)(*trajectory)
    np.testing.assert_array_equal(compiled_indices, indices)
    np.testing.assert_allclose(compiled_loss, loss, rtol=1e-5)
    for variable, actual, expected in zip(model.trainable_variables, compiled_gradients, gradients, strict=True):
        assert relative_error(actual, expected) < 1e-4, variable.name


def test_probes_learn_but_do_not_teach(rng):
    beliefs = tf.constant(rng.normal(size=(3, 4, 5)), tf.float32)
    maps = tf.constant(rng.uniform(size=(4, 9, 12, 3)), tf.float32)
    cells = tf.constant(rng.integers(6, size=(3, 4)))
    decoder, position = MapDecoder(5, (9, 12, 3), (4, 4, 2)), PositionDecoder(5, 6, 7)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(beliefs)
        decoded, logits = decoder(beliefs), position(beliefs)
        errors = map_mse(decoded, maps)
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(cells, logits)
    assert decoded.shape == [3, 4, 9, 12, 3]
    assert logits.shape == [3, 4, 6]
    np.testing.assert_allclose(errors[2, 1], np.mean((decoded[2, 1] - maps[1]) ** 2), rtol=1e-5)
    for loss, probe in ((errors, decoder), (cross_entropy, position)):
        assert tape.gradient(loss, beliefs) is None
        assert all(np.any(g) for g in tape.gradient(loss, probe.trainable_variables))


@pytest.mark.parametrize("side", [8, 16, 32])
def test_differences_of_beliefs_reach_the_maps_from_the_start(rng, side):
    beliefs = rng.normal(scale=0.25, size=[64, 128]).astype(np.float32)
    maps = MapDecoder(128, (side, side, 3))(tf.constant(beliefs)).numpy()
    assert 0.01 < np.std(maps, axis=0).mean() < 0.1
    assert abs(np.mean(maps) - 0.5) < 0.1


def test_position_cells():
    positions = tf.constant([[-5.0, -5.0], [-5.0, -4.9], [0.1, -0.1], [4.9, 4.9], [5.0, 99.0], [-99.0, 2.6]])
    np.testing.assert_array_equal(position_cells(positions, 10.0, 4), [0, 0, 9, 15, 15, 3])


def test_render_draws_samples_of_the_model(rng):
    sizes = dict(num_steps=1, latent_channels=1, encoder_hidden=(2, 2), encoder_channels=2)
    sizes |= dict(prior_channels=2, decoder_channels=2, decoder_hidden=(2, 2), conditioning_channels=2)
    model = make_model("lstm", functools.partial(ConvDRAW, FRAME, **sizes))
    beliefs = tf.constant(rng.normal(size=(2, 3, 5)), tf.float32)
    frames = model.render(beliefs, SEED)
    assert frames.shape == [2, 3, *FRAME]
    expected = model.frame_model.sample(tf.reshape(beliefs, [6, 5]), SEED)
    np.testing.assert_array_equal(tf.reshape(frames, expected.shape), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"core": "gru"}, "core: was 'gru', must be one of lstm, rma, kanerva"),
        ({"memory": {"memory_size": 3}}, "memory: was .* must be left out for an LSTM alone"),
        ({"num_actions": 0}, "num_actions: was 0"),
        ({"encoder_channels": ()}, r"channels: was \(\)"),
        ({"hidden_size": -1}, "hidden_size: was -1"),
    ],
)
def test_model_errors(change, message):
    with pytest.raises(ValueError, match=message):
        BeliefModel(**{"frame_shape": FRAME, "num_actions": 3, "frame_model": None} | change)


def test_calls_with_wrong_shapes():
    model = make_model("lstm")
    with pytest.raises(ValueError, match=r"frames: had the shape \(7, 2, 8, 8, 2\), must end with \(16, 8, 2\)"):
        model.belief(tf.zeros([7, 2, 8, 8, 2]), tf.zeros([7, 2, 3]))
    for call in (
        lambda a: model.belief(tf.zeros([7, 2, *FRAME]), a),
        lambda a: model.simulate(model.initial_state(2), a),
    ):
        with pytest.raises(ValueError, match=r"actions: .* the last axis must be 3"):
            call(tf.zeros([7, 2, 4]))
    with pytest.raises(ValueError, match="frames: were uint8, must be float32, from 0 to 1"):
        model.belief(tf.zeros([7, 2, *FRAME], tf.uint8), tf.zeros([7, 2, 3]))
    for argument, change in {"map_shape": {"map_shape": (8, 8)}, "channels": {"channels": (4, 4)}}.items():
        with pytest.raises(ValueError, match=f"{argument}: was .*, must be three integers"):
            MapDecoder(**{"belief_size": 5, "map_shape": (8, 8, 3), **change})


# --- SavedModel ---

SERVE = """
import json, sys
for name in ("tfmem", "sonnet", "keras"):
    sys.modules[name] = None
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load("saved_model").signatures
run = np.load("run.npz")
state = loaded["initial_state"](batch_size=tf.constant(2))
beliefs = []
for frame, action in zip(run["frames"], run["actions"]):
    result = loaded["step"](frame=tf.constant(frame), action=tf.constant(action), **state)
    beliefs.append(result["belief"])
    state = {name: result[name] for name in state}
told = loaded["simulate"](actions=tf.constant(run["plan"]), **state)
frame = loaded["render"](belief=told["beliefs"][:, -1], seed=tf.constant([7, 8]))["frame"]
np.savez("served.npz", beliefs=np.stack(beliefs), simulated=told["beliefs"], frame=frame)
"""


def test_saved_model_where_tfmem_cannot_be_imported(trajectory, tmp_path):
    model = make_model("kanerva")
    frames, actions = trajectory
    tfmem.export.saved_model(model, tmp_path / "saved_model")
    layout = json.loads((tmp_path / "saved_model" / tfmem.export.ASSET).read_text())["signatures"]
    assert set(layout) == {"step", "initial_state", "simulate", "render"}
    assert layout["step"]["inputs"]["state_memory_M_mean"]["shape"] == [None, 3, 4]
    assert layout["step"]["outputs"]["belief"]["shape"] == [None, 5]
    assert layout["simulate"]["outputs"]["beliefs"]["shape"] == [None, None, 5]

    beliefs, _, final = model.belief(frames[:5], actions[:5])
    simulated, _ = model.simulate(final, actions[5:])
    plan = np.swapaxes(actions[5:], 0, 1)
    np.savez(tmp_path / "run.npz", frames=frames[:5], actions=actions[:5], plan=plan)
    subprocess.run([sys.executable, "-c", SERVE], cwd=tmp_path, check=True, capture_output=True)
    served = np.load(tmp_path / "served.npz")
    assert relative_error(served["beliefs"], beliefs) < 1e-5
    assert relative_error(np.swapaxes(served["simulated"], 0, 1), simulated) < 1e-5
    assert relative_error(served["frame"], model.render(simulated[-1], SEED)) < 1e-5
