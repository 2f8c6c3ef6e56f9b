"""Figures of the belief-states experiments show their arrays, and no two of their texts overlap."""

import numpy as np

from reproductions.belief_states import figures
from tests.figures import assert_tidy, image, pictures_of
from tfmem import plotting


def test_rollout_figure(rng):
    frames, samples = rng.random((2, 2, 7, 8, 8, 3))
    figure = figures.rollout_figure(frames, samples, per_row=5, title="rollouts")
    assert_tidy(figure)
    lines = figure.subfigs
    assert len(lines) == 4
    for number, line in enumerate(lines):
        rollout, start = divmod(number, 2)
        for axes, name, images in zip(line.axes, ("input", "sample"), (frames, samples), strict=True):
            assert axes.get_ylabel() == name
            expected = images[rollout, 5 * start : 5 * start + 5]
            shown = pictures_of(axes, 5)
            np.testing.assert_allclose(shown[: len(expected)], expected)
            assert np.all(np.array(shown[len(expected) :]) == 1)


def test_decoded_maps_figure(rng):
    maps = rng.random((3, 8, 8, 3))
    decoded = {
        "LSTM": {"1 step": rng.random((3, 8, 8, 1)), "12 steps": rng.normal(size=(3, 8, 8, 1))},
        "LSTM + Kanerva": {"12 steps": rng.random((3, 8, 8, 3))},
    }
    figure = figures.decoded_maps_figure(maps, decoded, "decoded maps")
    assert_tidy(figure)
    panels = np.reshape(figure.axes, (3, 2))
    assert [axes.get_title() for axes in panels[0]] == ["1 step", "12 steps"]
    assert [axes.get_ylabel() for axes in panels[:, 0]] == ["true map", "LSTM", "LSTM + Kanerva"]
    for axes in panels[0]:
        np.testing.assert_allclose(pictures_of(axes, 3), maps)
    clipped = np.clip(decoded["LSTM"]["12 steps"], 0, 1)
    np.testing.assert_allclose(pictures_of(panels[1, 1], 3), np.repeat(clipped, 3, -1))
    assert np.all(image(panels[2, 0]) == 1)
    np.testing.assert_allclose(pictures_of(panels[2, 1], 3), decoded["LSTM + Kanerva"]["12 steps"])


def test_map_error_figure(rng):
    errors = {"LSTM": rng.random(20), "LSTM + RMA": rng.random(20)}
    shown = {2: rng.random((3, 8, 8, 3)), 15: [rng.random((8, 8, 1)), rng.random((8, 8, 1)), rng.random((4, 4, 3))]}
    figure = figures.map_error_figure(errors, shown, title="one trajectory")
    assert_tidy(figure)
    upper, lower = figure.subfigs
    (axes,) = upper.axes
    marks, curves = axes.lines[:2], axes.lines[2:]
    assert [line.get_xdata()[0] for line in marks] == [2, 15]
    for line, (name, error) in zip(curves, errors.items(), strict=True):
        assert line.get_label() == name
        np.testing.assert_array_equal(line.get_data(), [np.arange(20), plotting.smooth(error)])
    panels = np.reshape(lower.axes, (3, 2))
    assert [axes.get_title() for axes in panels[0]] == ["step 2", "step 15"]
    for column, images in zip(panels.T, shown.values(), strict=True):
        for axes, picture in zip(column, images, strict=True):
            np.testing.assert_allclose(image(axes), np.broadcast_to(picture, (*picture.shape[:2], 3)))


def test_every_error_has_its_own_style():
    errors = {str(n): np.full(5, n) for n in range(11)}
    lines = figures.map_error_figure(errors, {0: (np.zeros([2, 2, 3]),) * 3}).axes[0].lines[1:]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 11


def test_episode_figure(rng):
    rows = {
        "frame": rng.random((3, 4, 4, 3)),
        "map": rng.random((3, 8, 8, 3)),
        "decoded": rng.normal(size=(3, 8, 8, 3)),
    }
    figure = figures.episode_figure(rows, [0, 5, 12], "an episode")
    assert_tidy(figure)
    assert figure.axes[0].get_title() == "steps 0, 5, 12"
    for axes, (name, images) in zip(figure.axes, rows.items(), strict=True):
        assert axes.get_ylabel() == name
        np.testing.assert_allclose(pictures_of(axes, 3), np.clip(images, 0, 1))
