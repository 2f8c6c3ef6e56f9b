"""Noise and dropout as functions of a seed, int [2]."""

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


def dropout(inputs, rate, seed):
    """Set a share `rate` of the elements to zero and divide the others by 1 - rate.

    The elements are chosen by random integers, so that they are the same under XLA and without.

    Args:
      inputs: float tensor of any shape.
      rate: float from 0 to less than 1.
      seed: int tensor [2].
    """
    bits = tf.random.stateless_uniform(tf.shape(inputs), seed, None, None, tf.int32, alg="philox")
    lowest = round(rate * 2**32) - 2**31  # int32 is uniform from -2^31
    return tf.where(bits >= min(lowest, 2**31 - 1), inputs / (1.0 - rate), tf.zeros_like(inputs))


def stateless_normal(shape, seed, dtype):
    """Noise of any floating dtype, from TensorFlow's own op; its numbers differ from `standard_normal`."""
    return tf.random.stateless_normal(shape, seed, dtype=dtype, alg="philox")
