"""Agents of many cores: acting equals learning, episodes are apart, files and SavedModels hold them."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

import tfmem
from tests.conformance.descriptors import ROWS
from tests.rl.worlds import Cue
from tests.support import relative_error
from tfmem.cores import ConvLSTM, LookupMemory, LSTMStack, MetalearnedMemory, PlasticRNN, RelationalMemory
from tfmem.rl.agent import Agent, ConvTorso, MLPTorso
from tfmem.rl.learner import ActorCritic, Objective
from tfmem.rl.rollout import observation_spec

STEPS, BATCH, ACTIONS = 7, 3, 4
ROOT = Path(__file__).parents[2]
VECTOR = tf.TensorSpec([5])
GRID = tf.TensorSpec([5, 4, 2], tf.uint8)
SQUARE = tf.TensorSpec([4, 4, 2], tf.uint8)

AGENTS = {
    "none": (VECTOR, lambda: Agent(MLPTorso((6,)), None, ACTIONS)),
    "lstm": (VECTOR, lambda: Agent(MLPTorso(), LSTMStack(6), ACTIONS, skip=True, mlp_sizes=(5,))),
    "sonnet": (VECTOR, lambda: Agent(MLPTorso(), snt.LSTM(6), ACTIONS, reward_input="raw")),
    "keras": (VECTOR, lambda: Agent(MLPTorso(), keras.layers.LSTMCell(6), ACTIONS)),
    "plastic": (VECTOR, lambda: Agent(MLPTorso(), PlasticRNN(6), ACTIONS, action_input=False, reward_input=None)),
    "metalearned": (VECTOR, lambda: Agent(MLPTorso(), MetalearnedMemory(8, 6), ACTIONS)),
    "rmc": (GRID, lambda: Agent(ConvTorso((3, 4)), RelationalMemory(2, 4, 2), ACTIONS, skip=True)),
    "grid": (SQUARE, lambda: Agent(ConvTorso((3,), padding="same", output="grid"), ConvLSTM(4), ACTIONS, skip=True)),
    "cells": (
        GRID,
        lambda: Agent(ConvTorso((3,), output="cells"), RelationalMemory(2, 4, treat_input_as_matrix=True), ACTIONS),
    ),
    "nest": (
        {"held": VECTOR, "view": GRID},
        lambda: Agent(ConvTorso((3, 4)), LSTMStack(6, 1), ACTIONS),
    ),
}
everyone = pytest.mark.parametrize("name", AGENTS)


def make(name, seed=0):
    keras.utils.set_random_seed(seed)
    spec, make_agent = AGENTS[name]
    return make_agent().build_for(spec)


def draw_observation(rng, spec, *leading):
    def draw(leaf):
        shape = (*leading, *leaf.shape)
        if leaf.dtype.is_integer:
            return tf.constant(rng.integers(0, 256, shape), leaf.dtype)
        return tf.constant(rng.normal(size=shape), leaf.dtype)

    return tf.nest.map_structure(draw, spec)


def frames(rng, agent):
    """Observation, action, reward, done [T, B]; episodes start at entry 0, in the middle, at the end."""
    done = np.zeros([STEPS, BATCH], bool)
    done[0, 0] = done[3, 0] = done[2, 1] = done[3, 1] = done[-1, 1] = True
    observation = draw_observation(rng, agent.observation_spec, STEPS, BATCH)
    action = tf.constant(rng.integers(0, ACTIONS, [STEPS, BATCH]), tf.int32)
    return observation, action, tf.constant(3 * rng.normal(size=[STEPS, BATCH]), tf.float32), tf.constant(done)


def part(nest, *index):
    return tf.nest.map_structure(lambda x: x[index], nest)


def some_state(rng, agent):
    """A state that is not the initial one."""
    state = agent.initial_state(BATCH)
    for _ in range(3):
        _, state = agent.step(*part(frames(rng, agent), 1), state)
    return state


def assert_close(actual, expected, tolerance=1e-5):
    tf.nest.assert_same_structure(actual, expected, check_types=False)
    for a, e in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        assert relative_error(a, e) < tolerance


@everyone
def test_acting_equals_learning(rng, name):
    agent = make(name)
    given, state = frames(rng, agent), some_state(rng, agent)
    compiled = name in ("lstm", "rmc", "nest")
    learned = tf.function(lambda: agent.unroll(*given, state), jit_compile=compiled, autograph=False)
    acted, final = [], state
    for t in range(STEPS):
        output, final = agent.step(*part(given, t), final)
        acted.append(output)
    acted = tf.nest.map_structure(lambda *x: tf.stack(x), *acted)
    for unroll in (lambda: agent.unroll(*given, state), learned):
        output, after = unroll()
        assert output.logits.shape == (STEPS, BATCH, ACTIONS)
        assert output.value.shape == (STEPS, BATCH)
        assert_close(output, acted)
        assert_close(after, final)


@everyone
def test_an_unroll_cut_in_two_equals_the_whole(rng, name):
    agent = make(name)
    given, state = frames(rng, agent), some_state(rng, agent)
    whole, final = agent.unroll(*given, state)
    for cut in (1, 3, STEPS - 1):
        first, between = agent.unroll(*part(given, slice(None, cut)), state)
        second, after = agent.unroll(*part(given, slice(cut, None)), between)
        joined = tf.nest.map_structure(lambda a, b: tf.concat([a, b], 0), first, second)
        assert_close(joined, whole)
        assert_close(after, final)


@everyone
def test_episodes_are_apart(rng, name):
    """From where an episode starts, in any batch element, the output is that of the episode alone."""
    agent = make(name)
    given, state = frames(rng, agent), some_state(rng, agent)
    output, _ = agent.unroll(*given, state)
    done = given[3].numpy()
    for b in range(BATCH):
        starts = [*np.flatnonzero(done[:, b]), STEPS]
        for start, end in itertools.pairwise(starts):
            observation, action, reward, _ = part(given, slice(start, end), slice(b, b + 1))
            never = tf.zeros([end - start, 1], tf.bool)
            alone, _ = agent.unroll(observation, action, reward, never, agent.initial_state(1))
            assert_close(alone.logits, output.logits[start:end, b : b + 1])
            assert_close(alone.value, output.value[start:end, b : b + 1])


@everyone
def test_last_values_are_of_the_episode_that_ended(rng, name):
    agent = make(name)
    (observation, action, reward, done), state = frames(rng, agent), some_state(rng, agent)
    last = draw_observation(rng, agent.observation_spec, STEPS, BATCH)
    output, final = agent.unroll(observation, action, reward, done, state, last)
    plain, expected_final = agent.unroll(observation, action, reward, done, state)
    assert plain.last_value == ()
    assert_close(output._replace(last_value=()), plain)
    assert_close(final, expected_final)
    never = tf.zeros([BATCH], tf.bool)
    for t in range(STEPS):
        alone, _ = agent.step(part(last, t), action[t], reward[t], never, state)
        assert_close(output.last_value[t], alone.value)
        _, state = agent.step(part(observation, t), action[t], reward[t], done[t], state)


@pytest.mark.parametrize("name", ["none", "lstm", "sonnet", "grid", "cells", "nest"])
def test_saved_and_loaded(rng, name, tmp_path):
    agent = make(name)
    given, state = frames(rng, agent), agent.initial_state(BATCH)
    expected, _ = agent.unroll(*given, state)
    agent.save(tmp_path / "agent.keras")
    agent.save_weights(tmp_path / "agent.weights.h5")
    other = make(name, seed=1)
    assert relative_error(other.unroll(*given, state)[0].logits, expected.logits) > 1e-2
    other.load_weights(tmp_path / "agent.weights.h5")
    for loaded in (other, keras.models.load_model(tmp_path / "agent.keras")):
        assert_close(loaded.unroll(*given, state)[0].logits, expected.logits, 1e-6)


def test_served_without_tfmem(rng, tmp_path):
    agent = make("lstm")
    given, state = frames(rng, agent), agent.initial_state(BATCH)
    output, _ = agent.unroll(*given, state)
    tfmem.export.saved_model(agent, tmp_path / "agent")
    names = ("observation", "previous_action", "reward", "done")
    np.savez(tmp_path / "run.npz", logits=output.logits, value=output.value, **dict(zip(names, given, strict=True)))
    command = [sys.executable, str(ROOT / "tests/rl/serve.py"), str(tmp_path)]
    process = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]


@pytest.mark.parametrize("name", ["none", "lstm"])
def test_the_loop_takes_the_cores_weights_as_tensors(rng, name):
    """A loop that reads a variable keeps its value once per step for the gradient under XLA."""
    agent = make(name)
    given, state = frames(rng, agent), agent.initial_state(BATCH)

    def run():
        with tf.GradientTape() as tape:
            output, _ = agent.unroll(*given, state)
            loss = tf.reduce_sum(output.logits**2)
        return tape.gradient(loss, agent.trainable_variables)

    graph = tf.function(run, autograph=False).get_concrete_function().graph
    loops = [op for op in graph.get_operations() if op.type in ("While", "StatelessWhile")]
    assert bool(loops) == (agent.cell is not None)
    assert all(x.dtype != tf.resource for loop in loops for x in loop.inputs)


def test_a_frozen_agent_trains_nothing(rng):
    agent = make("lstm")
    agent.trainable = False
    assert agent.trainable_variables == []


def test_the_torso_of_the_paper(rng):
    """Santoro et al. 2018, appendix A.3, written out for one cell."""
    torso = ConvTorso()
    view = rng.integers(0, 256, [2, 5, 5, 6]).astype(np.uint8)
    features = torso(tf.constant(view)).numpy().reshape(2, 3, 3, 26)
    (w1, b1), (w2, b2) = zip(torso.kernels, torso.biases, strict=True)
    x = view / 255.0
    for w, b in ((w1, b1), (w2, b2)):
        w, side = w.numpy(), x.shape[1] - 1
        patches = [
            [np.einsum("nijc,ijcf->nf", x[:, r : r + 2, c : c + 2], w) for c in range(side)] for r in range(side)
        ]
        x = np.maximum(np.array(patches).transpose(2, 0, 1, 3) + b.numpy(), 0)
    assert relative_error(features[..., :24], x) < 1e-5
    np.testing.assert_array_equal(features[0, :, :, 24], [[-1, 0, 1]] * 3)
    np.testing.assert_array_equal(features[1, :, :, 25], np.transpose([[-1, 0, 1]] * 3))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_torsos_equal_convolutions(rng, stride, padding):
    torso = ConvTorso((4,), 3, stride, padding, coordinates=False, output="grid")
    grid = rng.normal(size=[2, 7, 8, 2]).astype(np.float32)
    found = torso(tf.constant(grid))
    expected = tf.nn.relu(tf.nn.conv2d(grid, torso.kernels[0], stride, padding.upper()))
    assert relative_error(found, expected) < 1e-5


def test_what_the_core_sees(rng):
    agent = Agent(MLPTorso(), None, ACTIONS).build_for(VECTOR)
    observation = tf.constant(rng.normal(size=[2, 5]), tf.float32)
    seen = agent.features(observation, tf.constant([1, 3]), tf.constant([5.0, -0.25]))
    np.testing.assert_allclose(seen, np.concatenate([observation, [[1], [-0.25]], np.eye(ACTIONS)[[1, 3]]], -1))


def test_bad_arguments():
    for change, message in (
        ({"num_actions": 0}, "num_actions: 0, must be a positive integer"),
        ({"reward_input": "scaled"}, "reward_input: 'scaled', must be one of None, 'clipped', 'raw'"),
    ):
        with pytest.raises(ValueError, match=message):
            Agent(**{"torso": MLPTorso(), "core": None, "num_actions": 2, **change})
    with pytest.raises(ValueError, match="must be of fixed size"):
        Agent(MLPTorso(), LookupMemory(4, 4, 4), 2).build_for(VECTOR)
    with pytest.raises(ValueError, match="must be grids"):
        Agent(ConvTorso(), None, 2).build_for(VECTOR)
    for torso, side in ((ConvTorso((2,), kernel_size=5), 4), (ConvTorso((2, 2), kernel_size=3), 2)):
        with pytest.raises(ValueError, match=f"kernel_size: [35], must be at most {side}, the side of its input"):
            Agent(torso, None, 2).build_for(tf.TensorSpec([4, 6, 3], tf.uint8))
    with pytest.raises(ValueError, match=r"sizes\[1\]: .*, must be a positive integer"):
        MLPTorso((3, 0))
    with pytest.raises(ValueError, match=r"padding: .*, must be one of"):
        ConvTorso(padding="full")
    with pytest.raises(ValueError, match="output: 'rows', must be one of 'vector', 'grid', 'cells'"):
        ConvTorso(output="rows")


VECTOR_ROWS = [row for row in ROWS if len(row.input_shape) == 1 and isinstance(row.input_shape[0], int)]


@pytest.mark.slow
@pytest.mark.parametrize("row", VECTOR_ROWS, ids=lambda row: row.name)
def test_any_core_acts_and_learns(row):
    world = Cue(3)
    agent = Agent(MLPTorso(), row.create(), world.num_actions).build_for(observation_spec(world))
    optimizer = keras.optimizers.Adam(1e-2)
    optimizer.build(agent.trainable_variables)
    learner = ActorCritic(agent, world, optimizer, Objective(), 4, 5, policy_lag=1)
    carry, before = learner.initial_carry((), 3), agent.get_weights()
    for update in range(2):  # eagerly: two updates take less time than their tracing
        carry, metrics = learner.train_step(tf.constant(update, tf.int64), (), carry, 3)
        assert np.isfinite(metrics["loss"])
        assert metrics["gradient_norm"] > 0
    assert any(np.any(a != b) for a, b in zip(before, agent.get_weights(), strict=True))
