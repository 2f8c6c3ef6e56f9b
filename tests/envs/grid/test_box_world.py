"""BoxWorld: recorded traces and levels of pycolab, a slow reference, solvable levels, and the contract."""

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
from tests.references.box_world import BoxWorld as Reference
from tests.references.box_world import solve
from tests.support import golden_files
from tfmem.envs.grid.box_world import (
    DISTRACTOR,
    KEY,
    LOCK,
    PALETTE,
    PYCOLAB,
    BoxWorld,
    Decisions,
    Levels,
    State,
    level_figure,
    level_graph,
)

TRACES = golden_files("box_world/*.npz", "board0")
MADE = [path for path in TRACES if "seed" in np.load(path).files]
STATISTICS = golden_files("box_world/*.npz", "player_touches")


def name(path):
    return path.stem


class LegacyGenerator:
    """The old random generator, with which the public code made its levels, under the names of the new one."""

    def __init__(self, seed):
        state = np.random.RandomState(seed)
        self.integers, self.choice, self.shuffle = state.randint, state.choice, state.shuffle


def recorded_levels(case):
    board = case["board0"].astype(np.int8)
    for level, count in enumerate(case["num_distractor_locks"]):
        for row, column in case["distractor_locks"][level, :count]:
            board[level, row, column] += DISTRACTOR - LOCK
    player = board.reshape(len(board), -1) == 2
    board[board == 2] = 0
    unknown = np.zeros(len(board), np.int8)
    return Levels(board, player.argmax(axis=1).astype(np.int32), unknown, unknown)


@pytest.mark.parametrize("path", TRACES, ids=name)
def test_golden_traces_replay_exactly(path):
    case = np.load(path)
    recorded, side = recorded_levels(case), case["board0"].shape[1]
    limits = case["max_steps"][case["ep_level"]]
    for limit in np.unique(limits):
        episodes = np.flatnonzero(limits == limit)
        starts, lengths = case["ep_start"][episodes], case["ep_len"][episodes]
        world = BoxWorld(viewport=False, side=side, max_steps=int(limit) + 1)
        decisions = Decisions(tf.constant(case["ep_level"][episodes], tf.int32))
        levels = tensors(recorded)
        advance, picture = compiled(world.advance), compiled(world.picture)
        state, observation = world.reset(levels, decisions)
        np.testing.assert_array_equal(observation, np.rint(case["rgb0"][case["ep_level"][episodes]] * (255 / 999)))
        for t in range(lengths.max()):
            live = t < lengths
            rows = np.where(live, starts + t, starts)
            action = tf.constant(np.where(live, case["action"][rows], -1), tf.int32)
            outcome = advance(levels, state, action, decisions)
            state = outcome.state
            live, rows = np.flatnonzero(live), rows[live]
            board, player, held, _ = (x[live] for x in numpy(state))
            np.testing.assert_array_equal(np.stack(divmod(player, side), axis=1), case["player"][rows])
            np.testing.assert_array_equal(held, case["held"][rows])
            codes = np.where(board >= DISTRACTOR, board - (DISTRACTOR - LOCK), board).reshape(len(live), -1)
            codes[np.arange(len(live)), player] = 2
            codes[:, 0] = np.where(held < 0, 1, KEY + held)
            np.testing.assert_array_equal(codes.reshape(board.shape), case["board"][rows])
            np.testing.assert_array_equal(outcome.reward.numpy()[live], case["reward"][rows])
            done = (outcome.terminated | outcome.truncated).numpy()[live]
            np.testing.assert_array_equal(done, case["done"][rows])
            np.testing.assert_array_equal(1.0 - done, case["discount"][rows])
            last = live[t == lengths[live] - 1]
            if len(last):
                shown = np.rint(case["ep_final_rgb"][episodes[last]] * (255 / 999))
                np.testing.assert_array_equal(picture(state).numpy()[last], shown)


def test_palette_is_the_public_codes():
    expected = np.rint(np.load(TRACES[0])["palette"] * (255 / 999))
    np.testing.assert_array_equal(PALETTE[:DISTRACTOR], expected)
    np.testing.assert_array_equal(PALETTE[DISTRACTOR:], expected[LOCK:])


@pytest.mark.parametrize("path", MADE, ids=name)
def test_golden_levels_come_from_the_same_random_numbers(path):
    case = np.load(path)
    recorded = recorded_levels(case)
    for i, seed in enumerate(case["seed"]):
        default = case["num_forward_arg"][i] < 0
        world = BoxWorld(
            side=case["board0"].shape[1],
            path_lengths=PYCOLAB.path_lengths if default else (case["solution_length"][i],),
            num_distractors=PYCOLAB.num_distractors if default else (case["num_forward_arg"][i],),
            num_backward=(case["num_backward_arg"][i],),
            branch_length=int(case["branch_length"][i]),
        )
        board, player, path_length, _ = world.make_level(LegacyGenerator(seed))
        np.testing.assert_array_equal(board, recorded.board[i])
        assert (player, path_length) == (recorded.player[i], case["solution_length"][i])


@pytest.mark.parametrize("path", STATISTICS, ids=name)
def test_golden_statistics_of_the_generator(path):
    """The stored levels came from one stream, so that every level must agree, not only their distribution."""
    world = {
        "generator_default": PYCOLAB,
        "generator_L5_F5": BoxWorld(path_lengths=(5,), num_distractors=(5,)),
        "generator_L1to5_F0to5": BoxWorld(),
        "generator_backward_branch2": BoxWorld(
            path_lengths=(1, 2, 3), num_distractors=(0, 1, 2), num_backward=(0, 1, 2), branch_length=2
        ),
    }[path.stem]
    case = np.load(path)
    rng = LegacyGenerator(int(case["seed"]))
    for i in range(min(200, len(case["player"]))):
        board, player, path_length, _ = world.make_level(rng)
        assert path_length == case["solution_length"][i]
        assert divmod(player, 14) == tuple(case["player"][i])
        items = case["content_pos"][i, : case["num_items"][i]]
        np.testing.assert_array_equal(np.argwhere((board >= 3) & (board < LOCK)), sorted(items.tolist()))


def test_levels_are_solvable_and_follow_the_settings():
    world = BoxWorld()
    levels = world.levels(150, seed=5)
    assert set(levels.path_length) == {1, 2, 3, 4, 5}
    assert set(levels.num_distractors) == {0, 1, 2, 3, 4, 5}
    solutions = [solve(board, player) for board, player in zip(levels.board, levels.player, strict=True)]
    assert max(map(len, solutions)) <= world.max_steps
    for board, path_length, distractors in zip(levels.board, levels.path_length, levels.num_distractors, strict=True):
        graph = level_graph(board)
        assert sum(lock is None for lock, _, _ in graph) == 1
        assert sum(of_the_path for _, _, of_the_path in graph) == path_length + 1
        assert sum(not of_the_path for _, _, of_the_path in graph) == distractors

    numbers = tf.range(len(solutions))
    step = compiled(world.step)
    state, _ = world.reset(tensors(levels), Decisions(numbers))
    returns, solved = np.zeros(len(solutions)), np.zeros(len(solutions), bool)
    for t in range(max(map(len, solutions))):
        action = [solution[t] if t < len(solution) else -1 for solution in solutions]
        state, result = step(tensors(levels), state, tf.constant(action), Decisions(numbers))
        returns += result.reward.numpy()
        solved |= result.terminated.numpy()
    assert solved.all()
    np.testing.assert_array_equal(returns, 10 + levels.path_length)


def test_a_level_without_its_key_has_no_solution():
    level = BoxWorld(num_distractors=(0,)).levels(1, seed=0)
    board = level.board[0].copy()
    [loose] = [(r, c) for r, c in np.argwhere((board >= KEY) & (board < LOCK)) if board[r, c + 1] < LOCK]
    board[loose] = 0
    assert solve(board, level.player[0]) is None


@pytest.mark.parametrize("viewport", [True, False])
def test_reference_over_random_steps(viewport):
    """51,200 steps each way, a fifth of them waits; episodes end and begin in between."""
    world = BoxWorld(viewport=viewport, max_steps=25)
    crafted = recorded_levels(np.load(next(path for path in TRACES if path.stem == "crafted14")))
    made = world.levels(30, seed=1)
    levels = Levels(*(np.concatenate([a, b]) for a, b in zip(made, crafted, strict=True)))
    batch_size, steps, seed = 256, 200, 7
    states, results = run(world, levels, batch_size, steps, seed, action_high=5)
    actions = np.random.default_rng(seed).integers(0, 5, [steps, batch_size], np.int32)

    drawn = [world.draw([seed, number], batch_size).level.numpy() for number in range(steps + 1)]

    def begin(number, i):
        level = drawn[number][i] % len(levels.board)
        return Reference(levels.board[level], levels.player[level], world.max_steps)

    references = [begin(0, i) for i in range(batch_size)]
    rewards = set()
    for t, result in enumerate(results):
        expected = [reference.step(action) for reference, action in zip(references, actions[t], strict=True)]
        for field, values in zip(("reward", "terminated", "truncated"), zip(*expected, strict=True), strict=True):
            np.testing.assert_array_equal(getattr(result, field), values)
        shown = np.stack([reference.observe(PALETTE, viewport) for reference in references])
        np.testing.assert_array_equal(result.last_observation, shown)
        for i in np.flatnonzero(result.terminated | result.truncated):
            references[i] = begin(t + 1, i)
            shown[i] = references[i].observe(PALETTE, viewport)
        np.testing.assert_array_equal(result.observation, shown)
        np.testing.assert_array_equal(states[t + 1].board, [r.board for r in references])
        np.testing.assert_array_equal(states[t + 1].held, [r.held for r in references])
        np.testing.assert_array_equal(states[t + 1].steps, [r.steps for r in references])
        rewards |= set(result.reward)
    assert rewards == {0.0, 1.0, -1.0, 10.0}


def test_xla_equals_eager_and_repeats():
    assert_xla_equals_eager_and_repeats(BoxWorld(max_steps=15))


def test_step_lowers_to_stablehlo():
    assert_lowers_to_stablehlo(BoxWorld())
    assert_lowers_to_stablehlo(PYCOLAB)


def test_gymnasium_faces():
    assert_faces_are_gymnasiums("tfmem/BoxWorld-v0", max_steps=12, num_levels=20)
    assert BoxWorld().observation_shape == (5, 5, 6)
    assert PYCOLAB.observation_shape == (14, 14, 3)


def test_truncated_after_max_steps_and_never_with_an_end():
    """The gem lies two cells up: the last action counts in full."""
    board = np.ones([1, 6, 6], np.int8)
    board[0, 1:-1, 1:-1] = 0
    board[0, 1, 2] = 3
    levels = Levels(board, np.array([3 * 6 + 2]), np.int8([0]), np.int8([0]))
    for max_steps, expected in ((2, (10.0, True, False)), (1, (0.0, False, True))):
        world = BoxWorld(side=6, max_steps=max_steps)
        state, first = world.reset(levels, Decisions(tf.zeros([1], tf.int32)))
        for _ in range(max_steps):
            state, result = world.step(levels, state, tf.constant([0]), Decisions(tf.zeros([1], tf.int32)))
        assert (result.reward[0], result.terminated[0], result.truncated[0]) == expected
        np.testing.assert_array_equal(result.observation, first)
        assert state.steps.numpy() == [0]


def test_figure_of_a_level_and_its_graph():
    levels = BoxWorld(num_backward=(1,), branch_length=2).levels(3, seed=0)
    for number in range(3):
        grid, graph = level_figure(levels, number).axes
        assert len(graph.patches) == len(level_graph(levels.board[number]))
        places = [(round(p.get_x(), 3), round(p.get_y(), 3)) for p in graph.patches]
        assert len(set(places)) == len(places)
        assert grid.images[0].get_array().shape == (14, 14, 3)
    with pytest.raises(ValueError, match=r"^number: 3, must be from 0 to 2"):
        level_figure(levels, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"viewport": 5}, "viewport: 5, must be True or False"),
        ({"side": 5}, "side: 5, must be from 6 to 64"),
        ({"side": 14.0}, "side: 14.0, must be an integer"),
        ({"path_lengths": ()}, r"path_lengths: \(\), must be a tuple of integers"),
        ({"path_lengths": (0, 1)}, "path_lengths: 0, must be from 1 to 18"),
        ({"path_lengths": (18,), "branch_length": 2}, "path_lengths: 18, must be from 1 to 17"),
        ({"path_lengths": 3}, "path_lengths: 3, must be a tuple"),
        ({"num_distractors": (-1,)}, "num_distractors: -1, must be at least 0"),
        ({"num_backward": (True,)}, "num_backward: True, must be an integer"),
        ({"branch_length": 0}, "branch_length: 0, must be at least 1"),
        ({"max_steps": 0}, "max_steps: 0, must be at least 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        BoxWorld(**arguments)


def test_bad_levels_and_actions():
    world, small = BoxWorld(), BoxWorld(side=10, path_lengths=(1,), num_distractors=(0,))
    with pytest.raises(ValueError, match=r"^number: 0, must be at least 1"):
        world.levels(0, seed=0)
    with pytest.raises(ValueError, match=r"^seed: -1, must be at least 0"):
        world.levels(1, seed=-1)
    with pytest.raises(ValueError, match=r"^side: 6, must be larger for path_lengths"):
        BoxWorld(side=6).levels(20, seed=0)
    levels = world.levels(2, seed=0)
    with pytest.raises(ValueError, match=r"^levels: boards \(10, 10\), must be \[14, 14\]"):
        world.reset(small.levels(2, seed=0), world.draw([0, 0], 3))
    state, _ = world.reset(levels, world.draw([0, 0], 3))
    assert isinstance(state, State)
    for action in ([0, 1], [[0, 1, 2]], [0.0, 1.0, 2.0]):
        with pytest.raises(ValueError, match=r"^action: .*, must be integers \[3\]"):
            world.step(levels, state, action, world.draw([0, 1], 3))
