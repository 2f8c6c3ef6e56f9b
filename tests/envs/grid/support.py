"""Common part of the tests of the grid worlds."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from tests.envs.support import assert_vector_equals_singles
from tfmem.aot.lowering import lower


def compiled(function):
    return tf.function(function, jit_compile=True, autograph=False)


def tensors(nest):
    return tf.nest.map_structure(tf.constant, nest)


def numpy(nest):
    return tf.nest.map_structure(lambda x: x.numpy(), nest)


def assert_equal(a, b):
    tf.nest.map_structure(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def stepper(world, levels, batch_size, wrap=None):
    """`step(state, action, seed)` of a pool, compiled by XLA unless `wrap` says how."""
    levels = tensors(levels)

    def step(state, action, seed):
        return world.step(levels, state, action, world.draw(seed, batch_size))

    return (wrap or compiled)(step)


def run(world, levels, batch_size, steps, seed, step=None, action_high=None):
    """A random policy's (states, results) as lists of nests of numpy arrays; `states` has the first one too."""
    step = step or stepper(world, levels, batch_size)
    state, _ = world.reset(tensors(levels), world.draw([seed, 0], batch_size))
    actions = np.random.default_rng(seed).integers(0, action_high or world.num_actions, [steps, batch_size], np.int32)
    states, results = [numpy(state)], []
    for number, action in enumerate(actions, start=1):
        state, result = step(state, tf.constant(action), tf.constant([seed, number]))
        states.append(numpy(state))
        results.append(numpy(result))
    return states, results


def assert_xla_equals_eager_and_repeats(world, batch_size=6, steps=30):
    """The same numbers from XLA, from a graph and eagerly, again with the same seed, others with another."""
    levels = world.levels(20, seed=3)
    xla, graph, eager = (
        stepper(world, levels, batch_size, wrap)
        for wrap in (compiled, lambda function: tf.function(function, autograph=False), lambda function: function)
    )
    first = run(world, levels, batch_size, steps, seed=1, step=xla)
    for step in (xla, graph, eager):
        assert_equal(first, run(world, levels, batch_size, steps, seed=1, step=step))
    assert_equal(levels, world.levels(20, seed=3))
    other = run(world, levels, batch_size, steps, seed=2, step=xla)
    assert any((a.observation != b.observation).any() for a, b in zip(first[1], other[1], strict=True))


def assert_lowers_to_stablehlo(world, batch_size=4):
    levels = tensors(world.levels(8, seed=0))
    state, _ = world.reset(levels, world.draw([0, 0], batch_size))

    def step(levels, state, action, seed):
        return world.step(levels, state, action, world.draw(seed, batch_size))

    specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), (levels, state))
    text, _ = lower(step, *specs, tf.TensorSpec([batch_size], tf.int32), tf.TensorSpec([2], tf.int32))
    assert "stablehlo." in text
    assert "custom_call" not in text


def assert_faces_are_gymnasiums(name, **short):
    """check_env, seeds, both kinds of rendering, autoreset, and bad arguments; `short` makes episodes end early."""
    env = gymnasium.make(name, render_mode="rgb_array", **short)
    check_env(env.unwrapped)
    first, _ = env.reset(seed=3)
    picture = env.render()
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    env.step(0)
    again, _ = env.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(picture, env.render())
    assert_vector_equals_singles(name, steps=40, max_episode_steps=9, **short)
    assert_vector_equals_singles(name, steps=60, max_episode_steps=1000, **short)
    envs = gymnasium.make_vec(name, 2, render_mode="rgb_array", **short)
    envs.reset(seed=3)
    np.testing.assert_array_equal(envs.render()[0], picture)

    fresh = gymnasium.make(name).unwrapped
    with pytest.raises(ResetNeeded):
        fresh.step(0)
    fresh.reset(seed=0)
    for action in (-1, fresh.action_space.n, 0.5):
        with pytest.raises(ValueError, match=r"^action: "):
            fresh.step(action)
    for actions in ([0], [0, fresh.action_space.n], [0.5, 0]):
        with pytest.raises(ValueError, match=r"^actions: "):
            envs.step(actions)
    with pytest.raises(ValueError, match=r"^seed: 3 seeds, must be num_envs = 2"):
        envs.reset(seed=[1, 2, 3])
    for arguments, message in (
        ({"render_mode": "human"}, "^render_mode: 'human', must be"),
        ({"num_levels": 0}, "^num_levels: 0, must be"),
        ({"level_seed": -1}, "^level_seed: -1, must be"),
    ):
        with pytest.raises(ValueError, match=message):
            type(fresh)(**arguments)
    with pytest.raises(ValueError, match=r"^num_envs: 0, must be"):
        type(envs.unwrapped)(num_envs=0)
    with pytest.raises(ValueError, match=r"^max_episode_steps: 0, must be"):
        type(envs.unwrapped)(max_episode_steps=0)
