"""Gymnasium environments as worlds: their record equals a numpy loop, and any core trains in them."""

import dataclasses
import pickle
import threading

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from reproductions.runs import reason
from tests.training.test_trainer import Crash
from tfmem.aot.bundle import BundleError
from tfmem.aot.lowering import make_bundle
from tfmem.cores.config import LSTMConfig
from tfmem.rl import AgentConfig, AgentExperiment, MLPTorsoConfig, Objective
from tfmem.rl.agent import Agent, MLPTorso
from tfmem.rl.gymnasium_world import GymnasiumWorld
from tfmem.rl.learner import draws
from tfmem.rl.rollout import initial_actor_state, observation_spec, rollout
from tfmem.training import TrainingDivergedError, train

SEED = 5


class Cue(gymnasium.Env):
    """A cue of the first frame must be named in the last of `steps`; `fault` breaks a step."""

    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Box(-2.0, 9.0, (2,), np.float32)

    def __init__(self, steps=3, fault=None):
        self.steps, self.fault = steps, fault

    def _observed(self):
        shown = 2 * self.cue - 1 if self.time == 0 else 0
        shape = (3,) if self.fault == "shape" and self.time else (2,)
        return np.resize(np.array([shown, self.time], np.float32), shape)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cue, self.time = int(self.np_random.integers(2)), 0
        return self._observed(), {}

    def step(self, action):
        self.time += 1
        ended = self.time == self.steps
        reward = float(action == self.cue) if ended else 0.0
        return self._observed(), np.nan if self.fault == "reward" else reward, ended, False, {}


class Graph(Cue):
    """Observations of any number of nodes."""

    observation_space = gymnasium.spaces.Graph(gymnasium.spaces.Box(0.0, 1.0, (1,)), None)


gymnasium.register("tests/Graph-v0", Graph, max_episode_steps=9)
gymnasium.register("tests/Cue-v0", Cue, max_episode_steps=9)
gymnasium.register("tests/Endless-v0", Cue)
CONFIG = AgentConfig(
    world=GymnasiumWorld("tests/Cue-v0"),
    core=LSTMConfig(units=8),
    objective=Objective(reduction="mean", reward_mode="none", entropy_cost=0.01),
    num_worlds=4,
    unroll_length=5,
    learning_rate=1e-2,
    num_updates=8,
    updates_per_call=2,
    log_every=4,
    eval_every=4,
    checkpoint_every=4,
    eval_episodes=5,
)


def built(world):
    tf.keras.utils.set_random_seed(1)
    return Agent(MLPTorso(), LSTMConfig(units=3).make(), world.num_actions).build_for(observation_spec(world))


@pytest.mark.parametrize("arguments", ['{"steps": 3}', '{"steps": 20}'], ids=["terminated", "truncated"])
def test_records_equal_a_numpy_loop(arguments):
    world = GymnasiumWorld("tests/Cue-v0", arguments=arguments)
    agent, actor = built(world), None
    run = tf.function(lambda actor, *drawn: rollout(agent, world, (), actor, *drawn), autograph=False)
    actor = initial_actor_state(agent, world, (), 4, world.draw([SEED, 0], 4), keep_last=True)
    records = []
    for number in range(3):
        actor, record = run(actor, *draws(SEED, tf.constant(number, tf.int64), 5, 4))
        records.append(tf.nest.map_structure(lambda x: x.numpy()[1:], record.entries))
    entries = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *records)

    vector = SyncVectorEnv([world.make] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    words = np.random.SeedSequence([SEED, 0, 0]).generate_state(1)
    vector.reset(seed=int(words[0] // 2))
    for step, action in enumerate(entries.action):
        observation, reward, terminated, truncated, info = vector.step(action)
        last = observation.copy()
        for world_number in np.flatnonzero(terminated | truncated):
            last[world_number] = info["final_obs"][world_number]
        np.testing.assert_array_equal(entries.observation[step], observation)
        np.testing.assert_array_equal(entries.reward[step], reward.astype(np.float32))
        np.testing.assert_array_equal(entries.done[step], terminated | truncated)
        np.testing.assert_array_equal(entries.truncated[step], truncated)
        np.testing.assert_array_equal(entries.last_observation[step], last)
    assert entries.done.any()
    assert entries.truncated.any() == (arguments == '{"steps": 20}')


def test_parts_are_the_whole():
    """Two processes with two environments each step the same episodes as one with four."""
    world = GymnasiumWorld("tests/Cue-v0")
    decisions, action = world.draw([SEED, 20], 4), tf.constant([0, 1, 1, 0])
    parts = [tf.nest.map_structure(lambda x, part=part: x[part], decisions) for part in (slice(2), slice(2, 4))]
    whole, halves = world.reset((), decisions), [world.reset((), part) for part in parts]
    observed = []
    for _ in range(5):
        np.testing.assert_array_equal(whole[1], tf.concat([half[1] for half in halves], 0))
        observed.append(whole[1].numpy()[:, 0])
        whole = _stepped(world, whole[0], action)
        halves = [_stepped(world, half[0], action[2 * i : 2 * i + 2]) for i, half in enumerate(halves)]
    assert len(np.unique(observed, axis=1).T) > 1  # the environments differ


def _stepped(world, place, action):
    place, result = world.step((), place, action, world.draw([0, 1], len(action)))
    return place, result.observation


def step(world, place, action=(0, 1)):
    return world.step((), place, tf.constant(action, tf.int32), world.draw([0, 1], 2))


def test_a_repeated_call_is_one_step():
    world = GymnasiumWorld("tests/Cue-v0")
    place, _ = world.reset((), world.draw([SEED, 7], 2))
    after, first = step(world, place)
    _, again = step(world, place)
    _, second = step(world, after)
    np.testing.assert_array_equal(again.observation, first.observation)
    assert (first.observation[0, 1], second.observation[0, 1]) == (1, 2)


def test_a_call_without_use_is_not_run():
    world = GymnasiumWorld("tests/Cue-v0")
    place, _ = world.reset((), world.draw([SEED, 12], 2))

    @tf.function(autograph=False)
    def two(place):
        step(world, place, (1, 1))  # as the shapes of a loop are found
        return step(world, place, (0, 1))

    _, result = two(place)
    np.testing.assert_array_equal(result.observation[:, 1], [1, 1])
    assert not result.truncated.numpy().any()


def test_environments_of_two_seeds_are_two():
    world = GymnasiumWorld("tests/Cue-v0")
    places = [world.reset((), world.draw([SEED, number], 2))[0] for number in (8, 9)]
    times = []
    for _ in range(2):
        for index, place in enumerate(places):
            places[index], result = step(world, place)
            times.append(float(result.observation[0, 1]))
    assert times == [1, 1, 2, 2]


def test_a_state_without_its_environment_begins_anew_truncated():
    world = GymnasiumWorld("tests/Cue-v0", arguments='{"steps": 8}')
    place, _ = world.reset((), world.draw([SEED, 10], 2))
    elsewhere = place._replace(steps=place.steps + 6)  # as of a checkpoint of another process
    place, result = step(world, elsewhere)
    np.testing.assert_array_equal(result.truncated, [True, True])
    np.testing.assert_array_equal(result.observation[:, 1], [0, 0])
    place, result = step(world, place)
    np.testing.assert_array_equal(result.truncated, [False, False])
    np.testing.assert_array_equal(result.observation[:, 1], [1, 1])


def test_an_open_environment_is_not_pickled():
    world = GymnasiumWorld("tests/Cue-v0")
    world._made.unwrapped.lock = threading.Lock()
    assert pickle.loads(pickle.dumps(world)) == world


def test_observations_without_a_size_are_refused():
    with pytest.raises(ValueError, match=r"id: 'tests/Graph-v0' with observations .*, must have a fixed size"):
        GymnasiumWorld("tests/Graph-v0").make()


def test_two_runs_of_one_seed_are_refused():
    world = GymnasiumWorld("tests/Cue-v0", arguments='{"steps": 8}')
    first, _ = world.reset((), world.draw([SEED, 11], 2))
    first, _ = step(world, first)
    other = first._replace(steps=first.steps + 2)
    with pytest.raises(RuntimeError, match="two runs of one seed step these environments"):
        step(world, other)


def test_evaluations_repeat_and_leave_training_alone():
    scores = []
    for evaluations in (0, 2):
        experiment = AgentExperiment(CONFIG)
        carry = experiment.initial_carry()
        for number in range(3):
            scores.append([experiment.evaluate() for _ in range(evaluations)])
            carry, metrics = experiment.train_step(tf.constant(number, tf.int64), {}, carry)
        scores.append(float(metrics["loss"]))
    assert scores[3] == scores[-1]
    assert all(first == second for first, second in scores[4:7])


def test_other_observations_are_flattened():
    world = GymnasiumWorld("FrozenLake-v1")
    _, observation = world.reset((), world.draw([0, 0], 2))
    np.testing.assert_array_equal(observation, np.eye(16, dtype=np.float32)[[0, 0]])
    assert world.max_steps == 100


def test_images_of_terrain_are_bytes():
    world = GymnasiumWorld("tfmem.envs:tfmem/Terrain-v0", 4, '{"frame_size": 8, "size": 16, "num_blocks": 2}')
    config = dataclasses.replace(CONFIG, world=world, torso=MLPTorsoConfig(sizes=(8,)), num_worlds=2, unroll_length=3)
    experiment = AgentExperiment(config)
    _, metrics = experiment.train_step(tf.constant(0, tf.int64), {}, experiment.initial_carry())
    assert np.isfinite(metrics["loss"])


@pytest.mark.long
def test_a_memory_learns_what_an_agent_without_cannot(tmp_path):
    settings = dict(num_worlds=32, num_updates=100, updates_per_call=20, eval_every=0, checkpoint_every=0)
    returns = []
    for core in (LSTMConfig(units=16), None):
        config = dataclasses.replace(CONFIG, core=core, eval_episodes=64, **settings)
        returns.append(train(AgentExperiment(config), tmp_path / str(core))["ours"]["episode_return"])
    assert returns[0] > 0.9
    assert returns[1] < 0.75


@pytest.mark.long
def test_a_crashed_run_resumes_with_new_episodes(tmp_path):
    with pytest.raises(Crash):
        train(crashing(AgentExperiment(CONFIG), 6), tmp_path / "run")
    result = train(AgentExperiment(CONFIG), tmp_path / "run")
    assert result["updates"] == 8
    assert np.isfinite(result["ours"]["episode_return"])


def crashing(experiment, at):
    def batch(update):
        if update >= at:
            raise Crash
        return {}

    experiment.batch = batch
    return experiment


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id": "Nothing-v0"}, "id: 'Nothing-v0' with arguments {}, must be an environment that Gymnasium makes"),
        (
            {"id": "no_module:Nothing-v0"},
            "id: 'no_module:Nothing-v0' with arguments {}, must be an environment that Gymnasium makes",
        ),
        ({"id": "Pendulum-v1"}, r"id: 'Pendulum-v1' with actions Box.*, must have integers from 0"),
        (
            {"id": "tests/Endless-v0"},
            "max_episode_steps: 0, must be at least 1: 'tests/Endless-v0' is registered without",
        ),
        ({"id": "tests/Cue-v0", "arguments": "steps=3"}, "arguments: 'steps=3', must be a JSON object"),
        ({"id": "tests/Cue-v0", "arguments": {"steps": 3}}, "arguments: {'steps': 3}, must be a JSON object"),
        ({"id": "tests/Cue-v0", "max_episode_steps": 1.5}, "max_episode_steps: 1.5, must be an integer"),
        ({"id": "tests/Cue-v0", "arguments": "[3]"}, r"arguments: '\[3\]', must be a JSON object"),
        (
            {"id": "tests/Cue-v0", "arguments": '{"stepz": 3}'},
            "id: 'tests/Cue-v0' with arguments .*stepz.*, must be an environment that Gym",
        ),
        ({"id": "tests/Cue-v0", "max_episode_steps": -1}, "max_episode_steps: -1, must be"),
    ],
)
def test_bad_environments(arguments, message):
    with pytest.raises(ValueError, match=message):
        AgentExperiment(dataclasses.replace(CONFIG, world=GymnasiumWorld(**arguments)))


def test_xla_and_bundles_are_refused():
    with pytest.raises(ValueError, match="jit_compile: True, must be False"):
        dataclasses.replace(CONFIG, jit_compile=True)
    assert CONFIG.jit_compile is False
    with pytest.raises(BundleError, match="world: GymnasiumWorld, must be a world of the graph"):
        make_bundle(AgentExperiment(CONFIG))
    with pytest.raises(ValueError, match="world: GymnasiumWorld, must be a world of the graph"):
        AgentExperiment(CONFIG).play()


@pytest.mark.filterwarnings("ignore:.*(not within the observation space|reward is a NaN)")
def test_a_changed_shape_and_nan_stop_the_run(tmp_path):
    def faulty(fault):
        world = GymnasiumWorld("tests/Cue-v0", arguments=f'{{"fault": "{fault}"}}')
        return AgentExperiment(dataclasses.replace(CONFIG, world=world))

    with pytest.raises(tf.errors.OpError) as caught:
        train(faulty("shape"), tmp_path / "shape")
    assert reason(caught.value).endswith(": RuntimeError: tests/Cue-v0: a step failed: Output array is the wrong shape")
    with pytest.raises(TrainingDivergedError, match="loss is nan at update 1"):
        train(faulty("reward"), tmp_path / "reward")
