"""The goal maze: recorded episodes, a slow reference, and the contract."""

import numpy as np
import pytest
import tensorflow as tf

from tests.envs.grid.support import (
    assert_faces_are_gymnasiums,
    assert_lowers_to_stablehlo,
    assert_xla_equals_eager_and_repeats,
    run,
    tensors,
)
from tests.references.goal_maze import GoalMaze as Reference
from tests.references.goal_maze import make_walls
from tests.support import golden_files
from tfmem.envs.grid.goal_maze import Decisions, GoalMaze, Levels

TRACES = golden_files("plastic_maze/*.npz", "episode_names")  # under a non-commercial license: never in this repository
ZERO = Decisions(tf.zeros([1], tf.int32), tf.zeros([1], tf.int32))


def names(case):
    return [key.removesuffix("/lab") for key in case.files if key.endswith("/lab")]


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_golden_traces_replay_exactly(path):
    case = np.load(path)
    settings = {name: (len(case[f"{name}/lab"]), len(case[f"{name}/action"])) for name in names(case)}
    for side, steps in sorted(set(settings.values())):
        episodes = [name for name, setting in settings.items() if setting == (side, steps)]
        world = GoalMaze(side=side, max_steps=steps)

        def stacked(field, episodes=episodes):
            return np.stack([case[f"{name}/{field}"] for name in episodes])

        def cells(field, side=side, stacked=stacked):
            return (stacked(field).astype(np.int32) @ [side, 1]).astype(np.int32)

        teleports = np.full([len(episodes), steps], side**2 // 2)  # one variant draws nothing and takes the middle
        for episode, name in enumerate(episodes):
            for step, row, column in case[f"{name}/teleport_draws"]:  # the last pair of a step counts
                teleports[episode, step] = row * side + column
            np.testing.assert_array_equal(case[f"{name}/lab"], world.walls())
        levels, number = tensors(Levels(cells("goal"))), tf.range(len(episodes))
        state, observation = world.reset(levels, Decisions(number, number))
        advance, observe = (tf.function(f, autograph=False) for f in (world.advance, world.observe))
        inputs, positions, after = stacked("input"), cells("pos"), cells("pos_next")
        actions, rewards = stacked("action").astype(np.int32), stacked("reward")
        for t in range(steps):
            np.testing.assert_array_equal(observation, inputs[:, t])
            np.testing.assert_array_equal(state.player, positions[:, t])
            decisions = Decisions(number, tf.constant(teleports[:, t], tf.int32))
            outcome = advance(levels, state, tf.constant(actions[:, t]), decisions)
            state, observation = outcome.state, observe(outcome.state)
            np.testing.assert_array_equal(state.player, after[:, t])
            np.testing.assert_array_equal(outcome.reward, rewards[:, t].astype(np.float32))
            assert not outcome.terminated.numpy().any()
            assert (outcome.truncated.numpy() == (t == steps - 1)).all()
        np.testing.assert_allclose(rewards.sum(axis=1), stacked("sum_reward"), atol=1e-9)


@pytest.mark.parametrize("side", [9, 7])
def test_reference_over_random_steps(side):
    """51,200 steps each way; episodes end and begin in between."""
    world = GoalMaze(side=side, max_steps=60)
    levels, batch_size, steps, seed = world.levels(world.num_levels, seed=0), 256, 200, 4
    states, results = run(world, levels, batch_size, steps, seed, action_high=5)
    actions = np.random.default_rng(seed).integers(0, 5, [steps, batch_size], np.int32)
    drawn = [Decisions(*(x.numpy() for x in world.draw([seed, number], batch_size))) for number in range(steps + 1)]

    def begin(number, i):
        goal = levels.goal[drawn[number].level[i] % len(levels.goal)]
        return Reference(side, divmod(int(goal), side))

    references, hits = [begin(0, i) for i in range(batch_size)], 0
    for t, result in enumerate(results):
        teleports = [divmod(int(cell), side) for cell in drawn[t + 1].teleport]
        rewards = [r.step(a, c) for r, a, c in zip(references, actions[t], teleports, strict=True)]
        np.testing.assert_array_equal(result.reward, np.float32(rewards))
        assert not result.terminated.any()
        np.testing.assert_array_equal(result.truncated, [r.steps == world.max_steps for r in references])
        shown = np.stack([reference.observe() for reference in references])
        np.testing.assert_array_equal(result.last_observation, shown)
        for i in np.flatnonzero(result.truncated):
            references[i] = begin(t + 1, i)
            shown[i] = references[i].observe()
        np.testing.assert_array_equal(result.observation, shown)
        np.testing.assert_array_equal(states[t + 1].player, [r.player[0] * side + r.player[1] for r in references])
        hits += (result.reward > 9).sum()
    assert hits > 50


def test_walls_and_pool():
    world = GoalMaze()
    np.testing.assert_array_equal(world.walls(), make_walls(9))
    assert world.num_levels == 41
    for seed in (0, 1):
        goals = world.levels(82, seed).goal
        np.testing.assert_array_equal(np.bincount(goals, minlength=81), 2 * ~make_walls(9).reshape(-1))
    assert (world.levels(41, 0).goal != world.levels(41, 1).goal).any()


def test_teleports_are_uniform_over_the_free_cells():
    cells = GoalMaze().draw([0, 0], 41_000).teleport.numpy()
    counts = np.bincount(cells, minlength=81)
    np.testing.assert_array_equal(counts > 0, ~make_walls(9).reshape(-1))
    expected = 1000
    assert ((counts[counts > 0] - expected) ** 2 / expected).sum() < 74  # chi square of 40 degrees at 0.1%


def test_a_blocked_action_on_the_goal_pays():
    """The agent is put on the goal itself, next to a wall: -0.1 + 10."""
    world = GoalMaze()
    levels = Levels(np.array([4 * 9 + 3], np.int32))
    goal = Decisions(ZERO.level, tf.constant([4 * 9 + 3]))
    state, _ = world.reset(levels, ZERO)
    state, first = world.step(levels, state, tf.constant([2]), goal)
    state, second = world.step(levels, state, tf.constant([2]), goal)
    assert first.reward.numpy() == [10]
    assert second.reward.numpy() == np.float32([9.9])
    np.testing.assert_array_equal(second.observation[0, 14:], np.float32([9.9, 2, 1]))


def test_xla_equals_eager_and_repeats():
    assert_xla_equals_eager_and_repeats(GoalMaze(max_steps=15))


def test_step_lowers_to_stablehlo():
    assert_lowers_to_stablehlo(GoalMaze())


def test_gymnasium_faces():
    assert_faces_are_gymnasiums("tfmem/GoalMaze-v0", max_steps=12)


def test_time_as_a_share_of_the_episode():
    plain, relative = (GoalMaze(max_steps=8, relative_time=share) for share in (False, True))
    state = plain.begin(Levels(tf.constant([11])))._replace(steps=tf.constant([6]))
    expected = plain.observe(state).numpy()
    expected[0, 15] /= 8
    np.testing.assert_array_equal(relative.observe(state), expected)
    assert (plain.observation_high[15], relative.observation_high[15]) == (8, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"side": 8}, "side: 8, must be odd"),
        ({"side": 3}, "side: 3, must be from 5 to 99"),
        ({"side": "9"}, "side: '9', must be an integer"),
        ({"max_steps": 0}, "max_steps: 0, must be at least 1"),
        ({"relative_time": 1}, "relative_time: 1, must be True or False"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        GoalMaze(**arguments)


def test_bad_levels_and_actions():
    world = GoalMaze()
    with pytest.raises(ValueError, match=r"^number: 1.5, must be an integer"):
        world.levels(1.5, seed=0)
    with pytest.raises(ValueError, match=r"^seed: -1, must be at least 0"):
        world.levels(1, seed=-1)
    levels = world.levels(2, seed=0)
    state, _ = world.reset(levels, world.draw([0, 0], 3))
    with pytest.raises(ValueError, match=r"^action: int32 \(2,\), must be integers \[3\]"):
        world.step(levels, state, [0, 1], world.draw([0, 1], 3))
