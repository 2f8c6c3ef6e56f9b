"""Gymnasium environments as worlds of `tfmem.rl.rollout`: a graph that calls them, so that any core trains in them.

The graph calls numpy code at every step, so it cannot be compiled by XLA or become a bundle. Environments are not part
of a checkpoint: a resumed run begins new episodes, and the interrupted ones count as truncated.
"""

import collections
import dataclasses
import functools
import json
import threading
from typing import ClassVar, NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tfmem.envs.grid.base import Step
from tfmem.validation import check_integer

LARGEST_OPEN = 8  # vector environments that are open at once; the least recently used is closed


class Draw(NamedTuple):
    """Random decision of a step: its seed, int64 [B, 2], and the environments' numbers 0 ... B - 1, int64 [B]."""

    seed: tf.Tensor
    number: tf.Tensor


class Place(NamedTuple):
    """State of B environments: seed of their first episodes, int64 [B, 2]; their numbers and steps so far, int64 [B].

    Environments with consecutive numbers are the same together and in parts, so that several processes can step them.
    """

    seed: tf.Tensor
    number: tf.Tensor
    steps: tf.Tensor


@dataclasses.dataclass(frozen=True)
class GymnasiumWorld:
    """A Gymnasium environment with discrete actions, B of them side by side.

    Observations that are no Box are flattened by Gymnasium: numbers of a Discrete space become one-hot. Bytes stay
    bytes, other numbers become float32.

    The properties raise a ValueError where there is no such environment, its actions are not integers from 0, or it has
    no time limit and `max_episode_steps` gives none.

    Raises:
      ValueError: a field is out of its range.
    """

    id: str = "CartPole-v1"
    """Environment, as of gymnasium.make: "Id", or "module:Id" for one that a module registers."""
    max_episode_steps: int = 0
    """Steps that truncate an episode; 0: the limit that the environment is registered with."""
    arguments: str = "{}"
    """Keyword arguments of the environment, as JSON."""

    def __post_init__(self):
        check_integer("max_episode_steps", self.max_episode_steps, 0)
        try:
            arguments = json.loads(self.arguments)
        except (json.JSONDecodeError, TypeError):  # not JSON, or no text
            arguments = None
        if not isinstance(arguments, dict):
            raise ValueError(f"arguments: {self.arguments!r}, must be a JSON object")

    compiles: ClassVar[bool] = False

    def make(self):
        """Make one environment, with the time limit and a Box of observations."""
        limit = self.max_episode_steps or None
        try:
            made = gymnasium.make(self.id, max_episode_steps=limit, **json.loads(self.arguments))
        except Exception as error:  # environments check their arguments in many ways
            text = f"{type(error).__name__} {error}".strip()
            raise ValueError(
                f"id: {self.id!r} with arguments {self.arguments}, must be an environment that Gymnasium makes: {text}"
            ) from error
        if isinstance(made.observation_space, gymnasium.spaces.Box):
            return made
        flat = gymnasium.wrappers.FlattenObservation(made)
        if not isinstance(flat.observation_space, gymnasium.spaces.Box):
            raise ValueError(f"id: {self.id!r} with observations {made.observation_space}, must have a fixed size")
        return flat

    def __getstate__(self):
        """The fields alone: an open environment stays in its process."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def _made(self):
        """An environment, for its spaces."""
        made, actions = self.make(), "integers from 0"
        if not isinstance(made.action_space, gymnasium.spaces.Discrete) or made.action_space.start:
            raise ValueError(f"id: {self.id!r} with actions {made.action_space}, must have {actions}")
        return made

    @property
    def num_actions(self):
        return int(self._made.action_space.n)

    @property
    def max_steps(self):
        limit = self.max_episode_steps or self._made.spec.max_episode_steps
        if limit is None:
            raise ValueError(f"max_episode_steps: 0, must be at least 1: {self.id!r} is registered without a limit")
        return limit

    @property
    def observation_shape(self):
        return self._made.observation_space.shape

    @property
    def observation_dtype(self):
        return tf.uint8 if self._made.observation_space.dtype == np.uint8 else tf.float32

    def levels(self, number, seed):
        """Return (): the environments make their own levels from their seeds."""
        return ()

    def draw(self, seed, batch_size):
        """Return the step's decision: the seed itself, and the environments' numbers."""
        return Draw(tf.tile(tf.cast(seed, tf.int64)[tf.newaxis], [batch_size, 1]), tf.range(batch_size, dtype=tf.int64))

    def reset(self, levels, decisions):
        """Begin an episode in every environment: (state, observation)."""
        batch_size = decisions.seed.shape[0]
        place = Place(*decisions, tf.zeros([batch_size], tf.int64))
        observation = tf.numpy_function(
            functools.partial(_reset, self, batch_size), [place.seed[0], place.number[0]], self.observation_dtype
        )
        return place, tf.ensure_shape(observation, [batch_size, *self.observation_shape])

    def step(self, levels, state, action, decisions):
        """Take an action in every environment, and begin the next episode where one ends: `(state, Step)`.

        Raises:
          tf.errors.OpError: an environment raises an error, or an observation is of another shape than its space.
        """
        batch_size, seen = state.steps.shape[0], self.observation_dtype
        # Not stateful: a call whose result is not used, as loops of graphs make for their shapes, is not run.
        found = tf.numpy_function(
            functools.partial(_step, self, batch_size),
            [state.seed[0], state.number[0], state.steps[0], action],
            [tf.int64, seen, tf.float32, tf.bool, tf.bool, seen],
            stateful=False,
        )
        row, shown = [batch_size], [batch_size, *self.observation_shape]
        steps, *found = map(tf.ensure_shape, found, [row, shown, row, row, row, shown])
        return state._replace(steps=steps), Step(*found)  # the next step waits for this one's `steps`


class _Environments:
    """B environments with numpy around them, and their number of steps; `first` is the first one's number."""

    def __init__(self, world, batch_size, first):
        self.first = first
        self.vector = SyncVectorEnv([world.make] * batch_size, autoreset_mode=AutoresetMode.SAME_STEP)
        self.dtype = world.observation_dtype.as_numpy_dtype
        self.lock, self.steps, self.last = threading.Lock(), None, None

    def reset(self, seed, steps):
        words = np.random.SeedSequence([*(int(s) % 2**64 for s in seed), int(steps)]).generate_state(1)
        observation, _ = self.vector.reset(seed=int(words[0] // 2) + self.first)
        self.steps, self.last = int(steps), None
        return np.array(observation, self.dtype)

    def step(self, seed, steps, action):
        """Return a step's result; that of the last step again if the call is repeated, as loops of graphs do."""
        if self.last is not None and self.steps == steps + 1 and np.array_equal(self.last[0], action):
            return self.last[1]
        if self.steps != steps and steps:  # a resumed run
            if self.steps:
                raise RuntimeError("two runs of one seed step these environments, must be in processes of their own")
            result = self._restarted(seed, steps)
        else:
            if self.steps != steps:  # a new evaluation
                self.reset(seed, 0)
            result = self._stepped(action)
        self.steps, self.last = steps + 1, (action.copy(), result)
        return result

    def _restarted(self, seed, steps):
        first = self.reset(seed, steps)
        never = np.zeros(len(first), bool)
        return first, np.zeros(len(first), np.float32), never, ~never, first

    def _stepped(self, action):
        observation, reward, terminated, truncated, info = self.vector.step(action)
        observation = np.array(observation, self.dtype)
        last = observation.copy()
        for index in np.flatnonzero(info.get("_final_obs", ())):
            last[index] = info["final_obs"][index]
        return observation, np.asarray(reward, np.float32), terminated, truncated, last


_open, _lock = collections.OrderedDict(), threading.Lock()


def _environments(world, batch_size, seed, first):
    """Return the environments of a seed from the number `first` on, opened if they are not."""
    key = world, batch_size, tuple(int(s) for s in seed), int(first)
    with _lock:
        if key not in _open:
            _open[key] = _Environments(world, batch_size, int(first))
            if len(_open) > LARGEST_OPEN:
                _, oldest = _open.popitem(last=False)
                with oldest.lock:
                    oldest.vector.close()
        _open.move_to_end(key)
        return _open[key]


def _reset(world, batch_size, seed, first):
    environments = _environments(world, batch_size, seed, first)
    with environments.lock:
        return environments.reset(seed, 0)


def _step(world, batch_size, seed, first, steps, action):
    environments = _environments(world, batch_size, seed, first)
    with environments.lock:
        try:
            return np.full(batch_size, steps + 1, np.int64), *environments.step(seed, int(steps), action)
        except Exception as error:
            raise RuntimeError(f"{world.id}: a step failed: {error}") from error
