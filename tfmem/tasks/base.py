"""Supervised sequence tasks: inputs, targets, and scores of predictions.

A task is a frozen dataclass that derives from `Task`. How to write one:

    @dataclasses.dataclass(frozen=True)
    class Parity(Task):
        num_steps: int = 8
        input_size, output_size, every_step = 1, 2, False

        def __call__(self, seed, batch_size):
            shape = [self.num_steps, batch_size, 1]
            bits = tf.random.stateless_uniform(shape, seed, 0, 2, tf.int32, alg="philox")
            return Batch(tf.cast(bits, tf.float32), tf.reduce_sum(bits[..., 0], 0) % 2)

A task with data from files, or from numpy, has `data_source` in place of `__call__`. Its module must not
import TensorFlow at its top: compiled bundles read their data through it.
"""

import importlib
from typing import Any, NamedTuple


class Batch(NamedTuple):
    """Time-major sequences and their answers, as tensors or numpy arrays.

    Attributes:
      inputs: float32 [T, B, ...], or tokens, int32 [T, B].
      targets: classes, int32, or bits, float32 [..., K]: [T, B] of every step, or [B] of the last.
      mask: float32, 1 where an answer counts, without the axis of bits; None: all count.
      lengths: int32 [B], steps of each input that are not padding; None: all.
    """

    inputs: Any
    targets: Any
    mask: Any = None
    lengths: Any = None

    def arrays(self):
        """The arrays by name, without those that are None."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Task:
    """Base of the tasks.

    Attributes:
      num_steps: T, steps of a sequence; None: batches differ in length.
      input_size: features of an input; for tokens, their number.
      output_size: logits of an answer: classes or bits.
      every_step: True if there is an answer at every step; else one, after the last.
    """

    every_step = True

    def __call__(self, seed, batch_size):
        """Draw the `Batch` of `seed`, int32 or int64 [2], in the graph."""
        raise NotImplementedError(f"{type(self).__name__}: must have __call__ or data_source")

    def data_source(self, split, batch_size, seed):
        """Return the source of batches that are not drawn in the graph.

        Args:
          split: "train" or "evaluation".
          batch_size: sequences of a batch.
          seed: of the draws; evaluations ignore it, so every run has the same.

        Returns:
          `(factory, arguments)` as of `tfmem.training.Experiment.data_source`, whose batches are dicts of
          `Batch.arrays`. None (the default): the task draws its batches.
        """
        return None

    def source(self, split, batch_size, seed):
        """Open `data_source`, an object with `batch(number)`; None for a task that draws its batches."""
        described = self.data_source(split, batch_size, seed)
        if described is None:
            return None
        module, _, name = described[0].partition(":")
        return getattr(importlib.import_module(module), name)(**described[1])

    def scores(self, logits, batch):
        """Score logits [..., output_size] by a `Batch`.

        By default classes are scored by their cross entropy and bits by that of each bit.

        Returns:
          `{name: (sum, count)}`. "loss" is minimized; "error" is the fraction of wrong classes or bits,
          "unsolved" that of sequences with a wrong class.
        """
        import tensorflow as tf

        from tfmem.losses.sequence import accuracy, binary_cross_entropy, bit_accuracy, cross_entropy, solved

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

    def evaluate(self, predict, split, batch_size):
        """Score predictions on all of a split, for a task whose batches differ in length (`num_steps` is None).

        Batches of one length are scored by `scores`.

        Args:
          predict: function of a dict of `Batch.arrays`, as from `source`, that returns classes, int [T, B].
          split: "valid" or "test".
          batch_size: sequences of a batch.

        Returns:
          `{name: float}`.
        """
        raise NotImplementedError("a task whose batches differ in length, num_steps None, defines evaluate")

    def baselines(self, batches):
        """Compute scores without memory for a result, floats by name; {} by default.

        Args:
          batches: iterator of the evaluation's `Batch`es, numpy arrays; empty if the task has `evaluate`.
        """
        return {}
