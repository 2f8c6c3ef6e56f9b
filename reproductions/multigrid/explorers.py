"""Explorers of the mapping maze that do not learn: baselines with the `step` of `tfmem.rl.Agent`.

Each sees what an agent sees: the 3x3 view, and its place relative to the start.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfmem.rl.agent import AgentOutput
from tfmem.tasks.mapping import spiral_walk

_UNKNOWN, _FREE, _WALL = 0, 1, 2
_MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # the world's actions
_CERTAIN = 1e9  # logit of the chosen action, the others' are 0


class Spiral:
    """The mapping task's square spiral from the middle outwards, again and again; walls swallow moves.

    Args:
      world: a `MappingMaze`.
    """

    def __init__(self, world):
        self.num_actions = world.num_actions
        self.actions = [_MOVES.index(tuple(way)) for way in np.diff(spiral_walk(world.side), axis=0).tolist()]

    def initial_state(self, batch_size):
        return tf.zeros([batch_size], tf.int32)

    def step(self, observation, action, reward, done, state):
        taken = tf.where(done, 0, state)
        return _chosen(tf.gather(self.actions, taken % len(self.actions)), self.num_actions), taken + 1


class Frontier:
    """Greedy frontier exploration: step along a shortest known way to a place whose view has unknown cells.

    It keeps the map of all that it has seen, so that it is the best of these baselines, though no optimal policy.

    Args:
      world: a `MappingMaze`.
    """

    def __init__(self, world):
        self.num_actions, self.side = world.num_actions, world.side
        self.offset = world.task().start - world.side // 2  # of the middle in the frame of the inputs

    def initial_state(self, batch_size):
        return tf.zeros([batch_size, self.side, self.side], tf.int32)

    def step(self, observation, action, reward, done, state):
        known = tf.where(done[:, None, None], _UNKNOWN, state)
        place = tf.cast(observation[:, 1, 1, 2:], tf.int32) - self.offset
        cells = tf.range(self.side)
        near = [abs(cells - place[:, axis, None]) <= 1 for axis in (0, 1)]
        near = near[0][:, :, None] & near[1][:, None, :]
        rows, columns = (tf.clip_by_value(cells - place[:, axis, None] + 1, 0, 2) for axis in (0, 1))
        view = tf.where(observation[..., 1] > 0, _WALL, _FREE)
        shown = tf.gather(tf.gather(view, rows, batch_dims=1), columns, axis=2, batch_dims=1)
        known = tf.where(near, shown, known)
        steps = self._steps_to_go(known)
        around = tf.stack([_shifted(steps, *way, fill=self._far) for way in _MOVES], axis=-1)
        around = tf.reshape(around, [-1, self.side**2, self.num_actions])
        around = tf.gather(around, place[:, 0] * self.side + place[:, 1], batch_dims=1)
        return _chosen(tf.argmin(around, axis=1, output_type=tf.int32), self.num_actions), known

    @property
    def _far(self):
        return self.side**2

    def _steps_to_go(self, known):
        """Steps from each known free cell to the next frontier, [B, side, side]; `_far` elsewhere."""
        free, unknown = known == _FREE, known == _UNKNOWN
        ways = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
        frontier = free & tf.reduce_any(tf.stack([_shifted(unknown, *way, fill=False) for way in ways]), axis=0)
        steps = tf.where(frontier, 0, self._far)

        def spread(steps, _):
            beside = [_shifted(steps, *way, fill=self._far) for way in _MOVES]
            new = tf.where(free, tf.minimum(steps, 1 + tf.reduce_min(tf.stack(beside), axis=0)), self._far)
            return new, tf.reduce_any(new < steps)

        return tf.while_loop(
            lambda steps, changed: changed, spread, (steps, tf.constant(True)), maximum_iterations=self._far
        )[0]


class Curve(NamedTuple):
    """Exploration of an evaluation: share of cells seen after each step, [T], and mean steps to 90 % of them."""

    seen: np.ndarray
    steps_to_90: float


def _chosen(action, num_actions):
    zeros = tf.zeros(action.shape)
    return AgentOutput(tf.one_hot(action, num_actions, on_value=_CERTAIN), zeros, (), ())


def _shifted(grid, row, column, fill):
    """Value of the cell `row` down and `column` to the right of each cell of [B, side, side]; `fill` outside."""
    padded = tf.pad(grid, [(0, 0), (1, 1), (1, 1)], constant_values=fill)
    side = grid.shape[1]
    return padded[:, 1 + row : 1 + row + side, 1 + column : 1 + column + side]
