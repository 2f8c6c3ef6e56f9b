"""Normal noise as a function of a seed, int32 [2]."""

import math

import tensorflow as tf


def standard_normal(shape, seed):
    """Standard normal float32 noise with the same numbers under XLA and without.

    It is computed from random integers: XLA converts random bits to floats differently from TensorFlow's kernels.
    """
    return normal_of_bits(tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg="philox"))


def normal_of_bits(bits):
    """Map uniform int32 to finite float32 with a standard normal distribution."""
    # 23 bits: with 24, TensorFlow's erfinv rounds the largest value to 1 and returns infinity.
    centered = tf.cast(tf.bitwise.right_shift(bits, 9), tf.float32) + 0.5
    return math.sqrt(2) * tf.math.erfinv(centered / 2**22)


def stateless_normal(shape, seed, dtype):
    """Noise of any floating dtype, from TensorFlow's own op; its numbers differ from `standard_normal`."""
    return tf.random.stateless_normal(shape, seed, dtype=dtype, alg="philox")
