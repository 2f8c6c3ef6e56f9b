"""Mazes of the mapping task as an agent's world: it sees 3x3 cells at a time and is rewarded for cells not seen before.

Huynh et al. 2020 (supplement E) show joint exploration, mapping and localization in a video. Not specified: the rules
of that world. We use the mazes, the view and the queries of `tfmem.tasks.mapping`, and the rules below.

    actions       0 up, 1 down, 2 left, 3 right; any other number stays, and time passes
    a step        a wall blocks the way and costs 0.01. Each cell that the 3x3 view shows for the first time gives 1/3,
                  so that a straight step into unseen ground gives 1. Cells seen at the start give nothing.
    inputs        as the mapping task's writer: [3, 3, 4], one-hot free and wall, then row and column relative to the
                  start, the same in all nine cells
    labels        a query, the 3x3 patch around the place of a step so far, drawn anew in each step; and its target, the
                  mask of all visited places with that patch
    the end       after `max_steps` steps, never before
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from tfmem.envs.grid.base import GridWorld, Outcome, pick
from tfmem.envs.grid.faces import GridEnv, GridVectorEnv
from tfmem.tasks.mapping import VIEW, MappingTask
from tfmem.validation import check_bool, check_integer

BLOCKED_REWARD = -0.01
_MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
_PATCH = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
_FREE, _WALL, _VISITED, _PLAYER = (240, 240, 240), (40, 50, 60), (250, 214, 165), (40, 100, 180)
_UNSEEN_FREE, _UNSEEN_WALL = (176, 182, 190), (120, 128, 138)


class Levels(NamedTuple):
    """Mazes of 0 (free) and 1 (wall), int8 [N, side, side]; the middle, where an episode starts, is free."""

    cells: np.ndarray


class State(NamedTuple):
    """B mazes: cells int8 [B, side * side], visits of each cell int32 [B, side * side]; place of the agent, place of
    the query and steps taken, int32 [B].
    """

    cells: tf.Tensor
    visits: tf.Tensor
    player: tf.Tensor
    query: tf.Tensor
    steps: tf.Tensor


class Decisions(NamedTuple):
    """Level that begins where an episode ends, and step whose place is the query modulo those so far, int32 [B]."""

    level: tf.Tensor
    query: tf.Tensor


class Labels(NamedTuple):
    """Reader's input [B, 3, 3, 4] float32, and mask of its places [B, target_size, target_size] uint8."""

    query: Any
    target: Any


@dataclasses.dataclass(frozen=True)
class MappingMaze(GridWorld):
    """Settings and rules of the maze.

    Args:
      side: of the maze with its outer wall: 7, 11, 15, ..., so that the middle is free in every maze.
      max_steps: of an episode. Not specified; we use 338, twice the inner cells of a side of 15.
      target_size, centred: frame of positions and targets, as in `MappingTask`.
      complexity, density: of the mazes. Public code: 0.05, 0.2.

    Raises:
      ValueError: an argument out of its range.
    """

    side: int = 15
    max_steps: int = 338
    target_size: int = 48
    centred: bool = False
    complexity: float = 0.05
    density: float = 0.2

    num_actions: ClassVar[int] = 4
    num_numbers: ClassVar[int] = 2
    observation_shape: ClassVar[tuple[int, ...]] = (VIEW, VIEW, 4)
    observation_dtype: ClassVar[tf.DType] = tf.float32

    def __post_init__(self):
        check_integer("side", self.side, 7, 99)
        if self.side % 4 != 3:
            raise ValueError(f"side: {self.side}, must be 7, 11, 15, ..., so that the middle is free in every maze")
        check_integer("max_steps", self.max_steps, 1)
        check_integer("target_size", self.target_size, 1)
        check_bool("centred", self.centred)
        self.task()

    def task(self):
        """The `MappingTask` with these mazes and this frame."""
        return MappingTask(
            map_size=self.side,
            target_size=self.target_size,
            centred=self.centred,
            complexity=self.complexity,
            density=self.density,
            label_after_move=False,
        )

    @property
    def observation_high(self):
        return np.array([1, 1, self.target_size, self.target_size], np.float32)

    def levels(self, number, seed):
        """Make a pool of mazes.

        Args:
          number: of mazes.
          seed: of numpy's generator.

        Raises:
          ValueError: an argument out of its range.
        """
        check_integer("number", number, 1)
        check_integer("seed", seed, 0)
        return Levels(self.task().mazes(np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed))), number))

    def decide(self, numbers):
        return Decisions(level=numbers[:, 0], query=numbers[:, 1])

    def begin(self, level):
        number, side = level.cells.shape[0], self.side
        if level.cells.shape[1:] != (side, side):
            raise ValueError(f"levels: cells {tuple(level.cells.shape[1:])}, must be {(side, side)}")
        zeros = tf.zeros([number], tf.int32)
        start = zeros + side**2 // 2
        cells = tf.cast(tf.reshape(level.cells, [number, side**2]), tf.int8)
        return State(cells, tf.one_hot(start, side**2, dtype=tf.int32), start, start, zeros)

    def advance(self, levels, state, action, decisions):
        ways = tf.constant([row * self.side + column for row, column in _MOVES] + [0])
        known = (action >= 0) & (action < self.num_actions)
        target = state.player + tf.gather(ways, tf.where(known, action, self.num_actions))
        blocked = pick(state.cells, target) != 0
        player = tf.where(blocked, state.player, target)
        new = tf.reduce_sum(tf.cast(~pick(self.seen(state), self._around(player)), tf.float32), axis=1)
        visits = state.visits + tf.one_hot(player, self.side**2, dtype=tf.int32)
        steps = state.steps + 1
        rank = decisions.query % (steps + 1)  # among the places of all steps so far, the start included
        query = tf.reduce_sum(tf.cast(tf.cumsum(visits, axis=1) <= rank[:, None], tf.int32), axis=1)
        after = State(state.cells, visits, player, query, steps)
        return Outcome(
            state=after,
            seen=after,
            reward=new / VIEW + tf.where(blocked, BLOCKED_REWARD, 0.0),
            terminated=tf.zeros_like(blocked),
            truncated=steps >= self.max_steps,
        )

    def observe(self, state):
        patch = self._one_hot(pick(state.cells, self._around(state.player)))
        offset = self.task().start - self.side // 2
        place = tf.stack([state.player // self.side + offset, state.player % self.side + offset], axis=-1)
        place = tf.tile(tf.cast(place, tf.float32)[:, None, None], [1, VIEW, VIEW, 1])
        return tf.concat([patch, place], axis=-1)

    def labels(self, state):
        """Query and target of the current step, as `Episode.queries` and `Episode.targets` of the mapping task."""
        query = self._one_hot(pick(state.cells, self._around(state.query)))
        walls = tf.pad(self._grid(tf.cast(state.cells, tf.int32)), [(0, 0), (1, 1), (1, 1)])
        codes = sum(part * 2**bit for bit, part in enumerate(self._shifted(walls)))
        codes = tf.reshape(codes, [-1, self.side**2])
        places = (state.visits > 0) & (codes == pick(codes, state.query[:, None]))
        return Labels(tf.concat([query, tf.zeros_like(query)], axis=-1), self._in_frame(tf.cast(places, tf.uint8)))

    def seen(self, state):
        """Cells that were in a view of the episode, bool [B, side * side]."""
        return self._around_any(state.visits > 0)

    def num_visible(self, levels):
        """Number of cells that an agent can see in each maze, int32 [N]: all but walls inside of thick walls."""
        free = tf.reshape(tf.constant(levels.cells) == 0, [-1, self.side**2])
        return tf.reduce_sum(tf.cast(self._around_any(free), tf.int32), axis=1)

    def picture(self, state):
        """Draw the maze with the cells seen so far bright, the visited ones orange, and the agent blue."""
        wall = state.cells != 0
        kind = tf.where(state.visits > 0, 2, tf.cast(wall, tf.int32))
        kind = tf.where(self.seen(state), kind, tf.where(wall, 5, 4))
        kind = tf.where(tf.range(self.side**2) == state.player[:, None], 3, kind)
        colors = np.array([_FREE, _WALL, _VISITED, _PLAYER, _UNSEEN_FREE, _UNSEEN_WALL], np.uint8)
        return tf.reshape(tf.gather(colors, kind), [-1, self.side, self.side, 3])

    def _grid(self, flat):
        return tf.reshape(flat, [-1, self.side, self.side])

    def _around(self, place):
        """Cells of the 3x3 patch around a place that is not on the outer wall, [B, 9]."""
        return place[:, None] + tf.constant([row * self.side + column for row, column in _PATCH])

    def _shifted(self, padded):
        """The grid [B, side + 2, side + 2] as the nine cells of every cell's patch, [B, side, side] each."""
        side = self.side
        return [padded[:, 1 + row : 1 + row + side, 1 + column : 1 + column + side] for row, column in _PATCH]

    def _around_any(self, flat):
        """True where any cell of the patch is."""
        padded = tf.pad(self._grid(flat), [(0, 0), (1, 1), (1, 1)])
        return tf.reshape(tf.reduce_any(tf.stack(self._shifted(padded)), axis=0), [-1, self.side**2])

    def _one_hot(self, patch):
        return tf.reshape(tf.stack([tf.cast(patch == kind, tf.float32) for kind in (0, 1)], -1), [-1, VIEW, VIEW, 2])

    def _in_frame(self, flat):
        """The grid in the frame of the targets, as `tfmem.tasks.mapping.recentre`."""
        offset = self.task().start - self.side // 2
        first, last = max(0, -offset), min(self.side, self.target_size - offset)
        margin = first + offset, self.target_size - last - offset
        return tf.pad(self._grid(flat)[:, first:last, first:last], [(0, 0), margin, margin])


class MappingMazeEnv(GridEnv):
    """`MappingMaze` as a `gymnasium.Env`, "tfmem/MappingMaze-v0"; see `GridEnv` for its arguments."""

    world_class = MappingMaze


class MappingMazeVectorEnv(GridVectorEnv):
    """Mazes side by side, `gymnasium.make_vec("tfmem/MappingMaze-v0", num_envs)`; see `GridVectorEnv`."""

    world_class = MappingMaze
