"""Gymnasium environments of the grid worlds: one world, or several side by side.

Both run the same compiled step. World i with seed s equals the single environment with seed s. Levels come from a pool
given by the arguments `num_levels` and `level_seed`; held-out levels are another `level_seed`.
"""

import functools

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from tfmem.envs.grid.base import GridWorld, select, take
from tfmem.envs.seeding import reseed
from tfmem.validation import check_choice, check_integer

_SCALE = 16  # pixels of a cell in `render`


@functools.lru_cache(maxsize=16)
def _compiled(world):
    """Compile (reset, step) of a world, with random numbers as inputs."""

    @tf.function(jit_compile=True, autograph=False)
    def reset(levels, numbers):
        return world.reset(levels, world.decide(numbers))

    @tf.function(jit_compile=True, autograph=False)
    def step(levels, state, action, numbers, begins):
        decisions = world.decide(numbers)
        outcome = world.advance(levels, state, action, decisions)
        first = world.begin(take(levels, decisions.level))
        after, seen = (select(begins, first, old) for old in (outcome.state, outcome.seen))
        reward = tf.where(begins, 0.0, outcome.reward)
        return after, world.observe(seen), reward, outcome.terminated & ~begins, outcome.truncated & ~begins

    return reset, step


class _Worlds:
    """B worlds of one kind with numpy around them: levels, random generators, state.

    Args:
      world_class: the `GridWorld`.
      batch_size: B.
      render_mode: "rgb_array" or None.
      num_levels: of the pool; None: the world's own number.
      level_seed: of the pool.
      arguments: of the world.
    """

    def __init__(self, world_class, batch_size, render_mode, num_levels, level_seed, arguments):
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        self.world, self.state = world_class(**arguments), None
        num_levels = self.world.num_levels if num_levels is None else num_levels
        check_integer("num_levels", num_levels, 1)
        check_integer("level_seed", level_seed, 0)
        self._levels = tf.nest.map_structure(tf.constant, self.world.levels(num_levels, level_seed))
        self._reset, self._step = _compiled(self.world)
        self.render_mode, self.generators = render_mode, [None] * batch_size

    def __getstate__(self):
        """Arrays in place of tensors, without the compiled functions, which cannot be copied."""
        state = {name: value for name, value in self.__dict__.items() if name not in ("_reset", "_step")}
        for name in ("_levels", "state"):
            state[name] = tf.nest.map_structure(lambda leaf: None if leaf is None else leaf.numpy(), state[name])
        return state

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._reset, self._step = _compiled(self.world)
        for name in ("_levels", "state"):
            tensors = tf.nest.map_structure(lambda leaf: None if leaf is None else tf.constant(leaf), state[name])
            setattr(self, name, tensors)

    def spaces(self):
        world = self.world
        shape, dtype = world.observation_shape, world.observation_dtype.as_numpy_dtype
        low, high = (np.broadcast_to(x, shape).astype(dtype) for x in (world.observation_low, world.observation_high))
        observations = gymnasium.spaces.Box(low, high, dtype=dtype)
        return observations, gymnasium.spaces.Discrete(world.num_actions)

    def _numbers(self):
        return np.stack([rng.integers(2**31, size=self.world.num_numbers, dtype=np.int64) for rng in self.generators])

    def reset(self):
        self.state, observation = self._reset(self._levels, tf.constant(self._numbers(), tf.int32))
        return observation.numpy()

    def step(self, actions, begins):
        if self.state is None:
            raise ResetNeeded("call reset before step")
        numbers = tf.constant(self._numbers(), tf.int32)
        self.state, *results = self._step(
            self._levels, self.state, tf.constant(actions, tf.int32), numbers, tf.constant(begins)
        )
        return [result.numpy() for result in results]

    def render(self):
        if self.render_mode is None:
            return None
        if self.state is None:
            raise ResetNeeded("call reset before render")
        return self.world.picture(self.state).numpy().repeat(_SCALE, axis=1).repeat(_SCALE, axis=2)


class GridEnv(gymnasium.Env):
    """One grid world as a `gymnasium.Env`.

    Args:
      render_mode: "rgb_array": `render` returns the whole grid; or None.
      num_levels: of the pool; None: the world's `num_levels`.
      level_seed: of the pool.
      arguments: of the world.

    Raises:
      ValueError: an argument out of its range.
    """

    world_class: type[GridWorld]
    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(self, render_mode=None, num_levels=None, level_seed=0, **arguments):
        self._worlds = _Worlds(self.world_class, 1, render_mode, num_levels, level_seed, arguments)
        self.render_mode, self.world = render_mode, self._worlds.world
        self.observation_space, self.action_space = self._worlds.spaces()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._worlds.generators = [self.np_random]
        return self._worlds.reset()[0], {}

    def step(self, action):
        if not self.action_space.contains(action):
            raise ValueError(f"action: {action!r}, must be an integer from 0 to {self.action_space.n - 1}")
        observation, reward, terminated, truncated = self._worlds.step([action], [False])
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self):
        picture = self._worlds.render()
        return picture if picture is None else picture[0]


class GridVectorEnv(VectorEnv):
    """Several grid worlds side by side as a `gymnasium.vector.VectorEnv`.

    The autoreset mode is NEXT_STEP, as in Gymnasium's own: the step after an episode's last one ignores the world's
    action and returns the first observation of a new episode with reward 0.

    Args:
      num_envs: number of worlds.
      render_mode: "rgb_array": `render` returns the whole grids; or None.
      max_episode_steps: steps until an episode is truncated, if the world's own limit is later; None: never.
      num_levels: of the pool; None: the world's `num_levels`.
      level_seed: of the pool.
      arguments: of the worlds.

    Raises:
      ValueError: an argument out of its range.
    """

    world_class: type[GridWorld]
    metadata = {**GridEnv.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self, num_envs=1, render_mode=None, max_episode_steps=None, num_levels=None, level_seed=0, **arguments
    ):
        check_integer("num_envs", num_envs, 1)
        if max_episode_steps is not None:
            check_integer("max_episode_steps", max_episode_steps, 1)
        self._worlds = _Worlds(self.world_class, num_envs, render_mode, num_levels, level_seed, arguments)
        self.num_envs, self.render_mode, self.max_episode_steps = num_envs, render_mode, max_episode_steps
        self.world = self._worlds.world
        self.single_observation_space, self.single_action_space = self._worlds.spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._steps, self._done = np.zeros(num_envs, int), np.zeros(num_envs, bool)

    def reset(self, *, seed=None, options=None):
        """Begin new episodes.

        Args:
          seed: s: the worlds get s, s + 1, ...; a list: one for each; None: their generators continue.
          options: not used.

        Raises:
          ValueError: a negative or other seed, or a list of another length.
        """
        reseed(self._worlds.generators, seed)
        self._steps[:], self._done[:] = 0, False
        return self._worlds.reset(), {}

    def step(self, actions):
        """Step every world with `actions`, integers [num_envs]."""
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or not np.isin(actions, range(self.single_action_space.n)).all():
            raise ValueError(
                f"actions: {actions}, must be {self.num_envs} integers from 0 to {self.single_action_space.n - 1}"
            )
        observation, reward, terminated, truncated = self._worlds.step(actions, self._done)
        self._steps = np.where(self._done, 0, self._steps + 1)
        if self.max_episode_steps is not None:
            truncated = truncated | (self._steps >= self.max_episode_steps)
        self._done = terminated | truncated
        return observation, reward.astype(np.float64), terminated, truncated, {}

    def render(self):
        pictures = self._worlds.render()
        return pictures if pictures is None else tuple(pictures)
