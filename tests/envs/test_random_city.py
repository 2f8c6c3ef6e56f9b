"""Random City: Gymnasium's checks, determinism, geometry, map and walls."""

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from tests.envs.support import (
    COPIED_KINDS,
    assert_copies_live_on_their_own,
    assert_same,
    assert_vector_equals_singles,
    rollout,
)
from tfmem.envs.random_city import (
    BOX_HEIGHT,
    BOX_SIDE,
    GAP,
    GRASS,
    PAVEMENT,
    RADIUS,
    START_RADIUS,
    TILE_CONTRAST,
    VISIBILITY,
    City,
    RandomCityEnv,
    RandomCityVectorEnv,
)
from tfmem.envs.rendering import HAZE, SUN
from tfmem.envs.worlds import BACKWARD, FORWARD, TURN_LEFT, TURN_RIGHT

NAME = "tfmem/RandomCity-v0"


@pytest.fixture(scope="module")
def city():
    city = City(map_size=64)
    city.reset(np.random.default_rng(4))
    return city


@pytest.fixture
def walker(city):
    """The city with its agent back at the start."""
    city.position, city.turns = np.zeros(2), 0
    return city


@pytest.mark.filterwarnings("error")
def test_gymnasium_checks():
    env = gymnasium.make(NAME, frame_size=16, render_mode="rgb_array")
    check_env(env.unwrapped)
    assert env.spec.max_episode_steps == 500
    frame, _ = env.reset(seed=1)
    np.testing.assert_array_equal(env.render(), frame)


def test_what_a_step_gives():
    env = gymnasium.make(NAME)
    frame, info = env.reset(seed=0)
    assert (frame.shape, frame.dtype) == ((64, 64, 3), np.uint8)
    assert {name: (value.shape, value.dtype) for name, value in info.items()} == {
        "map": ((32, 32, 3), np.uint8),
        "position": ((2,), np.float32),
        "heading": ((), np.float32),
    }
    assert info["position"].tolist() == [0, 0]
    assert info["heading"] == np.float32(np.pi / 2)
    _, reward, terminated, truncated, _ = env.step(TURN_LEFT)
    assert (reward, terminated, truncated) == (0.0, False, False)


def test_vector_equals_singles():
    assert_vector_equals_singles(NAME, steps=12, max_episode_steps=4, frame_size=16, map_size=8)


@pytest.mark.parametrize(("kind", "copied"), COPIED_KINDS)
def test_copies_live_on_their_own(kind, copied):
    assert_copies_live_on_their_own(NAME, kind, copied)


def test_same_seed_same_frames():
    actions = [FORWARD, TURN_LEFT, FORWARD, BACKWARD, TURN_RIGHT]
    frames, infos = rollout(NAME, 7, actions)
    again, infos_again = rollout(NAME, 7, actions)
    np.testing.assert_array_equal(frames, again)
    np.testing.assert_array_equal(infos[-1]["map"], infos_again[-1]["map"])
    other, _ = rollout(NAME, 8, actions)
    assert (frames != other).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("turn", [TURN_LEFT, TURN_RIGHT])
def test_a_full_circle_gives_the_first_frame_again(turn):
    frames, infos = rollout(NAME, 3, [turn] * 12)
    np.testing.assert_array_equal(frames[12], frames[0])
    assert all((frame != frames[0]).any() for frame in frames[1:12])
    sign = 1 if turn == TURN_LEFT else -1
    expected = (np.pi / 2 + sign * np.arange(13) * np.pi / 6) % (2 * np.pi)
    np.testing.assert_allclose([info["heading"] for info in infos], expected, atol=1e-5)


def test_moves(walker):
    def places(*actions):
        for action in actions:
            walker.step(action)
            yield walker.position

    np.testing.assert_allclose([*places(FORWARD, FORWARD, BACKWARD)], [[0, 0.5], [0, 1], [0, 0.5]], atol=1e-12)
    [*_, place] = places(BACKWARD, TURN_RIGHT, FORWARD)  # thirty degrees from north to east
    np.testing.assert_allclose(place, 0.5 * np.array([np.sin(np.pi / 6), np.cos(np.pi / 6)]), atol=1e-12)


def test_boxes_are_as_described():
    city = City(frame_size=8, map_size=8)
    for seed in range(30):
        city.reset(np.random.default_rng(seed))
        lower, upper, heights = city.lower[:, :2], city.upper[:, :2], city.upper[:, 2]
        sides = upper - lower
        assert 8 <= len(lower) == len(city.colors) <= city.num_boxes
        assert BOX_SIDE[0] <= sides.min() < sides.max() <= BOX_SIDE[1]
        assert not city.lower[:, 2].any()
        assert BOX_HEIGHT[0] <= heights.min() < heights.max() <= BOX_HEIGHT[1]
        assert len(np.unique(city.colors, axis=0)) == len(city.colors)
        gap = np.maximum(lower[:, None] - upper, lower - upper[:, None]).max(axis=-1)
        assert gap[~np.eye(len(lower), dtype=bool)].min() >= GAP
        assert np.abs([lower, upper]).max() <= city.side / 2 - GAP
        assert np.hypot(*np.clip(0, lower, upper).T).min() > START_RADIUS


def test_map_shows_every_box_in_its_colour_at_its_place(city):
    edges = (np.arange(65) / 64 - 0.5) * city.side  # of the map's cells
    pavement = np.ones([64, 64], bool)
    for lower, upper, color in zip(city.lower, city.upper, city.colors, strict=True):
        inside = [(edges[:-1] >= low) & (edges[1:] <= high) for low, high in zip(lower[:2], upper[:2], strict=True)]
        touched = [(edges[1:] > low) & (edges[:-1] < high) for low, high in zip(lower[:2], upper[:2], strict=True)]
        shown = city.map[::-1][np.ix_(inside[1], inside[0])]  # row 0 of the map is in the north
        assert shown.size
        np.testing.assert_allclose(shown, np.broadcast_to(color, shown.shape), atol=1)
        pavement[::-1][np.ix_(touched[1], touched[0])] = False
    assert np.abs(city.map[pavement] - np.array(PAVEMENT)).max() <= TILE_CONTRAST + 1
    assert pavement.mean() > 0.5


def test_box_ahead_shows_its_colour(walker):
    """From the south of a box: the middle column, at the height of the eye, shows its southern wall."""
    seen = 0
    for lower, upper, color in zip(walker.lower, walker.upper, walker.colors, strict=True):
        x, y = (lower[0] + upper[0]) / 2, lower[1] - 0.75
        if not walker.free(x, y) or upper[2] < 1:
            continue
        walker.position = np.array([x, y])
        shade = (2 - SUN[1]) / (2 + SUN[2])
        expected = HAZE + np.exp(-0.75 / VISIBILITY) * (color * shade - HAZE)
        np.testing.assert_allclose(walker.frame()[31, 31], expected, atol=2)
        seen += 1
    assert seen > 3


def test_agent_never_is_in_a_box_or_leaves_the_pavement(walker):
    rng, blocked, slid = np.random.default_rng(1), 0, 0
    for action in rng.choice(4, 5000, p=[0.75, 0.05, 0.1, 0.1]):
        before = walker.position
        walker.step(action)
        moved = np.hypot(*(walker.position - before))
        blocked += action == FORWARD and moved == 0
        slid += 1e-9 < moved < walker.speed - 1e-9
        outside = np.maximum(walker.lower[:, :2] - walker.position, walker.position - walker.upper[:, :2]).max(axis=1)
        assert outside.min() >= RADIUS - 1e-9
        assert np.abs(walker.position).max() <= walker.side / 2 - RADIUS
    assert blocked > 50
    assert slid > 50


def test_grass_begins_where_the_pavement_ends(walker):
    walker.position, walker.turns = np.array([0.0, walker.side / 2 - RADIUS]), 0
    horizon = walker.frame()[40:]
    np.testing.assert_allclose(horizon[-1, 0] / horizon[-1, 0].sum(), np.array(GRASS) / np.sum(GRASS), atol=0.05)


def test_errors_of_steps():
    one, two = RandomCityEnv(), RandomCityVectorEnv(2)
    for env, action in ((one, 0), (two, [0, 0])):
        with pytest.raises(ResetNeeded):
            env.step(action)
        env.reset(seed=0)
    with pytest.raises(ValueError, match=r"^action: 4, must be an integer from 0 to 3"):
        one.step(4)
    for actions in ([0, 4], [0], [0.5, 0]):
        with pytest.raises(ValueError, match=r"^actions: .*must be 2 integers from 0 to 3"):
            two.step(actions)
    with pytest.raises(ValueError, match=r"^seed: 3 seeds, must be num_envs = 2"):
        two.reset(seed=[1, 2, 3])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frame_size", 4),
        ("map_size", 0),
        ("field_of_view", 0),
        ("num_boxes", -1),
        ("side", 5),
        ("side", 8.5),
        ("speed", 0),
        ("speed", 1.5),
        ("num_headings", 2),
        ("render_mode", "ansi"),
    ],
)
def test_bad_arguments(name, value):
    for make in (RandomCityEnv, RandomCityVectorEnv):
        with pytest.raises(ValueError, match=f"^{name}: .*must be"):
            make(**{name: value})


@pytest.mark.parametrize(
    "name", ["frame_size", "map_size", "field_of_view", "num_boxes", "side", "speed", "num_headings"]
)
@pytest.mark.parametrize("value", ["9", None, [9], True, float("nan"), float("inf")])
def test_arguments_of_another_kind(name, value):
    with pytest.raises(ValueError, match=f"^{name}: .*must be"):
        RandomCityEnv(**{name: value}).reset(seed=0)


@pytest.mark.parametrize("name", ["num_envs", "max_episode_steps"])
def test_bad_arguments_of_the_vector_environment(name):
    with pytest.raises(ValueError, match=f"^{name}: 0, must be at least 1"):
        RandomCityVectorEnv(**{name: 0})
    for value in ("2", 1.5, True):
        with pytest.raises(ValueError, match=f"^{name}: {value!r}, must be an integer"):
            RandomCityVectorEnv(**{name: value})


@pytest.mark.parametrize("seed", [-1, 1.5, "ab", True, {}, [1, "x"], [-1, 2], [1.5, 2]])
def test_bad_seeds_of_the_vector_environment(seed):
    with pytest.raises(ValueError, match=r"^seed: .*must be"):
        RandomCityVectorEnv(2, frame_size=8, map_size=1).reset(seed=seed)


def test_seeds_of_the_vector_environment_may_be_an_array():
    env = RandomCityVectorEnv(2, frame_size=8, map_size=1)
    assert_same(env.reset(seed=np.array([3, 4])), env.reset(seed=[3, 4]))


@pytest.mark.parametrize("make", [RandomCityEnv, RandomCityVectorEnv])
def test_rendering_needs_a_reset(make):
    env = make(render_mode="rgb_array", frame_size=8, map_size=1)
    with pytest.raises(ResetNeeded, match="call reset before render"):
        env.render()
    assert make().render() is None


def test_no_boxes():
    city = City(num_boxes=0)
    city.reset(np.random.default_rng(0))
    assert city.free(0, 0)
    assert np.abs(city.map - np.array(PAVEMENT)).max() <= TILE_CONTRAST
