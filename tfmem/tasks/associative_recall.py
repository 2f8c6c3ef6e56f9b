"""Associative recall of random vectors (Graves et al. 2014, §4.3; Huynh et al. 2020, supplement B.2): the next item.

    step          0..n-1        n             n+1
    input         item_t, 0     item_k, 1     0
    target                                    item_{k+1}

One of the first n - 1 items is shown again, with a mark; the target is the item after it. Items are random bits. Not
specified; we query an item that occurs once, if there is one, so that the answer is unique, and add a blank step for
the answer.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfmem.tasks.base import Batch, Task
from tfmem.validation import check_array, check_range


@dataclasses.dataclass(frozen=True)
class AssociativeRecall(Task):
    """Batches of the associative recall task.

    Args:
      num_items: n, items of a sequence, at least 2.
      num_bits: size of an item.

    Raises:
      ValueError: a size is too small, or an array would be too large.
    """

    num_items: int = 10
    num_bits: int = 9

    every_step = False

    def __post_init__(self):
        for name, least in (("num_items", 2), ("num_bits", 1)):
            check_range(name, getattr(self, name), least)
        sizes = {name: getattr(self, name) for name in ("num_items", "num_bits")}
        check_array(self.num_items, self.num_items + 2, self.num_bits + 1, **sizes)

    @property
    def num_steps(self):
        return self.num_items + 2

    @property
    def input_size(self):
        return self.num_bits + 1

    @property
    def output_size(self):
        return self.num_bits

    def baselines(self, batches):
        """Return the error of predicting each bit's value in most items."""

        def error(batch):
            bits = batch.inputs[: self.num_items, :, : self.num_bits]
            return np.mean((bits.mean(0) > 0.5) != batch.targets)

        return {"majority_error": float(np.mean([error(batch) for batch in batches]))}

    def __call__(self, seed, batch_size):
        """Draw the `Batch` of `seed`, int32 or int64 [2]: inputs [n + 2, B, num_bits + 1], targets [B, num_bits]."""
        bits_seed, query_seed = tf.unstack(tf.random.split(seed, 2, alg="philox"))

        def integers(seed, shape, high):
            return tf.random.stateless_uniform(shape, seed, 0, high, tf.int32, alg="philox")

        bits = integers(bits_seed, [self.num_items, batch_size, self.num_bits], 2)
        # The largest of random numbers for the items that occur once is a uniform choice among them.
        occurrences = tf.reduce_sum(tf.cast(tf.reduce_all(bits[:, tf.newaxis] == bits, axis=-1), tf.int32), axis=1)
        noise = integers(query_seed, [self.num_items - 1, batch_size], tf.int32.max)
        query_step = tf.argmax(tf.where(occurrences[:-1] == 1, noise, noise - tf.int32.max), 0, tf.int32)
        return self.batch(tf.cast(bits, tf.float32), query_step)

    def batch(self, bits, query_step):
        """Make the batch of given sequences.

        Args:
          bits: float32 [n, B, num_bits] of zeros and ones.
          query_step: int32 [B], from 0 to n - 2.

        Returns:
          A `Batch`; an input is the bits and the mark of the query.
        """

        def item(step):
            return tf.gather(tf.transpose(bits, [1, 0, 2]), step, batch_dims=1)

        query = item(query_step)[tf.newaxis]
        shown = tf.concat([bits, query, tf.zeros_like(query)], axis=0)
        mark = tf.one_hot(tf.fill(tf.shape(bits)[1:2], self.num_items), self.num_steps, axis=0)
        return Batch(tf.concat([shown, mark[..., tf.newaxis]], axis=-1), item(query_step + 1))
