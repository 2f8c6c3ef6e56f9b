"""Writers of videos: MPEG-4 with OpenCV, animated GIF with Pillow."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tfmem.atomic import replacing


def write_video(frames, path, fps):
    """Write frames as an MPEG-4 video, atomically.

    The codec needs even sides: a side of odd length gets its last row or column twice.

    Args:
        frames: uint8 [T, H, W, 3], RGB; an array or any iterable of frames of one shape.
        path: of the file, ending in .mp4.
        fps: frames per second.

    Raises:
        ValueError: another ending, no frames, or frames of another form.
        OSError: the video cannot be written.
    """
    path, writer, shape, number = Path(path), None, None, 0
    if path.suffix != ".mp4":
        raise ValueError(f"path: {str(path)!r}, must end in .mp4")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: {str(path)!r}, must lie in a folder that exists")
    with replacing(path) as partial:
        try:
            for frame in frames:
                frame = np.asarray(frame)
                shape = frame.shape if shape is None else shape
                _check_frame(frame, shape)
                frame = np.pad(frame, [(0, shape[0] % 2), (0, shape[1] % 2), (0, 0)], mode="edge")
                if writer is None:
                    size = frame.shape[1::-1]
                    writer = cv2.VideoWriter(str(partial), cv2.VideoWriter_fourcc(*"mp4v"), fps, size)
                    if not writer.isOpened():
                        raise OSError(f"{path} cannot be written: OpenCV has no encoder for it or the disk refused")
                writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
                number += 1
            if writer is None:
                raise ValueError("frames: none, must be at least one")
        finally:
            if writer is not None:
                writer.release()
        if cv2.VideoCapture(str(partial)).get(cv2.CAP_PROP_FRAME_COUNT) != number:  # OpenCV raises nothing
            raise OSError(f"{path} cannot be written: the file has fewer frames than were given")


def write_gif(frames, path, fps):
    """Write frames as an animated GIF that repeats, atomically.

    Args:
        frames: uint8 [T, H, W, 3], RGB; an array or any iterable of frames of one shape.
        path: of the file, ending in .gif.
        fps: frames per second, at most 50; the format counts in hundredths of a second.

    Raises:
        ValueError: another ending, no frames, frames of another form, or too many per second.
        OSError: the file cannot be written.
    """
    path, images, shape = Path(path), [], None
    if path.suffix != ".gif":
        raise ValueError(f"path: {str(path)!r}, must end in .gif")
    if not 0 < fps <= 50:
        raise ValueError(f"fps: {fps}, must be greater than 0 and at most 50")
    for frame in frames:
        frame = np.asarray(frame)
        shape = frame.shape if shape is None else shape
        _check_frame(frame, shape)
        images.append(Image.fromarray(frame))
    if not images:
        raise ValueError("frames: none, must be at least one")
    with replacing(path) as partial:
        duration = 10 * round(100 / fps)
        images[0].save(partial, format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)


def _check_frame(frame, shape):
    if frame.dtype != np.uint8 or frame.shape != shape or len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"frames: {frame.dtype} {frame.shape}, must be uint8 [H, W, 3], all of one shape")
