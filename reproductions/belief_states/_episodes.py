"""Files of episodes in a cache folder, made once, and streams of their trajectories.

Reading needs numpy only, for compiled bundles. A machine that only reads has the file in its TFMEM_CACHE_DIR/episodes
under the same name.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from tfmem.tasks.episodes import EpisodeFile, EpisodeStream, write_episodes
from tfmem.tasks.images import ImageStream

CACHE_DIR = "TFMEM_CACHE_DIR"
WANTED = ("frames", "actions", "maps", "positions")


def cache_folder():
    """Where the files are: episodes/ in what TFMEM_CACHE_DIR names, else in ~/.cache/tfmem."""
    return Path(os.path.expanduser(os.environ.get(CACHE_DIR) or "~/.cache/tfmem")) / "episodes"


def cached_file(world, number, length, seed, look, arguments):
    """The name, in `cache_folder()`, of the file of `write_episodes` with these arguments; makes it where it is not.

    Who acts is an `ExploringPolicy(look)`.

    The name tells the arguments by a digest. The file appears when it is whole. One process makes it: others would need
    the caller's main module.
    """
    made_by = {"world": world, "number": number, "length": length, "seed": seed, "arguments": arguments}
    digest = hashlib.sha256(json.dumps({**made_by, "look": look}, sort_keys=True).encode()).hexdigest()
    name = f"{world.split('/')[1].split('-')[0]}-{digest[:16]}.tfrecord"
    path = cache_folder() / name
    if not path.exists():
        from tfmem.envs.exploration import ExploringPolicy

        with contextlib.suppress(FileExistsError):  # another process was first
            write_episodes(path, policy=ExploringPolicy(look), **made_by)
    return name


class TrajectoryStream(EpisodeStream):
    """An `EpisodeStream` whose batches have `WANTED` alone."""

    def batch(self, number):
        batch = super().batch(number)
        return {name: batch[name] for name in WANTED}


def trajectories(file, batch_size, seed):
    """The `TrajectoryStream` of a file of `cached_file`.

    Args:
      file: its name.
      batch_size: B.
      seed: of the order; None: that of the file (for evaluations).
    """
    return TrajectoryStream(EpisodeFile(cache_folder() / file), batch_size, seed=seed)


def frames(file, batch_size, seed):
    """An `ImageStream` of all frames of a file of `cached_file`; `batch_size` and `seed` are the stream's."""
    episodes = EpisodeFile(cache_folder() / file)
    images = np.concatenate([episodes[number]["frames"] for number in range(len(episodes))])
    return ImageStream(images, batch_size, seed)
