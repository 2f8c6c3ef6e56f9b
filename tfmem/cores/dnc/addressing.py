"""Addressing of the differentiable neural computer (Graves et al. 2016, Methods), as pure functions.

    content weighting       C(M, k, β)[i] = softmax_i(cos(k, M[i]) softplus(β))
    usage vector            u_t = (u_{t-1} + w_{t-1} − u_{t-1} ∘ w_{t-1}) ∘ ψ_t,    ψ_t = Π_i (1 − f_i r^i_{t-1})
    allocation weighting    a_t[φ_t[j]] = (1 − u_t[φ_t[j]]) Π_{i<j} u_t[φ_t[i]],    φ_t: the slots, least used first
    precedence weighting    p_t = (1 − Σ_i w_t[i]) p_{t-1} + w_t
    temporal link matrix    L_t[i, j] = (1 − w_t[i] − w_t[j]) L_{t-1}[i, j] + w_t[i] p_{t-1}[j],    L_t[i, i] = 0
    forward, backward       f_t = L_t r_{t-1},    b_t = L_tᵀ r_{t-1}

Shapes: B batch, N slots, W word size, R read heads, H write heads. Faithful to google-deepmind/dnc, addressing.py.
"""

import functools
from typing import NamedTuple

import tensorflow as tf

EPSILON = 1e-6  # in the norms, the cosine's denominator and the allocation's usage, as in the public code
SCALE = 2.0**-40  # factor before squaring, so that float32 holds squares of numbers up to 1e30; a power of two is exact
LARGE = 1e6  # largest size of keys


class TemporalLinkageState(NamedTuple):
    """Order of writes to the slots, for each write head.

    link: [B, H, N, N], entry (i, j) is the degree to which slot i was written right after slot j.
    precedence_weights: [B, H, N], the degree to which a slot was the last one written.
    """

    link: tf.Tensor
    precedence_weights: tf.Tensor


def product_over_heads(factors):
    """Product along axis 1.

    Public code: a cumulative product, whose gradient is zero (in older versions NaN) at a factor that is exactly zero.
    Here the gradient is the product of the other factors.
    """
    return functools.reduce(tf.multiply, tf.unstack(factors, axis=1))


def cosine_weights(memory, keys, strengths):
    """Content weighting: softmax over slots of sharpened cosine similarities.

    Args:
      memory: [B, N, W], numbers up to 1e30.
      keys: [B, heads, W], numbers up to 1e30.
      strengths: [B, heads], any real numbers; softplus makes them positive.

    Returns:
      [B, heads, N]; each row sums to one.
    """

    def norm(x):
        return tf.sqrt(tf.reduce_sum(tf.square(SCALE * x), axis=-1) + SCALE**2 * EPSILON) / SCALE

    # Keys beyond LARGE are scaled down to it, for their products with the memory; EPSILON is negligible for both.
    largest = tf.stop_gradient(tf.reduce_max(tf.abs(keys), axis=-1, keepdims=True))
    keys /= tf.maximum(largest / LARGE, 1.0)
    norms = norm(keys)[:, :, tf.newaxis] * norm(memory)[:, tf.newaxis, :]
    similarity = tf.matmul(keys, memory, transpose_b=True) / (norms + EPSILON)
    return tf.nn.softmax(similarity * tf.nn.softplus(strengths)[:, :, tf.newaxis])


def update_usage(write_weights, free_gate, read_weights, usage):
    """Usage after the last step's writes and this step's frees. No gradient flows into the write weights.

    Args:
      write_weights: [B, H, N], the previous step's.
      free_gate: [B, R] in [0, 1].
      read_weights: [B, R, N], the previous step's.
      usage: [B, N] in [0, 1], the previous step's.

    Returns:
      [B, N] in [0, 1].
    """
    not_written = product_over_heads(1 - tf.stop_gradient(write_weights))
    retention = product_over_heads(1 - free_gate[:, :, tf.newaxis] * read_weights)
    return (usage + (1 - usage) * (1 - not_written)) * retention


def allocation(usage):
    """Allocation weighting of one write head: the least used slots first, in exact sorted order.

    Args:
      usage: [B, N] in [0, 1]. Equal usages keep the order of the slots.

    Returns:
      [B, N], sums to at most one.
    """
    nonusage = 1 - (EPSILON + (1 - EPSILON) * usage)
    sorted_nonusage, free_list = tf.math.top_k(nonusage, k=usage.shape[-1])
    sorted_allocation = sorted_nonusage * tf.math.cumprod(1 - sorted_nonusage, axis=-1, exclusive=True)
    return tf.gather(sorted_allocation, tf.argsort(free_list), batch_dims=1)


def write_allocation_weights(usage, write_gates):
    """Allocation weightings of all write heads; slots that earlier heads will write count as used.

    Args:
      usage: [B, N] in [0, 1].
      write_gates: [B, H] in [0, 1], fraction of its allocation that each head writes.

    Returns:
      [B, H, N].
    """
    *gates, _ = tf.unstack(write_gates[:, :, tf.newaxis], axis=1)
    weights = [allocation(usage)]
    for gate in gates:
        usage = usage + (1 - usage) * gate * weights[-1]
        weights.append(allocation(usage))
    return tf.stack(weights, axis=1)


def temporal_linkage(write_weights, state):
    """Link matrix and precedence after a write; the link uses the precedence before it.

    Args:
      write_weights: [B, H, N].
      state: `TemporalLinkageState`.

    Returns:
      The next `TemporalLinkageState`; rows and columns of each link matrix sum to at most one.
    """
    link = _next_link(write_weights, state.link, state.precedence_weights)
    written = tf.reduce_sum(write_weights, axis=-1, keepdims=True)
    return TemporalLinkageState(link, (1 - written) * state.precedence_weights + write_weights)


@tf.custom_gradient
def _next_link(w, link, precedence):
    # Products of N x N matrices take most of a step's time and memory: this gradient stores only the old link and
    # passes over such matrices less often than automatic differentiation.
    def kept():
        return 1 - w[..., :, tf.newaxis] - w[..., tf.newaxis, :]

    def gradient(d_next):
        d_next = tf.linalg.set_diag(d_next, tf.zeros_like(w))
        d_kept = d_next * link
        ones = tf.ones_like(w)
        d_w = tf.linalg.matvec(d_next, precedence) - tf.linalg.matvec(d_kept, ones) - _vecmat(ones, d_kept)
        return d_w, kept() * d_next, _vecmat(w, d_next)

    next_link = kept() * link + w[..., :, tf.newaxis] * precedence[..., tf.newaxis, :]
    return tf.linalg.set_diag(next_link, tf.zeros_like(w)), gradient


def _vecmat(vector, matrix):
    return tf.matmul(vector[..., tf.newaxis, :], matrix)[..., 0, :]


def directional_read_weights(link, read_weights):
    """Read weights that follow the order of writing, forward (to the slot written next) and backward.

    Args:
      link: [B, H, N, N].
      read_weights: [B, R, N], the previous step's.

    Returns:
      (forward, backward), both [B, R, H, N].
    """
    read_weights = tf.tile(read_weights[:, tf.newaxis], [1, link.shape[1], 1, 1])
    forward, backward = _follow_link(link, read_weights)
    return tf.transpose(forward, [0, 2, 1, 3]), tf.transpose(backward, [0, 2, 1, 3])


@tf.custom_gradient
def _follow_link(link, weights):
    # As for `_next_link`: the link's gradient is one product over both directions and all heads.
    def forward(weights):
        return tf.linalg.matrix_transpose(tf.matmul(link, weights, transpose_b=True))

    def backward(weights):
        return tf.matmul(weights, link)

    def gradient(d_forward, d_backward):
        d_link = tf.matmul(
            tf.concat([d_forward, weights], axis=-2), tf.concat([weights, d_backward], axis=-2), transpose_a=True
        )
        return d_link, backward(d_forward) + forward(d_backward)

    return (forward(weights), backward(weights)), gradient
