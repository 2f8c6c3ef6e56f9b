"""Masks of losses: masked values take no part in a computation, not even NaN.

A product with a mask of zeros keeps NaN and infinity; a selection behind a function keeps them in its gradient. So the
function's inputs are selected, before it computes.
"""

import tensorflow as tf


def rows(mask, values):
    """The mask with axes of size one behind it, so that it broadcasts over `values`, targets or what goes with them.

    Raises:
      ValueError: the mask does not have leading axes of `values`.
    """
    mask, rank = tf.convert_to_tensor(mask), len(values.shape)
    if not mask.shape.is_compatible_with(values.shape[: len(mask.shape)]):
        raise ValueError(f"mask: shape {mask.shape}, must have leading axes of targets, {values.shape}")
    return tf.reshape(mask, tf.concat([tf.shape(mask), tf.ones([rank - len(mask.shape)], tf.int32)], axis=0))


def selected(values, mask):
    """`values`, with zeros where the mask of their leading axes is 0; `values` themselves where it is None."""
    values = tf.convert_to_tensor(values)
    if mask is None:
        return values
    return tf.where(tf.cast(rows(mask, values), tf.bool), values, tf.zeros_like(values))
