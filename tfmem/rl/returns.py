"""Returns and V-trace as pure functions of time-major tensors [T, B] (more axes may follow).

Names follow RLax. The step from `tm1` to `t` begins with the action, the value v_tm1 and the ratio rho_tm1; it ends
with the reward r_t, the discount discount_t (0 where the episode ended) and the next value v_t. Row s of every tensor
belongs to step s: v_t is v_tm1 shifted by one row, with the value after the last step as its last row.

    n-step returns   G_s = r_s + discount_s r_{s+1} + ... up to n rewards, then discounts times the value (at most v_T)
    lambda returns   G_s = r_s + discount_s ((1 - lambda_s) v_t[s] + lambda_s G_{s+1})
    V-trace          delta_s = rho'_s (r_s + discount_s v_t[s] - v_tm1[s])
                     A_s = delta_s + discount_s lambda_s c_s A_{s+1},  vs = v_tm1 + A
                     advantage_s = rho''_s (r_s + discount_s (v_t[s] + lambda_s A_{s+1}) - v_tm1[s])

with rho', c and rho'' the ratios clipped from above. Each is a recurrence y_s = x_s + decay_s y_{s+1}, computed in
log2(T) rounds over the whole sequence, without a loop over time.

Paper: Espeholt et al. 2018, section 4.1; lambda is inside c. Public code: RLax has this lambda, also in the advantages;
SEED's advantages use vs unchanged; scalable_agent has no lambda. All are equal for lambda 1.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmem.validation import check_choice, check_integer

REWARD_MODES = ("none", "abs_one", "soft_asymmetric")


class VTrace(NamedTuple):
    """Result of V-trace, [T, B], without gradient: targets of the values, advantages of the policy gradient."""

    vs: tf.Tensor
    pg_advantages: tf.Tensor


def discounted_returns(r_t, discount_t, bootstrap_value):
    """Discounted sums of rewards to the end of the sequence, [T, B].

    Args:
      r_t, discount_t: [T, B].
      bootstrap_value: [B], the value after the last step.

    Raises:
      ValueError: shapes differ, or the number of steps is not known.
    """
    r_t, discount_t = _aligned(r_t=r_t, discount_t=discount_t)
    values = tf.concat([tf.zeros_like(r_t), _row(bootstrap_value, r_t)], 0)
    return _steps_back(r_t, discount_t, values, r_t.shape[0])


def n_step_returns(r_t, discount_t, v_t, n):
    """Discounted sums of `n` rewards and the value after them, [T, B]; near the end, of fewer and the last value.

    Args:
      r_t, discount_t, v_t: [T, B].
      n: number of rewards, at least 1.

    Raises:
      ValueError: shapes differ, the number of steps is not known, or `n` is less than 1.
    """
    check_integer("n", n, 1)
    r_t, discount_t, v_t = _aligned(r_t=r_t, discount_t=discount_t, v_t=v_t)
    values = tf.concat([tf.zeros_like(v_t[:1]), v_t], 0)
    return _steps_back(r_t, discount_t, values, min(n, r_t.shape[0]))


def lambda_returns(r_t, discount_t, v_t, lambda_=1.0):
    """Mixtures of n-step returns of all n, [T, B].

    Args:
      r_t, discount_t, v_t: [T, B].
      lambda_: scalar or [T, B]; 0 uses the value after the step, 1 all rewards.

    Raises:
      ValueError: shapes differ, or the number of steps is not known.
    """
    r_t, discount_t, v_t, lambda_ = _aligned(r_t=r_t, discount_t=discount_t, v_t=v_t, lambda_=lambda_)
    values = tf.concat([tf.zeros_like(v_t), v_t[-1:]], 0)
    x = r_t + discount_t * (1.0 - lambda_) * v_t
    return _steps_back(x, discount_t * lambda_, values, r_t.shape[0])


def vtrace(
    v_tm1,
    v_t,
    r_t,
    discount_t,
    rho_tm1,
    lambda_=1.0,
    clip_rho_threshold=1.0,
    clip_c_threshold=1.0,
    clip_pg_rho_threshold=1.0,
):
    """V-trace targets and advantages, a `VTrace`; no gradient goes through them.

    Args:
      v_tm1, v_t, r_t, discount_t: [T, B].
      rho_tm1: [T, B], the learner's probability of the action over the actor's.
      lambda_: scalar or [T, B]. A 0 ends the trace at a step with v_t, as after a time limit.
      clip_rho_threshold: upper bound of the ratios in the temporal differences (the paper's rho-bar); None for none.
      clip_c_threshold: upper bound of the ratios in the trace (c-bar); None for none.
      clip_pg_rho_threshold: upper bound of the ratios in the advantages; None for none.

    Raises:
      ValueError: shapes differ, or the number of steps is not known.
    """
    aligned = _aligned(v_tm1=v_tm1, v_t=v_t, r_t=r_t, discount_t=discount_t, rho_tm1=rho_tm1, lambda_=lambda_)
    v_tm1, v_t, r_t, discount_t, rho_tm1, lambda_ = map(tf.stop_gradient, aligned)
    delta = _clipped(rho_tm1, clip_rho_threshold) * (r_t + discount_t * v_t - v_tm1)
    decay = discount_t * lambda_ * _clipped(rho_tm1, clip_c_threshold)
    zeros = tf.zeros_like(v_tm1)
    errors = _steps_back(delta, decay, tf.concat([zeros, zeros[:1]], 0), v_tm1.shape[0])
    q_tm1 = r_t + discount_t * (v_t + lambda_ * _later(errors, 1, zeros[:1]))
    return VTrace(v_tm1 + errors, _clipped(rho_tm1, clip_pg_rho_threshold) * (q_tm1 - v_tm1))


def next_values(v_tm1, bootstrap_value):
    """Return v_t for `v_tm1` [T, B] and the value after the last step [B]."""
    return tf.concat([v_tm1[1:], _row(bootstrap_value, v_tm1)], 0)


def clip_rewards(r_t, mode):
    """Clip rewards for the learner.

    Args:
      r_t: rewards of any shape.
      mode: "none"; "abs_one", clipped to [-1, 1]; "soft_asymmetric", 5 tanh(r / 5), times 0.3 where negative. Public
        code: scalable_agent (which has no "none").

    Raises:
      ValueError: `mode` is none of these, or the rewards are no floating-point numbers.
    """
    check_choice("mode", mode, REWARD_MODES)
    r_t = tf.convert_to_tensor(r_t)
    if not r_t.dtype.is_floating:
        raise ValueError(f"r_t: dtype {r_t.dtype.name}, must be a floating-point type")
    if mode == "abs_one":
        return tf.clip_by_value(r_t, -1.0, 1.0)
    if mode == "soft_asymmetric":
        squeezed = tf.tanh(r_t / 5.0)
        return tf.where(r_t < 0, 0.3 * squeezed, squeezed) * 5.0
    return r_t


def _steps_back(x, decay, values, n):
    """Compute y^n of y^0_s = values_s (s = 0..T) and y^m_s = x_s + decay_s y^{m-1}_{s+1}; y_T stays values_T.

    m steps combine into one: y^m_s = x^(m)_s + decay^(m)_s y^0_{s+m}. Two of m steps give one of 2m; the bits of n
    select those to apply.
    """
    none, one = tf.zeros_like(x[:1]), tf.ones_like(x[:1])
    x, decay, m = tf.concat([x, none], 0), tf.concat([decay, one], 0), 1
    while n:
        if n & 1:
            values = x + decay * _later(values, m, values[-1:])
        n >>= 1
        if n:
            x, decay = x + decay * _later(x, m, none), decay * _later(decay, m, one)
        m *= 2
    return values[:-1]


def _later(x, m, beyond):
    """Shift x by m rows: x_{s+m} at s, and `beyond` [1, ...] after the end of x."""
    return tf.concat([x[m:], tf.repeat(beyond, min(m, x.shape[0]), 0)], 0)


def _clipped(ratios, threshold):
    return ratios if threshold is None else tf.minimum(ratios, threshold)


def _row(bootstrap_value, like):
    bootstrap_value = tf.convert_to_tensor(bootstrap_value, like.dtype)
    if not bootstrap_value.shape.is_compatible_with(like.shape[1:]):
        raise ValueError(f"bootstrap_value: shape {bootstrap_value.shape}, must be {like.shape[1:]}")
    return bootstrap_value[tf.newaxis]


def _aligned(**arguments):
    """Convert the arguments to tensors of one dtype and shape; a scalar `lambda_` is broadcast."""
    (name, value), *_ = arguments.items()
    first = tf.convert_to_tensor(value)
    if not first.dtype.is_floating:
        raise ValueError(f"{name}: dtype {first.dtype.name}, must be a floating-point type")
    if first.shape.rank is None or first.shape.rank < 2 or not first.shape[0]:
        raise ValueError(f"{name}: shape {first.shape}, must be [T, B] with a known number of steps, at least 1")
    tensors = []
    for name, value in arguments.items():
        tensor = tf.convert_to_tensor(value, first.dtype)
        if name == "lambda_" and tensor.shape.rank == 0:
            tensor = tf.fill(tf.shape(first), tensor)
        if tensor.shape.rank != first.shape.rank or not tensor.shape.is_compatible_with(first.shape):
            raise ValueError(f"{name}: shape {tensor.shape}, must be {first.shape}")
        tensors.append(tensor)
    return tensors
