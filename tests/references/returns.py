"""Returns and V-trace in float64 numpy, as sums over steps, close to the papers' notation and one element at a time."""

import numpy as np


def elements(function):
    """The function of sequences [T] on every element of time-major arrays [T, ...]."""

    def batched(*arrays, **settings):
        flat = [np.asarray(a, np.float64).reshape(len(a), -1) for a in arrays]
        results = [np.asarray(function(*(f[:, i] for f in flat), **settings)) for i in range(flat[0].shape[1])]
        stacked = np.stack(results, -1)
        return stacked.reshape(*stacked.shape[:-1], *np.shape(arrays[0])[1:])

    return batched


@elements
def n_step(r, discount, v, n):
    """sum_k (prod discounts) r_{s+k} for k < n, and the discounted value behind them."""
    steps = len(r)
    returns = []
    for s in range(steps):
        end = min(s + n, steps)
        total = sum(np.prod(discount[s:k]) * r[k] for k in range(s, end))
        returns.append(total + np.prod(discount[s:end]) * v[end - 1])
    return returns


@elements
def lambda_mixture(r, discount, v, lam):
    """(1 - lambda) sum_n lambda^{n-1} G^{(n)}, with lambda a sequence: n-step returns weighted by where they stop."""
    steps = len(r)
    returns = []
    for s in range(steps):
        total = 0.0
        for end in range(s + 1, steps + 1):
            stop = 1.0 if end == steps else 1.0 - lam[end - 1]
            weight = np.prod(lam[s : end - 1]) * stop
            rewards = sum(np.prod(discount[s:k]) * r[k] for k in range(s, end))
            total += weight * (rewards + np.prod(discount[s:end]) * v[end - 1])
        returns.append(total)
    return returns


@elements
def vtrace(v_tm1, v_t, r, discount, rho, lam, clip_rho, clip_c, clip_pg_rho):
    """Espeholt et al. 2018, Eq. 1, with the clipped ratios and lambda_i in c_i; the policy gradient's advantages."""
    steps = len(r)
    clipped = [np.minimum(rho, np.inf if clip is None else clip) for clip in (clip_rho, clip_c, clip_pg_rho)]
    delta = clipped[0] * (r + discount * v_t - v_tm1)
    c = lam * clipped[1]
    errors = [sum(np.prod(discount[s:k] * c[s:k]) * delta[k] for k in range(s, steps)) for s in range(steps)]  # vs - v
    later = np.append(errors[1:], 0.0)
    advantages = clipped[2] * (r + discount * (v_t + lam * later) - v_tm1)
    return v_tm1 + errors, advantages
