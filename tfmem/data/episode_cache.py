"""Episode files in a cache folder, made once, and the data sources of their trajectories and frames.

Reading works without TensorFlow, for compiled bundles. A machine that only reads needs the file in its
TFMEM_CACHE_DIR/episodes under the same name.
"""

import contextlib
import dataclasses
import hashlib
import json

import numpy as np

from tfmem.data.episodes import EpisodeFile, EpisodeStream, write_episodes
from tfmem.data.files import cache_folder
from tfmem.data.images import ImageStream

TRAJECTORY_KEYS = ("frames", "actions", "maps", "positions")


def episodes_folder():
    """The folder of the files: `episodes` in the cache folder."""
    return cache_folder() / "episodes"


def cached_file(world, number, length, seed, policy, arguments):
    """Make the file of `write_episodes` with these arguments, unless it is there.

    The policy is a dataclass. The file appears when it is whole. One process makes it: several would need the caller's
    main module.

    Returns:
        Its name in `episodes_folder()`, which holds a digest of the arguments.
    """
    made_by = {"world": world, "number": number, "length": length, "seed": seed, "arguments": arguments}
    digest = hashlib.sha256(json.dumps({**made_by, **dataclasses.asdict(policy)}, sort_keys=True).encode()).hexdigest()
    name = f"{world.split('/')[1].split('-')[0]}-{digest[:16]}.h5"
    path = episodes_folder() / name
    if not path.exists():
        with contextlib.suppress(FileExistsError):  # another process was first
            write_episodes(path, policy=policy, **made_by)
        path.with_suffix(".tfrecord").unlink(missing_ok=True)  # the same episodes as older versions wrote them
    return name


class TrajectoryStream(EpisodeStream):
    """An `EpisodeStream` whose batches have `TRAJECTORY_KEYS` alone."""

    def batch(self, number):
        batch = super().batch(number)
        return {name: batch[name] for name in TRAJECTORY_KEYS}


def open_file(name):
    """The `EpisodeFile` of a name of `cached_file`; older bundles name it with the ending of TFRecord files."""
    return EpisodeFile((episodes_folder() / name).with_suffix(".h5"))


def trajectories(file, batch_size, seed):
    """The `TrajectoryStream` of a file of `cached_file`.

    Args:
        file: its name.
        batch_size: B.
        seed: of the order; None: that of the file (for evaluations).
    """
    return TrajectoryStream(open_file(file), batch_size, seed=seed)


def frames(file, batch_size, seed):
    """An `ImageStream` of all frames of a file of `cached_file`; `batch_size` and `seed` are the stream's."""
    episodes = open_file(file)
    images = np.concatenate([episodes[number]["frames"] for number in range(len(episodes))])
    return ImageStream(images, batch_size, seed)
