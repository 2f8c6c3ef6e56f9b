"""Identities with another gradient: scaled, clipped, or stopped at the end of a range.

Source: `scale_gradient.py`, `clip_gradient.py` and `optimization_constraints.py` of branch v1 of
github.com/google-deepmind/sonnet.
"""

import tensorflow as tf


def scale_gradient(x, scale):
    """`x`, whose gradient is multiplied by the number `scale`; 0: no gradient."""
    if scale == 0:
        return tf.stop_gradient(x)

    @tf.custom_gradient
    def identity(x):
        return tf.identity(x), lambda upstream: upstream * scale

    return identity(x)


def clip_gradient(x, low, high):
    """`x`, whose gradient is clipped elementwise to [low, high]."""

    @tf.custom_gradient
    def identity(x):
        return tf.identity(x), lambda upstream: tf.clip_by_value(upstream, low, high)

    return identity(x)


@tf.custom_gradient
def clip_ascending(x, low, high):
    """`x` clipped to [low, high], for gradient ascent: a value outside may move back, but not further away.

    The gradient passes unless x < low and it is negative, or x > high and it is positive.
    """

    def gradient(upstream):
        away = ((x < low) & (upstream < 0)) | ((x > high) & (upstream > 0))
        return tf.where(away, tf.zeros_like(upstream), upstream), None, None

    return tf.clip_by_value(x, low, high), gradient
