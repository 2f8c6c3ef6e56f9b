"""The agent's networks against single steps; gradients, XLA, SavedModel."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tfmem
from tests.support import first_of, relative_error
from tfmem.cores.config import (
    DNCConfig,
    KanervaConfig,
    LSTMConfig,
    MetalearnedMemoryConfig,
    RMAConfig,
    SonnetLSTMConfig,
)
from tfmem.models.belief import BeliefModel, SimCoreHead
from tfmem.models.convdraw import ConvDRAW, DeterministicFrameModel

CORES = {
    "lstm": SonnetLSTMConfig(hidden_size=5),
    "rma": RMAConfig(hidden_size=5, memory_size=6, word_size=4, num_reads=2, top_k=5),
    "kanerva": KanervaConfig(hidden_size=5, memory_size=3, word_size=4),
    "Keras cell": LSTMConfig(units=5),
    "without a view": DNCConfig(memory_size=3, word_size=4, hidden_size=5),
}
STEPS, BATCH, ACTIONS, FRAME = 7, 2, 3, (16, 8, 2)
SEED = [7, 8]


def make_model(core, frame_model=None):
    frame_model = frame_model or functools.partial(
        DeterministicFrameModel, FRAME, num_steps=1, decoder_channels=4, decoder_hidden=(4, 4), conditioning_channels=2
    )
    return BeliefModel(FRAME, ACTIONS, frame_model, CORES[core], encoder_channels=(2, 3), embedding_size=4)


@pytest.fixture
def trajectory(rng):
    frames = rng.uniform(size=(STEPS, BATCH, *FRAME)).astype(np.float32)
    actions = np.eye(ACTIONS, dtype=np.float32)[rng.integers(ACTIONS, size=(STEPS, BATCH))]
    return tf.constant(frames), tf.constant(actions)


def at(states, t):
    return tf.nest.map_structure(lambda s: s[t], states)


@pytest.mark.parametrize("core", CORES)
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
    if hasattr(CORES[core].make(), "read_only"):
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
            output = head(frames, actions, model.belief(frames, actions).states, SEED)
            loss = tf.reduce_mean(output.error)
        return loss, output.frame_indices, tape.gradient(loss, model.trainable_variables)

    return update


@pytest.mark.parametrize("core", first_of([*CORES], 2))
def test_the_loss_teaches_every_variable(core, trajectory):
    model = make_model(core)
    _, _, gradients = tf.function(update_of(model))(*trajectory)
    untaught = [v.name for v, g in zip(model.trainable_variables, gradients, strict=True) if g is None or not np.any(g)]
    # The belief network is taught through its states: a layer behind them is not.
    assert len(untaught) == (2 if core == "without a view" else 0)
    assert all("output_linear" in name for name in untaught)


def test_update_under_xla(trajectory):
    model = make_model("lstm")
    update = update_of(model, per_element=True)
    loss, indices, gradients = tf.function(update)(*trajectory)
    compiled_loss, compiled_indices, compiled_gradients = tf.function(update, jit_compile=True)(*trajectory)
    np.testing.assert_array_equal(compiled_indices, indices)
    np.testing.assert_allclose(compiled_loss, loss, rtol=1e-5)
    for variable, actual, expected in zip(model.trainable_variables, compiled_gradients, gradients, strict=True):
        assert relative_error(actual, expected) < 1e-4, variable.name


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
        (
            {"core": MetalearnedMemoryConfig()},
            "core: MetalearnedMemoryConfig.*, must be a core whose output is a vector",
        ),
        ({"num_actions": 0}, "num_actions: 0"),
        ({"encoder_channels": ()}, r"channels: \(\)"),
        ({"core": SonnetLSTMConfig(hidden_size=-1)}, "hidden_size: -1"),
    ],
)
def test_model_errors(change, message):
    with pytest.raises(ValueError, match=message):
        BeliefModel(**{"frame_shape": FRAME, "num_actions": 3, "frame_model": None, "core": CORES["lstm"]} | change)


def test_calls_with_wrong_shapes():
    model = make_model("lstm")
    with pytest.raises(ValueError, match=r"frames: shape \(7, 2, 8, 8, 2\), must end with \(16, 8, 2\)"):
        model.belief(tf.zeros([7, 2, 8, 8, 2]), tf.zeros([7, 2, 3]))
    for call in (
        lambda a: model.belief(tf.zeros([7, 2, *FRAME]), a),
        lambda a: model.simulate(model.initial_state(2), a),
    ):
        with pytest.raises(ValueError, match=r"actions: .* must have a last axis of 3"):
            call(tf.zeros([7, 2, 4]))
    with pytest.raises(ValueError, match="frames: uint8, must be float32, from 0 to 1"):
        model.belief(tf.zeros([7, 2, *FRAME], tf.uint8), tf.zeros([7, 2, 3]))


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
output = loaded["simulate"](actions=tf.constant(run["plan"]), **state)
frame = loaded["render"](belief=output["beliefs"][:, -1], seed=tf.constant([7, 8]))["frame"]
np.savez("served.npz", beliefs=np.stack(beliefs), simulated=output["beliefs"], frame=frame)
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
