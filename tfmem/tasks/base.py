"""Supervised sequence tasks: inputs, targets and scores.

A task is a frozen dataclass that derives from `Task`. How to write one:

    @dataclasses.dataclass(frozen=True)
    class Parity(Task):
        num_steps: int = 8
        input_size, output_size, every_step = 1, 2, False

        def __call__(self, seed, batch_size):
            shape = [self.num_steps, batch_size, 1]
            bits = tf.random.stateless_uniform(shape, seed, 0, 2, tf.int32, alg="philox")
            return Batch(tf.cast(bits, tf.float32), tf.reduce_sum(bits[..., 0], 0) % 2)
"""

import abc
from typing import NamedTuple

import tensorflow as tf

from tfmem.losses.sequence import accuracy, binary_cross_entropy, bit_accuracy, cross_entropy, solved


class Batch(NamedTuple):
    """Time-major sequences and their answers.

    Attributes:
      inputs: float32 [T, B, ...], or tokens, int32 [T, B].
      targets: classes, int32, or bits, float32 [..., K]: [T, B] of every step, or [B] of the last.
      mask: float32, 1 where an answer counts, without the axis of bits; None: all count.
    """

    inputs: tf.Tensor
    targets: tf.Tensor
    mask: tf.Tensor | None = None


class Task(abc.ABC):
    """Base of the tasks. A task has these attributes:

    Attributes:
      num_steps: T, steps of a sequence.
      input_size: features of an input; of tokens, how many there are.
      output_size: numbers that a model gives for an answer: classes or bits.
      every_step: whether there is an answer at every step; else one, after the last.
    """

    every_step = True

    @abc.abstractmethod
    def __call__(self, seed, batch_size):
        """Draw the `Batch` of `seed`, int32 or int64 [2], in the graph."""

    def scores(self, logits, batch):
        """Score logits [..., output_size] by a `Batch`.

        By default classes are scored by their cross entropy and bits by that of each bit.

        Returns:
          `{name: (sum, count)}`. "loss" is minimized; "error" is the share of wrong classes or bits, "unsolved" that
          of sequences with a wrong class.
        """
        if batch.targets.dtype.is_integer:
            right, count = accuracy(logits, batch.targets, batch.mask)
            scores = {"loss": cross_entropy(logits, batch.targets, batch.mask), "error": (count - right, count)}
            if self.every_step:
                mask = tf.ones_like(batch.targets) if batch.mask is None else batch.mask
                answered, sequences = solved(logits, batch.targets, mask)
                scores["unsolved"] = (sequences - answered, sequences)
            return scores
        mask = tf.ones(tf.shape(batch.targets)[:-1]) if batch.mask is None else batch.mask
        right, count = bit_accuracy(logits, batch.targets, mask)
        return {"loss": binary_cross_entropy(logits, batch.targets, mask), "error": (count - right, count)}

    def baselines(self):
        """Scores without memory, floats by name, for comparison with a result; {} by default."""
        return {}
