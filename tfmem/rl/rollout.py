"""Acting in a graph: T steps of B worlds and the record of them, as one loop that XLA compiles.

A world is any object with these attributes and pure functions (`tfmem.envs.grid` has some):

    num_actions                            actions are the integers below it
    observation_shape, observation_dtype   of one world's observation
    draw(seed, batch_size)                 what is random in a step: a function of two int64 numbers
    reset(levels, decisions)               -> (state, observation): an episode begins in every world
    step(levels, state, action, decisions) -> (state, result)

`state` is a nest of tensors [B, ...] of fixed shapes; `levels` is whatever the world is made of, () if nothing. The
result has the fields `observation`, `reward` (float32 [B]), `terminated`, `truncated` (bool [B]) and
`last_observation`. Where an episode ends, the next one begins in the same step: `observation` is the new one's first,
`last_observation` the old one's end.

The record is scalable_agent's: T + 1 entries, of which the first is the last of the record before. Entry t holds what
the world gave, and the agent's output whose action led there. The core's state is that before entry 0 was seen. So a
learner sees every frame that an actor saw, from the same state.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from tfmem.recurrence import unroll


class Entry(NamedTuple):
    """A frame and what led to it, [B, ...]; of a `Trajectory` [T + 1, B, ...].

    observation: of the frame.
    reward: float32, of the action; the ended episode's last one where a new one starts.
    done: bool, whether the frame starts an episode.
    truncated: bool, whether the episode before was cut by the time.
    last_observation: what the step came to, before a new episode; () unless the record keeps it.
    action: int32, that led here.
    logits, baseline: the agent's output when it chose the action.
    episode_return, episode_length: of the episode so far, including this reward; of the ended episode where `done`.
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

    @property
    def solved(self):
        """Whether an episode ended here by the rules and with a positive reward.

        It means nothing in worlds whose rules end an episode by failure, such as Mini Pacman.
        """
        return self.done & ~self.truncated & (self.reward > 0)


class ActorState(NamedTuple):
    """What the next rollout starts from: the worlds, the frame that the agent sees next, its core before that."""

    world: Any
    entry: Entry
    core_state: Any


class Trajectory(NamedTuple):
    """The record of a rollout: entries [T + 1, B, ...], and the core's state [B, ...] before entry 0."""

    entries: Entry
    core_state: Any


def observation_spec(world):
    """What `Agent.build_for` needs to know of a world."""
    return tf.TensorSpec(world.observation_shape, world.observation_dtype)


def initial_actor_state(agent, world, levels, batch_size, seed, keep_last=False):
    """The start of `batch_size` worlds: done everywhere, reward, action and the agent's output zero.

    Args:
      agent: an `Agent`, built.
      world, levels: see the module.
      batch_size: number of worlds.
      seed: two int64 numbers for `world.draw`.
      keep_last: whether records hold `last_observation`.
    """
    state, observation = world.reset(levels, world.draw(seed, batch_size))
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
    )
    return ActorState(state, entry, agent.initial_state(batch_size))


def rollout(agent, world, levels, actor, uniforms, seeds):
    """T steps of the agent in its worlds.

    Args:
      agent: an `Agent`, built.
      world, levels: see the module.
      actor: `ActorState`.
      uniforms: float32 [T, B], from which actions are chosen (`choose`).
      seeds: int64 [T, 2], for `world.draw`.

    Returns:
      `(actor, trajectory)`: the next `ActorState` and a `Trajectory`.

    Raises:
      ValueError: the world gives an entry of another shape or type than at the start.
    """

    def act(inputs, actor):
        uniform, *seed = inputs
        before = actor.entry
        output, core_state = agent.step(before.observation, before.action, before.reward, before.done, actor.core_state)
        action = choose(output.logits, uniform)
        state, result = world.step(levels, actor.world, action, world.draw(tf.stack(seed), action.shape[0]))
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
        )
        _check_same(before, entry)
        return entry, ActorState(state, entry, core_state)

    entries, final = unroll(act, (uniforms, seeds[:, 0], seeds[:, 1]), actor)  # axis 1 of inputs is the batch
    entries = tf.nest.map_structure(lambda first, rest: tf.concat([first[tf.newaxis], rest], 0), actor.entry, entries)
    return final, Trajectory(entries, actor.core_state)


def choose(logits, uniform):
    """Actions [B] of softmax(logits [B, A]) by numbers [B] in [0, 1): how many cumulated probabilities are not above.

    The numbers are the same with XLA and without. So are the actions, unless a number is within rounding of a bound.
    """
    cumulated = tf.cumsum(tf.nn.softmax(logits), axis=-1)[:, :-1]
    return tf.reduce_sum(tf.cast(cumulated <= uniform[:, tf.newaxis], tf.int32), -1)


def draw_uniforms(seed, shape):
    """Float32 numbers in [0, 1) from two int64 numbers, the same with XLA and without (multiples of 2^-24)."""
    bits = tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=tf.int32, alg="philox")
    return tf.cast(tf.bitwise.bitwise_and(bits, 2**24 - 1), tf.float32) * 2.0**-24


def _check_same(before, after):
    tf.nest.assert_same_structure(before, after)
    for field, old, new in zip(Entry._fields, before, after, strict=True):
        for a, b in zip(tf.nest.flatten(old), tf.nest.flatten(new), strict=True):
            if a.dtype != b.dtype or not a.shape.is_compatible_with(b.shape):
                raise ValueError(f"{field}: {b.dtype.name} {b.shape} after a step, must be {a.dtype.name} {a.shape}")
