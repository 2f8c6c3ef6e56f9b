"""Acting in a graph: T steps of B worlds and their record, in one loop that XLA compiles.

A world is any object with these attributes and pure functions (`tfmem.envs.grid` has some):

    num_actions                            actions are the integers below it
    observation_shape, observation_dtype   of one world's observation
    draw(seed, batch_size)                 random decisions of a step: a function of two int64 numbers
    reset(levels, decisions)               -> (state, observation): an episode begins in every world
    step(levels, state, action, decisions) -> (state, result)
    labels(state)                          optional: what a loss reads and the agent does not get, a nest [B, ...]

`state` is a nest of tensors [B, ...] of fixed shapes; `levels` is the world's data, () if there is none. The result has
the fields `observation`, `reward` (float32 [B]), `terminated`, `truncated` (bool [B]) and `last_observation`. Where an
episode ends, the next one begins in the same step: `observation` is the first of the new episode, `last_observation`
the last of the old one.

The record is scalable_agent's: T + 1 entries; the first is the last of the previous record. Entry t holds the world's
result and the agent's output with the action before it. The core's state is that before entry 0. The learner thus gets
every frame of the actors from the same state.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from tfmem.recurrence import unroll

RESULT = ("observation", "reward", "terminated", "truncated", "last_observation")  # fields of a step's result


class Entry(NamedTuple):
    """Frame and the step before it, [B, ...]; in a `Trajectory` [T + 1, B, ...].

    observation: of the frame.
    reward: float32, of the action; where an episode starts, the last reward of the ended one.
    done: bool, True where the frame starts an episode.
    truncated: bool, True where a time limit ended the previous episode.
    last_observation: result of the step before a new episode starts; () unless the record keeps it.
    action: int32, before this frame.
    logits, baseline: the agent's output for that action.
    episode_return, episode_length: of the episode so far, including this reward; of the ended episode where `done`.
    labels: the world's labels of the frame; () for a world without.
    """

    observation: Any
    reward: tf.Tensor
    done: tf.Tensor
    truncated: tf.Tensor
    last_observation: Any
    action: tf.Tensor
    logits: tf.Tensor
    baseline: tf.Tensor
    episode_return: tf.Tensor
    episode_length: tf.Tensor
    labels: Any = ()

    @property
    def solved(self):
        """True where an episode ended by the rules, bool, with a positive reward.

        It has no meaning in worlds whose rules end an episode by failure, such as Mini Pacman.
        """
        return self.done & ~self.truncated & (self.reward > 0)


class ActorState(NamedTuple):
    """Start of the next rollout: the worlds, the agent's next frame, and its core's state before that frame."""

    world: Any
    entry: Entry
    core_state: Any


class Trajectory(NamedTuple):
    """Record of a rollout: entries [T + 1, B, ...], and the core's state [B, ...] before entry 0."""

    entries: Entry
    core_state: Any


def observation_spec(world):
    """Specification of a world's observations for `Agent.build_for`."""
    return tf.TensorSpec(world.observation_shape, world.observation_dtype)


def initial_actor_state(agent, world, levels, batch_size, decisions, keep_last=False):
    """Return the start of `batch_size` worlds: done everywhere; reward, action and the agent's output zero.

    Args:
      agent: an `Agent`, built.
      world, levels: see the module.
      batch_size: number of worlds.
      decisions: of `world.draw`, for the first levels.
      keep_last: store `last_observation` in records. Default False.
    """
    state, observation = world.reset(levels, decisions)
    zeros, length = tf.zeros([batch_size]), tf.zeros([batch_size], tf.int32)
    entry = Entry(
        observation=observation,
        reward=zeros,
        done=tf.ones([batch_size], tf.bool),
        truncated=tf.zeros([batch_size], tf.bool),
        last_observation=observation if keep_last else (),
        action=length,
        logits=tf.zeros([batch_size, world.num_actions]),
        baseline=zeros,
        episode_return=zeros,
        episode_length=length,
        labels=_labels(world, state),
    )
    return ActorState(state, entry, agent.initial_state(batch_size))


def rollout(agent, world, levels, actor, uniforms, seeds):
    """Run T steps of the agent in its worlds.

    Args:
      agent: an `Agent`, built.
      world, levels: see the module.
      actor: `ActorState`.
      uniforms: float32 [T, B], which choose the actions (`choose`).
      seeds: int64 [T, 2], for `world.draw`.

    Returns:
      `(actor, trajectory)`: the next `ActorState` and a `Trajectory`.

    Raises:
      ValueError: a step's result lacks a field, or has one of another shape or type than at the start.
    """

    def act(inputs, actor):
        uniform, *seed = inputs
        before = actor.entry
        output, core_state = agent.step(before.observation, before.action, before.reward, before.done, actor.core_state)
        action = choose(output.logits, uniform)
        state, result = world.step(levels, actor.world, action, world.draw(tf.stack(seed), action.shape[0]))
        _check_result(before, result)
        entry = Entry(
            observation=result.observation,
            reward=result.reward,
            done=result.terminated | result.truncated,
            truncated=result.truncated & ~result.terminated,
            last_observation=result.last_observation if tf.nest.flatten(before.last_observation) else (),
            action=action,
            logits=output.logits,
            baseline=output.value,
            episode_return=tf.where(before.done, 0.0, before.episode_return) + result.reward,
            episode_length=tf.where(before.done, 0, before.episode_length) + 1,
            labels=_labels(world, state),
        )
        tf.nest.assert_same_structure(before, entry)
        for field, old, new in zip(Entry._fields, before, entry, strict=True):
            _check_same(field, old, new)
        return entry, ActorState(state, entry, core_state)

    entries, final = unroll(act, (uniforms, seeds[:, 0], seeds[:, 1]), actor)  # axis 1 of inputs is the batch
    entries = tf.nest.map_structure(lambda first, rest: tf.concat([first[tf.newaxis], rest], 0), actor.entry, entries)
    return final, Trajectory(entries, actor.core_state)


def choose(logits, uniform):
    """Sample actions [B] of softmax(logits [B, A]) by numbers [B] in [0, 1).

    The action is the count of cumulative probabilities that do not exceed the number. It is the same with XLA and
    without, unless a number is within rounding of a bound.
    """
    cumulated = tf.cumsum(tf.nn.softmax(logits), axis=-1)[:, :-1]
    return tf.reduce_sum(tf.cast(cumulated <= uniform[:, tf.newaxis], tf.int32), -1)


def draw_uniforms(seed, shape):
    """Draw float32 numbers in [0, 1) from two int64 numbers: multiples of 2^-24, the same with XLA and without."""
    bits = tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=tf.int32, alg="philox")
    return tf.cast(tf.bitwise.bitwise_and(bits, 2**24 - 1), tf.float32) * 2.0**-24


def _labels(world, state):
    return world.labels(state) if hasattr(world, "labels") else ()


def _check_result(before, result):
    """Raise a ValueError unless a step's result has its fields, and rewards and ends of the right type."""
    missing = [name for name in RESULT if not hasattr(result, name)]
    if missing:
        raise ValueError(f"result: {type(result).__name__} without {', '.join(missing)}, must have {', '.join(RESULT)}")
    _check_same("reward", before.reward, result.reward)
    for name in ("terminated", "truncated"):
        _check_same(name, before.done, getattr(result, name))


def _check_same(field, before, after):
    for a, b in zip(tf.nest.flatten(before), tf.nest.flatten(after), strict=True):
        if a.dtype != b.dtype or not a.shape.is_compatible_with(b.shape):
            raise ValueError(f"{field}: {b.dtype.name} {b.shape} after a step, must be {a.dtype.name} {a.shape}")
