"""The grid worlds' contract: T steps in one compiled loop, draws from a seed alone, and what an import costs."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from tests.envs.grid.support import assert_equal, compiled, numpy, run, tensors
from tests.envs.support import COPIES, assert_same, play
from tfmem.envs.grid.base import Step, select, take
from tfmem.envs.grid.box_world import BoxWorld
from tfmem.envs.grid.goal_maze import GoalMaze
from tfmem.envs.grid.mapping_maze import MappingMaze
from tfmem.envs.grid.mini_pacman import MiniPacman

WORLDS = [BoxWorld(max_steps=7), GoalMaze(max_steps=7), MappingMaze(max_steps=7), MiniPacman(max_steps=7)]


def name(world):
    return type(world).__name__


@pytest.mark.parametrize("world", WORLDS, ids=name)
def test_compiled_loop_equals_single_steps(world):
    """20 steps of 5 worlds inside one `tf.while_loop`, over the ends of episodes."""
    batch_size, steps, seed = 5, 20, 2
    levels = world.levels(9, seed=0)
    states, results = run(world, levels, batch_size, steps, seed)
    actions = tf.constant(np.random.default_rng(seed).integers(0, world.num_actions, [steps, batch_size], np.int32))
    pool = tensors(levels)

    @compiled
    def rollout(state):
        def step(t, state, rewards, observations):
            state, result = world.step(pool, state, actions[t], world.draw(tf.stack([seed, t + 1]), batch_size))
            return t + 1, state, rewards.write(t, result.reward), observations.write(t, result.observation)

        rewards = tf.TensorArray(tf.float32, steps, element_shape=[batch_size])
        shape = [batch_size, *world.observation_shape]
        observations = tf.TensorArray(world.observation_dtype, steps, element_shape=shape)
        loop = (0, state, rewards, observations)
        _, state, rewards, observations = tf.while_loop(lambda t, *_: t < steps, step, loop, maximum_iterations=steps)
        return state, rewards.stack(), observations.stack()

    state, rewards, observations = rollout(tensors(states[0]))
    assert_equal(numpy(state), states[-1])
    np.testing.assert_array_equal(rewards, [result.reward for result in results])
    np.testing.assert_array_equal(observations, [result.observation for result in results])
    assert sum(result.truncated.sum() for result in results) >= 5


@pytest.mark.parametrize("world", WORLDS, ids=name)
def test_what_a_step_gives(world):
    state, observation = world.reset(world.levels(4, seed=0), world.draw([0, 0], 3))
    after, result = world.step(world.levels(4, seed=0), state, [0, 1, 2], world.draw([0, 1], 3))
    assert isinstance(result, Step)
    for seen in (observation, result.observation, result.last_observation):
        assert (seen.shape, seen.dtype) == ((3, *world.observation_shape), world.observation_dtype)
    assert [(x.shape, x.dtype) for x in after] == [(x.shape, x.dtype) for x in state]
    assert [x.dtype for x in result[1:4]] == [tf.float32, tf.bool, tf.bool]
    picture = world.picture(state)
    assert (picture.dtype, picture.shape[0], picture.shape[-1]) == (tf.uint8, 3, 3)


@pytest.mark.parametrize("world", WORLDS, ids=name)
def test_draws_are_a_function_of_the_seed(world):
    draw = tf.function(lambda seed: world.draw(seed, 64), jit_compile=True)
    first = numpy(world.draw([3, 4], 64))
    assert_equal(first, numpy(draw(tf.constant([3, 4]))))
    for seed in ([3, 5], [4, 4]):
        assert any((a != b).any() for a, b in zip(first, numpy(world.draw(seed, 64)), strict=True))
    assert min(x.min() for x in first) >= 0


def test_levels_of_the_pool_come_alike_likely():
    world = BoxWorld()
    counts = np.bincount(world.draw([0, 0], 10_000).level.numpy() % 10, minlength=10)
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9  # chi square of 9 degrees at 0.1%


def test_take_counts_modulo_the_pool_and_select_takes_by_world():
    pool = (np.arange(3), np.arange(12).reshape(3, 2, 2))
    taken = take(pool, tf.constant([4, 2, 3]))
    assert_equal(numpy(taken), (np.array([1, 2, 0]), pool[1][[1, 2, 0]]))
    mixed = select(tf.constant([True, False, True]), taken, tf.nest.map_structure(tf.zeros_like, taken))
    assert_equal(numpy(mixed), (np.array([1, 0, 0]), pool[1][[1, 0, 0]] * np.array([1, 0, 1])[:, None, None]))


@pytest.mark.parametrize("world", WORLDS, ids=name)
def test_equal_settings_are_one_world(world):
    again = type(world)(max_steps=7)
    assert again == world
    assert hash(again) == hash(world)
    assert type(world)(max_steps=8) != world


@pytest.mark.parametrize("world", WORLDS, ids=name)
def test_held_out_levels_are_another_level_seed(world):
    ids = f"tfmem/{name(world)}-v0"
    first, same, other = (gymnasium.make(ids, num_levels=3, level_seed=seed) for seed in (0, 0, 1))
    seen = [np.stack([env.reset(seed=seed)[0] for seed in range(10)]) for env in (first, same)]
    assert_same(*seen)
    levels = [env.unwrapped.world.levels(3, seed) for env, seed in ((first, 0), (other, 1))]
    assert any((a != b).any() for a, b in zip(*levels, strict=True))


@pytest.mark.parametrize("kind", [gymnasium.make, lambda ids, **arguments: gymnasium.make_vec(ids, 2, **arguments)])
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("world", WORLDS, ids=name)
def test_copies_live_on_their_own(world, kind, copied):
    env = kind(f"tfmem/{name(world)}-v0", num_levels=3, max_steps=7)
    copied(env).reset(seed=3)  # before the first reset as well
    env.reset(seed=4)
    actions = np.random.default_rng(1).integers(0, 4, [20, *env.action_space.shape])
    for action in actions[:3]:
        env.step(action)
    twin = copied(env)
    assert_same(*(play(one, actions[3:6]) for one in (twin, env)))


def test_registration_imports_no_tensorflow():
    code = "import sys, tfmem.envs; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
