"""Episodes of a world (`tfmem.envs`) in a TFRecord file, so that training does not wait for rendering.

`write_episodes` makes them, in several processes; `episodes` gives batches by the update's number. A record is a
`tf.train.Example` of one episode whose features are one string each: the arrays of
`tfmem.envs.exploration.Trajectories` without their batch axis, as zlib streams of little-endian bytes, and
"description", JSON that tells their shapes and how the file was made. An episode's arrays follow from the file's seed
and the episode's number.

Why zlib: of 64 x 64 frames it decoded 22,000 a second on one core and kept 0.8 KB (city) or 1.9 KB (terrain) of
each; PNG 5,000 to 8,000, 2.3 and 3.6 KB; raw bytes are 12.3 KB.

Reading needs numpy only: the runner of compiled bundles has no TensorFlow. zlib's checksums watch the arrays.
"""

import concurrent.futures
import json
import math
import mmap
import multiprocessing
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

from tfmem.atomic import replacing
from tfmem.data.files import CorruptDataError, MissingDataError

_FORMAT = 1
_EPISODES_PER_JOB = 8
_LENGTH = struct.Struct("<Q")  # a TFRecord: length, its checksum (4 bytes), data, their checksum (4 bytes)
_CHECKSUM = 4
_READERS = min(8, os.cpu_count() or 1)


def write_episodes(path, world, number, length, seed=0, workers=1, policy=None, arguments=None):
    """Makes episodes and writes them to a file, under a temporary name until it is whole.

    Args:
        path: the file, which must not be there yet; its folder is made.
        world: "tfmem/RandomCity-v0" or "tfmem/Terrain-v0".
        number: episodes, at least 1.
        length: actions of each, at least 1; an episode that ends before goes on with another world, see "resets".
        seed: not negative. The file does not depend on `workers`.
        workers: processes; with several, a script must call from below `if __name__ == "__main__":`.
        policy: who acts, of `tfmem.envs.exploration`; None: `ExploringPolicy()`.
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
            raise ValueError(f"{name} is {value}, must be at least {low}")
    path, policy = Path(path), policy or ExploringPolicy()
    exists = f"{path} is there already; delete it to make it anew"
    if path.exists():
        raise FileExistsError(exists)
    arguments = {"max_episode_steps": length, **(arguments or {})}
    try:
        env = gymnasium.make_vec(world, 1, **arguments)
    except gymnasium.error.Error as error:
        raise ValueError(f"world is {world!r}, must be a registered environment: {error}") from error
    if not isinstance(env, WorldVectorEnv):
        raise ValueError(f"world is {world!r}, must be one of tfmem.envs")
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
        try:
            path.open("xb").close()  # of two processes that make the same file, one gets the name
        except FileExistsError:
            raise FileExistsError(exists) from None
    return path


def _write(path, description, jobs, workers):
    import tensorflow as tf
    from rich.console import Console
    from rich.progress import track

    def feature(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    spawn = multiprocessing.get_context("spawn")  # TensorFlow's threads do not survive a fork
    pool = concurrent.futures.ProcessPoolExecutor(min(workers, len(jobs)), spawn) if workers > 1 else None
    try:
        made = pool.map(_make, jobs) if pool else map(_make, jobs)
        made = track(made, "episodes", len(jobs), console=Console(stderr=True), disable=not sys.stderr.isatty())
        episode = 0
        with tf.io.TFRecordWriter(path) as writer:
            for records in made:
                for arrays, shapes in records:
                    text = json.dumps({**description, "episode": episode, "shapes": shapes}, sort_keys=True)
                    features = {name: feature(value) for name, value in arrays.items()}
                    features["description"] = feature(text.encode())
                    example = tf.train.Example(features=tf.train.Features(feature=features))
                    writer.write(example.SerializeToString(deterministic=True))
                    episode += 1
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _make(job):
    """Some episodes: a list of (zlib streams by name, {name: (dtype, shape)}); runs in a process of its own."""
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
        shapes = {name: (array.dtype.newbyteorder("<").str, array.shape) for name, array in arrays.items()}
        streams = {name: zlib.compress(array.astype(shapes[name][0])) for name, array in arrays.items()}
        records.append((streams, shapes))
    return records


class EpisodeFile:
    """A file of `write_episodes`; `file[i]` is episode i, arrays by name.

    Attributes:
        description: how the file was made: world, arguments, number, length, seed, policy; shapes of the arrays.

    Raises:
        MissingDataError: there is no such file.
        CorruptDataError: it is cut off, damaged (also on reading an episode), or something else.
    """

    def __init__(self, path):
        self.path, self.description = Path(path), None
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except OSError as error:
            raise MissingDataError(f"{path} cannot be opened ({error.strerror}). {self._how()}") from error
        place, self._places = 0, []
        while place < size:
            start = place + _LENGTH.size + _CHECKSUM
            length = _LENGTH.unpack_from(self._content, place)[0] if start <= size else size
            place = start + length + _CHECKSUM
            if place <= size:
                self._places.append((start, start + length))
        if not self._places:
            raise self._corrupt("it has no whole record")
        self.description = self._record(0)[0]
        number = self.description["number"]
        if place != size or len(self._places) != number:
            raise self._corrupt(f"it has {len(self._places)} whole records of {number}")

    def __len__(self):
        return len(self._places)

    def __getitem__(self, episode):
        _, arrays = self._record(range(len(self))[episode])
        return arrays

    def _record(self, episode):
        """(description, arrays) of an episode."""
        start, end = self._places[episode]
        try:
            features = _features(memoryview(self._content)[start:end])
            description = json.loads(bytes(features["description"]))
            if description["format"] != _FORMAT or description["episode"] != episode:
                raise ValueError(f"format {description['format']}, episode {description['episode']}")
            arrays = {}
            for name, (dtype, shape) in description["shapes"].items():
                content = zlib.decompress(features[name], bufsize=math.prod(shape) * np.dtype(dtype).itemsize)
                arrays[name] = np.frombuffer(content, dtype).reshape(shape)
        except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError, zlib.error) as error:
            raise self._corrupt(f"record {episode} cannot be read: {type(error).__name__} {error}") from error
        return description, arrays

    def _corrupt(self, what):
        return CorruptDataError(f"{self.path} is not a whole file of episodes: {what}. Delete it. {self._how()}")

    def _how(self):
        """The call that makes the file, as far as it is known."""
        made = self.description or {"world": "tfmem/RandomCity-v0", "number": "NUMBER", "length": "LENGTH", "seed": 0}
        call = f"{str(self.path)!r}, {made['world']!r}, number={made['number']}, length={made['length']}"
        call += f", seed={made['seed']}"
        if "policy" in made:
            call += f", policy={made['policy']}, arguments={made['arguments']}"
        return f"Make it with\n    tfmem.data.episodes.write_episodes({call})"


def _features(example):
    """The features of a serialised `tf.train.Example` that are one string each: `{name: bytes}`.

    Example, Features, Feature and BytesList have one field each, 1; an entry of the map has 1, its key, and 2.
    """
    features = {}
    for _, message in _fields(example):
        for _, entry in _fields(message):
            fields = dict(_fields(entry))
            ((_, strings),) = _fields(fields[2])
            ((_, features[bytes(fields[1]).decode()]),) = _fields(strings)
    return features


def _fields(message):
    """(number, content) of a protocol buffer's fields, which must all be strings or messages."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        length, place = _varint(message, place)
        if tag % 8 != 2 or place + length > len(message):
            raise ValueError("not a tf.train.Example of strings")
        yield tag // 8, message[place : place + length]
        place += length


def _varint(message, place):
    value = shift = 0
    while True:
        byte = message[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place


class EpisodeStream:
    """An endless stream of batches, each a pure function of (seed, number): `batch(number)`.

    Every pass over the episodes is in an order of its own; what is left at its end is not used in that pass.

    Args:
        file: an `EpisodeFile`.
        batch_size: B, at most the number of episodes.
        length: T, actions of an episode that are given, the first ones: from its start the agent can know where on the
            map it is. None: all.
        seed: not negative; None: every pass is in the order of the file (for evaluations).

    Attributes:
        batches_per_pass: episodes // B.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, file, batch_size, length=None, seed=0):
        longest = file.description["length"]
        length = longest if length is None else length
        for name, value, high in (("batch_size", batch_size, len(file)), ("length", length, longest)):
            if not 1 <= value <= high:
                raise ValueError(f"{name} is {value}, must be from 1 to {high}, as {file.path} has it")
        if seed is not None and seed < 0:
            raise ValueError(f"seed is {seed}, must not be negative")
        self.file, self.batch_size, self.length, self.seed = file, batch_size, length, seed
        self.batches_per_pass = len(file) // batch_size
        self._readers = concurrent.futures.ThreadPoolExecutor(_READERS, "tfmem-episodes")  # zlib frees the interpreter

    def batch(self, number):
        """Batch `number`, counted from 0: time-major arrays by name.

        frames uint8 [T + 1, B, S, S, 3]; actions int32 [T, B] (actions[t] leads from frames[t] to frames[t + 1]);
        rewards float32 [T, B]; maps uint8 [T + 1, B, M, M, 3]; positions float32 [T + 1, B, 2]; headings float32
        [T + 1, B]; resets bool [T + 1, B]. See `tfmem.envs.exploration.collect`.

        Raises:
            CorruptDataError: the file is damaged.
        """
        pass_number, place = divmod(number, self.batches_per_pass)
        order = np.arange(len(self.file))
        if self.seed is not None:
            order = np.random.default_rng([self.seed, pass_number]).permutation(order)
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        episodes = list(self._readers.map(self.file.__getitem__, chosen.tolist()))
        unused = self.file.description["length"] - self.length
        return {
            name: np.stack([episode[name][: len(array) - unused] for episode in episodes], axis=1)
            for name, array in episodes[0].items()
        }

    def dataset(self, first=0):
        """The batches `first`, `first + 1`, ... as a `tf.data.Dataset` of dicts, some prepared ahead.

        A run that is resumed after `n` updates goes on with `dataset(n)`.
        """
        import tensorflow as tf

        def batches():
            number = first
            while True:
                yield self.batch(number)
                number += 1

        signature = {name: tf.TensorSpec(array.shape, array.dtype) for name, array in self.batch(first).items()}
        return tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(tf.data.AUTOTUNE)


def episodes(path, batch_size, length=None, seed=0):
    """The `EpisodeStream` of a file of `write_episodes`; see there and `EpisodeFile` for arguments and errors."""
    return EpisodeStream(EpisodeFile(path), batch_size, length, seed)
