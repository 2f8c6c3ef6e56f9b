"""Procedural Terrain: Gymnasium's checks, determinism, noise and surface, blocks and rewards."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.envs.support import COPIED_KINDS, assert_copies_live_on_their_own, assert_vector_equals_singles, rollout
from tfmem.envs.random_city import City
from tfmem.envs.rendering import FAR
from tfmem.envs.terrain import BORDER, EYE_HEIGHT, HEIGHT, REACH, WATER_SHARE, Terrain, fractal_heights, gradient_noise
from tfmem.envs.worlds import FORWARD, TURN_LEFT, TURN_RIGHT

NAME = "tfmem/Terrain-v0"


@pytest.fixture(scope="module")
def made():
    terrain = Terrain()
    terrain.reset(np.random.default_rng(4))
    return terrain


def small(seed, **arguments):
    terrain = Terrain(frame_size=16, size=24, **arguments)
    terrain.reset(np.random.default_rng(seed))
    return terrain


@pytest.mark.filterwarnings("error")
def test_gymnasium_checks():
    env = gymnasium.make(NAME, frame_size=16, size=16, map_size=16, num_blocks=3, render_mode="rgb_array")
    check_env(env.unwrapped)
    assert env.spec.max_episode_steps == 2000


def test_vector_equals_singles():
    arguments = dict(frame_size=16, map_size=8, size=16, num_blocks=40, speed=1.0)  # many blocks: rewards come
    assert_vector_equals_singles(NAME, steps=14, max_episode_steps=6, **arguments)


@pytest.mark.parametrize(("kind", "copied"), COPIED_KINDS)
def test_copies_live_on_their_own(kind, copied):
    steps = assert_copies_live_on_their_own(NAME, kind, copied, size=16, num_blocks=40, speed=1.0)
    assert sum(np.sum(reward) for _, reward, *_ in steps[:-2]) > 0  # so the copy's land was built on


def test_same_seed_same_frames():
    actions = [FORWARD, TURN_LEFT, FORWARD, FORWARD, TURN_RIGHT]
    frames, infos = rollout(NAME, 7, actions)
    again, infos_again = rollout(NAME, 7, actions)
    assert frames.shape == (6, 64, 64, 3)
    assert infos[0]["map"].shape == (64, 64, 3)
    np.testing.assert_array_equal(frames, again)
    np.testing.assert_array_equal(infos[-1]["map"], infos_again[-1]["map"])
    other, _ = rollout(NAME, 8, actions)
    assert (frames != other).any(axis=(1, 2, 3)).all()


def test_a_full_circle_gives_the_first_frame_again():
    frames, _ = rollout(NAME, 3, [TURN_LEFT] * 12, size=24)
    np.testing.assert_array_equal(frames[12], frames[0])
    assert all((frame != frames[0]).any() for frame in frames[1:12])


def test_gradient_noise_is_its_formula():
    noise = gradient_noise(np.random.default_rng(5), 12, 4.0)
    angle = np.random.default_rng(5).uniform(0, 2 * np.pi, [4, 4])
    np.testing.assert_allclose(noise[::4, ::4], 0, atol=1e-12)  # at the lattice's corners
    for point in ((1, 2), (7, 9), (11, 11)):
        expected = 0.0
        for corner in np.ndindex(4, 4):
            d = np.array(point) / 4 - corner
            if (np.abs(d) < 1).all():
                s = np.prod(1 - 6 * np.abs(d) ** 5 + 15 * np.abs(d) ** 4 - 10 * np.abs(d) ** 3)
                expected += s * np.dot(d, [np.cos(angle[corner]), np.sin(angle[corner])])
        assert noise[point] == pytest.approx(expected)


def test_heights():
    heights = fractal_heights(np.random.default_rng(0), 64)
    assert heights.shape == (64, 64)
    assert heights.max() == pytest.approx(HEIGHT)
    assert (heights < 0).mean() == pytest.approx(WATER_SHARE, abs=0.01)
    assert np.abs(np.diff(heights, axis=0)).mean() < heights.std() / 3  # neighbours go together


def test_the_agent_stands_on_the_surface_that_is_seen(made):
    places = np.random.default_rng(0).uniform(-31, 31, [300, 2])
    origins = np.column_stack([places, np.full(300, FAR)]).astype(np.float32)
    below = np.tile(np.float32([0, 0, -1]), [300, 1])
    _, distance = made.scene.cast(origins, below)
    surface = np.array([made.surface(*place) for place in places])
    clear = np.abs(made.blocks[:, None] - places).max(axis=-1).min(axis=0) > 1  # of blocks
    np.testing.assert_allclose(FAR - distance[clear], surface[clear], atol=1e-3)
    assert (surface == 0).any()  # water
    assert made.surface(31.5, 31.5) == max(made.heights[-1, -1], 0)
    row, column = 40, 9
    assert made.surface(column - 31.5, row - 31.5) == pytest.approx(max(made.heights[row, column], 0))
    assert made.eye() == made.surface(*made.position) + EYE_HEIGHT


def yellow(image):
    red, green, blue = np.moveaxis(image.astype(int), -1, 0)
    return (red > 150) & (green > 0.7 * red) & (blue < 0.35 * red)


def test_map_shows_blocks_water_and_nothing_else_that_is_yellow_or_blue(made):
    assert made.blocks.shape == (20, 2)
    rows = np.rint(31.5 - made.blocks[:, 1]).astype(int)
    columns = np.rint(made.blocks[:, 0] + 31.5).astype(int)
    assert yellow(made.map[rows, columns]).all()
    height = made.heights[::-1]  # the map's row 0 is in the north; its pixels lie nearly on the height map's points
    blue = made.map[..., 2] > made.map[..., 0].astype(int) + 40
    inner = np.zeros_like(blue)
    inner[1:-1, 1:-1] = True
    assert blue[inner & (height < -0.8)].all()
    assert not blue[inner & (height > 0.8)].any()


def test_a_block_that_is_reached_gives_reward_and_is_gone(made):
    terrain = small(3, num_blocks=5)
    heights = [terrain.surface(*block) for block in terrain.blocks]
    assert min(heights) > 0
    total = 0
    for left in (4, 3, 2, 1, 0):
        block = terrain.blocks[0]
        terrain.position, terrain.turns = block - [0, REACH + terrain.speed / 2], 0  # one step south of its reach
        others = np.hypot(*(terrain.blocks[1:] - terrain.position).T)
        if not terrain.free(*terrain.position) or others.min(initial=9) < REACH + terrain.speed:
            pytest.fail("the world of this seed does not suit the test")
        before, seen = terrain.map, yellow(terrain.frame()).sum()
        assert terrain.step(TURN_LEFT) == (0.0, False)
        assert terrain.step(TURN_RIGHT) == (0.0, False)
        reward, terminated = terrain.step(FORWARD)
        total += reward
        assert (reward, terminated, len(terrain.blocks)) == (1.0, left == 0, left)
        assert yellow(terrain.map).sum() < yellow(before).sum()
        assert yellow(terrain.frame()).sum() < seen
    assert total == 5
    assert not yellow(terrain.map).any()


def test_an_episode_ends_with_the_last_block():
    env = gymnasium.make_vec(NAME, 1, frame_size=16, size=16, map_size=16, num_blocks=1)
    env.reset(seed=0)
    terrain = env.worlds[0]
    terrain.position = terrain.blocks[0] - [0, REACH + terrain.speed / 2]
    _, rewards, terminated, truncated, _ = env.step([FORWARD])
    assert (rewards.tolist(), terminated.tolist(), truncated.tolist()) == ([1.0], [True], [False])
    _, rewards, terminated, _, infos = env.step([FORWARD])  # ignored: the first frame of another world
    assert (rewards.tolist(), terminated.tolist(), infos["position"].tolist()) == ([0.0], [False], [[0.0, 0.0]])
    assert len(terrain.blocks) == 1


def test_the_agent_is_slower_than_in_the_city_and_stays_inside():
    terrain = small(1)
    assert terrain.speed < City().speed
    for action in np.random.default_rng(1).choice(4, 800, p=[0.85, 0.05, 0.05, 0.05]):
        terrain.step(action)
        assert np.abs(terrain.position).max() <= terrain.side / 2 - BORDER


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frame_size", 4),
        ("map_size", 0),
        ("field_of_view", 200),
        ("size", 15),
        ("num_blocks", 0),
        ("num_blocks", 59 * 59),
        ("speed", -1),
        ("num_headings", 2),
    ],
)
def test_bad_arguments(name, value):
    with pytest.raises(ValueError, match=f"^{name}: .*must be"):
        gymnasium.make(NAME, **{name: value})


@pytest.mark.parametrize(
    "name", ["frame_size", "map_size", "field_of_view", "size", "num_blocks", "speed", "num_headings"]
)
@pytest.mark.parametrize("value", ["9", None, [9], True, float("nan"), float("inf")])
def test_arguments_of_another_kind(name, value):
    with pytest.raises(ValueError, match=f"^{name}: .*must be"):
        gymnasium.make(NAME, **{name: value}).reset(seed=0)
