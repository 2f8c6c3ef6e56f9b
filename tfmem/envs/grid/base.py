"""Base of the grid worlds: the contract, the beginning of the next episode, and checks of arguments."""

import abc
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

_LARGEST = 2**31 - 1


class Step(NamedTuple):
    """Result of a step of B worlds, without their state.

    observation: of the state, [B, ...]: the next episode's first one where an episode has ended.
    reward: float32 [B].
    terminated: bool [B]: the rules ended the episode.
    truncated: bool [B]: the time limit ended it.
    last_observation: [B, ...], as `observation` but before the next episode begins.
    """

    observation: tf.Tensor
    reward: tf.Tensor
    terminated: tf.Tensor
    truncated: tf.Tensor
    last_observation: tf.Tensor


class Outcome(NamedTuple):
    """Result of an action, before the next episode begins.

    state: NamedTuple of tensors [B, ...].
    seen: the state that the agent observes: `state`, unless a world draws the picture earlier.
    reward, terminated, truncated: see `Step`.
    """

    state: Any
    seen: Any
    reward: tf.Tensor
    terminated: tf.Tensor
    truncated: tf.Tensor


class GridWorld(abc.ABC):
    """Base of worlds with pure functions of tensors as methods; the package's docstring has the contract.

    Attributes:
      num_actions: actions are 0 ... num_actions - 1.
      num_numbers: random numbers of one world in one step.
      num_levels: levels of a pool by default.
      observation_shape, observation_dtype: of one world's observation.
      observation_low, observation_high: bounds of its values, numbers or arrays of its shape.
      reports_solved: the rules end an episode only by success or failure, and success alone has a positive reward.
    """

    num_actions: ClassVar[int]
    num_numbers: ClassVar[int]
    num_levels: ClassVar[int] = 1024
    reports_solved: ClassVar[bool] = False
    observation_shape: ClassVar[tuple[int, ...]]
    observation_dtype: ClassVar[tf.DType]
    observation_low: ClassVar[Any] = 0
    observation_high: ClassVar[Any]

    @abc.abstractmethod
    def levels(self, number, seed):
        """Make a pool of levels: NamedTuple of numpy arrays [number, ...], a function of the arguments alone."""

    @abc.abstractmethod
    def decide(self, numbers):
        """Make random decisions of a step from int32 [B, num_numbers]: NamedTuple of tensors with a field `level`."""

    @abc.abstractmethod
    def begin(self, level):
        """Return the first state of each of B levels."""

    @abc.abstractmethod
    def advance(self, levels, state, action, decisions):
        """Return the `Outcome` of an action, int32 [B]."""

    @abc.abstractmethod
    def observe(self, state):
        """Return the agent's observation, [B, *observation_shape]."""

    @abc.abstractmethod
    def picture(self, state):
        """Draw the whole grid, uint8 [B, rows, columns, 3]."""

    def draw(self, seed, batch_size):
        """Draw the random decisions of one step of `batch_size` worlds, a function of the two integers of `seed`."""
        numbers = tf.random.stateless_uniform(
            [batch_size, self.num_numbers], seed, minval=None, maxval=None, dtype=tf.int32, alg="philox"
        )
        return self.decide(tf.bitwise.bitwise_and(numbers, _LARGEST))

    def reset(self, levels, decisions):
        """Begin an episode in every world: (state, observation)."""
        state = self.begin(take(levels, decisions.level))
        return state, self.observe(state)

    def step(self, levels, state, action, decisions):
        """Take an action in every world, and begin the next episode where one ends.

        Args:
          levels: the pool, NamedTuple of arrays or tensors [N, ...].
          state: NamedTuple of tensors [B, ...].
          action: integers [B].
          decisions: NamedTuple of tensors [B, ...].

        Returns:
          `(state, Step)`.

        Raises:
          ValueError: `action` has another type or shape.
        """
        outcome = self.advance(levels, state, check_action(action, state), decisions)
        first = self.begin(take(levels, decisions.level))
        ended = outcome.terminated | outcome.truncated
        after = select(ended, first, outcome.state)
        shown = after if outcome.seen is outcome.state else select(ended, first, outcome.seen)
        return after, Step(
            observation=self.observe(shown),
            reward=outcome.reward,
            terminated=outcome.terminated,
            truncated=outcome.truncated,
            last_observation=self.observe(outcome.seen),
        )


def take(levels, index):
    """Take the levels of a pool with these numbers, modulo its size."""
    size = tf.nest.flatten(levels)[0].shape[0]
    return tf.nest.map_structure(lambda leaf: tf.gather(leaf, index % size), levels)


def select(mask, new, old):
    """Select `new` where `mask`, bool [B], holds, else `old`: nests of tensors [B, ...]."""
    return tf.nest.map_structure(
        lambda a, b: tf.where(tf.reshape(mask, [-1] + [1] * (len(a.shape) - 1)), a, b), new, old
    )


def pick(cells, index):
    """Gather `cells[b, index[b, ...]]` from a tensor [B, cells]."""
    return tf.gather(cells, index, batch_dims=1)


def check_action(action, state):
    """Return the actions as int32 [B]; raise a ValueError unless they are integers, one per world."""
    action, batch_size = tf.convert_to_tensor(action), tf.nest.flatten(state)[0].shape[0]
    if not action.dtype.is_integer or action.shape.rank != 1 or action.shape[0] != batch_size:
        raise ValueError(f"action: {action.dtype.name} {action.shape}, must be integers [{batch_size}], one per world")
    return tf.cast(action, tf.int32)
