"""Mini Pacman: recorded episodes of all modes, a slow reference, layouts, and the contract."""

import numpy as np
import pytest
import tensorflow as tf

from tests.envs.grid.support import (
    assert_faces_are_gymnasiums,
    assert_lowers_to_stablehlo,
    assert_xla_equals_eager_and_repeats,
    numpy,
    tensors,
)
from tests.references.mini_pacman import MiniPacman as Reference
from tests.support import first_of, golden_files
from tfmem.envs.grid.mini_pacman import (
    COLUMNS,
    FREE,
    MODES,
    POWER_STEPS,
    ROWS,
    WALLS,
    Decisions,
    Levels,
    MiniPacman,
    State,
)

TRACES = golden_files("mini_pacman/*.npz", "ep_frame_cap")
STATISTICS = golden_files("mini_pacman/*.npz", "num_draws")


def cells(places):
    """Flat cells of recorded (row, column), -1 where there is none."""
    places = places.astype(np.int32)
    return np.where(places[..., 0] < 0, -1, places[..., 0] * COLUMNS + places[..., 1])


def recorded_states(case):
    """The state of every row."""
    food = np.unpackbits(case["food"], axis=1)[:, : WALLS.size].reshape(-1, ROWS, COLUMNS).astype(np.int8)
    integers = (case[key].astype(np.int32) for key in ("ghost_dir", "power", "level", "timer", "frame"))
    places = (cells(case[key]) for key in ("pills", "player", "ghost_pos"))
    return State(food, case["nfood"].astype(np.int32), *places, *integers)


def recorded_layouts(case, prefix=""):
    return Levels(
        cells(case[f"{prefix}pills"]),
        cells(case[f"{prefix}player"]),
        cells(case[f"{prefix}ghost_pos"]),
        case[f"{prefix}ghost_dir"].astype(np.int32),
    )


def rows_of(nest, rows):
    return tf.nest.map_structure(lambda x: x[rows], nest)


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_golden_traces_replay_exactly(path):
    """Every recorded step on its own, from the recorded state before it, and every stored picture."""
    with np.load(path) as file:
        case = {key: file[key] for key in file.files}
    np.testing.assert_array_equal(case["walls"], WALLS)
    states, layouts = recorded_states(case), recorded_layouts(case, "spawn_")
    episode = np.repeat(np.arange(len(case["ep_len"])), case["ep_len"])
    layout_of = np.zeros(len(episode), np.int32)
    layout_of[case["spawn_row"]] = np.arange(len(case["spawn_row"]))
    shown = np.full(len(episode), -1)
    shown[case["image_row"]] = np.arange(len(case["image_row"]))
    setting = np.stack([case["ep_mode"], case["ep_frame_cap"]], axis=1)[episode]
    starts = case["action"] < 0
    for mode, cap in np.unique(setting, axis=0):
        name, max_steps = str(case["mode_names"][mode]), int(cap) if cap > 0 else 10**9
        worlds = [MiniPacman(view, name, max_steps, case["ghost_pos"].shape[1]) for view in (False, True)]
        world = worlds[0]
        chosen = (setting == [mode, cap]).all(axis=1)
        rows = np.flatnonzero(chosen & ~starts)
        decisions = Decisions(
            level=np.zeros(len(rows), np.int32),
            layout=layout_of[rows],
            moves=np.where(case["ghost_moves"][rows] == 1, 0, 19).astype(np.int32),
            turns=np.where(case["ghost_random_turn"][rows] == 1, 0, 1).astype(np.int32),
            exits=np.maximum(case["ghost_turn_index"][rows], 0).astype(np.int32),
        )
        before = tensors(rows_of(states, rows - 1))
        action = tf.constant(case["action"][rows], tf.int32)
        outcome = numpy(tf.function(world.advance, autograph=False)(layouts, before, action, tensors(decisions)))
        expected = rows_of(states, rows)
        for field in State._fields:
            np.testing.assert_array_equal(getattr(outcome.state, field), getattr(expected, field), err_msg=field)
        np.testing.assert_array_equal(np.rint(10 * outcome.reward), np.rint(10 * case["reward"][rows]))
        np.testing.assert_allclose(outcome.reward, case["reward"][rows], rtol=1e-6)
        continues = ~(outcome.terminated | outcome.truncated)
        np.testing.assert_array_equal(continues, case["pcontinue"][rows] == 1)

        drawn = shown[rows] >= 0
        seen, pictures = tensors(rows_of(outcome.seen, drawn)), shown[rows[drawn]]
        assert_pictures(worlds, seen, case["image"][pictures], case["rgb"][pictures])
        first = np.flatnonzero(chosen & starts & (shown >= 0))
        if len(first):
            pictures = shown[first]
            assert_pictures(worlds, tensors(rows_of(states, first)), case["image"][pictures], case["rgb"][pictures])


def assert_pictures(worlds, state, image, rgb):
    whole, viewport = worlds
    np.testing.assert_allclose(whole.planes(state), image, atol=1e-6)
    np.testing.assert_allclose(whole.observe(state), rgb, atol=1e-6)
    padded = np.pad(rgb, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=1)
    rows, columns = np.divmod(state.player.numpy(), COLUMNS)
    windows = [frame[r - 1 : r + 4, c - 1 : c + 4] for frame, r, c in zip(padded, rows, columns, strict=True)]
    np.testing.assert_allclose(viewport.observe(state), windows, atol=1e-6)
    np.testing.assert_array_equal(whole.picture(state), np.rint(255 * whole.observe(state).numpy()))


@pytest.mark.parametrize("mode", first_of([*MODES], 2))
def test_reference_over_random_steps(mode):
    """20,480 steps of each mode, from little food on; episodes and levels end and begin in between."""
    batch_size, steps, seed, rng = 128, 160, 3, np.random.default_rng(8)
    world = MiniPacman(viewport=mode in ("hunt", "rush"), mode=mode, max_steps=140, max_ghosts=3)
    levels = crowded_pool(world, 40, rng)
    layouts = [
        ([place(cell) for cell in pills], place(player), [place(cell) for cell in ghosts], directions.tolist())
        for pills, player, ghosts, directions in zip(*levels, strict=True)
    ]
    drawn = [numpy(world.draw([seed, number], batch_size)) for number in range(steps + 1)]

    def begin(number, i):
        return Reference(WALLS, mode, world.max_steps, layouts[drawn[number].level[i] % len(layouts)])

    references = [begin(0, i) for i in range(batch_size)]
    for reference in references:  # else no random player eats all
        reference.food[rng.random(WALLS.shape) < 0.95] = 0
        reference.food[reference.player] = 1
    state, _ = world.reset(levels, tensors(drawn[0]))
    food = np.stack([reference.food for reference in references])
    state = state._replace(food=tf.constant(food, tf.int8), num_food=tf.constant(food.sum(axis=(1, 2)), tf.int32))

    step = tf.function(world.step, autograph=False)
    actions = rng.integers(0, 6, [steps, batch_size], np.int32)  # 5 stays, too
    rewards, last_level = [], 0
    for t in range(steps):
        state, result = step(levels, state, tf.constant(actions[t]), tensors(drawn[t + 1]))
        now, result, decisions = numpy(state), numpy(result), drawn[t + 1]
        chances = np.stack([decisions.moves, decisions.turns, decisions.exits], axis=2)
        layout = decisions.layout % len(layouts)
        outcomes = [
            reference.step(actions[t, i], layouts[layout[i]], chances[i].tolist())
            for i, reference in enumerate(references)
        ]
        tenths, terminated, truncated, pictures = zip(*outcomes, strict=True)
        np.testing.assert_array_equal(np.rint(10 * result.reward), tenths)
        np.testing.assert_array_equal(result.terminated, terminated)
        np.testing.assert_array_equal(result.truncated, truncated)
        ended = np.flatnonzero(result.terminated | result.truncated)
        rewards += tenths
        last_level = max(last_level, *(reference.level for reference in references))
        if world.viewport:
            pictures = [r.view(picture) for r, picture in zip(references, pictures, strict=True)]
        np.testing.assert_allclose(result.last_observation, pictures, atol=1e-6)
        for i in ended:
            references[i] = begin(t + 1, i)
        for field in ("power", "level", "timer", "frame"):
            np.testing.assert_array_equal(getattr(now, field), [getattr(r, field) for r in references])
        np.testing.assert_array_equal(now.food, [r.food for r in references])
        np.testing.assert_array_equal(now.num_food, [r.food.sum() for r in references])
        places = [[r.player, *padded(r.pills, 2), *padded([g[0] for g in r.ghosts], 3)] for r in references]
        found = np.concatenate([now.player[:, None], now.pills, now.ghosts], axis=1)
        np.testing.assert_array_equal(found, cells(np.array(places)))
        directions = [[g[1] for g in r.ghosts] + [-1] * (3 - len(r.ghosts)) for r in references]
        np.testing.assert_array_equal(now.directions, directions)
        continues = np.setdiff1d(np.arange(batch_size), ended)
        np.testing.assert_array_equal(result.observation[continues], result.last_observation[continues])
        for i in ended:
            first = references[i].picture()
            shown = references[i].view(first) if world.viewport else first
            np.testing.assert_allclose(result.observation[i], shown, atol=1e-6)
    assert last_level >= 2
    assert len(set(rewards)) >= 4


def place(cell):
    return divmod(int(cell), COLUMNS)


def padded(places, number):
    return [*places, *[(-1, -1)] * (number - len(places))]


def crowded_pool(world, number, rng):
    """Layouts with pills and ghosts close to the player, so that short episodes have all events."""
    levels = world.levels(number, seed=6)
    rows, columns = np.divmod(FREE, COLUMNS)
    near = np.argsort(abs(rows[:, None] - rows) + abs(columns[:, None] - columns), axis=1, kind="stable")
    player = np.searchsorted(FREE, levels.player)[:, None]
    pills = FREE[near[player, rng.integers(0, 8, [number, 2])]]
    ghosts = FREE[near[player, rng.integers(3, 30, levels.ghosts.shape)]]
    return levels._replace(pills=pills, ghosts=ghosts)


def chi_square(counts, expected):
    return ((counts - expected) ** 2 / expected).sum()


def test_layouts_are_distributed_as_said():
    """Marginals over 20,000 layouts against the exact ones, at 0.1%; recorded layouts pass the same test."""
    levels = MiniPacman(max_ghosts=1).levels(20_000, seed=0)
    recorded = [recorded_layouts(np.load(path)) for path in STATISTICS]
    for pool in (levels, *recorded):
        number = len(pool.player)
        for places in (pool.player, pool.pills[:, 0], pool.pills[:, 1]):
            counts = np.bincount(places, minlength=WALLS.size)
            assert not counts[WALLS.reshape(-1)].any()
            assert chi_square(counts[FREE], number / len(FREE)) < 193  # 137 degrees
        counts = np.bincount(pool.directions[:, 0], minlength=4)
        assert chi_square(counts, number / 4) < 16.3  # 3 degrees
        row, column = np.divmod(pool.player, COLUMNS)
        expected = np.zeros(WALLS.size)
        for r, c in zip(row, column, strict=True):
            outside = ~WALLS.copy()
            outside[max(r - 5, 1) : min(r + 5, ROWS), max(c - 5, 1) : min(c + 5, COLUMNS)] = False
            expected += outside.reshape(-1) / outside.sum()
        counts = np.bincount(pool.ghosts[:, 0], minlength=WALLS.size)
        assert chi_square(counts[FREE], expected[FREE]) < 193
    rows, columns = (np.divmod(cell, COLUMNS) for cell in (levels.player, levels.ghosts[:, 0]))
    down, right = np.subtract(columns, rows)
    assert not ((down >= -5) & (down < 5) & (right >= -5) & (right < 5)).any()


def test_random_decisions_have_the_rules_chances():
    decisions = numpy(MiniPacman().draw([0, 0], 20_000))
    assert decisions.moves.shape == (20_000, 6)
    for values in (decisions.moves, decisions.turns):
        assert chi_square(np.bincount(values.reshape(-1), minlength=20), 6000) < 43.8  # 19 degrees
    for number in (2, 3):
        counts = np.bincount(decisions.exits.reshape(-1) % number, minlength=number)
        assert chi_square(counts, 120_000 / number) < 13.9
    assert abs(np.corrcoef(decisions.moves[:, 0], decisions.turns[:, 0])[0, 1]) < 0.03


def test_a_pill_gives_power_for_twenty_steps():
    world = MiniPacman(max_ghosts=1)
    [[player, pill]] = [[COLUMNS + 1, COLUMNS + 2]]
    far = 13 * COLUMNS + 17
    levels = Levels(*(np.int32(x) for x in ([[pill, far]], [player], [[far]], [[2]])))
    stay = np.full([1, 1], 19, np.int32)
    decisions = tensors(Decisions(np.zeros(1, np.int32), np.zeros(1, np.int32), stay, stay, stay))
    state, _ = world.reset(levels, decisions)
    powers = []
    for action in [1] + [0] * 21:
        state, result = world.step(levels, state, tf.constant([action]), decisions)
        powers.append(int(state.power[0]))
        if len(powers) == 1:
            assert result.reward.numpy() == [3]  # food and pill
    assert powers == [*range(POWER_STEPS, 0, -1), 0, 0]


def test_xla_equals_eager_and_repeats():
    assert_xla_equals_eager_and_repeats(MiniPacman(max_steps=15))


@pytest.mark.parametrize("mode", MODES)
def test_step_lowers_to_stablehlo(mode):
    assert_lowers_to_stablehlo(MiniPacman(mode=mode))


def test_gymnasium_faces():
    assert_faces_are_gymnasiums("tfmem/MiniPacman-v0", max_steps=12, num_levels=20)
    assert MiniPacman(viewport=False).observation_shape == (15, 19, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"viewport": None}, "viewport: None, must be True or False"),
        ({"mode": "easy"}, "mode: 'easy', must be one of 'regular', 'avoid'"),
        ({"max_steps": 0}, "max_steps: 0, must be at least 1"),
        ({"max_ghosts": 2.0}, "max_ghosts: 2.0, must be an integer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        MiniPacman(**arguments)


def test_bad_levels_and_actions():
    world = MiniPacman()
    with pytest.raises(ValueError, match=r"^number: 0, must be at least 1"):
        world.levels(0, seed=0)
    with pytest.raises(ValueError, match=r"^seed: -1, must be at least 0"):
        world.levels(1, seed=-1)
    with pytest.raises(ValueError, match=r"^levels: 2 ghosts, must be max_ghosts = 6"):
        world.reset(MiniPacman(max_ghosts=2).levels(2, seed=0), world.draw([0, 0], 3))
    levels = world.levels(2, seed=0)
    state, _ = world.reset(levels, world.draw([0, 0], 3))
    with pytest.raises(ValueError, match=r"^action: int32 \(2,\), must be integers \[3\]"):
        world.step(levels, state, [0, 1], world.draw([0, 1], 3))
