"""The mapping maze: a slow reference, the mapping task's episodes, exact rewards, and the contract."""

import numpy as np
import pytest
import tensorflow as tf

from tests.envs.grid.support import (
    assert_faces_are_gymnasiums,
    assert_lowers_to_stablehlo,
    assert_xla_equals_eager_and_repeats,
    compiled,
    numpy,
    run,
    tensors,
)
from tests.references.mapping_maze import MappingMaze as Reference
from tfmem.envs.grid.mapping_maze import Decisions, Levels, MappingMaze
from tfmem.tasks.mapping import Episode

SMALL = dict(side=11, target_size=12, centred=True)


@pytest.mark.parametrize("arguments", [SMALL, dict(side=7, target_size=48), dict(side=15)], ids=str)
def test_reference_over_random_steps(arguments):
    """6,400 steps each way, a fifth of them waits; episodes end and begin in between."""
    world = MappingMaze(max_steps=60, **arguments)
    levels, batch_size, steps, seed = world.levels(20, seed=0), 32, 200, 4
    states, results = run(world, levels, batch_size, steps, seed, action_high=5)
    actions = np.random.default_rng(seed).integers(0, 5, [steps, batch_size], np.int32)
    drawn = [numpy(world.draw([seed, number], batch_size)) for number in range(steps + 1)]
    labels = compiled(world.labels)

    def begin(number, i):
        maze = levels.cells[drawn[number].level[i] % len(levels.cells)]
        return Reference(maze, world.task().start, world.target_size)

    references, blocked_steps = [begin(0, i) for i in range(batch_size)], 0
    for t, result in enumerate(results):
        outcomes = [r.step(a, n) for r, a, n in zip(references, actions[t], drawn[t + 1].query, strict=True)]
        new, blocked = np.float32(outcomes).T
        np.testing.assert_allclose(result.reward, new / 3 - 0.01 * blocked, atol=1e-6)
        blocked_steps += blocked.sum()
        assert not result.terminated.any()
        np.testing.assert_array_equal(result.truncated, [r.steps == world.max_steps for r in references])
        shown = np.stack([reference.observe() for reference in references])
        np.testing.assert_array_equal(result.last_observation, shown)
        for i in np.flatnonzero(result.truncated):
            references[i] = begin(t + 1, i)
            shown[i] = references[i].observe()
        np.testing.assert_array_equal(result.observation, shown)
        if t % 7 and not result.truncated.any():
            continue
        seen = world.seen(states[t + 1]).numpy().reshape(batch_size, world.side, world.side)
        assert [set(map(tuple, np.argwhere(cells))) for cells in seen] == [r.seen for r in references]
        expected = zip(*(reference.labels() for reference in references), strict=True)
        for found, label in zip(labels(states[t + 1]), expected, strict=True):
            np.testing.assert_array_equal(found, np.stack(label))
    assert blocked_steps > 300


def test_inputs_queries_and_targets_are_the_mapping_tasks():
    """A walk of the world, replayed by the numpy task, whose own goldens are the public code's."""
    world = MappingMaze(side=15, max_steps=50)
    levels, batch_size = world.levels(8, seed=2), 8
    decisions = Decisions(tf.range(batch_size), tf.zeros([batch_size], tf.int32))
    state, observation = world.reset(tensors(levels), decisions)
    step, labels = compiled(world.step), compiled(world.labels)
    states, observations = [numpy(state)], [observation.numpy()]
    for number in range(1, world.max_steps):
        actions = np.random.default_rng(number).integers(0, 4, batch_size, np.int32)
        drawn = world.draw([5, number], batch_size)._replace(level=decisions.level)
        state, result = step(tensors(levels), state, tf.constant(actions), drawn)
        states.append(numpy(state))
        observations.append(result.observation.numpy())

    def walk(field):
        return np.stack(np.divmod([getattr(state, field) for state in states], world.side), -1)

    queries = walk("query")
    same = (walk("player")[None] == queries[:, None]).all(-1)  # [step of the query, step of the walk, item]
    episode = Episode(world.task(), levels.cells, walk("player"), None, {3: same.argmax(axis=1)})
    np.testing.assert_array_equal(observations, episode.writer())
    found = [numpy(labels(state)) for state in states]
    np.testing.assert_array_equal([label.query for label in found], episode.queries(3))
    np.testing.assert_array_equal([label.target for label in found], episode.targets(3))


def test_exact_rewards():
    """An empty maze: 3 cells in a straight line, 5 around a corner of the view, none on the way back."""
    world = MappingMaze(max_steps=9, **SMALL)
    cells = np.zeros([1, 11, 11], np.int8)
    cells[:, [0, -1]] = cells[:, :, [0, -1]] = 1
    zero = Decisions(tf.zeros([1], tf.int32), tf.zeros([1], tf.int32))
    state, _ = world.reset(Levels(cells), zero)
    rewards = []
    for action in (3, 3, 2, 0, 0, 0, 0, 9, 1):
        state, result = world.step(Levels(cells), state, tf.constant([action]), zero)
        rewards.append(float(result.reward[0]))
    np.testing.assert_allclose(rewards, [1, 1, 0, 1, 1, 1, 1, 0, 0], atol=1e-6)
    assert result.truncated.numpy() == [True]
    state, _ = world.reset(Levels(cells), zero)
    for action, expected in ((0, 1), (0, 1), (0, 1), (0, 1), (0, -0.01)):
        state, result = world.step(Levels(cells), state, tf.constant([action]), zero)
        np.testing.assert_allclose(result.reward, [expected], atol=1e-6)


def test_queries_are_the_places_of_all_steps_alike_likely():
    world = MappingMaze(max_steps=99, **SMALL)
    levels = tensors(world.levels(1, seed=0))
    state, _ = world.reset(levels, Decisions(tf.constant([0]), tf.constant([0])))
    path = [int(state.player[0])]
    for number in range(11):
        state, _ = world.step(
            levels, state, tf.constant([number % 4]), Decisions(tf.constant([0]), tf.constant([number]))
        )
        path.append(int(state.player[0]))
    found = []
    for number in range(13):
        drawn = Decisions(tf.constant([0]), tf.constant([number]))
        after, _ = world.step(levels, state, tf.constant([4]), drawn)
        found.append(int(after.query[0]))
    assert sorted(found) == sorted([*path, path[-1]])


def test_every_free_cell_can_be_reached_and_what_can_be_seen_is_counted():
    for side in (7, 11, 15, 23):
        world = MappingMaze(side=side)
        levels = world.levels(30, seed=1)
        for cells, visible in zip(levels.cells, world.num_visible(levels).numpy(), strict=True):
            middle = (side // 2, side // 2)
            assert cells[middle] == 0
            reached, waiting, seen = {middle}, [middle], set()
            while waiting:
                place = waiting.pop()
                seen |= set(Reference.patch_places(place))
                for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                    beside = place[0] + down, place[1] + right
                    if not cells[beside] and beside not in reached:
                        reached.add(beside)
                        waiting.append(beside)
            assert len(reached) == (cells == 0).sum()
            assert len(seen) == visible


def test_pools():
    world = MappingMaze(**SMALL)
    first, same, other = (world.levels(5, seed).cells for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    assert len(np.unique(world.levels(200, 3).cells, axis=0)) > 190


def test_pictures_show_what_was_seen():
    world = MappingMaze(**SMALL)
    state, _ = world.reset(tensors(world.levels(2, 0)), world.draw([0, 0], 2))
    picture, seen = world.picture(state).numpy(), world.seen(state).numpy()
    colors = [set(map(tuple, image.reshape(-1, 3)[cells])) for image, cells in zip(picture, seen, strict=True)]
    unseen = [set(map(tuple, image.reshape(-1, 3)[~cells])) for image, cells in zip(picture, seen, strict=True)]
    assert seen.sum() == 18
    assert all(not a & b for a, b in zip(colors, unseen, strict=True))
    assert all((40, 100, 180) in a for a in colors)


def test_xla_equals_eager_and_repeats():
    assert_xla_equals_eager_and_repeats(MappingMaze(max_steps=15, **SMALL))


def test_step_lowers_to_stablehlo():
    assert_lowers_to_stablehlo(MappingMaze(**SMALL))


def test_gymnasium_faces():
    assert_faces_are_gymnasiums("tfmem/MappingMaze-v0", max_steps=12, num_levels=20, **SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"side": 9}, "side: 9, must be 7, 11, 15, "),
        ({"side": 3}, "side: 3, must be from 7 to 99"),
        ({"max_steps": 0}, "max_steps: 0, must be at least 1"),
        ({"target_size": 12}, "target_size: 12, must be at least 22"),
        ({"centred": 1}, "centred: 1, must be True or False"),
        ({"density": 2.0}, "density: 2.0, must be from 0 to 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        MappingMaze(**arguments)


def test_bad_levels():
    world = MappingMaze(**SMALL)
    with pytest.raises(ValueError, match=r"^number: 0, must be at least 1"):
        world.levels(0, seed=0)
    with pytest.raises(ValueError, match=r"^levels: cells \(7, 7\), must be \(11, 11\)"):
        world.reset(MappingMaze(side=7).levels(2, seed=0), world.draw([0, 0], 3))
