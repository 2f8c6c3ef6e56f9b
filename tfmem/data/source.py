"""Data sources: the contract of what gives numpy batches, and the order in which a fixed data set is read.

A source is named by "module:function" of a module that needs numpy only, and arguments that JSON can hold, so that
compiled bundles (`tfmem.aot`) open it without TensorFlow; see `tfmem.training.Experiment.data_source`.
"""

from typing import Any, Protocol

import numpy as np


class DataSource(Protocol):
    """A source of numbered batches, each a pure function of the source's arguments and the number."""

    def batch(self, number: int) -> Any:
        """Return the batch of update `number`, counted from 0: a nest of numpy arrays."""


class Passes:
    """The items of numbered batches that read a data set over and over.

    Every pass has an order of its own; items that are left over at its end are not used in that pass.

    Args:
        count: N, items of the data set.
        batch_size: B, at most N.
        seed: not negative; None: every pass is in the order of the data set (for evaluations).

    Attributes:
        batches_per_pass: N // B.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, count, batch_size, seed):
        if not 1 <= batch_size <= count:
            raise ValueError(f"batch_size: {batch_size}, must be from 1 to {count}, the size of the data set")
        if seed is not None and seed < 0:
            raise ValueError(f"seed: {seed}, must be at least 0")
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.batches_per_pass = count // batch_size
        self._kept = None, None

    def items(self, number):
        """Return the items of batch `number`: int64 [B]."""
        pass_number, place = divmod(number, self.batches_per_pass)
        return self._order(pass_number)[place * self.batch_size : (place + 1) * self.batch_size]

    def _order(self, pass_number):
        """The order of a pass; the last one is kept."""
        number, order = self._kept
        if number != pass_number:
            order = np.arange(self.count)
            if self.seed is not None:
                order = np.random.default_rng([self.seed, pass_number]).permutation(order)
            self._kept = pass_number, order
        return order
