"""Procedural Terrain as a world: its record equals a numpy loop, its states are all there is, and what it refuses."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from tests.envs.grid.support import assert_equal, numpy, tensors
from tfmem.aot.bundle import BundleError
from tfmem.aot.lowering import make_bundle
from tfmem.cores.config import LSTMConfig
from tfmem.envs.worlds import FORWARD, TURN_LEFT
from tfmem.rl import AgentConfig, AgentExperiment
from tfmem.rl import terrain_world as module
from tfmem.rl.config import FrameTorsoConfig
from tfmem.rl.learner import draws
from tfmem.rl.rollout import rollout
from tfmem.rl.terrain_world import Choice, Levels, TerrainWorld

WORLD = TerrainWorld(frame_size=8, map_size=6, size=16, num_blocks=50, speed=1.0, max_steps=7)
LEVELS = Levels(np.array([11, 12, 13]))
CONFIG = AgentConfig(
    world=WORLD,
    core=LSTMConfig(units=3),
    torso=FrameTorsoConfig(channels=(2,), embedding_size=3),
    num_worlds=3,
    unroll_length=5,
    learning_rate=1e-2,
    num_updates=4,
    eval_episodes=3,
)


def choice(*levels):
    return Choice(tf.constant(levels, tf.int32))


def run(actions, world=WORLD):
    """`(states, results)` of three worlds, each on the next level when an episode ends."""
    levels = tensors(LEVELS)
    state, _ = world.reset(levels, choice(0, 1, 2))
    states, results = [numpy(state)], []
    for action in actions:
        state, result = world.step(levels, state, tf.constant(action, tf.int32), choice(1, 2, 0))
        states.append(numpy(state))
        results.append(numpy(result))
    return states, results


def test_records_equal_a_numpy_loop(rng):
    actions = rng.choice(4, [10, 3], p=[0.7, 0.1, 0.1, 0.1])
    states, results = run(actions)
    labels = [WORLD.labels(tensors(state)).numpy() for state in states[1:]]
    rewards = 0
    for index, (first, then) in enumerate(((11, 12), (12, 13), (13, 11))):
        fields = {name: value for name, value in dataclasses.asdict(WORLD).items() if name != "max_steps"}
        env = gymnasium.make("tfmem/Terrain-v0", max_episode_steps=7, **fields)
        env.reset(seed=first)
        for action, result, maps in zip(actions[:, index], results, labels, strict=True):
            frame, reward, terminated, truncated, info = env.step(action)
            np.testing.assert_array_equal(result.last_observation[index], frame)
            if terminated or truncated:
                frame, info = env.reset(seed=then)
            np.testing.assert_array_equal(result.observation[index], frame)
            np.testing.assert_array_equal(maps[index], info["map"])
            assert (result.reward[index], result.terminated[index], result.truncated[index]) == (
                reward, terminated, truncated,
            )  # fmt: skip
            rewards += reward
    assert rewards > 5
    assert sum(result.truncated.sum() for result in results) == 3


def test_an_episode_ends_with_its_last_block():
    world = dataclasses.replace(WORLD, num_blocks=1, max_steps=99)
    state = world.begin(tf.constant([11], tf.int64))
    terrain = world.make()
    terrain.reset(np.random.default_rng(11))
    near = state._replace(position=tf.constant(terrain.placed - [0, 1.3], tf.float64))
    after, result = world.step(tensors(LEVELS), near, tf.constant([FORWARD]), choice(2))
    assert (result.reward, result.terminated, result.truncated) == (1, True, False)
    assert_equal(after, world.begin(tf.constant([13], tf.int64)))


def test_states_are_all_there_is(rng):
    """Another process starts from a state of a checkpoint: nothing else is remembered."""
    actions = rng.choice(4, [9, 3], p=[0.7, 0.1, 0.1, 0.1])
    states, results = run(actions)
    assert not states[5].left.all()
    module._kept.clear()
    state = tensors(states[5])
    for number in range(5, 9):
        state, result = WORLD.step(tensors(LEVELS), state, tf.constant(actions[number], tf.int32), choice(1, 2, 0))
        assert_equal(state, states[number + 1])
        assert_equal(result, results[number])


def test_terrains_are_made_again_when_they_are_needed_again(monkeypatch, rng):
    actions = rng.choice(4, [9, 3], p=[0.7, 0.1, 0.1, 0.1])
    states, results = run(actions)
    monkeypatch.setattr(module, "LARGEST_KEPT", 1)
    module._kept.clear()
    again = run(actions)
    assert_equal(states, again[0])
    assert_equal(results, again[1])
    assert len(module._kept) == 1


def test_the_next_step_without_the_next_episode(rng):
    states, _ = run(rng.integers(4, size=[6, 3]))
    action = tf.constant([FORWARD, FORWARD, TURN_LEFT])
    outcome = WORLD.advance(tensors(LEVELS), tensors(states[6]), action, choice(1, 2, 0))
    assert outcome.truncated.numpy().all()
    np.testing.assert_array_equal(outcome.state.steps, [7, 7, 7])
    np.testing.assert_array_equal(outcome.state.seed, states[6].seed)
    after, _ = WORLD.step(tensors(LEVELS), tensors(states[6]), action, choice(1, 2, 0))
    np.testing.assert_array_equal(after.seed, [12, 13, 11])


def test_pools_of_other_seeds_have_other_terrains():
    one, again, other = (WORLD.levels(50, seed).seed for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not set(one) & set(other)


def test_an_agent_sees_frames_and_its_record_has_the_maps():
    experiment = AgentExperiment(CONFIG)
    actor = experiment.initial_carry().actor
    drawn = draws(1, tf.constant(0, tf.int64), CONFIG.unroll_length, CONFIG.num_worlds)
    after, record = rollout(experiment.model, WORLD, experiment.levels, actor, *drawn)
    assert experiment.model.observation_spec.shape == (8, 8, 3)
    np.testing.assert_array_equal(record.entries.observation[-1], WORLD.observe(after.world))
    np.testing.assert_array_equal(record.entries.labels[-1], WORLD.labels(after.world))
    assert record.entries.labels.shape == (6, 3, 6, 6, 3)


def test_a_play_shows_frames_and_maps():
    played = AgentExperiment(CONFIG).play()
    assert played.pictures.shape == (8, 128, 256, 3)
    assert played.pictures.dtype == np.uint8
    np.testing.assert_array_equal(played.states.steps, np.arange(8))
    moved = np.any(np.diff(played.states.position, axis=0), -1)
    np.testing.assert_array_equal(moved, played.actions < TURN_LEFT)


def test_bundles_and_bad_fields_are_refused():
    with pytest.raises(BundleError, match="world: TerrainWorld, must be a world of the graph"):
        make_bundle(AgentExperiment(CONFIG))
    for change, message in (({"max_steps": 0}, "max_steps: 0"), ({"size": 15}, "size: 15"), ({"speed": 0}, "speed: 0")):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(WORLD, **change)
