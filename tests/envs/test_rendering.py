"""Frames against the pinhole formula; colours, haze and maps."""

import numpy as np
import pytest

from tfmem.envs.rendering import FAR, HAZE, SUN, Camera, Scene, boxes, rectangles, voxels

RED, GREY = np.uint8([[200, 40, 30]]), np.uint8([[120, 120, 120]])
EYE = 0.7
CLEAR = 1e9  # a visibility that leaves colours as they are


def scene(lower, upper, visibility=CLEAR):
    """A red box on a grey plane."""
    ground = rectangles([[-FAR, -FAR]], [[FAR, FAR]], 0.0, GREY)
    return Scene([ground, boxes([lower], [upper], RED)], visibility)


def shaded(color, normal):
    return np.floor(color * (2 + np.dot(normal, SUN)) / (2 + SUN[2]))


@pytest.mark.parametrize(("size", "field_of_view"), [(64, 80.0), (33, 50.0)])
def test_box_straight_ahead_is_where_the_pinhole_formula_has_it(size, field_of_view):
    camera = Camera(size, field_of_view)
    depth, left, right, height = 4.0, 1.1, 0.6, 2.05
    frame = scene([depth, -right, 0], [depth + 1, left, height]).render(camera, [[0, 0, EYE]], [0.0])[0]
    f = size / (2 * np.tan(np.radians(field_of_view / 2)))
    centers = np.arange(size) + 0.5
    columns = (centers > size / 2 - f * left / depth) & (centers < size / 2 + f * right / depth)
    rows = (centers > size / 2 - f * (height - EYE) / depth) & (centers < size / 2 + f * EYE / depth)
    red = frame[..., 0] > 2.0 * frame[..., 1]
    np.testing.assert_array_equal(red, rows[:, None] & columns)
    np.testing.assert_allclose(frame[red], np.broadcast_to(shaded(RED[0], [-1, 0, 0]), [red.sum(), 3]), atol=1)
    below = (centers > size / 2)[:, None] & ~red
    np.testing.assert_allclose(frame[below], np.broadcast_to(GREY[0], [below.sum(), 3]), atol=1)
    above = (centers < size / 2)[:, None] & ~red
    np.testing.assert_array_equal(frame[above], camera.sky.astype(np.uint8).reshape(size, size, 3)[above])


@pytest.mark.parametrize(("yaw", "ahead", "left"), [(0.0, (1, 0), (0, 1)), (np.pi / 2, (0, 1), (-1, 0))])
def test_yaw_turns_from_east_to_north(yaw, ahead, left):
    ahead, left = np.array(ahead), np.array(left)
    middle = 3 * ahead + left  # ahead and to the left
    world = scene([*(middle - 0.3), 0], [*(middle + 0.3), 2])
    frame = world.render(Camera(64, 80.0), [[0, 0, EYE]], [yaw])[0]
    red = (frame[..., 0] > 2.0 * frame[..., 1]).any(axis=0)
    assert red[:32].sum() > 5
    assert not red[32:].any()


def test_many_cameras_in_one_call_see_what_each_sees_alone():
    world, camera = scene([2, -1, 0], [3, 1, 1], visibility=10.0), Camera(16, 70.0)
    positions, yaws = [[0, 0, 0.7], [0, 1, 0.5], [5, 0, 2.0]], [0.0, 0.4, 3.0]
    together = world.render(camera, positions, yaws)
    assert together.shape == (3, 16, 16, 3)
    assert together.dtype == np.uint8
    for frame, position, yaw in zip(together, positions, yaws, strict=True):
        np.testing.assert_array_equal(frame, world.render(camera, [position], [yaw])[0])


def test_colours_fade_with_distance_into_the_haze():
    camera = Camera(1, 1.0)  # one ray, along x
    near = shaded(RED[0], [-1, 0, 0])
    for distance in (1.0, 5.0, 40.0):
        pixel = scene([distance, -9, 0], [distance + 1, 9, 9], visibility=8.0).render(camera, [[0, 0, 1]], [0.0])[
            0, 0, 0
        ]
        np.testing.assert_allclose(pixel, HAZE + np.exp(-distance / 8) * (near - HAZE), atol=1.5)


def test_every_side_of_a_box_has_a_shade_of_its_own():
    colors = scene([-1, -1, 0], [1, 1, 2]).colors[2:]
    assert len(np.unique(colors.round(2), axis=0)) == 6


def test_voxels_look_like_boxes_without_their_hidden_sides():
    solid = np.random.default_rng(0).random([3, 4, 3]) < 0.6
    solid[1, 1] = True
    colors = np.random.default_rng(1).integers(0, 256, [3, 4, 3, 3], np.uint8)
    origin = np.array([-1.5, 4.0, 0.0])
    places = np.argwhere(solid) + origin
    one, many = voxels(solid, colors, origin), boxes(places, places + 1, colors[solid])
    stacks = [np.moveaxis(solid, axis, 0) for axis in range(3)]
    pairs = sum((stack[1:] & stack[:-1]).sum() for stack in stacks)  # that touch
    assert len(one.faces) == 2 * (6 * solid.sum() - 2 * pairs - solid[:, :, 0].sum())
    camera = Camera(32, 80.0)
    for position, yaw in (([0.1, 0.2, 1.3], np.pi / 2), ([0.2, 12.1, 2.4], 5.0), ([5.3, 6.1, 0.4], 3.2)):
        seen, expected = (Scene([mesh], CLEAR).render(camera, [position], [yaw])[0] for mesh in (one, many))
        assert (expected != camera.sky.astype(np.uint8).reshape(32, 32, 3)).any(axis=2).sum() > 50
        np.testing.assert_array_equal(seen, expected)


def test_top_down_has_north_up_and_west_left():
    world = scene([1, 2, 0], [2, 4, 1], visibility=1.0)  # without haze
    image = world.top_down(8, 8)
    red = np.zeros([8, 8], bool)
    red[0:2, 5] = True  # y from 2 to 4: rows 0 and 1; x from 1 to 2: column 5
    np.testing.assert_array_equal(image, np.where(red[..., None], RED, GREY))
    half = world.top_down(4, 8)[0, 2]  # its left half is ground
    np.testing.assert_allclose(half, (RED[0] / 2 + GREY[0] / 2), atol=1)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Camera(0), "size"),
        (lambda: Camera(64, 0.5), "field_of_view"),
        (lambda: Camera(64, 180), "field_of_view"),
        (lambda: scene([0, 0, 0], [1, 1, 1], visibility=0), "visibility"),
    ],
)
def test_bad_arguments(make, name):
    with pytest.raises(ValueError, match=f"^{name}: .*must be"):
        make()
