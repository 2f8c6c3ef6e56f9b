"""Losses of tokens: sums and counts by their definitions."""

import numpy as np
import pytest

from tfmem.losses.sequence import accuracy, cross_entropy, solved


def test_sums_and_counts(rng):
    logits = rng.normal(size=[3, 4, 5]).astype(np.float32)
    targets = rng.integers(0, 5, [3, 4]).astype(np.int32)
    targets[:, 1] = logits[:, 1].argmax(-1)  # a sequence that is right everywhere
    targets[:, 2] = logits[:, 2].argmax(-1)
    targets[2, 2] = (targets[2, 2] + 1) % 5  # and one that is wrong where it does not count
    mask = np.arange(3)[:, None] < np.array([3, 3, 2, 1])
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -np.take_along_axis(log_softmax, targets[..., None], -1)[..., 0]
    right = logits.argmax(-1) == targets
    for given, keep in ((mask, mask), (mask.astype(np.float32), mask), (None, np.ones_like(mask))):
        total, count = cross_entropy(logits, targets, given)
        assert (float(total), float(count)) == (pytest.approx(nats[keep].sum(), rel=1e-5), keep.sum())
        total, count = accuracy(logits, targets, given)
        assert (float(total), float(count)) == (right[keep].sum(), keep.sum())
    total, count = solved(logits, targets, mask)
    assert (float(total), float(count)) == ((right | ~mask).all(0).sum(), 4)
    assert float(total) >= 2
