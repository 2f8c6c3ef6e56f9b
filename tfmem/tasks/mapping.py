"""Mapping and localization (Huynh, Maire, Walter 2020, supplement B.1.1): an agent walks through a maze, seeing 3x3.

At each step the writer reads the 3x3 view and the agent's position relative to its start. A reader gets a patch of the
explored map and predicts at which positions of the walk, in a frame centered on the start, that patch was seen.

numpy only (no TensorFlow), time-major [T, B, ...]. Public code: multigrid_mem, mapping_localization/environment.py, for
mazes and their stream of random numbers, spiral walk, inputs, 3x3 queries, target masks. It has no random walk and no
9x9 queries; the paper names both without details. Not specified; we use `random_walk` and, for larger queries, patches
that have been seen whole.
"""

import functools
import threading
import zlib
from dataclasses import dataclass

import numpy as np

from tfmem.validation import check_array, check_choice, check_range

FREE, WALL, UNKNOWN = 0, 1, 3  # cells; UNKNOWN: outside the maze, or a blank query
VIEW = 3  # side of the agent's view; INPUT_SIZE of the public code
_NEVER = np.iinfo(np.int32).max
_MOVES = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])  # right, down, left, up
_BITS_PER_WORD = 62


# ---- mazes and walks ------------------------------------------------------------------------------------------------


def maze(rng, size, complexity=0.05, density=0.2):
    """One maze [size, size] int8 of FREE and WALL with a walled outer ring; draws from `rng` as the public code does.

    int(density * (size // 2)^2) walls are started at random even cells; each grows for int(complexity * 10 * size)
    steps towards a random neighbour two cells away, moving there when it is free.

    Args:
        rng: a `numpy.random.RandomState` (its legacy stream is what makes the mazes those of the public code).
        size: odd side length.
        complexity, density: MAP_COMPLEXITY and MAP_DENSITY of the public code.
    """
    half, last = size // 2, size - 2
    draw = rng.randint
    wall = [[row in (0, size - 1) or column in (0, size - 1) for column in range(size)] for row in range(size)]
    for _ in range(int(density * half * half)):
        x, y = 2 * draw(0, half + 1), 2 * draw(0, half + 1)
        wall[y][x] = True
        for _ in range(int(complexity * 5 * (size + size))):
            steps = [(-1, 0)] * (x > 1) + [(1, 0)] * (x < last) + [(0, -1)] * (y > 1) + [(0, 1)] * (y < last)
            dx, dy = steps[draw(0, len(steps))]
            if not wall[y + 2 * dy][x + 2 * dx]:
                wall[y + dy][x + dx] = wall[y + 2 * dy][x + 2 * dx] = True
                x, y = x + 2 * dx, y + 2 * dy
    return np.array(wall, np.int8)


@functools.cache
def spiral_walk(size):
    """The square spiral of the public code: from the centre outwards through all (size - 2)^2 inner cells, [T, 2]."""
    runs = [step for length in range(1, size - 2) for step in (length, length)] + [size - 3]
    directions = np.repeat(np.arange(len(runs)) % 4, runs)  # right 1, down 1, left 2, up 2, right 3, ...
    steps = np.concatenate([[[size // 2, size // 2]], _MOVES[directions]])
    walk = np.cumsum(steps, axis=0)
    walk.setflags(write=False)
    return walk


def random_walk(rng, size, length, batch_size):
    """Each item's own walk [length, batch_size, 2] from the center. Not specified; we use this draw.

    Every step goes to one of the four neighbours that is not on the outer ring, all equally likely. Inner walls do not
    stop the agent, as they do not stop it on the spiral.
    """
    uniform = rng.random_sample((length - 1, batch_size))
    walk = np.empty((length, batch_size, 2), np.int64)
    walk[0] = size // 2
    items = np.arange(batch_size)
    for t in range(1, length):
        neighbours = walk[t - 1][:, None] + _MOVES  # [B, 4, 2]
        allowed = ((neighbours >= 1) & (neighbours <= size - 2)).all(-1)
        rank = (uniform[t - 1] * allowed.sum(-1)).astype(np.int64)
        walk[t] = neighbours[items, np.argmax(np.cumsum(allowed, -1) > rank[:, None], axis=-1)]
    return walk


# ---- patches --------------------------------------------------------------------------------------------------------


def recentre(cells, size, fill=0, start=None):
    """Cells [..., M, M] in a frame [..., size, size] in which the centre of the maze, the start, is (start, start).

    Default start: (M, M), as the public code has it. What falls outside the frame is cut off, the rest is `fill`.
    """
    side = cells.shape[-1]
    offset = (side if start is None else start) - side // 2
    first, last = max(0, -offset), min(side, size - offset)
    frame = np.full((*cells.shape[:-2], size, size), fill, cells.dtype)
    here, there = slice(first, last), slice(first + offset, last + offset)
    frame[..., there, there] = cells[..., here, here]
    return frame


def _padded(cells, margin, fill):
    return np.pad(cells, [(0, 0)] * (cells.ndim - 2) + [(margin, margin)] * 2, constant_values=fill)


def _gather(cells, positions, size):
    """Patches [n, B, size, size] of cells [B, M, M] around positions [n, B, 2]; outside: UNKNOWN."""
    cells = _padded(cells, size // 2, UNKNOWN)
    span = np.arange(size)
    rows = positions[..., 0, None, None] + span[:, None]
    columns = positions[..., 1, None, None] + span
    return cells[np.arange(len(cells))[:, None, None], rows, columns]


def _codes(bits, size):
    """Every size x size patch as integers: bits [..., M, M] to codes [..., M, M, words], equal where patches are."""
    side = bits.shape[-1]
    bits = _padded(bits.astype(np.int64), size // 2, 0)
    rows = sum(bits[..., j : j + side] << j for j in range(size))
    per_word = _BITS_PER_WORD // size
    words = [
        sum(rows[..., i : i + side, :] << (size * (i - first)) for i in range(first, min(first + per_word, size)))
        for first in range(0, size, per_word)
    ]
    return np.stack(words, axis=-1)


def _over_patches(reduce, values, size):
    """`reduce` (np.minimum, np.maximum) of values [..., M, M] over the patch around every cell; outside: never."""
    side = values.shape[-1]
    values = _padded(values, size // 2, _NEVER)
    values = functools.reduce(reduce, [values[..., j : j + side] for j in range(size)])
    return functools.reduce(reduce, [values[..., i : i + side, :] for i in range(size)])


def _one_hot(patches):
    return np.stack([patches == FREE, patches == WALL], axis=-1).astype(np.float32)


# ---- the task -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MappingTask:
    """The settings of mazes, walks and queries; `episode` draws an episode.

    Args:
        map_size: odd side of the maze with its walled ring, at least 7 (public: 25).
        query_sizes: odd sides of the queries of every step (paper: 3, or 3 and 9). A query is the patch around a
            position visited so far, seen whole; until there is one, it is blank and `asked` is False.
        walk: "spiral" (public code: the same for the whole batch, walls do not stop it) or "random" (`random_walk`).
        episode_length: observations T per episode, at most (map_size - 2)^2 on a spiral; None: (map_size - 2)^2.
        target_size: side S of the target masks (public: 48 for maps of 15 and of 25). It must hold every place.
        centred: the start is the centre of the masks (paper B.1.1), (S // 2, S // 2). False: it is at
            (map_size, map_size) whatever S is (public code).
        complexity, density: of the mazes (public: 0.05, 0.2).
        label_after_move: as the public code, make the targets of step t after the move, so that they may hold the
            place of step t + 1. False: only places seen by step t.

    Raises:
        ValueError: an argument is out of its range.
    """

    map_size: int = 25
    query_sizes: tuple = (3,)
    walk: str = "spiral"
    episode_length: int | None = None
    target_size: int = 48
    centred: bool = False
    complexity: float = 0.05
    density: float = 0.2
    label_after_move: bool = True

    def __post_init__(self):
        object.__setattr__(self, "query_sizes", tuple(self.query_sizes))
        if self.map_size < 7 or self.map_size % 2 == 0:
            raise ValueError(f"map_size: {self.map_size}, must be odd and at least 7")
        sizes = self.query_sizes
        if not sizes or len(set(sizes)) < len(sizes) or any(s < VIEW or s > self.map_size or s % 2 == 0 for s in sizes):
            raise ValueError(
                f"query_sizes: {sizes}, must be different odd sizes from {VIEW} to map_size = {self.map_size}"
            )
        check_choice("walk", self.walk, ("spiral", "random"))
        if self.episode_length is not None and self.episode_length < 1:
            raise ValueError(f"episode_length: {self.episode_length}, must be at least 1")
        if self.walk == "spiral" and self.length > (self.map_size - 2) ** 2:
            raise ValueError(
                f"episode_length: {self.episode_length}, must be at most (map_size - 2)^2 = {(self.map_size - 2) ** 2} "
                "on a spiral"
            )
        reach = self.map_size // 2 - 1
        if not reach <= self.start < self.target_size - reach:
            least = 2 * reach + 1 if self.centred else self.map_size + reach + 1
            raise ValueError(
                f"target_size: {self.target_size}, must be at least {least} for map_size = {self.map_size} "
                f"(centred: {self.centred})"
            )
        for name in ("complexity", "density"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)}, must be from 0 to 1")

    @property
    def length(self):
        """Observations T per episode."""
        return (self.map_size - 2) ** 2 if self.episode_length is None else self.episode_length

    @property
    def start(self):
        """Row and column of the start in the frame of the targets."""
        return self.target_size // 2 if self.centred else self.map_size

    def mazes(self, rng, batch_size):
        """`batch_size` mazes [B, M, M] int8, drawn in turn from the RandomState `rng`."""
        return np.stack([maze(rng, self.map_size, self.complexity, self.density) for _ in range(batch_size)])

    def episode(self, rng, batch_size, init_maps=None, query_index=None):
        """One episode of `batch_size` agents: draws mazes, walks and queries, in this order, from `rng`.

        Args:
            rng: a `numpy.random.RandomState`.
            batch_size: B, at least 1.
            init_maps: mazes [B, M, M] of 0 (free) and 1 (wall) to use instead of drawn ones.
            query_index: {size: [T] or [T, B]}, the step at whose position each query lies, instead of drawn ones.

        Returns:
            An `Episode`.

        Raises:
            ValueError: a bad batch_size, maps of another shape or with other cells, an index of an unknown patch.
        """
        check_range("batch_size", batch_size, 1)
        if init_maps is None:
            maps = self.mazes(rng, batch_size)
        else:
            maps, shape = np.asarray(init_maps), (batch_size, self.map_size, self.map_size)
            if maps.shape != shape:
                raise ValueError(f"init_maps: {maps.shape}, must be {shape}")
            if not np.isin(maps, (FREE, WALL)).all():
                raise ValueError(f"init_maps: cells {np.unique(maps)}, must be 0 (free) and 1 (wall)")
            maps = maps.astype(np.int8)
        if self.walk == "spiral":
            walk = spiral_walk(self.map_size)[: self.length, None]
            positions = np.broadcast_to(walk, (self.length, batch_size, 2))
        else:
            positions = random_walk(rng, self.map_size, self.length, batch_size)
        return Episode(self, maps, positions, rng, query_index or {})


class Episode:
    """One episode of a batch. Arrays are made on demand, for steps start..stop - 1 (default: all).

    Attributes:
        task: the `MappingTask`.
        maps: mazes [B, M, M] int8.
        positions: the agent's row and column at each observation, [T, B, 2].
        relative_positions: the same in the frame of the targets, [T, B, 2].
        query_index: {size: [T, B]}, the step at whose place the query of step t lies; -1: no query.
    """

    def __init__(self, task, maps, positions, rng, query_index):
        self.task, self.maps, self.positions = task, maps, positions
        self.relative_positions = positions + (task.start - task.map_size // 2)
        self.length, self.batch_size = positions.shape[:2]
        items = np.broadcast_to(np.arange(self.batch_size), (self.length, self.batch_size))
        self._at = (items, positions[..., 0], positions[..., 1])

        # The step of every cell's first visit, and of its first appearance in a view.
        self._visited = np.full(maps.shape, _NEVER, np.int32)
        np.minimum.at(self._visited, self._at, np.arange(self.length, dtype=np.int32)[:, None])
        seen = _over_patches(np.minimum, self._visited, VIEW)

        # When the patch around a cell can first be a query; for 3x3 that is when the agent first stands there.
        self._known, self._patch_codes = {}, {}
        for size in task.query_sizes:
            self._patch_codes[size] = _codes(maps, size)
            self._known[size] = np.maximum(self._visited, _over_patches(np.maximum, seen, size))
        self.query_index = {
            size: self._check(query_index[size], size) if size in query_index else self._draw(rng, size)
            for size in task.query_sizes
        }

    def _first_askable(self, size):
        """[T, B]: the first step at which the position of step j can be a query."""
        return np.maximum(np.arange(self.length)[:, None], self._known[size][self._at])

    def _draw(self, rng, size):
        """Uniform among the steps that can be a query (3x3: 0..t), the same rank for the whole batch, as public."""
        since = self._first_askable(size)
        order = np.argsort(since, axis=0, kind="stable")
        count = np.zeros((self.length + 1, self.batch_size), np.int64)
        np.add.at(count, (np.minimum(since, self.length), self._at[0]), 1)
        count = np.cumsum(count, axis=0)[:-1]
        rank = (rng.random_sample((self.length, 1)) * count).astype(np.int64)
        return np.where(count > 0, np.take_along_axis(order, rank, axis=0), -1)

    def _check(self, index, size):
        index = np.asarray(index, np.int64)
        index = index[:, None] if index.ndim == 1 else index
        if index.shape not in ((self.length, 1), (self.length, self.batch_size)):
            raise ValueError(
                f"query_index[{size}]: {index.shape}, must be ({self.length},) or ({self.length}, {self.batch_size})"
            )
        index = np.broadcast_to(index, (self.length, self.batch_size))
        since = np.take_along_axis(self._first_askable(size), np.clip(index, 0, self.length - 1), axis=0)
        known = since <= np.arange(self.length)[:, None]
        if not ((index == -1) | ((index >= 0) & (index < self.length) & known)).all():
            raise ValueError(
                f"query_index[{size}]: a step is too late, must be of a patch known by then (-1: no query)"
            )
        return index

    def views(self, start=0, stop=None):
        """The agent's views, [n, B, 3, 3] int8."""
        return _gather(self.maps, self.positions[start:stop], VIEW)

    def writer(self, start=0, stop=None):
        """Writer input [n, B, 3, 3, 4] float32: one-hot free and wall, then row and column in the frame of the start.

        The last two are raw numbers (`MappingTask.start` at the start), the same in all nine cells.
        """
        places = self.relative_positions[start:stop, :, None, None].astype(np.float32)
        places = np.broadcast_to(places, (*places.shape[:2], VIEW, VIEW, 2))
        return np.concatenate([_one_hot(self.views(start, stop)), places], axis=-1)

    def asked(self, size, start=0, stop=None):
        """True at steps with a query of this size, [n, B] bool."""
        return self.query_index[size][start:stop] >= 0

    def queries(self, size, start=0, stop=None):
        """Reader input [n, B, size, size, 4] float32: as the writer's, the last two channels zero."""
        patches = _gather(self.maps, self._places(size, start, stop), size)
        patches = np.where(self.asked(size, start, stop)[..., None, None], patches, UNKNOWN)
        cells = _one_hot(patches)
        return np.concatenate([cells, np.zeros_like(cells)], axis=-1)

    def targets(self, size, start=0, stop=None):
        """Masks [n, B, S, S] uint8: 1 at every position visited so far whose patch equals the query."""
        steps = np.arange(self.length)[start:stop, None, None, None]
        places = self._places(size, start, stop)
        codes = self._patch_codes[size]
        query = codes[np.arange(self.batch_size), places[..., 0], places[..., 1]]  # [n, B, words]
        equal = functools.reduce(
            np.logical_and, [codes[..., w] == query[:, :, None, None, w] for w in range(codes.shape[-1])]
        )
        latest = np.minimum(steps + self.task.label_after_move, self.length - 1)
        mask = equal & (self._known[size] <= latest) & self.asked(size, start, stop)[..., None, None]
        return recentre(mask.astype(np.uint8), self.task.target_size, start=self.task.start)

    def _places(self, size, start, stop):
        index = np.maximum(self.query_index[size][start:stop], 0)
        return self.positions[index, np.arange(self.batch_size)]

    def window(self, start, length=20):
        """Steps start..start + length - 1 as one training batch, zeros after the episode's end.

        Returns:
            dict: writer [L, B, 3, 3, 4] float32; for each query size s: query_s [L, B, s, s, 4] float32,
            target_s [L, B, S, S] uint8, asked_s [L, B] bool (False too after the end: the mask of the loss);
            mask [L] bool (False after the end); num_steps int32; first bool (the state starts anew).
        """
        stop = min(start + length, self.length)

        def pad(array):
            return np.pad(array, [(0, length - len(array))] + [(0, 0)] * (array.ndim - 1))

        batch = {"writer": pad(self.writer(start, stop))}
        for size in self.task.query_sizes:
            batch[f"query_{size}"] = pad(self.queries(size, start, stop))
            batch[f"target_{size}"] = pad(self.targets(size, start, stop))
            batch[f"asked_{size}"] = pad(self.asked(size, start, stop))
        batch["mask"] = np.arange(length) < stop - start
        batch["num_steps"] = np.int32(stop - start)
        batch["first"] = np.bool_(start == 0)
        return batch

    def windows(self, length=20):
        """All windows of the episode in turn (public LOCAL_T_MAX: 20), made one at a time."""
        for start in range(0, self.length, length):
            yield self.window(start, length)


class MappingStream:
    """An endless stream of windows, each a pure function of (seed, split, update): `batch(update)`.

    Episode e is windows e * windows_per_episode onwards and is drawn from a RandomState of its own. Evaluation
    episodes come from other seeds than training ones; small maps are nevertheless few (7x7: 56 mazes in all, 9x9:
    some thousands), so that most evaluation mazes would have been trained on. `hold_out` keeps them apart.

    Args:
        task: a `MappingTask`.
        batch_size: agents per batch.
        length: steps per window (public LOCAL_T_MAX: 20).
        seed: non-negative integer.
        split: "train" or "evaluation".
        hold_out: n > 1: every maze whose CRC-32 is divisible by n (about one in n) is for evaluation alone, and
            evaluation uses no other. 0 (public): all mazes on either side.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, task, batch_size, length=20, seed=0, split="train", hold_out=0):
        check_range("batch_size", batch_size, 1)
        check_range("length", length, 1)
        check_range("seed", seed, 0)
        check_choice("split", split, ("train", "evaluation"))
        if hold_out < 0 or hold_out == 1:
            raise ValueError(f"hold_out: {hold_out}, must be 0 or at least 2")
        sizes = dict(map_size=task.map_size, batch_size=batch_size)
        check_array(batch_size, task.map_size, task.map_size, **sizes)
        check_array(task.length, batch_size, 2, **sizes, episode_length=task.length)
        cells = max(task.target_size**2, 4 * max(task.query_sizes) ** 2)  # of a step's target and of its query
        check_array(length, batch_size, cells, **sizes, target_size=task.target_size, length=length)
        self.task, self.batch_size, self.length = task, batch_size, length
        self.seed, self.split, self.hold_out = seed, split, hold_out
        self.windows_per_episode = -(-task.length // length)
        self._lock, self._cached = threading.Lock(), (None, None)

    def batch(self, update):
        """Window `update` (from 0) of the stream; see `Episode.window`."""
        number, window = divmod(update, self.windows_per_episode)
        return self.episode(number).window(window * self.length, self.length)

    def episode(self, number):
        """Episode `number` (from 0); the last one asked for is kept."""
        with self._lock:
            if self._cached[0] != number:
                self._cached = (number, self._make(number))
            return self._cached[1]

    def _make(self, number):
        entropy = np.random.SeedSequence(self.seed, spawn_key=(self.split == "evaluation", number))
        rng = np.random.RandomState(np.random.MT19937(entropy))
        maps = None if self.hold_out == 0 else np.stack([self._maze(rng) for _ in range(self.batch_size)])
        return self.task.episode(rng, self.batch_size, init_maps=maps)

    def _maze(self, rng):
        for _ in range(1000 * self.hold_out):
            drawn = maze(rng, self.task.map_size, self.task.complexity, self.task.density)
            if (zlib.crc32(drawn.tobytes()) % self.hold_out == 0) == (self.split == "evaluation"):
                return drawn
        raise ValueError(f"hold_out: {self.hold_out}, must leave mazes of {self.task} for split {self.split!r}")


def stream(task, **arguments):
    """A `MappingStream` from what JSON can hold: the fields of its `MappingTask`, and its other arguments."""
    return MappingStream(MappingTask(**task), **arguments)
