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
    w, link, precedence = write_weights, *state
    link = _kept(w) * link + w[..., :, tf.newaxis] * precedence[..., tf.newaxis, :]
    written = tf.reduce_sum(w, axis=-1, keepdims=True)
    return TemporalLinkageState(tf.linalg.set_diag(link, tf.zeros_like(w)), (1 - written) * precedence + w)


def _kept(w):
    return 1 - w[..., :, tf.newaxis] - w[..., tf.newaxis, :]


def directional_read_weights(link, read_weights):
    """Read weights that follow the order of writing, forward (to the slot written next) and backward.

    Args:
      link: [B, H, N, N].
      read_weights: [B, R, N], the previous step's.

    Returns:
      (forward, backward), both [B, R, H, N].
    """
    weights = tf.tile(read_weights[:, tf.newaxis], [1, link.shape[1], 1, 1])
    forward = tf.matmul(link, weights, transpose_b=True)
    return tf.transpose(forward, [0, 3, 1, 2]), tf.transpose(tf.matmul(weights, link), [0, 2, 1, 3])


def linked_reads(write_weights, read_weights, state):
    """`temporal_linkage`, then `directional_read_weights` by its link, with one gradient for both.

    N x N matrices take most of a step's time and memory. This gradient passes over them less often than automatic
    differentiation, and needs the link before the write alone: XLA keeps one matrix per step in place of two. With
    K = 1 - w[i] - w[j] off the diagonal, the link after it is L' = K ∘ L + w pᵀ, whose products need no L':

        L' x = (1 - w) ∘ L x - L (w ∘ x) + w (p . x),    L'ᵀ x = (1 - w) ∘ Lᵀ x - Lᵀ (w ∘ x) + p (w . x)

    Args:
      write_weights: [B, H, N].
      read_weights: [B, R, N], the previous step's.
      state: `TemporalLinkageState`.

    Returns:
      `(forward, backward, state)`: [B, R, H, N] twice, and the next `TemporalLinkageState`.
    """

    @tf.custom_gradient
    def run(w, read_weights, link, precedence):
        state = temporal_linkage(w, TemporalLinkageState(link, precedence))

        def gradient(d_forward, d_backward, d_link, d_precedence):
            d_forward, d_backward = (tf.transpose(d, [0, 2, 1, 3]) for d in (d_forward, d_backward))
            reads = tf.broadcast_to(read_weights[:, tf.newaxis], tf.shape(d_forward))
            d_link += tf.matmul(tf.concat([d_forward, reads], 2), tf.concat([reads, d_backward], 2), transpose_a=True)
            d_link = tf.linalg.set_diag(d_link, tf.zeros_like(w))
            d_kept, ones = d_link * link, tf.ones_like(w)
            d_w = tf.linalg.matvec(d_link, precedence) - tf.linalg.matvec(d_kept, ones) - _vecmat(ones, d_kept)
            d_w += d_precedence - tf.reduce_sum(d_precedence * precedence, -1, keepdims=True)
            written = tf.reduce_sum(w, axis=-1, keepdims=True)
            d_old_precedence = _vecmat(w, d_link) + (1 - written) * d_precedence

            rows = w[:, :, tf.newaxis], precedence[:, :, tf.newaxis]
            diagonal = tf.linalg.diag_part(link)[:, :, tf.newaxis] * (1 - 2 * rows[0]) + rows[0] * rows[1]

            def by_new_link(x, product, left, right):
                plain, weighted = tf.split(product(tf.concat([x, rows[0] * x], 2)), 2, axis=2)
                new = left * tf.reduce_sum(right * x, -1, keepdims=True)
                return (1 - rows[0]) * plain - weighted + new - diagonal * x

            d_reads = by_new_link(d_forward, lambda x: tf.matmul(x, link), *rows[::-1])
            d_reads += by_new_link(d_backward, lambda x: tf.matmul(x, link, transpose_b=True), *rows)
            return d_w, tf.reduce_sum(d_reads, 1), _kept(w) * d_link, d_old_precedence

        return (*directional_read_weights(state.link, read_weights), *state), gradient

    forward, backward, *state = run(write_weights, read_weights, *state)
    return forward, backward, TemporalLinkageState(*state)


def _vecmat(vector, matrix):
    return tf.matmul(vector[..., tf.newaxis, :], matrix)[..., 0, :]
