"""Small worlds in the graph: remembering a cue, and the world of goldens/impala_indexing."""

from typing import Any, NamedTuple

import tensorflow as tf


class Result(NamedTuple):
    observation: tf.Tensor
    reward: tf.Tensor
    terminated: tf.Tensor
    truncated: tf.Tensor
    last_observation: tf.Tensor


class CueState(NamedTuple):
    cue: tf.Tensor
    time: tf.Tensor


class Cue:
    """A cue, 0 or 1, is seen in an episode's first frame only; at the last step the same action is rewarded.

    With `truncating` the time ends the episodes, else the rules.
    """

    num_actions, observation_shape, observation_dtype = 2, (3,), tf.float32

    def __init__(self, num_steps=4, truncating=False):
        self.num_steps, self.truncating = num_steps, truncating

    def draw(self, seed, batch_size):
        bits = tf.random.stateless_uniform([batch_size], seed, None, None, tf.int32, alg="philox")
        return tf.bitwise.bitwise_and(bits, 1)

    def observe(self, state):
        start, end = (tf.cast(state.time == t, tf.float32) for t in (0, self.num_steps - 1))
        return tf.stack([start * tf.cast(state.cue == 0, tf.float32), start * tf.cast(state.cue, tf.float32), end], -1)

    def reset(self, levels, cue):
        state = CueState(cue, tf.zeros_like(cue))
        return state, self.observe(state)

    def step(self, levels, state, action, cue):
        time = state.time + 1
        end = time == self.num_steps
        reward = tf.where(end, tf.where(action == state.cue, 1.0, -1.0), 0.0)
        after = CueState(tf.where(end, cue, state.cue), tf.where(end, 0, time))
        never = tf.zeros_like(end)
        ends = (never, end) if self.truncating else (end, never)
        return after, Result(self.observe(after), reward, *ends, self.observe(CueState(state.cue, time)))


class IndexingState(NamedTuple):
    episode: Any
    time: Any
    action: Any


class Indexing:
    """The world of goldens/impala_indexing; its levels are the episodes' lengths [B, episodes]."""

    observation_shape, observation_dtype = (4,), tf.float32

    def __init__(self, num_actions):
        self.num_actions = num_actions

    def draw(self, seed, batch_size):
        return ()

    def observe(self, state):
        actor = tf.range(tf.shape(state.time)[0])
        columns = (0.1 * _float(state.time), 0.2 * _float(state.episode), 0.25 * _float(state.action + 1))
        return tf.stack([*columns, 0.3 * _float(actor)], -1)

    def reset(self, lengths, decisions):
        zeros = tf.zeros(lengths.shape[:1], tf.int32)
        state = IndexingState(zeros, zeros, zeros - 1)
        return state, self.observe(state)

    def step(self, lengths, state, action, decisions):
        episode, time, _ = state
        reward = _float((7 * time + 3 * episode + 5 * action + 2 * tf.range(lengths.shape[0])) % 9 - 4) / 2
        last = tf.reduce_sum(tf.cast(lengths > 0, tf.int32), -1) - 1
        end = time + 1 == tf.gather(lengths, tf.minimum(episode, last), batch_dims=1)
        old = IndexingState(episode, time + 1, action)
        new = IndexingState(episode + 1, tf.zeros_like(time), tf.zeros_like(action) - 1)
        after = tf.nest.map_structure(lambda n, o: tf.where(end, n, o), new, old)
        return after, Result(self.observe(after), reward, end, tf.zeros_like(end), self.observe(old))


def _float(x):
    return tf.cast(x, tf.float32)
