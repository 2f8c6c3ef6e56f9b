"""Videos: every frame comes back, in order and color."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from tfmem.video import write_gif, write_video


def read(path):
    video, frames = cv2.VideoCapture(str(path)), []
    while (frame := video.read()[1]) is not None:
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    return np.stack(frames), video.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize("size", [(64, 96), (63, 95)])
def test_frames_come_back(size, tmp_path):
    colors = np.uint8([[200, 40, 30], [30, 180, 60], [40, 60, 210], [240, 240, 240]])
    frames = np.broadcast_to(colors[:, None, None], (4, *size, 3)).copy()
    frames[:, : size[0] // 2] //= 2
    path = tmp_path / "walk.mp4"
    write_video(iter(frames), path, fps=5)
    found, fps = read(path)
    assert fps == 5
    assert found.shape == (4, size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    difference = np.abs(found[:, : size[0], : size[1]].astype(int) - frames)
    assert difference.mean() < 4  # the codec loses some, no frame and no color is another
    assert [entry.name for entry in tmp_path.iterdir()] == ["walk.mp4"]


@pytest.mark.parametrize(
    ("frames", "name", "message"),
    [
        ([], "a.mp4", "frames: none"),
        (np.zeros([2, 8, 8, 3]), "a.mp4", r"frames: float64 \(8, 8, 3\), must be uint8"),
        ([np.zeros([8, 8, 3], np.uint8), np.zeros([8, 9, 3], np.uint8)], "a.mp4", r"frames: uint8 \(8, 9, 3\)"),
        (np.zeros([2, 8, 8, 3], np.uint8), "a.gif", "path: .*must end in .mp4"),
    ],
)
def test_bad_frames(frames, name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_video(frames, tmp_path / name, 5)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: .*none/a.mp4.*must lie in a folder that exists"):
        write_video(np.zeros([2, 8, 8, 3], np.uint8), tmp_path / "none" / "a.mp4", 5)


def test_frames_of_a_gif_come_back(tmp_path):
    colors = np.uint8([[200, 40, 30], [30, 180, 60], [40, 60, 210]])
    frames = np.broadcast_to(colors[:, None, None], (3, 7, 9, 3)).copy()
    write_gif(iter(frames), tmp_path / "a.gif", fps=5)
    with Image.open(tmp_path / "a.gif") as image:
        found = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        assert image.info["duration"] == 200
        assert image.info["loop"] == 0
    np.testing.assert_array_equal(found, frames)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.gif"]


@pytest.mark.parametrize(
    ("frames", "name", "fps", "message"),
    [
        ([], "a.gif", 5, "frames: none"),
        (np.zeros([2, 8, 8, 3]), "a.gif", 5, r"frames: float64 \(8, 8, 3\), must be uint8"),
        (np.zeros([2, 8, 8, 3], np.uint8), "a.mp4", 5, "path: .*must end in .gif"),
        (np.zeros([2, 8, 8, 3], np.uint8), "a.gif", 60, "fps: 60, must be greater than 0 and at most 50"),
    ],
)
def test_bad_gifs(frames, name, fps, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_gif(frames, tmp_path / name, fps)
    assert not list(tmp_path.iterdir())
