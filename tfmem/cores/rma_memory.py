"""Rows of the RMA's memory: reads and writes, and the memory over a sequence that appends rows.

Equations and letters: `tfmem.cores.rma`. In a sequence of at most K steps the memory is the rows before it and those
written since, so that a loop carries the new rows alone.
"""

import copy
import operator
from typing import NamedTuple

import tensorflow as tf

from tfmem.cores.base import variable_dtype

EPSILON = 1e-12  # least |x|^2 in x / |x|, as in tf.math.l2_normalize: an empty row has similarity 0


class ReadInformation(NamedTuple):
    """Weights and words of a read; k is K for dense reads. The order of the k rows has no meaning."""

    weights: tf.Tensor  # [B, H, k]
    indices: tf.Tensor  # [B, H, k] int32
    keys: tf.Tensor  # [B, H, D]
    strengths: tf.Tensor  # [B, H]


def inverse_norm(x):
    """Compute 1 / |x| of the last axis, with |x|^2 at least EPSILON.

    Public code: same range. float32 holds |x|^2 up to |x| = 1e19; beyond, 1 / |x| is 0. Scaling the rows first would
    need two more passes over the memory in each step.
    """
    return tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(x), -1), EPSILON))


def read(read_words, memory, num_reads, top_k=0, inverse_norms=None):
    """Read by content: softmax of strength x cosine over the `top_k` best rows, empty rows included.

    Args:
      read_words: [B, H (D + 1)], the keys of all reads, then their strengths before the softplus.
      memory: [B, K, D].
      num_reads: H.
      top_k: rows in each read; 0 for all.
      inverse_norms: [B, K], 1 / |row| if known; default: computed.

    Returns:
      `(reads [B, H D], ReadInformation)`. The selection of rows has no gradient.
    """
    dtype = variable_dtype(memory.dtype)
    keys, strengths, queries = read_queries(tf.cast(read_words, dtype), num_reads)
    if top_k:
        chosen_from = tf.cast(tf.stop_gradient(memory), dtype)
        scale = inverse_norm(chosen_from) if inverse_norms is None else tf.cast(inverse_norms, dtype)
        indices = tf.math.top_k(scores(tf.stop_gradient(queries), chosen_from, scale), top_k, sorted=False).indices
        reads, weights = read_rows(tf.cast(tf.gather(memory, indices, batch_dims=1), dtype), queries)
    else:
        indices = tf.range(memory.shape[1]) + tf.zeros([tf.shape(memory)[0], num_reads, 1], tf.int32)
        rows = tf.cast(memory, dtype)
        weights = tf.nn.softmax(scores(queries, rows, inverse_norm(rows)))
        reads = tf.matmul(weights, rows)
    reads = tf.cast(tf.reshape(reads, [-1, num_reads * memory.shape[2]]), memory.dtype)
    return reads, ReadInformation(weights, indices, keys, strengths)


def read_queries(read_words, num_reads):
    """Keys [B, H, D], strengths [B, H] and queries, the keys' directions times the strengths [B, H, D]."""
    keys, strengths = read_words[:, :-num_reads], tf.nn.softplus(read_words[:, -num_reads:])
    keys = tf.reshape(keys, [-1, num_reads, keys.shape[1] // num_reads])
    return keys, strengths, keys * (strengths * inverse_norm(keys))[..., tf.newaxis]


def scores(queries, rows, inverse_norms):
    """Strength x cosine of every row [B, n, D]: [B, H, n]."""
    return tf.matmul(queries, rows, transpose_b=True) * inverse_norms[:, tf.newaxis]


def read_rows(rows, queries):
    """Read from the chosen rows [B, H, k, D]: [B, H, D], and the weights [B, H, k]."""
    weights = tf.nn.softmax(tf.linalg.matvec(rows, queries) * inverse_norm(rows))
    return tf.linalg.matvec(rows, weights, transpose_a=True), weights


def write(value, table, write_counter):
    """Overwrite entry `write_counter mod K` [B] of `table` [B, K, ...] with `value` [B, ...].

    The value gets no gradient: nothing is learned through the contents of the memory.
    """
    row = tf.cast(write_counter, tf.int32) % table.shape[1]
    value = tf.cast(tf.stop_gradient(value), table.dtype)
    return tf.tensor_scatter_nd_update(table, tf.stack([tf.range(tf.shape(row)[0]), row], -1), value)


class MemoryOverTime(tf.experimental.ExtensionType):
    """A table [B, K, ...] after each step of a sequence, `x[t]`, from the table before and the rows written since."""

    before: tf.Tensor  # [B, K, ...]
    new: tf.Tensor  # [B, T, ...], T at most K
    age: tf.Tensor  # [B, K] int32: the step that overwrites each row, if there are as many

    @property
    def dtype(self):
        return self.before.dtype

    @property
    def shape(self):
        """[T, B, K, ...]."""
        return tf.TensorShape([self.new.shape[1], *self.before.shape])

    def __getitem__(self, t):
        steps, t = self.new.shape[1], operator.index(t)
        if not -steps <= t < steps:
            raise IndexError(f"t: {t}, must be from {-steps} to {steps - 1}")
        return self.at(tf.constant([[t % steps]]))[0]

    def at(self, times):
        """The table after steps `times` [N, B], or [N, 1] for the whole batch: [N, B, K, ...]."""
        rows = tf.gather(self.new, tf.minimum(self.age, self.new.shape[1] - 1), batch_dims=1)
        written = self.age <= times[..., tf.newaxis]
        written = tf.reshape(written, tf.concat([tf.shape(written), [1] * (self.before.shape.rank - 2)], 0))
        return tf.where(written, rows, self.before)


class MemoryBefore:
    """The memory before a sequence, read together with the rows that the sequence has written since.

    Args:
      state: `RMAState` before the sequence.
      num_reads, top_k: as in `read`.
    """

    def __init__(self, state, num_reads, top_k):
        self.num_reads, self.top_k = num_reads, top_k
        self.dtype = variable_dtype(state.memory.dtype)
        self.rows = tf.cast(tf.stop_gradient(state.memory), self.dtype)
        size = self.rows.shape[1]
        self.norms = tf.cast(tf.stop_gradient(state.inverse_norms), self.dtype) if top_k else inverse_norm(self.rows)
        # The step of the sequence that overwrites each row.
        self.age = (tf.range(size) - state.write_counter[:, tf.newaxis]) % size

    def with_gradient(self, memory):
        """This memory with a gradient to `memory`, the state's."""
        other = copy.copy(self)
        other.rows = tf.cast(memory, self.dtype)
        other.norms = self.norms if self.top_k else inverse_norm(other.rows)
        return other

    def read(self, read_words, new, num_written):
        """`read` of K rows: [B, H D].

        Args:
          read_words: as in `read`.
          new: `RMAState` with the rows of the sequence [B, T, D], T at most K.
          num_written: how many of them have been written, [B].
        """
        _, _, queries = read_queries(tf.cast(read_words, self.dtype), self.num_reads)
        size, new_rows = self.rows.shape[1], tf.stop_gradient(tf.cast(new.memory, self.dtype))
        num_written = num_written[:, tf.newaxis]
        exists = tf.concat([self.age >= num_written, tf.range(new_rows.shape[1]) < num_written], 1)

        def all_scores(queries, rows):
            new_norms = tf.stop_gradient(tf.cast(new.inverse_norms, self.dtype))
            found = tf.concat([scores(queries, rows, self.norms), scores(queries, new_rows, new_norms)], 2)
            return tf.where(exists[:, tf.newaxis], found, found.dtype.min)

        if self.top_k:
            found = all_scores(tf.stop_gradient(queries), tf.stop_gradient(self.rows))
            indices = tf.math.top_k(found, self.top_k, sorted=False).indices
            rows = tf.where(
                (indices < size)[..., tf.newaxis],
                tf.gather(self.rows, tf.minimum(indices, size - 1), batch_dims=1),
                tf.gather(new_rows, tf.maximum(indices - size, 0), batch_dims=1),
            )
            reads, _ = read_rows(rows, queries)
        else:
            weights = tf.nn.softmax(all_scores(queries, self.rows))
            reads = tf.matmul(weights[..., :size], self.rows) + tf.matmul(weights[..., size:], new_rows)
        return tf.cast(tf.reshape(reads, [-1, self.num_reads * self.rows.shape[2]]), new.memory.dtype)
