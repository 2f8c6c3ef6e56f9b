"""Leading axes of tensors: their sizes, merged into one and split again."""

import tensorflow as tf


def leading_sizes(x, axes):
    """The sizes of the first `axes` axes of `x`, static where they are known."""
    return [tf.shape(x)[axis] if size is None else size for axis, size in enumerate(x.shape[:axes])]


def merge_leading(x, axes):
    """The first `axes` axes of `x` as one."""
    return tf.reshape(x, [-1, *x.shape[axes:]])


def split_leading(x, like, inner):
    """`x` [N, ...] with the leading axes of `like`, all but the last `inner`, in the place of N."""
    return tf.reshape(x, [*leading_sizes(like, len(like.shape) - inner), *x.shape[1:]])
