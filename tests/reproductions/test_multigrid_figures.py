"""Figures of the multigrid experiments show their arrays, and no two of their texts overlap."""

import cv2
import numpy as np
import pytest
from PIL import Image

from reproductions.multigrid import figures
from tests.figures import assert_tidy, image, texts, titled
from tfmem import plotting
from tfmem.tasks.mapping import FREE, UNKNOWN, WALL, MappingTask, recentre


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
        return figures.MappingFrame(
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
    figure = figures.mapping_figure(frame)
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
    figures.save_mapping_gif(path, iter(frames), frames_per_second=4)
    assert cv2.VideoCapture(str(path.with_suffix(".mp4"))).get(cv2.CAP_PROP_FRAME_COUNT) == 2
    video = Image.open(path)
    assert (video.n_frames, video.info["duration"], video.info["loop"]) == (2, 250, 0)
    pictures = []
    for number in range(2):
        video.seek(number)
        pictures.append(np.asarray(video.convert("RGB")).astype(int))
    assert np.any(pictures[0] != pictures[1])
    for colour in (plotting.ORANGE, plotting.RED, plotting.BLUE):  # path, agent and places keep their colours
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        assert (np.abs(pictures[1] - rgb).max(-1) <= 12).any(), colour


def test_gif_frames_are_laid_out_like_the_figure(frames, tmp_path, monkeypatch):
    made = []

    class Spy(figures._MappingPicture):
        def __init__(self, frame):
            super().__init__(frame)
            made.append(self.figure)

    monkeypatch.setattr(figures, "_MappingPicture", Spy)
    figures.save_mapping_gif(tmp_path / "walk.gif", frames)
    assert_tidy(made[0])


def test_gif_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="frames: none, must be at least one"):
        figures.save_mapping_gif(tmp_path / "walk.gif", [])
    assert not list(tmp_path.iterdir())


def test_recall_figure(golden):
    digits = np.load(golden("multigrid/mnist_recall/digits.npz"))
    images = digits["images"][:12].reshape(2, 6, 28, 28)
    labels = digits["labels"][:12].reshape(2, 6)
    steps, predicted = [0, 4], [labels[0, 1], (labels[1, 5] + 1) % 10]
    figure = figures.recall_figure(images, steps, predicted, [labels[0, 1], labels[1, 5]], "recall")
    assert_tidy(figure)
    for example, strip in enumerate(figure.subfigs):
        above, below = strip.axes[:6], strip.axes[6:]
        for step in range(6):
            np.testing.assert_array_equal(image(above[step]), images[example, step])
        assert [bool(axes.images) for axes in below] == [step == steps[example] for step in range(6)]
        np.testing.assert_array_equal(image(below[steps[example]]), images[example, steps[example]])
        answers = [[text.get_text() for text in axes.texts] for axes in below]
        expected = [[] for _ in range(6)]
        expected[steps[example] + 1] = [str(predicted[example])] + ([f"is {labels[1, 5]}"] if example == 1 else [])
        assert answers == expected
    assert figure.subfigs[0].axes[7].texts[0].get_color() == plotting.GREEN
    assert figure.subfigs[1].axes[11].texts[0].get_color() == plotting.RED


def test_routing_figure(rng):
    multigrid = [[rng.random((3 * 2**level,) * 2) < 0.4 for level in range(levels)] for levels in (1, 2, 3, 3)]
    standard = [rng.random((12, 12)) < 0.2 for _ in range(4)]
    standard[0][:] = False
    standard[0][3, 7] = True
    figure = figures.routing_figure(multigrid, standard, "routing")
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
