"""Localization loss and scores (Huynh, Maire, Walter 2020, supplement B.1.2).

Logits and 0/1 targets are maps [..., S, S]. A mask of the leading axes (say [T, B] of padded steps) selects rows.
Scores are made from counts that are summed over batches and episodes first: precision, recall and F-score are of all
cells together.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmem.losses.masking import rows, selected


class Counts(NamedTuple):
    """Cells predicted right and wrong, int64 scalars; add two with `tf.nest.map_structure(tf.add, a, b)`."""

    true_positive: tf.Tensor
    false_positive: tf.Tensor
    false_negative: tf.Tensor


class Scores(NamedTuple):
    """float32 scalars (or vectors); 0 without predicted or without target cells."""

    precision: tf.Tensor
    recall: tf.Tensor
    f_score: tf.Tensor


def _check(logits, targets):
    if not logits.shape.is_compatible_with(targets.shape):
        raise ValueError(f"logits: shape {logits.shape}, must have the shape of targets, {targets.shape}")


def localization_loss(logits, targets, mask=None):
    """Equation (1) summed over steps, batch and cells, as the public code sums it: scalar of the logits' dtype.

        sum over s of -y_s log sigmoid(l_s) - (1 - y_s) log(1 - sigmoid(l_s))

    Args:
        logits: [..., S, S].
        targets: 0/1 masks of the same shape, any dtype.
        mask: leading axes of targets (bool or numbers), rows that are 0 do not count, whatever they hold; None: all
            count.

    Raises:
        ValueError: shapes that do not go together.
    """
    logits, targets = tf.convert_to_tensor(logits), tf.convert_to_tensor(targets)
    _check(logits, targets)
    targets = tf.cast(targets, logits.dtype)
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=selected(targets, mask), logits=selected(logits, mask))
    if mask is not None:
        entropy *= tf.cast(rows(mask, targets), logits.dtype)
    return tf.reduce_sum(entropy)


def localization_counts(logits, targets, mask=None, threshold=0.5):
    """`Counts` of the cells whose probability sigmoid(logit) is above the threshold, over the rows the mask lets in."""
    logits, targets = tf.convert_to_tensor(logits), tf.cast(targets, tf.bool)
    _check(logits, targets)
    predicted = tf.sigmoid(logits) > threshold
    counted = tf.constant(True) if mask is None else tf.cast(rows(mask, targets), tf.bool)

    def count(cells):
        return tf.reduce_sum(tf.cast(cells & counted, tf.int64))

    return Counts(count(predicted & targets), count(predicted & ~targets), count(~predicted & targets))


def localization_scores(counts):
    """`Scores` from `Counts`: p = tp / (tp + fp), r = tp / (tp + fn), F = 2 tp / (2 tp + fp + fn)."""
    found, wrong, missed = (tf.cast(count, tf.float64) for count in counts)
    ratios = (
        tf.math.divide_no_nan(found, found + wrong),
        tf.math.divide_no_nan(found, found + missed),
        tf.math.divide_no_nan(2 * found, 2 * found + wrong + missed),
    )
    return Scores(*(tf.cast(ratio, tf.float32) for ratio in ratios))


class TargetSum(NamedTuple):
    """Counts of each cell as a target, int64 [S, S], and of rows, int64 scalar; added like `Counts`."""

    cells: tf.Tensor
    rows: tf.Tensor


def target_sum(targets, mask=None):
    """`TargetSum` of targets [..., S, S] over the rows that the mask lets in."""
    targets = tf.cast(targets, tf.int64)
    counted = tf.ones(tf.shape(targets)[:-2], tf.int64)
    if mask is not None:
        counted *= tf.cast(rows(mask, counted), tf.int64)
    cells = tf.reduce_sum(targets * counted[..., None, None], axis=list(range(len(targets.shape) - 2)))
    return TargetSum(cells, tf.reduce_sum(counted))


def prior_counts(train, test):
    """`Counts` on `test` of the best answer that looks at nothing: the map prior, a baseline.

    For every query and step it names the cells that were targets in at least a certain share of the training
    rows; the share is the one with the highest F-score in training.

    Args:
        train, test: `TargetSum`s over maps of the same size.
    """
    frequency = tf.reshape(train.cells, [-1])
    named = tf.cast(frequency[None, :] >= frequency[:, None], tf.int64)  # [threshold, cell]

    def count(total):
        hits = tf.reshape(total.cells, [1, -1])
        found = tf.reduce_sum(named * hits, axis=1)
        return Counts(found, tf.reduce_sum(named, axis=1) * total.rows - found, tf.reduce_sum(hits) - found)

    best = tf.argmax(localization_scores(count(train)).f_score)
    return Counts(*(tf.gather(counts, best) for counts in count(test)))
