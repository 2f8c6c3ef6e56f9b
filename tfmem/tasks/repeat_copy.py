"""Repeat copy (Graves et al. 2014, §4.2; google-deepmind/dnc, repeat_copy.py): store a pattern, emit it r times.

    step                0       1..l    l+1              l+2 .. l+1+l·r      l+2+l·r
    observation         start   bits    r / norm_max     0                   0
    target              0       0       0                bits, r times       end
    mask                0       0       0                1                   1

Each element of a batch draws its own length l and number of repeats r. No experiment trains on it. It is the task of
the DNC's public code, and the tests compare the DNC's training steps with that code's.
"""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from tfmem.losses.masking import selected
from tfmem.validation import check_above_zero, check_array, check_range


class RepeatCopyBatch(NamedTuple):
    """Time-major: observations [T, B, num_bits + 2], target [T, B, num_bits + 1], mask [T, B], all float32."""

    observations: tf.Tensor
    target: tf.Tensor
    mask: tf.Tensor


@dataclasses.dataclass(frozen=True)
class RepeatCopy:
    """Batches and cost (in nats, per sequence) of the repeat-copy task.

    The public code pads a batch to its longest element; here T is always that of the longest possible element, so that
    shapes are static. The mask is zero on padding, so the cost is the same.

    Args:
      num_bits: width of the pattern.
      batch_size: elements of a batch.
      min_length, max_length: range of the pattern's length, inclusive.
      min_repeats, max_repeats: range of the number of repeats, inclusive.
      norm_max: the number of repeats is given as r / norm_max.

    Raises:
      ValueError: a size is less than one, a minimum above its maximum, or an array would be too large.
    """

    num_bits: int = 6
    batch_size: int = 1
    min_length: int = 1
    max_length: int = 1
    min_repeats: int = 1
    max_repeats: int = 2
    norm_max: float = 10

    def __post_init__(self):
        for name in ("num_bits", "batch_size", "min_length", "min_repeats"):
            check_range(name, getattr(self, name), 1)
        for low, high in (("min_length", "max_length"), ("min_repeats", "max_repeats")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low}: {getattr(self, low)}, must be at most {high} = {getattr(self, high)}")
        check_above_zero(norm_max=self.norm_max)
        sizes = {name: getattr(self, name) for name in ("num_bits", "batch_size", "max_length", "max_repeats")}
        check_array(self.num_steps, self.batch_size, self.num_bits + 2, **sizes)

    @property
    def num_steps(self):
        """T, the steps of the longest possible element."""
        return self.max_length * (self.max_repeats + 1) + 3

    @property
    def target_size(self):
        return self.num_bits + 1

    def __call__(self, seed):
        """A random batch as a function of `seed`, int32 or int64 [2]."""
        length_seed, repeats_seed, bits_seed = tf.unstack(tf.random.split(seed, 3, alg="philox"))

        def integers(seed, shape, low, high):  # one algorithm, so that compiled code draws the same
            return tf.random.stateless_uniform(shape, seed, low, high + 1, tf.int32, alg="philox")

        lengths = integers(length_seed, [self.batch_size], self.min_length, self.max_length)
        repeats = integers(repeats_seed, [self.batch_size], self.min_repeats, self.max_repeats)
        bits = integers(bits_seed, [self.max_length, self.batch_size, self.num_bits], 0, 1)
        return self.batch(tf.cast(bits, tf.float32), lengths, repeats)

    def batch(self, bits, lengths, repeats):
        """The batch of given patterns.

        Args:
          bits: float32 [max_length, B, num_bits] of zeros and ones; rows from an element's length on are not used.
          lengths: int32 [B].
          repeats: int32 [B].

        Returns:
          A `RepeatCopyBatch`.
        """
        t = tf.range(self.num_steps)[:, tf.newaxis]
        start = t == 0
        in_pattern = (t >= 1) & (t <= lengths)
        repeats_mark = t == lengths + 1
        position = t - (lengths + 2)
        in_copy = (position >= 0) & (position < lengths * repeats)
        end = position == lengths * repeats

        def bits_at(index, where):
            index = tf.clip_by_value(tf.where(where, index, 0), 0, self.max_length - 1)
            chosen = tf.gather(tf.transpose(bits, [1, 0, 2]), tf.transpose(index), batch_dims=1)
            return tf.where(where[..., tf.newaxis], tf.transpose(chosen, [1, 0, 2]), 0.0)

        number = tf.cast(repeats, tf.float32) / self.norm_max * tf.cast(repeats_mark, tf.float32)
        start, end_flag = tf.cast(start, tf.float32) * tf.ones_like(number), tf.cast(end, tf.float32)
        return RepeatCopyBatch(
            observations=tf.concat([bits_at(t - 1, in_pattern), tf.stack([start, number], axis=-1)], axis=-1),
            target=tf.concat([bits_at(position % lengths, in_copy), end_flag[..., tf.newaxis]], axis=-1),
            mask=tf.cast(in_copy | end, tf.float32),
        )

    def cost(self, logits, target, mask):
        """Masked sigmoid cross entropy of logits and target [T, B, num_bits + 1], mean over the batch: a scalar."""
        xent = tf.nn.sigmoid_cross_entropy_with_logits(labels=selected(target, mask), logits=selected(logits, mask))
        per_element = tf.reduce_sum(tf.reduce_sum(xent, axis=-1) * mask, axis=0)
        return tf.reduce_mean(per_element)
