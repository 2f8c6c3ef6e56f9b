"""Episodes of a world (`tfmem.envs`) in an HDF5 file, so that training does not wait for rendering.

`write_episodes` makes them, in several processes; `episodes` gives batches by the update's number.

For each array of `tfmem.envs.exploration.Trajectories` the file has a data set [episodes, ...] with one chunk per
episode, a zlib stream. The attribute "description", JSON, has the arguments that made the file. An episode's arrays
follow from the file's seed and the episode's number. Any HDF5 reader opens the file.

Why zlib: of 64 x 64 frames it decoded 22,000 a second on one core and kept 0.8 KB (city) or 1.9 KB (terrain) of
each; PNG 5,000 to 8,000, 2.3 and 3.6 KB; raw bytes are 12.3 KB.

Reading needs numpy and h5py only: the runner of compiled bundles has no TensorFlow. Checksums guard the arrays (zlib's)
and all else (HDF5's).
"""

import concurrent.futures
import json
import math
import mmap
import multiprocessing
import os
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np

from tfmem.atomic import replacing
from tfmem.data.files import CorruptDataError, MissingDataError
from tfmem.data.source import Passes

_FORMAT = 2  # 1: TFRecord files
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_EPISODES_PER_JOB = 8
_READERS = min(8, os.cpu_count() or 1)


def write_episodes(path, world, number, length, seed=0, workers=1, policy=None, arguments=None):
    """Make episodes and write them to a file, under a temporary name until it is whole.

    Args:
        path: the file, which must not be there yet; its folder is made.
        world: "tfmem/RandomCity-v0", "tfmem/Terrain-v0" or "tfmem/Building-v0".
        number: episodes, at least 1.
        length: actions of each, at least 1; after an episode that ends earlier another world follows, see "resets".
        seed: not negative. The file does not depend on `workers`.
        workers: processes; with several, a script must call this below `if __name__ == "__main__":`.
        policy: of `tfmem.envs.exploration`; None: `ExploringPolicy()`.
        arguments: dict of the world's arguments, for `gymnasium.make_vec`, which JSON can hold; `max_episode_steps` is
            `length` unless given.

    Returns:
        The path.

    Raises:
        ValueError: an argument out of its range, or of the world's; nothing was written.
        FileExistsError: the file is there.
    """
    import gymnasium

    from tfmem.envs.exploration import ExploringPolicy
    from tfmem.envs.worlds import WorldVectorEnv

    for name, value, low in (("number", number, 1), ("length", length, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value < low:
            raise ValueError(f"{name}: {value}, must be at least {low}")
    path, policy = Path(path), policy or ExploringPolicy()
    exists = f"{path} is there already; delete it to make it anew"
    if path.exists():
        raise FileExistsError(exists)
    arguments = {"max_episode_steps": length, **(arguments or {})}
    try:
        env = gymnasium.make_vec(world, 1, **arguments)
    except gymnasium.error.Error as error:
        raise ValueError(f"world: {world!r}, must be a registered environment: {error}") from error
    if not isinstance(env, WorldVectorEnv):
        raise ValueError(f"world: {world!r}, must be one of tfmem.envs")
    description = {
        "format": _FORMAT,
        "world": world,
        "arguments": arguments,
        "number": number,
        "length": length,
        "seed": seed,
        "policy": repr(policy),
    }
    jobs = [
        (world, arguments, policy, length, seed, range(first, min(first + _EPISODES_PER_JOB, number)))
        for first in range(0, number, _EPISODES_PER_JOB)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        _write(os.fspath(partial), description, jobs, workers)
        try:  # of two processes that make the same file, one gets the name
            os.link(partial, path)
        except FileExistsError:
            raise FileExistsError(exists) from None
        except OSError:  # a file system without links
            path.open("xb").close()
    return path


def _write(path, description, jobs, workers):
    from rich.console import Console
    from rich.progress import track

    spawn = multiprocessing.get_context("spawn")  # TensorFlow's threads do not survive a fork
    pool = concurrent.futures.ProcessPoolExecutor(min(workers, len(jobs)), spawn) if workers > 1 else None
    try:
        made = pool.map(_make, jobs) if pool else map(_make, jobs)
        made = track(made, "episodes", len(jobs), console=Console(stderr=True), disable=not sys.stderr.isatty())
        episode = 0
        with _new_file(path) as file:
            file.attrs["description"] = json.dumps(description, sort_keys=True)
            for records in made:
                for arrays in records:
                    for name, (dtype, shape, stream) in arrays.items():
                        if name not in file:
                            file.create_dataset(
                                name, (description["number"], *shape), dtype, chunks=(1, *shape), compression="gzip"
                            )
                        file[name].id.write_direct_chunk((episode, *[0] * len(shape)), stream)
                    episode += 1
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _new_file(path):
    """A new HDF5 file of the version that has checksums, without times: equal content is equal bytes."""
    access, creation = h5py.h5p.create(h5py.h5p.FILE_ACCESS), h5py.h5p.create(h5py.h5p.FILE_CREATE)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    creation.set_obj_track_times(False)
    return h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_EXCL, creation, access))


def _make(job):
    """Some episodes, as a list of `{name: (dtype, shape, zlib stream)}`; runs in a process of its own."""
    import gymnasium

    from tfmem.envs.exploration import collect

    world, arguments, policy, length, seed, numbers = job
    seeds = [int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]) for number in numbers]
    env = gymnasium.make_vec(world, len(numbers), **arguments)
    trajectories = collect(env, policy, length, seeds)._asdict()
    env.close()
    records = []
    for i in range(len(numbers)):
        arrays = {name: np.ascontiguousarray(array[:, i]) for name, array in trajectories.items()}
        types = {name: array.dtype.newbyteorder("<") for name, array in arrays.items()}
        records.append(
            {
                name: (types[name].str, array.shape, zlib.compress(array.astype(types[name])))
                for name, array in arrays.items()
            }
        )
    return records


class EpisodeFile:
    """A file of `write_episodes`; `file[i]` is episode i, arrays by name.

    Opening reads the chunks' places by HDF5. Episodes are then read without HDF5, which is not safe among threads. Any
    number of processes and threads may so read one file.

    Attributes:
        description: how the file was made: world, arguments, number, length, seed, policy.

    Raises:
        MissingDataError: there is no such file.
        CorruptDataError: it is cut off, damaged (also on reading an episode), or something else.
    """

    def __init__(self, path):
        self.path, self.description = Path(path), None
        try:
            with open(self.path, "rb") as file:
                signature = file.read(len(_SIGNATURE))
                self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if signature else b""
        except OSError as error:
            raise MissingDataError(f"{path} cannot be opened ({error.strerror}). {self._how()}") from error
        if signature != _SIGNATURE:
            raise self._corrupt("it is not an HDF5 file (tfmem once wrote TFRecord files)")
        try:
            with h5py.File(self.path, "r") as file:
                description = json.loads(file.attrs["description"])
                if description["format"] != _FORMAT:
                    raise ValueError(f"format {description['format']}")
                self.description = description
                self._arrays = {name: (file[name].dtype, file[name].shape[1:], _chunks(file[name])) for name in file}
            whole = min(len(chunks) for _, _, chunks in self._arrays.values())
        except _DAMAGE as error:
            raise self._corrupt(f"{type(error).__name__} {error}") from error
        if whole != len(self):
            raise self._corrupt(f"it has {whole} whole episodes of {len(self)}")

    def __len__(self):
        return self.description["number"]

    def __getitem__(self, episode):
        episode = range(len(self))[episode]
        try:
            return {name: self._read(episode, *array) for name, array in self._arrays.items()}
        except _DAMAGE as error:
            raise self._corrupt(f"episode {episode} cannot be read: {type(error).__name__} {error}") from error

    def _read(self, episode, dtype, shape, chunks):
        start, size = chunks[episode]
        content = zlib.decompress(self._content[start : start + size], bufsize=math.prod(shape) * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(shape)

    def _corrupt(self, what):
        return CorruptDataError(f"{self.path} is not a whole file of episodes: {what}. Delete it. {self._how()}")

    def _how(self):
        """The call that makes the file, as far as it is known."""
        made = self.description or {"world": "tfmem/RandomCity-v0", "number": "NUMBER", "length": "LENGTH", "seed": 0}
        call = f"{str(self.path)!r}, {made['world']!r}, number={made['number']}, length={made['length']}"
        call += f", seed={made['seed']}"
        if "policy" in made:
            call += f", policy={made['policy']}, arguments={made['arguments']}"
        return f"Make it with tfmem.data.episodes.write_episodes({call})"


_DAMAGE = (ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError, zlib.error)


def _chunks(dataset):
    """The place and the size of each episode's chunk in the file: `{episode: (byte, bytes)}`."""
    chunks = {}

    def add(info):
        chunks[info.chunk_offset[0]] = info.byte_offset, info.size

    dataset.id.chunk_iter(add)
    return chunks


class EpisodeStream:
    """A `DataSource` of episodes; their order is that of `Passes`.

    Args:
        file: an `EpisodeFile`.
        batch_size: B, at most the number of episodes.
        length: T, actions of an episode that are given, the first ones: from its start the agent can know its place on
            the map. None: all.
        seed: not negative; None: every pass is in the order of the file (for evaluations).

    Attributes:
        batches_per_pass: episodes // B.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, file, batch_size, length=None, seed=0):
        longest = file.description["length"]
        self.file, self.length = file, longest if length is None else length
        if not 1 <= self.length <= longest:
            raise ValueError(f"length: {length}, must be from 1 to {longest}, the length of episodes in {file.path}")
        self._passes = Passes(len(file), batch_size, seed)
        self.batches_per_pass = self._passes.batches_per_pass
        self._readers = concurrent.futures.ThreadPoolExecutor(_READERS, "tfmem-episodes")

    def batch(self, number):
        """Batch `number`, counted from 0: time-major arrays by name.

        frames uint8 [T + 1, B, S, S, 3]; actions int32 [T, B] (actions[t] leads from frames[t] to frames[t + 1]);
        rewards float32 [T, B]; maps uint8 [T + 1, B, M, M, 3]; positions float32 [T + 1, B, 2]; headings float32
        [T + 1, B]; resets bool [T + 1, B]. See `tfmem.envs.exploration.collect`.

        Raises:
            CorruptDataError: the file is damaged.
        """
        episodes = list(self._readers.map(self.file.__getitem__, self._passes.items(number).tolist()))
        unused = self.file.description["length"] - self.length
        return {
            name: np.stack([episode[name][: len(array) - unused] for episode in episodes], axis=1)
            for name, array in episodes[0].items()
        }


def episodes(path, batch_size, length=None, seed=0):
    """Open the `EpisodeStream` of a file of `write_episodes`; see there and `EpisodeFile` for arguments and errors."""
    return EpisodeStream(EpisodeFile(path), batch_size, length, seed)
