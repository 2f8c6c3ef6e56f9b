"""Figures show their arrays, no two of their texts overlap, and curves follow the recipe."""

import subprocess
import sys

import numpy as np
import pytest

from tests.figures import assert_tidy, image
from tfmem import plotting


def test_memory_figure_shows_the_steps_of_every_memory(rng):
    slots, grids = rng.normal(size=(9, 20, 4)), {"3×3": rng.normal(size=(2, 3, 3)), "6×6": rng.normal(size=(2, 6, 6))}
    figure = plotting.memory_figure({"dnc": {"20 slots of 4": slots}, "multigrid": grids}, 3, "memory")
    assert_tidy(figure)
    dnc, multigrid = (part.axes for part in figure.subfigs)
    for axes, step in zip(dnc, (0, 4, 8), strict=True):
        np.testing.assert_array_equal(image(axes), slots[step])
        assert axes.images[0].get_clim() == (slots.min(), slots.max())
        assert axes.get_title() == f"step {step + 1}"
    for row, grid in zip((multigrid[:3], multigrid[3:]), grids.values(), strict=True):
        assert [axes.get_visible() for axes in row] == [True, True, False]  # there are two steps alone
        for axes, step in zip(row[:2], (0, 1), strict=True):
            np.testing.assert_array_equal(image(axes), grid[step])


def test_smooth_is_the_exponential_moving_average(rng):
    values = rng.normal(size=50)
    weights = (9 / 11) ** np.arange(50)
    expected = [np.average(values[: n + 1][::-1], weights=weights[: n + 1]) for n in range(50)]
    np.testing.assert_allclose(plotting.smooth(values), expected)
    np.testing.assert_allclose(plotting.smooth(values, window=1), values)


@pytest.mark.parametrize(
    ("seeds", "t"), [(2, 6.3138), (3, 2.9200), (5, 2.1318), (11, 1.8125), (12, 1.7959), (31, 1.6973)]
)
def test_confidence_is_student_t(rng, seeds, t):
    values = rng.normal(size=(seeds, 4))
    mean, half = plotting.mean_and_confidence(values)
    np.testing.assert_allclose(mean, values.mean(0))
    deviation = np.sqrt(((values - mean) ** 2).sum(0) / (seeds - 1))
    np.testing.assert_allclose(half, t * deviation / np.sqrt(seeds), rtol=3e-3)


@pytest.mark.parametrize("seeds", [2, 3, 7])
def test_equal_values_have_no_width(seeds):
    assert plotting.mean_and_confidence([0.1] * seeds) == (0.1, 0.0)


@pytest.mark.filterwarnings("error")
def test_infinite_values_have_their_mean():
    assert plotting.mean_and_confidence([np.inf])[0] == np.inf
    mean, half = plotting.mean_and_confidence([[np.inf, 1.0], [3.0, 2.0]])
    assert mean.tolist() == [np.inf, 1.5]
    assert np.isnan(half[0])


def test_one_seed_has_no_confidence():
    mean, half = plotting.mean_and_confidence([[1.0, 2.0]])
    assert mean.tolist() == [1.0, 2.0]
    assert np.isnan(half).all()


def test_resampled_curves_read_the_shared_range(rng):
    seeds = [(np.arange(0, 100, 2), rng.normal(size=50)), (np.arange(10, 130, 3), rng.normal(size=40))]
    x, y = plotting.resampled_curves(seeds)
    np.testing.assert_allclose(x, np.linspace(10, 98, 128))
    for (seed_x, seed_y), curve in zip(seeds, y, strict=True):
        np.testing.assert_allclose(curve, np.interp(x, seed_x, plotting.smooth(seed_y)))


def test_few_points_are_drawn_as_they_are():
    x, y = plotting.resampled_curves([(np.arange(4.0), np.array([0.0, 1.0, 4.0, 9.0]))])
    np.testing.assert_allclose(y[0], np.interp(x, [0, 1, 2, 3], [0, 1, 4, 9]))


def test_a_window_smooths_short_curves_too():
    few = np.array([0.0, 1.0, 4.0, 9.0])
    x, y = plotting.resampled_curves([(np.arange(4.0), few)], window=10)
    np.testing.assert_allclose(y[0], np.interp(x, [0, 1, 2, 3], plotting.smooth(few, 10)))
    figure = plotting.curves_figure({"a": [(np.arange(4.0), few)]}, "x", "y", window=10)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), y[0])


@pytest.mark.parametrize(
    ("score", "window"),
    [
        ("train/map_mse", 10),
        ("eval/map_mse_last", 10),
        ("position_accuracy", 10),
        ("train/episode_return", 10),
        ("train/solved_path_2", 10),
        ("train/loss", None),
        ("eval/unsolved", None),
        ("train/episode_length", None),
    ],
)
def test_the_paper_names_the_scores_that_are_smoothed(score, window):
    assert plotting.window_of(score) == window


def test_curves_figure(rng):
    x = np.arange(0, 1000, 10)
    several, one = [(x, rng.random(100)) for _ in range(3)], [(x, rng.random(100) + 1)]
    figure = plotting.curves_figure({"multigrid": several, "DNC": one}, "steps", "F-score", "on unseen maps")
    assert_tidy(figure)
    (axes,) = figure.axes
    grid, y = plotting.resampled_curves(several)
    mean, half = plotting.mean_and_confidence(y)
    np.testing.assert_allclose(axes.lines[0].get_data(), [grid, mean])
    assert len(axes.lines) == 2
    (band,) = axes.collections
    low, high = band.get_paths()[0].vertices.min(0), band.get_paths()[0].vertices.max(0)
    np.testing.assert_allclose([low[1], high[1]], [(mean - half).min(), (mean + half).max()])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["multigrid (3 seeds)", "DNC (1 seed)"]


def test_a_wide_region_does_not_set_the_axis():
    x = np.arange(3.0)
    apart = [(x, np.array([0.9, 0.9, 0.9])), (x, np.array([0.9, 0.5, 0.1]))]
    bottom, top = plotting.curves_figure({"two seeds": apart}, "x", "y").axes[0].get_ylim()
    np.testing.assert_allclose([bottom, top], [0.1 - 0.4, 0.9 + 0.4])
    near = [(x, np.array([0.9, 0.5, 0.1])), (x, np.array([0.9, 0.5, 0.12]))]
    bottom, top = plotting.curves_figure({"two seeds": near}, "x", "y").axes[0].get_ylim()
    assert bottom > -0.1
    assert top < 1.0


def test_every_curve_has_its_own_style():
    curves = {str(n): [(np.arange(5.0), np.full(5, n))] for n in range(11)}
    lines = plotting.curves_figure(curves, "x", "y").axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 11


@pytest.mark.parametrize("log", [True, False])
def test_loss_figure(golden, log):
    curve = np.load(golden("multigrid/mapping/train_curve.npz"))
    figure = plotting.loss_figure(curve["global_t"], curve["loss_alt"], title="mapping", log=log)
    assert_tidy(figure)
    (axes,) = figure.axes
    assert axes.get_yscale() == ("log" if log else "linear")
    raw, smoothed = axes.lines
    np.testing.assert_array_equal(raw.get_data(), [curve["global_t"], curve["loss_alt"]])
    np.testing.assert_array_equal(smoothed.get_ydata(), plotting.smooth(curve["loss_alt"]))


def test_cost_figure():
    x = np.array([10, 100, 1000])
    panels = {
        ("length", "seconds"): {"MNM": (x, 2 * x), "SALU": (x, x**2)},
        ("length", "GB"): {"SALU": (x, x), "MNM": (x, x)},
    }
    figure = plotting.cost_figure(panels, "costs")
    assert_tidy(figure)
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes] == list(panels)
    seconds, memory = figure.axes
    assert [t.get_text() for t in seconds.get_xticklabels()] == ["10", "100", "1000"]
    assert [line.get_color() for line in seconds.lines] == [line.get_color() for line in reversed(memory.lines)]
    assert (seconds.get_xscale(), seconds.get_yscale()) == ("log", "log")
    np.testing.assert_array_equal(seconds.lines[1].get_data(), [x, x**2])


def test_pictures_need_neither_a_window_nor_tensorflow():
    code = "import sys, tfmem.plotting; sys.exit('tensorflow' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
