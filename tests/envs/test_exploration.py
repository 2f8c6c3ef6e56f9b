"""Exploration policies, and what `collect` makes by them."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from tests.envs.support import assert_same
from tfmem.envs.exploration import ExploringPolicy, collect
from tfmem.envs.worlds import BACKWARD, FORWARD

SMALL = dict(frame_size=8, map_size=4)


class UniformPolicy:
    """Uniform actions, a policy of a user's own."""

    def start(self, rngs, world):
        return lambda infos, resets: np.array([rng.integers(4) for rng in rngs], np.int32)


POLICIES = [UniformPolicy(), ExploringPolicy()]


def city(num_envs=1, **arguments):
    return gymnasium.make_vec("tfmem/RandomCity-v0", num_envs, **SMALL, **arguments)


@pytest.mark.parametrize("policy", POLICIES, ids=["uniform", "exploring"])
def test_a_batch_is_its_trajectories_side_by_side(policy):
    together = collect(city(3), policy, 30, seed=11)
    for i in range(3):
        alone = collect(city(), policy, 30, seed=[11 + i])
        assert_same(alone, tuple(array[:, i : i + 1] for array in together))
    assert len(np.unique(together.actions.T, axis=0)) == 3


def test_actions_lead_from_a_frame_to_the_next():
    env = city(2, max_episode_steps=4)
    data = collect(env, ExploringPolicy(), 11, seed=3)
    assert data.frames.shape == (12, 2, 8, 8, 3)
    assert data.maps.shape == (12, 2, 4, 4, 3)
    assert (data.actions.shape, data.rewards.shape, data.headings.shape) == ((11, 2), (11, 2), (12, 2))
    # Four steps to the end of an episode, one that is ignored.
    assert np.flatnonzero(data.resets[:, 0]).tolist() == np.flatnonzero(data.resets[:, 1]).tolist() == [0, 5, 10]
    frame, info = env.reset(seed=3)
    for t in range(12):
        np.testing.assert_array_equal(data.frames[t], frame)
        np.testing.assert_array_equal(data.maps[t], info["map"])
        np.testing.assert_array_equal(data.positions[t], info["position"])
        np.testing.assert_array_equal(data.headings[t], info["heading"])
        if t < 11:
            frame, rewards, _, _, info = env.step(data.actions[t])
            np.testing.assert_array_equal(data.rewards[t], rewards)
    assert not data.positions[data.resets].any()  # they start in the middle


def test_rewards_are_collected():
    env = gymnasium.make_vec("tfmem/Terrain-v0", 1, **SMALL, size=16, num_blocks=60, speed=1.0)
    assert collect(env, ExploringPolicy(), 20, seed=0).rewards.sum() > 2


def test_exploring_goes_farther_and_does_not_stay_at_walls():
    def cells(policy):
        places = np.floor(collect(city(4), policy, 150, seed=1).positions)
        return np.mean([len(np.unique(places[:, i], axis=0)) for i in range(4)])

    assert cells(ExploringPolicy()) > 1.5 * cells(UniformPolicy())
    data = collect(city(4), ExploringPolicy(look=0.0), 200, seed=2)
    stays = np.linalg.norm(np.diff(data.positions, axis=0), axis=-1) < 0.01
    blocked = stays & (data.actions == FORWARD)
    assert blocked.any()  # else this shows nothing
    assert (data.actions[1:][blocked[:-1]] != FORWARD).all()  # it turns away at once
    assert (data.actions == BACKWARD).any()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ExploringPolicy(look=-0.1), "look"),
        (lambda: collect(gymnasium.make("tfmem/RandomCity-v0"), ExploringPolicy(), 1, 0), "env"),
        (lambda: collect(gymnasium.make_vec("CartPole-v1"), ExploringPolicy(), 1, 0), "env"),
        (lambda: collect(city(), ExploringPolicy(), 0, 0), "steps"),
        (lambda: collect(city(), ExploringPolicy(), 1, -1), "seed"),
        (lambda: collect(city(), ExploringPolicy(), 1, [1, 2]), "seed"),
    ],
)
def test_bad_arguments(make, name):
    with pytest.raises(ValueError, match=f"^{name}: .*must be"):
        make()


def test_worlds_start_without_tensorflow():
    program = """
import sys
import gymnasium
import tfmem.envs.exploration
gymnasium.make("tfmem/Terrain-v0", size=16)
assert not {"tensorflow", "keras", "sonnet", "matplotlib"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
