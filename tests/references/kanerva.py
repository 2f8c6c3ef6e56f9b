"""The dynamic Kanerva machine and LSTM + Kanerva in float64 numpy: one memory at a time, straight from the formulae."""

import numpy as np


def solve_w(M, z, sigma_o, sigma_p):
    """Regularised least squares `A w = M z` by the normal equations, with A = M M^T."""
    A = M @ M.T
    return np.linalg.inv(A.T @ A + sigma_o**2 / sigma_p**2 * np.eye(len(A))) @ A.T @ (M @ z)


def bayes(M, U, w, z, sigma_o):
    s = w @ U @ w + sigma_o**2
    gain = U @ w / s
    U = U - np.outer(gain, w @ U)
    np.fill_diagonal(U, np.clip(np.diag(U), 1e-6, 1e10))
    return M + np.outer(gain, z - w @ M), U


def write(M, U, z, sigma_o, sigma_p, num_opt_iters):
    """`(M, U, w)` after one code."""
    M_new = M
    for _ in range(num_opt_iters):
        w = solve_w(M_new, z, sigma_o, sigma_p)
        M_new, U_new = bayes(M, U, w, z, sigma_o)
    return M_new, U_new, w


def gaussian_kl(m1, S1, m2, S2):
    """KL( N(m1, S1) || N(m2, S2) )."""
    inverse = np.linalg.inv(S2)
    log_det = np.linalg.slogdet(S2)[1] - np.linalg.slogdet(S1)[1]
    return 0.5 * (np.trace(inverse @ S1) + (m2 - m1) @ inverse @ (m2 - m1) - len(m1) + log_det)


def dkl_w(w, sigma_w, sigma_p):
    identity = np.eye(len(w))
    return gaussian_kl(w, sigma_w**2 * identity, np.zeros(len(w)), sigma_p**2 * identity)


def dkl_M(M, U, w, z, sigma_o):
    """KL of the memory after (w, z) from the memory before: a sum over the columns."""
    M_new, U_new = bayes(M, U, w, z, sigma_o)
    return sum(gaussian_kl(M_new[:, c], U_new, M[:, c], U) for c in range(M.shape[1]))


def dkl_total(M, U, M0, p):
    """Diagonals only, without the factor one half."""
    K, C = M.shape
    q = np.diag(U)
    return C * np.sum(q / p) + np.sum((M - M0) ** 2) / p - C * K + C * np.sum(np.log(p) - np.log(q))


def episode(z, M0, p, sigma_o, sigma_p, sigma_w, num_opt_iters):
    """Write z [T, C] into the prior: `(M, U, w [T, K], dkl_w [T], dkl_M [T])`."""
    M, U = M0, p * np.eye(len(M0))
    ws, kls_w, kls_M = [], [], []
    for z_t in z:
        M_new, U_new, w = write(M, U, z_t, sigma_o, sigma_p, num_opt_iters)
        ws.append(w)
        kls_w.append(dkl_w(w, sigma_w, sigma_p))
        kls_M.append(dkl_M(M, U, w, z_t, sigma_o))
        M, U = M_new, U_new
    return M, U, np.array(ws), np.array(kls_w), np.array(kls_M)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def core_step(x, h, c, M, U, project_read, gates, project_write, sigma_o, writes=True):
    """One step of LSTM + Kanerva for one batch element; `gates` is (w, b) over [x, read, h], order i, j, f, o.

    `project_read` and `project_write` map [x, h] to a word.
    """
    read = solve_w(M, project_read(np.concatenate([x, h])), sigma_o, 1.0) @ M
    w, b = gates
    i, j, f, o = np.split(np.concatenate([x, read, h]) @ w + b, 4)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
    h = sigmoid(o) * np.tanh(c)
    if writes:
        M, U, _ = write(M, U, project_write(np.concatenate([x, h])), sigma_o, 1.0, 1)
    return h, c, M, U
