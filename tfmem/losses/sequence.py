"""Cross entropy and accuracy of tokens, as (sum, number of tokens) so that batches can be averaged over all tokens.

Where a mask is 0 logits and targets may be anything: NaN, infinity, or a class that does not exist, such as -100.
"""

import tensorflow as tf

from tfmem.losses.masking import rows, selected


def _counted(values, mask):
    mask = tf.ones_like(values) if mask is None else tf.cast(mask, values.dtype)
    return tf.reduce_sum(values * mask), tf.reduce_sum(mask)


def cross_entropy(logits, targets, mask=None):
    """Softmax cross entropy (nats) of logits [..., K] for classes [...] under a mask [...]: (sum, count)."""
    targets, logits = selected(targets, mask), selected(logits, mask)
    return _counted(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits), mask)


def accuracy(logits, targets, mask=None):
    """Number of steps where the likeliest class is right: (sum, count), as `cross_entropy`."""
    right = tf.argmax(logits, -1, targets.dtype) == targets
    return _counted(tf.cast(right, tf.float32), mask)


def solved(logits, targets, mask):
    """Number of sequences [T, B] whose valid tokens are all right: (sum, count)."""
    wrong = (tf.argmax(logits, -1, targets.dtype) != targets) & tf.cast(mask, tf.bool)
    return _counted(tf.cast(~tf.reduce_any(wrong, 0), tf.float32), None)


def binary_cross_entropy(logits, targets, mask):
    """Sigmoid cross entropy (nats) of logits [..., K] for bits [..., K] under a mask [...]: (sum, bits)."""
    targets, logits = selected(targets, mask), selected(logits, mask)
    return _counted(tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits), _of_bits(mask, targets))


def bit_accuracy(logits, targets, mask):
    """Number of bits where the likelier value is right: (sum, bits), as `binary_cross_entropy`."""
    return _counted(tf.cast((logits > 0) == (targets > 0.5), tf.float32), _of_bits(mask, targets))


def _of_bits(mask, targets):
    return tf.cast(rows(mask, targets), targets.dtype) * tf.ones_like(targets)
