"""Pictures show the arrays they were given, no two of their texts overlap, and curves follow the recipe."""

import itertools
import subprocess
import sys

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text
from PIL import Image

from tfmem import plotting
from tfmem.tasks.mapping import FREE, UNKNOWN, WALL, MappingTask, recentre


def texts(figure):
    """Texts that are shown: those of invisible axes and of ticks beyond their axis are not."""
    hidden = set()
    for axes in figure.findobj(Axes):
        if not axes.get_visible():
            hidden.update(axes.findobj(Text))
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    hidden.update((tick.label1, tick.label2))
    return [
        text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in hidden
    ]


def assert_tidy(figure):
    """Draws the figure; all its texts lie inside it and none covers another."""
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    assert len(boxes) > 1
    for name, box in boxes:
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -1, f"{name!r} sticks out"
    for (name, box), (other, another) in itertools.combinations(boxes, 2):
        assert not box.overlaps(another), f"{name!r} and {other!r} overlap"


def image(axes):
    return np.asarray(axes.images[-1].get_array())


def titled(figure, title):
    return next(axes for axes in figure.findobj(lambda a: hasattr(a, "get_title")) if axes.get_title() == title)


# ---- mapping --------------------------------------------------------------------------------------------------------


def cells(one_hot):
    return np.where(one_hot[..., 0] > 0, FREE, np.where(one_hot[..., 1] > 0, WALL, UNKNOWN))


@pytest.fixture
def frames(golden):
    """Two frames of the 15x15 trace; the memory is the 3-level average of what is known, and noise."""
    trace = np.load(golden("multigrid/mapping/env_map15.npz"))
    task = MappingTask(map_size=15, target_size=24)
    episode = task.episode(np.random.RandomState(0), 2, trace["init_map"], {3: trace["chosen_ind"]})
    rng = np.random.default_rng(1)

    def frame(step):
        target = episode.targets(3, step, step + 1)[0, 1]
        return plotting.MappingFrame(
            world=recentre(episode.maps, 24, UNKNOWN)[1],
            path=episode.relative_positions[: step + 1, 1],
            view=episode.views(step, step + 1)[0, 1],
            query=cells(episode.queries(3, step, step + 1)[0, 1]),
            prediction=np.clip(0.8 * target + 0.3 * rng.random((24, 24)), 0, 1),
            target=target,
            memory=tuple(rng.normal(size=(side, side, 4)) for side in (3, 6, 12, 24)),
            title=f"step {step + 1} of {episode.length}",
        )

    return [frame(30), frame(90)]


def test_mapping_figure_shows_the_frame(frames):
    frame = frames[1]
    figure = plotting.mapping_figure(frame)
    assert_tidy(figure)
    assert frame.title in [text.get_text() for text in texts(figure)]
    world = titled(figure, "true map, path and agent")
    np.testing.assert_array_equal(image(world), frame.world)
    path, agent = world.lines
    np.testing.assert_array_equal(np.stack(path.get_data()), frame.path.T[::-1])
    assert [float(*values) for values in agent.get_data()] == frame.path[-1, ::-1].tolist()
    np.testing.assert_array_equal(image(titled(figure, "view")), frame.view)
    np.testing.assert_array_equal(image(titled(figure, "query")), frame.query)
    np.testing.assert_array_equal(image(titled(figure, "predicted places"))[..., 3], frame.prediction)
    np.testing.assert_array_equal(image(titled(figure, "true places"))[..., 3], frame.target)
    shown = [image(axes) for axes in figure.subfigs[1].axes]
    for level, values in enumerate(frame.memory):
        np.testing.assert_allclose(shown[level], values.mean(-1))
        np.testing.assert_allclose(shown[4 + level], values.var(-1))
    assert titled(figure, "level 4: 24×24").get_xlabel().count(" to ") == 1


def test_gif_plays_every_frame(frames, tmp_path):
    path = tmp_path / "walk.gif"
    plotting.save_mapping_gif(path, iter(frames), frames_per_second=4)
    assert cv2.VideoCapture(str(path.with_suffix(".mp4"))).get(cv2.CAP_PROP_FRAME_COUNT) == 2
    video = Image.open(path)
    assert (video.n_frames, video.info["duration"], video.info["loop"]) == (2, 250, 0)
    pictures = []
    for number in range(2):
        video.seek(number)
        pictures.append(np.asarray(video.convert("RGB")).astype(int))
    assert np.any(pictures[0] != pictures[1])
    for colour in (plotting._ORANGE, plotting._RED, plotting._BLUE):  # path, agent and places keep their colours
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        assert (np.abs(pictures[1] - rgb).max(-1) <= 12).any(), colour


def test_gif_frames_are_laid_out_like_the_figure(frames, tmp_path, monkeypatch):
    made = []

    class Spy(plotting._MappingPicture):
        def __init__(self, frame):
            super().__init__(frame)
            made.append(self.figure)

    monkeypatch.setattr(plotting, "_MappingPicture", Spy)
    plotting.save_mapping_gif(tmp_path / "walk.gif", frames)
    assert_tidy(made[0])


def test_gif_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="frames: none, must be at least one"):
        plotting.save_mapping_gif(tmp_path / "walk.gif", [])
    assert not list(tmp_path.iterdir())


# ---- recall ---------------------------------------------------------------------------------------------------------


def test_recall_figure(golden):
    digits = np.load(golden("multigrid/mnist_recall/digits.npz"))
    images = digits["images"][:12].reshape(2, 6, 28, 28)
    labels = digits["labels"][:12].reshape(2, 6)
    steps, told = [0, 4], [labels[0, 1], (labels[1, 5] + 1) % 10]
    figure = plotting.recall_figure(images, steps, told, [labels[0, 1], labels[1, 5]], "recall")
    assert_tidy(figure)
    for example, strip in enumerate(figure.subfigs):
        above, below = strip.axes[:6], strip.axes[6:]
        for step in range(6):
            np.testing.assert_array_equal(image(above[step]), images[example, step])
        assert [bool(axes.images) for axes in below] == [step == steps[example] for step in range(6)]
        np.testing.assert_array_equal(image(below[steps[example]]), images[example, steps[example]])
        answers = [[text.get_text() for text in axes.texts] for axes in below]
        expected = [[] for _ in range(6)]
        expected[steps[example] + 1] = [str(told[example])] + ([f"is {labels[1, 5]}"] if example == 1 else [])
        assert answers == expected
    assert figure.subfigs[0].axes[7].texts[0].get_color() == plotting._GREEN
    assert figure.subfigs[1].axes[11].texts[0].get_color() == plotting._RED


# ---- memory over time -----------------------------------------------------------------------------------------------


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


# ---- curves ---------------------------------------------------------------------------------------------------------


def test_smooth_is_the_exponential_moving_average(rng):
    values = rng.normal(size=50)
    expected = [values[0]]
    for value in values[1:]:
        expected.append(expected[-1] * 9 / 11 + value * 2 / 11)
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


def test_every_curve_is_drawn_in_its_own_way():
    curves = {str(n): [(np.arange(5.0), np.full(5, n))] for n in range(11)}
    along = plotting.map_error_figure(
        {name: seeds[0][1] for name, seeds in curves.items()}, {0: (np.zeros([2, 2, 3]),) * 3}
    )
    for figure in (plotting.curves_figure(curves, "x", "y"), along):
        lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
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


# ---- belief states --------------------------------------------------------------------------------------------------


def pictures_of(axes, count):
    """The images of a strip of `count` square pictures."""
    strip = image(axes)
    side = len(strip)
    stride = (strip.shape[1] - side) // max(count - 1, 1)
    return [strip[:, k * stride : k * stride + side] for k in range(count)]


def test_rollout_figure(rng):
    frames, samples = rng.random((2, 2, 7, 8, 8, 3))
    figure = plotting.rollout_figure(frames, samples, per_row=5, title="rollouts")
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
    figure = plotting.decoded_maps_figure(maps, decoded, "decoded maps")
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
    figure = plotting.map_error_figure(errors, shown, title="one trajectory")
    assert_tidy(figure)
    upper, lower = figure.subfigs
    (axes,) = upper.axes
    marks, curves = axes.lines[:2], axes.lines[2:]
    assert [line.get_xdata()[0] for line in marks] == [2, 15]
    for line, (name, error) in zip(curves, errors.items(), strict=True):
        assert line.get_label() == name
        np.testing.assert_array_equal(line.get_data(), [np.arange(20), error])
    panels = np.reshape(lower.axes, (3, 2))
    assert [axes.get_title() for axes in panels[0]] == ["step 2", "step 15"]
    for column, images in zip(panels.T, shown.values(), strict=True):
        for axes, picture in zip(column, images, strict=True):
            np.testing.assert_allclose(image(axes), np.broadcast_to(picture, (*picture.shape[:2], 3)))


# ---- routing --------------------------------------------------------------------------------------------------------


def test_routing_figure(rng):
    multigrid = [[rng.random((3 * 2**level,) * 2) < 0.4 for level in range(levels)] for levels in (1, 2, 3, 3)]
    standard = [rng.random((12, 12)) < 0.2 for _ in range(4)]
    standard[0][:] = False
    standard[0][3, 7] = True
    figure = plotting.routing_figure(multigrid, standard, "routing")
    assert_tidy(figure)
    upper, lower = figure.subfigs
    panels = np.reshape(upper.axes, (3, 4))
    for layer, grids in enumerate(multigrid):
        for level in range(3):
            axes = panels[2 - level, layer]
            assert axes.get_visible() == (level < len(grids))
            if level < len(grids):
                np.testing.assert_array_equal(axes.collections[0].get_array(), grids[level])
                assert axes.get_xlabel() == f"{100 * grids[level].mean():.0f}%"
    for axes, grid in zip(lower.axes, standard, strict=True):
        np.testing.assert_array_equal(axes.collections[0].get_array(), grid)
    assert lower.axes[0].get_xlabel() == "0.7%"
    assert {axes.get_title() for axes in lower.axes} == {f"layer {layer}" for layer in range(1, 5)}


def test_pictures_need_neither_a_window_nor_tensorflow():
    code = "import sys, tfmem.plotting; sys.exit('tensorflow' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
