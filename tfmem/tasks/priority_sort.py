"""Priority sort (Graves et al. 2014, §4.5; Munkhdalai et al. 2019, App. A): the vectors of highest priority, in order.

    step          0..n-1            n     n+1..n+m
    observation   bits, priority    end   0
    target        0                 0     bits of the m highest priorities, the highest first
    mask          0                 0     1

Bits are random, priorities uniform in [-1, 1) (Graves et al.); both papers have n = 20, m = 16 and, Munkhdalai et al.,
8 bits. Equal priorities stay in the order of the input. For Huynh et al. 2020 the vectors are patches (`patches`).
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from tfmem.tasks.base import Batch, Task
from tfmem.validation import check_array, check_range


@dataclasses.dataclass(frozen=True)
class PrioritySort(Task):
    """Batches of the priority sort task.

    Args:
      num_inputs: n, vectors of the input.
      num_outputs: m, vectors of the output.
      num_bits: size of a vector.

    Raises:
      ValueError: a size is less than one, there are more outputs than inputs, or an array would be too large.
    """

    num_inputs: int = 20
    num_outputs: int = 16
    num_bits: int = 8

    def __post_init__(self):
        for name in ("num_inputs", "num_outputs", "num_bits"):
            check_range(name, getattr(self, name), 1)
        if self.num_outputs > self.num_inputs:
            raise ValueError(f"num_outputs: {self.num_outputs}, must be at most num_inputs = {self.num_inputs}")
        sizes = {name: getattr(self, name) for name in ("num_inputs", "num_outputs", "num_bits")}
        check_array(self.num_steps, self.input_size, **sizes)

    @property
    def num_steps(self):
        return self.num_inputs + 1 + self.num_outputs

    @property
    def input_size(self):
        return self.num_bits + 2

    @property
    def output_size(self):
        return self.num_bits

    def baselines(self, batches):
        """Return the error of predicting each bit's value in most vectors of the input."""

        def error(batch):
            bits = batch.inputs[: self.num_inputs, :, : self.num_bits]
            return np.mean((bits.mean(0) > 0.5) != batch.targets[-self.num_outputs :])

        return {"majority_error": float(np.mean([error(batch) for batch in batches]))}

    def __call__(self, seed, batch_size):
        """Draw the `Batch` of `seed`, int32 or int64 [2]; an input is the bits, the priority and the end mark."""
        bits_seed, priorities_seed = tf.unstack(tf.random.split(seed, 2, alg="philox"))
        shape = [self.num_inputs, batch_size]

        def integers(seed, shape, high):  # floats differ between the plain graph and XLA
            return tf.cast(tf.random.stateless_uniform(shape, seed, 0, high, tf.int32, alg="philox"), tf.float32)

        priorities = integers(priorities_seed, shape, 2**24) / 2**23 - 1.0
        return self.batch(integers(bits_seed, [*shape, self.num_bits], 2), priorities)

    def batch(self, bits, priorities):
        """Make the batch of given vectors.

        Args:
          bits: float32 [n, B, num_bits] of zeros and ones.
          priorities: float32 [n, B].

        Returns:
          A `Batch`.
        """
        _, order = tf.math.top_k(tf.transpose(priorities), self.num_outputs)  # ties keep their order
        ordered = tf.transpose(tf.gather(tf.transpose(bits, [1, 0, 2]), order, batch_dims=1), [1, 0, 2])
        inputs = tf.concat([bits, priorities[..., tf.newaxis], tf.zeros_like(priorities)[..., tf.newaxis]], -1)
        end = tf.one_hot(tf.fill(tf.shape(priorities[:1]), self.num_bits + 1), self.input_size)
        before = [[self.num_inputs + 1, 0], [0, 0]]
        return Batch(
            inputs=tf.pad(tf.concat([inputs, end], axis=0), [[0, self.num_outputs], [0, 0], [0, 0]]),
            targets=tf.pad(ordered, [*before, [0, 0]]),
            mask=tf.pad(tf.ones(tf.shape(ordered)[:2]), before),
        )


def patches(vectors, *scalars):
    """Convert vectors of size s^2 to square patches, row by row; each scalar fills one more channel.

    Args:
      vectors: [..., s^2].
      *scalars: [...], such as a priority.

    Returns:
      [..., s, s, 1 + number of scalars].

    Raises:
      ValueError: the last axis of `vectors` is not a square number.
    """
    side = math.isqrt(vectors.shape[-1])
    if side**2 != vectors.shape[-1]:
        raise ValueError(f"vectors: {vectors.shape}, must have a square number as last axis")
    grid = tf.reshape(vectors, tf.concat([tf.shape(vectors)[:-1], [side, side, 1]], axis=0))
    channels = [scalar[..., tf.newaxis, tf.newaxis, tf.newaxis] * tf.ones_like(grid) for scalar in scalars]
    return tf.ensure_shape(tf.concat([grid, *channels], axis=-1), [*vectors.shape[:-1], side, side, 1 + len(scalars)])
