"""Procedural Terrain as a world of `tfmem.rl.rollout`: pure functions of states that call numpy at every step.

A level is a seed of `tfmem.envs.terrain`: its terrain is that of `TerrainEnv.reset(seed=level)`. Terrain, frame and map
follow from a state, which is small and belongs to a checkpoint. A resumed run therefore equals an uninterrupted one.
Terrains that states need again are kept in memory.

An observation is a frame. The map is a label, which an agent does not get. The graph calls numpy, so XLA cannot compile
the world.
"""

import collections
import copy
import dataclasses
import functools
import threading
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from tfmem.envs.grid.base import Outcome, Step, check_action, take
from tfmem.envs.terrain import Terrain
from tfmem.envs.worlds import ACTIONS
from tfmem.validation import check_integer

LARGEST_KEPT = 256  # terrains in memory; the least recently used is made again
PICTURE_SIDE, MARK = 128, (214, 40, 40)  # of the pictures of an episode


class Levels(NamedTuple):
    """Seeds of terrains, int64 [N]."""

    seed: Any


class Choice(NamedTuple):
    """Random decision of a step, int32 [B]: the level of an episode that begins."""

    level: tf.Tensor


class TerrainState(NamedTuple):
    """State of B worlds.

    seed: of the terrain, int64 [B].
    position: float64 [B, 2].
    turns: int32 [B], of the heading.
    left: bool [B, num_blocks], True for the blocks that are left.
    steps: int32 [B], in this episode.
    """

    seed: Any
    position: Any
    turns: Any
    left: Any
    steps: Any


@dataclasses.dataclass(frozen=True)
class TerrainWorld:
    """Terrains with blocks to be collected, B of them side by side; see `tfmem.envs.terrain.Terrain`.

    Raises:
      ValueError: a field is out of its range.
    """

    frame_size: int = 64
    """Side of the frames, pixels. Paper: 64 (Gregor et al. 2019, A)."""
    map_size: int = 64
    """Side of the map, pixels. Not specified; we use a pixel for a point of the terrain."""
    field_of_view: float = 80.0
    """Field of view, degrees. Not specified; we use this."""
    size: int = 64
    """Points of a side of the height map. Paper: 64 (I)."""
    num_blocks: int = 20
    """Yellow blocks. Paper: 20 (I)."""
    speed: float = 0.4
    """Length of a move. Paper: slower than in the city (I). Not specified; we use this."""
    num_headings: int = 12
    """Turns of a full circle. Not specified; we use this."""
    max_steps: int = 1350
    """Steps that end an episode. Not specified; we use the rows of the slot memory (Table 3), a row for each step."""

    compiles: ClassVar[bool] = False
    reports_solved: ClassVar[bool] = True  # by collecting all blocks
    num_actions: ClassVar[int] = len(ACTIONS)
    observation_dtype: ClassVar[tf.DType] = tf.uint8

    def __post_init__(self):
        check_integer("max_steps", self.max_steps, 1)
        self.make()

    def make(self):
        """Make a `Terrain`; its `reset` makes the land."""
        fields = dataclasses.asdict(self)
        del fields["max_steps"]
        return Terrain(**fields)

    @property
    def observation_shape(self):
        return (self.frame_size, self.frame_size, 3)

    def levels(self, number, seed):
        """Make a pool of seeds, a function of the arguments alone."""
        return Levels(np.random.default_rng([20191208, seed]).integers(2**31, size=number))

    def draw(self, seed, batch_size):
        """Draw the levels of episodes that begin in a step, from two integers."""
        bits = tf.random.stateless_uniform([batch_size], seed, None, None, tf.int32, alg="philox")
        return Choice(tf.bitwise.bitwise_and(bits, 2**31 - 1))

    def begin(self, seed):
        """Return the first state on terrains of these seeds, int64 [B]."""
        batch_size = seed.shape[0]
        zeros = tf.zeros([batch_size], tf.int32)
        position = tf.zeros([batch_size, 2], tf.float64)
        return TerrainState(seed, position, zeros, tf.ones([batch_size, self.num_blocks], tf.bool), zeros)

    def reset(self, levels, decisions):
        """Begin an episode in every world: `(state, observation)`."""
        state = self.begin(take(levels, decisions.level).seed)
        return state, self.observe(state)

    def observe(self, state):
        """Render the agent's frames, uint8 [B, frame_size, frame_size, 3]."""
        frames = tf.numpy_function(functools.partial(_frames, self), list(state), tf.uint8, stateful=False)
        return tf.ensure_shape(frames, [*state.steps.shape, *self.observation_shape])

    def labels(self, state):
        """Return the maps, uint8 [B, map_size, map_size, 3]: RGB from above, with the blocks that are left."""
        maps = tf.numpy_function(functools.partial(_maps, self), list(state), tf.uint8, stateful=False)
        return tf.ensure_shape(maps, [*state.steps.shape, self.map_size, self.map_size, 3])

    def step(self, levels, state, action, decisions):
        """Take an action in every world, and begin the next episode where one ends: `(state, Step)`."""
        result = tf.numpy_function(
            functools.partial(_step, self),
            [*state, check_action(action, state), take(levels, decisions.level).seed],
            [*map(tf.as_dtype, (*_STATE, *_OUTCOME)), tf.uint8, tf.uint8],
            stateful=False,
        )
        outcome, shown = self._outcome(state, result), [*state.steps.shape, *self.observation_shape]
        return outcome.state, Step(
            observation=tf.ensure_shape(result[-2], shown),
            reward=outcome.reward,
            terminated=outcome.terminated,
            truncated=outcome.truncated,
            last_observation=tf.ensure_shape(result[-1], shown),
        )

    def advance(self, levels, state, action, decisions):
        """Return the `Outcome` of an action, before the next episode begins."""
        arguments = [*state, check_action(action, state)]
        types = [tf.as_dtype(t) for t in (*_STATE, *_OUTCOME)]
        result = tf.numpy_function(functools.partial(_advance, self), arguments, types, stateful=False)
        return self._outcome(state, result)

    def _outcome(self, before, result):
        after = TerrainState(*(tf.ensure_shape(x, s.shape) for x, s in zip(result, before, strict=False)))
        ends = (tf.ensure_shape(x, before.steps.shape) for x in result[len(before) : len(before) + len(_OUTCOME)])
        return Outcome(after, after, *ends)

    def picture(self, state):
        """Draw states side by side: what the agent would see in a larger frame, and the map with its place; uint8."""
        large = dataclasses.replace(self, frame_size=PICTURE_SIDE, map_size=PICTURE_SIDE)
        states = [np.asarray(leaf) for leaf in state]
        frames, maps = _frames(large, *states), _maps(large, *states)
        for picture, position, turns in zip(maps, states[1], states[2], strict=True):
            yaw = np.pi / 2 + 2 * np.pi * turns / self.num_headings
            place, ahead = position / (self.size - 1) * PICTURE_SIDE, np.array([np.cos(yaw), np.sin(yaw)])
            for distance, width in ((0, 3), (5, 2), (8, 2)):  # pixels: a dot, and two towards the heading
                east, north = place + distance * ahead
                row, column = int(PICTURE_SIDE / 2 - north), int(PICTURE_SIDE / 2 + east)
                rows, columns = (slice(max(0, n - width // 2), n + (width + 1) // 2) for n in (row, column))
                picture[rows, columns] = MARK
        return tf.concat([frames, maps], 2)


_kept, _lock = collections.OrderedDict(), threading.Lock()
_STATE = np.int64, np.float64, np.int32, bool, np.int32
_OUTCOME = np.float32, bool, bool  # reward, terminated, truncated


def _keep(key, terrain):
    _kept[key] = terrain
    _kept.move_to_end(key)
    if len(_kept) > LARGEST_KEPT:
        _kept.popitem(last=False)


def _terrain(world, seed, left):
    """Return a terrain with some of its blocks; the caller must copy it before it walks."""
    key = world, int(seed), left.tobytes()
    if key not in _kept:
        if left.all():
            terrain = world.make()
            terrain.reset(np.random.default_rng(int(seed)))
        else:
            terrain = _terrain(world, seed, np.ones_like(left)).with_blocks(left)
        _keep(key, terrain)
    _kept.move_to_end(key)
    return _kept[key]


def _placed(world, seed, position, turns, left, steps):
    terrain = copy.copy(_terrain(world, seed, left))
    terrain.position, terrain.turns = np.array(position), int(turns)
    return terrain


def _walked(world, seed, position, turns, left, steps, action):
    """Take an action in one world: `(terrain, blocks left, reward, terminated, truncated)`."""
    terrain = _placed(world, seed, position, turns, left, steps)
    reward, terminated = terrain.step(int(action))
    if reward:
        left = terrain.left
        _keep((world, int(seed), left.tobytes()), terrain)
    return terrain, left, reward, terminated, steps + 1 >= world.max_steps


def _frames(world, *states):
    with _lock:
        return np.stack([_placed(world, *state).frame() for state in zip(*states, strict=True)])


def _maps(world, *states):
    with _lock:
        return np.stack([_placed(world, *state).map for state in zip(*states, strict=True)])


def _advance(world, *states_and_action):
    with _lock:
        rows = []
        for seed, *rest, action in zip(*states_and_action, strict=True):
            terrain, left, *outcome = _walked(world, seed, *rest, action)
            rows.append((seed, terrain.position, terrain.turns, left, rest[-1] + 1, *outcome))
    return _columns(rows, *_STATE, *_OUTCOME)


def _step(world, *states_action_and_next):
    with _lock:
        rows = []
        for seed, *rest, action, next_seed in zip(*states_action_and_next, strict=True):
            terrain, left, *outcome = _walked(world, seed, *rest, action)
            state = seed, terrain.position, terrain.turns, left, rest[-1] + 1
            last = frame = terrain.frame()
            if any(outcome[1:]):
                state = next_seed, np.zeros(2), 0, np.ones_like(left), 0
                frame = _placed(world, *state).frame()
            rows.append((*state, *outcome, frame, last))
    return _columns(rows, *_STATE, *_OUTCOME, np.uint8, np.uint8)


def _columns(rows, *types):
    return [np.array(column, dtype) for column, dtype in zip(zip(*rows, strict=True), types, strict=True)]
