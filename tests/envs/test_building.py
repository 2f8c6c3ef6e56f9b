"""Building levels: Gymnasium's checks, the rules, what is drawn, levels that can be solved, the scripted builder."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.envs.support import (
    COPIED_KINDS,
    assert_copies_live_on_their_own,
    assert_same,
    assert_vector_equals_singles,
    rollout,
)
from tfmem.envs.builder import BuildingPolicy, plan
from tfmem.envs.building import (
    COLORS,
    EMPTY,
    EYE_HEIGHT,
    FOOD,
    HEADROOM,
    LOOSE,
    PICK_UP,
    PLACE,
    STONE,
    WALL,
    Building,
)
from tfmem.envs.exploration import collect
from tfmem.envs.rendering import FAR
from tfmem.envs.worlds import BACKWARD, FORWARD, TURN_LEFT, TURN_RIGHT

NAME = "tfmem/Building-v0"
SMALL = dict(frame_size=16, map_size=10, size=5)
LEVELS = {
    "food on the ground": dict(size=5, cliff=0, num_food=3),
    "one step": dict(size=5, cliff=1),
    "staircase": dict(size=5, cliff=2),
    "longer staircase": dict(size=7, cliff=3, num_food=2),
    "longest staircase": dict(size=9, cliff=4, num_walls=8),
    "food at one and at two levels": dict(size=9, cliff=0, num_food=0, pillars=(1, 2)),
    "tower": dict(size=9, cliff=0, num_food=0, pillars=(3,), num_blocks=5),
    "all": dict(size=11, cliff=3, pillars=(2, 3), num_walls=10),
}


def level(columns, cell=(0, 0), carries=False, **arguments):
    """A level whose columns, {cell: kinds from below}, are given; the agent looks north."""
    building = Building(**(SMALL | {"map_size": 20}), **arguments)
    building.reset(np.random.default_rng(0))
    building.voxels[:] = EMPTY
    for place, kinds in columns.items():
        building.voxels[*place, : len(kinds)] = kinds
    building.position, building.carries = np.array(cell) - 2.0, carries
    building._draw()
    return building


@pytest.mark.filterwarnings("error")
def test_gymnasium_checks():
    env = gymnasium.make(NAME, render_mode="rgb_array", **SMALL)
    check_env(env.unwrapped)
    assert env.spec.max_episode_steps == 500
    assert env.action_space.n == 6


def test_vector_equals_singles():
    arguments = dict(SMALL, cliff=0, num_food=4, num_blocks=12)  # episodes end by food and by time
    assert_vector_equals_singles(NAME, steps=30, max_episode_steps=12, **arguments)


@pytest.mark.parametrize(("kind", "copied"), COPIED_KINDS)
def test_copies_live_on_their_own(kind, copied):
    steps = assert_copies_live_on_their_own(NAME, kind, copied, forward=0.3, size=5, cliff=0, num_blocks=20)
    voxels = [info["voxels"] for *_, info in steps[:-2]]
    assert any((after != voxels[0]).any() for after in voxels)  # so the copy's level was built on


def test_same_seed_same_frames():
    actions = [FORWARD, PICK_UP, TURN_LEFT, FORWARD, PLACE, TURN_RIGHT]
    frames, infos = rollout(NAME, 7, actions)
    again, infos_again = rollout(NAME, 7, actions)
    assert frames.shape == (7, 64, 64, 3)
    assert infos[0]["map"].shape == (36, 36, 3)
    np.testing.assert_array_equal(frames, again)
    assert_same(infos, infos_again)
    assert infos[0]["voxels"].shape == (9, 9, 2 + HEADROOM)
    other, others = rollout(NAME, 8, actions)
    assert (frames[0] != other[0]).any()
    assert (infos[0]["voxels"] != others[0]["voxels"]).any()


def test_the_agent_starts_in_the_middle_and_looks_north():
    for seed in range(5):
        building = Building(**SMALL)
        building.reset(np.random.default_rng(seed))
        truth = building.truth()
        assert truth["position"].tolist() == [0, 0]
        assert truth["heading"] == np.float32(np.pi / 2)
        assert (building.cell, building.heights[2, 2], truth["carries"]) == ((2, 2), 0, False)


def test_the_agent_climbs_one_block_and_drops_from_any_height():
    building = level({(0, 1): [LOOSE], (0, 2): [STONE, STONE], (0, 3): [WALL] * 5})
    for cell, height in (((0, 1), 1), ((0, 2), 2), ((0, 2), 2)):  # the wall is too high
        assert building.step(FORWARD) == (0.0, False)
        assert (building.cell, building.heights[building.cell]) == (cell, height)
        assert building.eye() == height + EYE_HEIGHT
    building.step(TURN_RIGHT)
    building.step(FORWARD)
    assert (building.cell, building.eye()) == ((1, 2), EYE_HEIGHT)
    building.step(BACKWARD)  # two blocks up
    assert building.cell == (1, 2)
    building = level({}, cell=(4, 4))
    building.step(FORWARD)  # the edge
    assert building.cell == (4, 4)


def test_all_directions():
    building = level({}, cell=(2, 2))
    cells = []
    for _ in range(4):
        building.step(FORWARD)
        cells.append(building.cell)
        building.step(BACKWARD)
        assert building.cell == (2, 2)
        building.step(TURN_LEFT)
    assert cells == [(2, 3), (1, 2), (2, 1), (3, 2)]
    assert (building.turns, building.yaw) == (0, np.pi / 2)


@pytest.mark.parametrize(
    ("ground", "ahead", "picked"),
    [
        ([], [LOOSE], True),
        ([], [STONE, LOOSE], True),
        ([], [STONE, STONE, LOOSE], False),  # too high
        ([], [STONE], False),
        ([], [], False),
        ([], [WALL], False),
        ([], [LOOSE, FOOD], False),
        ([STONE], [LOOSE], True),
        ([STONE, STONE], [LOOSE], False),  # too low
        ([STONE, STONE], [STONE, STONE, STONE, LOOSE], True),
    ],
)
def test_picking_up(ground, ahead, picked):
    building = level({(0, 0): ground, (0, 1): ahead}, cliff=3)
    before = building.voxels.copy()
    assert building.step(PICK_UP) == (0.0, False)
    assert building.carries == picked
    if picked:
        before[0, 1, len(ahead) - 1] = EMPTY
    np.testing.assert_array_equal(building.voxels, before)


@pytest.mark.parametrize(
    ("ground", "ahead", "placed"),
    [
        ([], [], True),
        ([], [LOOSE], True),
        ([], [STONE], True),
        ([], [LOOSE, LOOSE], False),  # too high
        ([], [FOOD], False),
        ([], [WALL] * 6, False),
        ([STONE], [], True),
        ([STONE, STONE], [], False),  # too low
        ([STONE] * 3, [STONE] * 3, True),
        ([STONE] * 3, [STONE] * 4, False),  # higher than the stone of the level by more than a block
    ],
)
def test_placing(ground, ahead, placed):
    building = level({(0, 0): ground, (0, 1): ahead}, cliff=3, carries=True)
    before = building.voxels.copy()
    assert building.step(PLACE) == (0.0, False)
    assert building.carries != placed
    if placed:
        before[0, 1, len(ahead)] = LOOSE
    np.testing.assert_array_equal(building.voxels, before)


def test_the_hand_holds_one_block_and_the_edge_takes_none():
    building = level({(0, 1): [LOOSE, LOOSE]})
    for _ in range(2):
        building.step(PICK_UP)
    assert (building.heights[0, 1], building.carries) == (1, True)
    building.step(TURN_LEFT)
    building.step(PLACE)
    assert building.carries
    building.step(TURN_RIGHT)
    for _ in range(2):
        building.step(PLACE)
    assert (building.heights[0, 1], building.carries) == (2, False)
    assert building.heights.sum() == 2


def test_the_last_piece_of_food_ends_the_episode():
    building = level({(0, 1): [FOOD], (0, 2): [STONE, FOOD]})
    assert building.step(FORWARD) == (1.0, False)
    assert building.step(BACKWARD) == (0.0, False)
    assert building.step(FORWARD) == (0.0, False)
    assert building.step(FORWARD) == (1.0, True)
    assert not (building.voxels == FOOD).any()


def test_what_is_seen_from_above_is_what_one_stands_on():
    building = Building(frame_size=16, size=7, cliff=3, num_walls=3)
    building.reset(np.random.default_rng(1))
    cells = np.argwhere(np.ones([7, 7]))
    places = np.column_stack([cells - 3.0 + 0.4, np.full(49, FAR)]).astype(np.float32)
    _, distance = building.scene.cast(places, np.tile(np.float32([0, 0, -1]), [49, 1]))
    food = (building.voxels == FOOD).any(axis=2)
    seen = (FAR - distance).reshape(7, 7)
    np.testing.assert_allclose(seen[~food], building.heights[~food], atol=1e-3)
    assert set(building.heights.ravel()) == {0, 1, 3, 3 + HEADROOM}


def test_the_map_has_each_voxel_in_its_place():
    building = level({(1, 3): [LOOSE], (4, 0): [FOOD]})
    red, green, blue = np.moveaxis(building.map.astype(int), -1, 0)
    for cell, shown in (((1, 3), red > 1.4 * green), ((4, 0), (red > 200) & (green > 150) & (blue < 90))):
        expected = np.zeros([5, 5], bool)
        expected[4 - cell[1], cell[0]] = True  # row 0 is in the north
        np.testing.assert_array_equal(shown.reshape(5, 4, 5, 4).any(axis=(1, 3)), expected)


def test_frames_show_the_hand_the_stairs_and_the_food():
    empty = level({}).frame()
    carrying = level({}, carries=True).frame()
    changed = (carrying != empty).any(axis=2)
    assert 0.02 < changed.mean() < 0.2
    assert changed[8:].sum() == changed.sum()  # at the bottom
    tints = carrying[changed].astype(float)
    np.testing.assert_allclose(tints[:, 0] / tints[:, 1], COLORS[LOOSE][0] / COLORS[LOOSE][1], rtol=0.2)
    block = level({(0, 1): [LOOSE]}).frame()
    stack = level({(0, 1): [LOOSE, LOOSE]}).frame()
    assert (block != empty).any(axis=2).sum() < (stack != empty).any(axis=2).sum()
    assert (level({(0, 2): [FOOD]}).frame() != empty).any()


def reachable(heights, start):
    """Cells that one can walk to, without blocks."""
    found, queue = {start}, [start]
    for x, y in queue:
        for cell in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            inside = min(cell) >= 0 and max(cell) < len(heights)
            if inside and cell not in found and heights[cell] <= heights[x, y] + 1:
                found.add(cell)
                queue.append(cell)
    return found


@pytest.mark.parametrize("name", LEVELS)
def test_every_level_is_solved_by_walking_picking_up_placing_and_climbing(name):
    arguments = LEVELS[name]
    for seed in range(6):
        building = Building(frame_size=8, map_size=1, **arguments)
        building.reset(np.random.default_rng(seed))
        count = (building.voxels == FOOD).sum()
        assert count == arguments.get("num_food", 1) + len(arguments.get("pillars", ()))
        assert (building.voxels == LOOSE).sum() == building.num_blocks
        assert (building.voxels[..., 0] == WALL).sum() == arguments.get("num_walls", 0)
        high = max(arguments["cliff"], *arguments.get("pillars", ()), 0) > 1
        cells = reachable(building.heights, building.cell)
        eaten, ended, used = 0.0, False, set()
        assert high == any(tuple(cell) not in cells for cell in np.argwhere((building.voxels == FOOD).any(axis=2)))
        while not ended:
            actions = plan(building.voxels, building.cell, building.turns, building.carries)
            assert actions, seed
            used.update(actions)
            for action in actions:
                reward, ended = building.step(action)
                eaten += reward
        assert eaten == count
        assert {PICK_UP, PLACE}.issubset(used) == high


def test_a_spoilt_level_leaves_the_builder_without_a_plan():
    columns = {(x, 4): [STONE, STONE] for x in range(5)}
    columns[0, 4] = [STONE, STONE, FOOD]
    assert plan(level(columns).voxels, (0, 0), 0, False) == []
    assert plan(level({}).voxels, (0, 0), 0, False) == []


def vector(num_envs=1, **arguments):
    return gymnasium.make_vec(NAME, num_envs, **{**SMALL, "max_episode_steps": 40, **arguments})


def test_trajectories_of_the_builder():
    together = collect(vector(3), BuildingPolicy(), 60, seed=11)
    for i in range(3):
        alone = collect(vector(), BuildingPolicy(), 60, seed=[11 + i])
        assert_same(alone, tuple(array[:, i : i + 1] for array in together))
    assert together.rewards.sum() >= 3
    assert (together.resets[1:].sum(axis=0) > 0).all()
    assert set(np.unique(together.actions)) == set(range(6))


def test_a_builder_that_leaves_the_last_food_stays_in_its_level():
    data = collect(vector(4, max_episode_steps=None, num_food=2), BuildingPolicy(0.3, last_food=False), 80, seed=0)
    assert not data.resets[1:].any()
    np.testing.assert_array_equal(data.rewards.sum(axis=0), 1)


def test_random_actions_alone_build_little():
    eaten = [collect(vector(4), BuildingPolicy(random), 40, seed=3).rewards.sum() for random in (0.0, 1.0)]
    assert eaten[0] >= 4
    assert eaten[1] == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frame_size", 4),
        ("map_size", 0),
        ("field_of_view", 200),
        ("size", 3),
        ("size", 6),
        ("cliff", -1),
        ("cliff", 8),
        ("num_food", 0),
        ("num_food", 10),
        ("pillars", (0,)),
        ("pillars", 2),
        ("num_blocks", 0.0),
        ("pillars", (2, 9)),
        ("num_blocks", 0),
        ("num_walls", -1),
        ("num_walls", 1.5),
        ("cliff", 2.0),
        ("pillars", (1.0,)),
    ],
)
def test_bad_arguments(name, value):
    with pytest.raises(ValueError, match=f"^{name}: .*must be"):
        gymnasium.make(NAME, **{name: value})


@pytest.mark.parametrize("name", ["frame_size", "map_size", "field_of_view", "size", "cliff", "num_food", "num_walls"])
@pytest.mark.parametrize("value", ["9", None, [9], True, float("nan"), float("inf")])
def test_arguments_of_another_kind(name, value):
    with pytest.raises(ValueError, match=f"^{name}: .*must be"):
        gymnasium.make(NAME, **{name: value}).reset(seed=0)


def test_a_level_without_room():
    env = gymnasium.make(NAME, size=5, num_blocks=20)
    with pytest.raises(ValueError, match=r"^size: 5, must be larger"):
        env.reset(seed=0)


def test_bad_policy():
    with pytest.raises(ValueError, match=r"^random: 1\.5, must be from 0 to 1"):
        BuildingPolicy(1.5)
