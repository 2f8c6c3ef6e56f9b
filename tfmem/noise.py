"""Normal noise that is a function of a seed, int32 [2], alone."""

import math

import tensorflow as tf


def standard_normal(shape, seed):
    """float32 noise; under XLA the same numbers as without.

    From integers, as XLA makes other floats of the same random bits than TensorFlow's kernels.
    """
    return normal_of_bits(tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg="philox"))


def normal_of_bits(bits):
    """int32 of all values, equally likely, to float32 of a standard normal distribution, finite."""
    # 23 bits: with 24 TensorFlow's erfinv rounds the largest to 1, and so to infinity.
    centered = tf.cast(tf.bitwise.right_shift(bits, 9), tf.float32) + 0.5
    return math.sqrt(2) * tf.math.erfinv(centered / 2**22)


def stateless_normal(shape, seed, dtype):
    """Noise of any floating dtype, from TensorFlow's own op: other numbers than `standard_normal`."""
    return tf.random.stateless_normal(shape, seed, dtype=dtype, alg="philox")
