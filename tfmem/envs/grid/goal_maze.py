"""Goal maze of Miconi et al. 2018, in which Munkhdalai et al. 2019, §4.3 train agents.

A square maze with pillars at every cell of even row and column. The goal is hidden and fixed for the episode. The agent
starts in the middle; at the goal it gets a reward and moves to a random free cell. It must therefore remember the
goal's location and infer its own.

Paper: 9 x 9; the 3 x 3 cells around the agent, time and last reward as input; -0.1 for a wall, +10 for the goal.
Public code: `maze/maze.py` of differentiable-plasticity: 250 steps, 17 inputs, and the rules below.
Not specified in Munkhdalai et al.: the scale of time. We use the step's number, as in the public code.

    actions       0 up, 1 down, 2 left, 3 right; any other number stays, and time passes
    a step        a wall blocks the way and costs 0.1. Then an agent on the goal's cell, blocked or not, gets 10 and
                  moves to a random free cell. That can be the goal's: the next action then pays again.
    inputs        0-8 cells around the agent by rows, wall 1; 9-13 zero; 14 last reward; 15 step's number, or its share
                  of the episode; 16 one
    the end       after `max_steps` steps, never before
"""

import dataclasses
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from tfmem.envs.grid.base import GridWorld, Outcome
from tfmem.envs.grid.faces import GridEnv, GridVectorEnv
from tfmem.validation import check_bool, check_integer

WALL_REWARD, GOAL_REWARD = -0.1, 10.0
NUM_INPUTS = 17
_MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
_WALL, _FREE, _GOAL, _PLAYER = (40, 50, 60), (240, 240, 240), (230, 120, 50), (40, 100, 180)


class Levels(NamedTuple):
    """Mazes: cells of the goals, row * side + column, int32 [N]."""

    goal: np.ndarray


class State(NamedTuple):
    """B mazes: cells of goal and agent int32 [B], last reward float32 [B], steps taken int32 [B]."""

    goal: tf.Tensor
    player: tf.Tensor
    reward: tf.Tensor
    steps: tf.Tensor


class Decisions(NamedTuple):
    """Level that begins where an episode ends, and cell that follows the goal, int32 [B]."""

    level: tf.Tensor
    teleport: tf.Tensor


@dataclasses.dataclass(frozen=True)
class GoalMaze(GridWorld):
    """Settings and rules of the maze.

    Args:
      side: of the maze, odd. Paper: 9.
      max_steps: of an episode. Public code: 250.
      relative_time: input 15 is the step's number over `max_steps`. Public code: no; its second generation, yes.

    Raises:
      ValueError: an argument out of its range.
    """

    side: int = 9
    max_steps: int = 250
    relative_time: bool = False

    num_actions: ClassVar[int] = 4
    num_numbers: ClassVar[int] = 2
    observation_shape: ClassVar[tuple[int, ...]] = (NUM_INPUTS,)
    observation_dtype: ClassVar[tf.DType] = tf.float32

    def __post_init__(self):
        check_integer("side", self.side, 5, 99)
        if self.side % 2 == 0:
            raise ValueError(f"side: {self.side}, must be odd")
        check_integer("max_steps", self.max_steps, 1)
        check_bool("relative_time", self.relative_time)

    @property
    def num_levels(self):
        """Number of free cells, so that all goals of the pool are equally likely."""
        return len(self.free_cells())

    @property
    def observation_low(self):
        return np.where(np.arange(NUM_INPUTS) == 14, np.float32(WALL_REWARD), np.float32(0))

    @property
    def observation_high(self):
        high = np.ones(NUM_INPUTS, np.float32)
        high[14], high[15] = GOAL_REWARD, 1 if self.relative_time else self.max_steps
        return high

    def walls(self):
        """Walls as True, bool [side, side]."""
        row, column = np.indices([self.side, self.side])
        walls = (row % 2 == 0) & (column % 2 == 0)
        walls[[0, -1]] = walls[:, [0, -1]] = True
        walls[self.side // 2, self.side // 2] = False
        return walls

    def free_cells(self):
        return np.flatnonzero(~self.walls()).astype(np.int32)

    def levels(self, number, seed):
        """Make a pool of goals: free cells in random order, each once before any repeats.

        Args:
          number: of goals.
          seed: of numpy's generator.

        Raises:
          ValueError: an argument out of its range.
        """
        check_integer("number", number, 1)
        check_integer("seed", seed, 0)
        rng, free = np.random.default_rng(seed), self.free_cells()
        rounds = [rng.permutation(free) for _ in range(-(-number // len(free)))]
        return Levels(np.concatenate(rounds)[:number])

    def decide(self, numbers):
        free = self.free_cells()
        return Decisions(level=numbers[:, 0], teleport=tf.gather(free, numbers[:, 1] % len(free)))

    def begin(self, level):
        goal = tf.cast(level.goal, tf.int32)
        zeros = tf.zeros_like(goal)
        return State(goal, zeros + self.side**2 // 2, tf.cast(zeros, tf.float32), zeros)

    def advance(self, levels, state, action, decisions):
        ways = tf.constant([row * self.side + column for row, column in _MOVES] + [0])
        known = (action >= 0) & (action < self.num_actions)
        target = state.player + tf.gather(ways, tf.where(known, action, self.num_actions))
        blocked = tf.gather(self.walls().reshape(-1), target)
        moved = tf.where(blocked, state.player, target)
        found = moved == state.goal
        reward = tf.where(blocked, WALL_REWARD, 0.0) + tf.where(found, GOAL_REWARD, 0.0)
        after = State(state.goal, tf.where(found, decisions.teleport, moved), reward, state.steps + 1)
        return Outcome(
            state=after,
            seen=after,
            reward=reward,
            terminated=tf.zeros_like(blocked),
            truncated=after.steps >= self.max_steps,
        )

    def observe(self, state):
        walls = np.pad(self.walls(), 1)
        patches = np.lib.stride_tricks.sliding_window_view(walls, (3, 3)).reshape(-1, 9).astype(np.float32)
        time = tf.cast(state.steps, tf.float32) / (self.max_steps if self.relative_time else 1)
        rest = [state.reward, time, tf.ones_like(state.reward)]
        nothing = tf.zeros([state.reward.shape[0], 5])
        return tf.concat([tf.gather(patches, state.player), nothing, tf.stack(rest, axis=1)], axis=1)

    def picture(self, state):
        cells = tf.range(self.side**2)
        kind = tf.where(state.goal[:, None] == cells, 2, self.walls().reshape(-1).astype(np.int32) ^ 1)
        kind = tf.where(state.player[:, None] == cells, 3, kind)
        colors = np.array([_WALL, _FREE, _GOAL, _PLAYER], np.uint8)
        return tf.reshape(tf.gather(colors, kind), [-1, self.side, self.side, 3])


class GoalMazeEnv(GridEnv):
    """`GoalMaze` as a `gymnasium.Env`, "tfmem/GoalMaze-v0"; see `GridEnv` for its arguments."""

    world_class = GoalMaze


class GoalMazeVectorEnv(GridVectorEnv):
    """Mazes side by side, `gymnasium.make_vec("tfmem/GoalMaze-v0", num_envs)`; see `GridVectorEnv`."""

    world_class = GoalMaze
