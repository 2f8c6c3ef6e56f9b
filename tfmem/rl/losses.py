"""Losses of actors and critics, as pure functions of time-major tensors [T, B].

Each is the sum over time and batch, or the mean with `reduction="mean"`. Public code: scalable_agent sums, SEED takes
means. A mean divides every gradient by T B, which RMSProp with its epsilon does not undo.
"""

import tensorflow as tf

from tfmem.validation import check_choice

REDUCTIONS = ("sum", "mean")


def action_log_probs(logits_tm1, a_tm1):
    """Log-probabilities [T, B] of actions, integers [T, B], under logits [T, B, A]."""
    return -tf.nn.sparse_softmax_cross_entropy_with_logits(labels=a_tm1, logits=logits_tm1)


def policy_gradient_loss(logits_tm1, a_tm1, adv_tm1, reduction="sum"):
    """Policy-gradient loss -log pi(a) adv, without gradient through the advantages.

    Args:
      logits_tm1: [T, B, A].
      a_tm1: actions, integers [T, B].
      adv_tm1: advantages [T, B].
      reduction: "sum" or "mean".

    Raises:
      ValueError: shapes differ, or `reduction` is neither.
    """
    log_probs = action_log_probs(logits_tm1, a_tm1)
    adv_tm1 = tf.convert_to_tensor(adv_tm1, log_probs.dtype)
    if adv_tm1.shape.rank != log_probs.shape.rank or not adv_tm1.shape.is_compatible_with(log_probs.shape):
        raise ValueError(f"adv_tm1: shape {adv_tm1.shape}, must be {log_probs.shape}")
    return _reduced(-log_probs * tf.stop_gradient(adv_tm1), reduction)


def baseline_loss(td_tm1, reduction="sum"):
    """Squared-error loss td^2 / 2 of the values' errors td = target - value, [T, B]."""
    return _reduced(0.5 * tf.square(td_tm1), reduction)


def entropy_loss(logits_tm1, reduction="sum"):
    """Negative entropy sum_a p log p of policies with logits [T, B, A]."""
    negative = tf.reduce_sum(tf.nn.softmax(logits_tm1) * tf.nn.log_softmax(logits_tm1), -1)
    return _reduced(negative, reduction)


def concentration_loss(logits_tm1, reduction="sum"):
    """Concentration sum_a p^2 of policies with logits [T, B, A].

    Public code: uber-research/differentiable-plasticity uses it in place of the negative entropy.
    """
    return _reduced(tf.reduce_sum(tf.square(tf.nn.softmax(logits_tm1)), -1), reduction)


def _reduced(values, reduction):
    check_choice("reduction", reduction, REDUCTIONS)
    return tf.reduce_sum(values) if reduction == "sum" else tf.reduce_mean(values)
