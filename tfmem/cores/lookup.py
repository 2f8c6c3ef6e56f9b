"""LSTM + SALU: controller with an unbounded soft-attention look-up table, a baseline of Munkhdalai et al. 2019 (§4.1).

"We replace the feed-forward neural memory with the look-up table": the controller and its interaction vectors are those
of the metalearned memory (Eq. 1, without the rate). Every step appends its H write keys and values as rows, then reads
with softmax attention over all rows written so far:

    K_t = [K_{t-1}; k_{t,1..H}^w],  V_t = [V_{t-1}; v_{t,1..H}^w]
    v_t^r = mean_i softmax(K_t k_{t,i}^r / sqrt(word_size))^T V_t

Paper: no more than "soft-attention look-up table". Not specified; we use the scaled dot product, write before reading
and take the mean over heads (the last two as in the metalearned memory).

An unbounded table in tensors of fixed shape:
    The state holds a table with room for `capacity` steps, the second axis of its tensors, and marks the written slots
    of each sequence. A step fills the first empty slot; attention ignores empty slots. A full table doubles where it
    can: in eager mode, and in a graph with unknown capacity (None). T single steps then see log2(T) shapes. In a graph
    with static capacity, as under XLA, it cannot grow. There `tfmem.unroll` first makes room for the whole sequence
    with `reserve` (exactly T more slots); code that compiles single steps must call `reserve` between them. A step
    without room is never silent: it raises if the capacity is 0, else its output and read-out are NaN from then on.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmem.backend import keras
from tfmem.cores.controller import MemoryController
from tfmem.validation import check_positive


class LookupState(NamedTuple):
    hidden: tf.Tensor  # h_t: [B, units]
    cell: tf.Tensor  # [B, units]
    read_out: tf.Tensor  # v_t^r: [B, word_size]
    keys: tf.Tensor  # K_t: [B, capacity, H, word_size]
    values: tf.Tensor  # V_t: [B, capacity, H, word_size]
    written: tf.Tensor  # 1 for a written slot, else 0: [B, capacity]; bfloat16 could not hold a count


def num_written(written):
    """Number of written slots: int32 [B]."""
    return tf.reduce_sum(tf.cast(written, tf.int32), axis=1)


def append(slots, row, length):
    """Write a row [B, ...] to slot `length` [B] of slots [B, capacity, ...]; without such a slot nothing changes."""
    here = tf.range(tf.shape(slots)[1]) == length[:, tf.newaxis]
    here = tf.reshape(here, tf.concat([tf.shape(here), [1] * (slots.shape.rank - 2)], axis=0))
    return tf.where(here, row[:, tf.newaxis], slots)


def attend(queries, keys, values, written):
    """Mean over heads of soft attention over the written slots, [B, size]; the softmax is in float32 or more.

    Args:
      queries: [B, H, size].
      keys, values: [B, capacity, H, size].
      written: [B, capacity], 1 for a written slot, else 0.
    """
    logits = tf.einsum("bqd,bchd->bqch", queries, keys) * keys.shape[-1] ** -0.5
    logits = tf.cast(logits, tf.float64 if logits.dtype == tf.float64 else tf.float32)
    logits = tf.where(written[:, tf.newaxis, :, tf.newaxis] > 0, logits, logits.dtype.min)
    weights = tf.exp(logits - tf.reduce_logsumexp(logits, axis=[2, 3], keepdims=True))
    weights = tf.cast(tf.reduce_mean(weights, axis=1), values.dtype)
    return tf.einsum("bch,bchd->bd", weights, values)


def enlarge(state, new_slots):
    """Append `new_slots` empty slots to the table of a state."""
    padding = [[0, 0], [0, new_slots], [0, 0], [0, 0]]
    return state._replace(
        keys=tf.pad(state.keys, padding),
        values=tf.pad(state.values, padding),
        written=tf.pad(state.written, padding[:2]),
    )


@keras.saving.register_keras_serializable(package="tfmem")
class LookupMemory(MemoryController):
    """LSTM controller with a look-up table that grows with the episode (LSTM + SALU).

    Input [B, features]; output y_t [B, output_size]; state: `LookupState`. A step costs O(capacity).

    `state_size` has None for the capacity unless `max_steps` is given.

    Args:
      units: width of the controller.
      num_heads: H, rows written and read per step. Default 1.
      word_size: size of keys and values. Default 100.
      output_size: default `units`.
      max_steps: capacity of the initial table. Default: an empty table that grows. Set it if compiled code must keep
        the state's shape: single compiled steps, keras.layers.RNN, or a state carried over several unrolls without
        recompilation. `unroll` then adds no room in a graph of static shapes, and later steps give NaN there. In eager
        mode the table still grows.
      **kwargs: initializers, regularizers, constraints, dropout (`tfmem.cores.keras_base`).

    Raises:
      ValueError: an argument is not a positive integer; or a compiled step gets a table of capacity 0.
    """

    def __init__(self, units, num_heads=1, word_size=100, output_size=None, max_steps=None, **kwargs):
        super().__init__(units, num_heads, word_size, output_size, num_others=0, **kwargs)
        if max_steps is not None:
            check_positive(max_steps=max_steps)
        self.max_steps = None if max_steps is None else int(max_steps)

    @property
    def state_size(self):
        units, word = tf.TensorShape([self.units]), tf.TensorShape([self.word_size])
        table = tf.TensorShape([self.max_steps, self.num_heads, self.word_size])
        return LookupState(units, units, word, table, table, table[:1])

    @property
    def output_size(self):
        return self.output_units

    def get_initial_state(self, batch_size=None, dtype=None):
        dtype = dtype or self.compute_dtype
        zeros = tf.zeros([batch_size, self.units], dtype)
        table = tf.zeros([batch_size, self.max_steps or 0, self.num_heads, self.word_size], dtype)
        read_out = tf.zeros([batch_size, self.word_size], dtype)
        return LookupState(zeros, zeros, read_out, table, table, table[:, :, 0, 0])

    def reserve(self, state, num_steps):
        """Return the state with room for `num_steps` more steps.

        If the written slots can be counted (eager mode, or a capacity unknown at trace time), the table grows only if
        necessary, and then at least doubles. In a graph of static shapes it gets `num_steps` more slots, or none if
        `max_steps` was given.
        """
        capacity = state.keys.shape[1]
        if not tf.executing_eagerly() and capacity is not None:
            return state if self.max_steps else enlarge(state, num_steps)
        capacity = tf.shape(state.keys)[1]
        needed = tf.reduce_max(num_written(state.written)) + num_steps
        return enlarge(state, tf.where(needed > capacity, tf.maximum(needed, 2 * capacity) - capacity, 0))

    def step(self, projected, states, mask=None):
        capacity = states.keys.shape[1]
        if tf.executing_eagerly() or capacity is None:
            states = self.reserve(states, 1)
        elif capacity == 0:
            raise ValueError(
                "states: capacity 0 in compiled code, must have room for the step: call reserve on the state before, "
                "use tfmem.unroll, or give max_steps to the constructor"
            )
        hidden, cell, vectors = self.control(projected, states.hidden, states.cell, states.read_out, mask)
        length = num_written(states.written)
        keys = append(states.keys, vectors.write_keys, length)
        values = append(states.values, vectors.write_values, length)
        written = append(states.written, tf.ones_like(length, states.written.dtype), length)
        read_out = attend(vectors.read_keys, keys, values, written)
        overflow = length >= tf.shape(keys)[1]
        read_out = tf.where(overflow[:, tf.newaxis], tf.cast(float("nan"), read_out.dtype), read_out)
        output = self.output(hidden, read_out)
        return output, LookupState(hidden, cell, read_out, keys, values, written)

    def get_config(self):
        return {**super().get_config(), "max_steps": self.max_steps}
