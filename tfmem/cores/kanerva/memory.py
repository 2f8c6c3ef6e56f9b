"""Memory of the dynamic Kanerva machine (Wu et al. 2018, "Learning Attractor Dynamics for Generative Memory", arXiv
1811.09556).

The memory is a random matrix of K rows of C numbers, M ~ N(R, U), whose covariance U [K, K] between rows is the same
for every column. A code z is explained by weights w over the rows:

    p(w) = N(0, sigma_p^2 I)          p(z | w, M) = N(w^T M, sigma_o^2 I)

    address    w = (A A + lambda I)^-1 A R z,   A = R R^T,   lambda = sigma_o^2 / sigma_p^2
    write      s = w^T U w + sigma_o^2,   R' = R + U w (z - w^T R)^T / s,   U' = U - U w w^T U / s
    read       w^T R

Faithful to `memory.py` of github.com/deepmind/dynamic-kanerva-machines (class KanervaMemory).
"""

import math
from typing import NamedTuple

import sonnet as snt
import tensorflow as tf
import tensorflow_probability as tfp

from tfmem.cores.base import variable_dtype
from tfmem.noise import stateless_normal
from tfmem.recurrence import same_batch, unroll
from tfmem.validation import check_above_zero, check_positive

tfd = tfp.distributions

EPSILON = 1e-6  # memory.py: floor of the variances
MAX_VARIANCE = 1e10  # memory.py: ceiling of the posterior variances


class MemoryState(NamedTuple):
    """A Gaussian memory, in at least float32: mean of the rows and covariance between rows."""

    M_mean: tf.Tensor  # [B, K, C]
    M_cov: tf.Tensor  # [B, K, K]


class Innovation(NamedTuple):
    """Difference between a code and its read from the memory."""

    wU: tf.Tensor  # [B, K], w^T U
    sigma_z: tf.Tensor  # [B], s = w^T U w + sigma_o^2
    delta: tf.Tensor  # [B, C], z - w^T R


def factorize(M, ridge):
    """`A = M M^T` and the Cholesky factor of `A A + ridge I`, both [B, K, K].

    Public code: A itself goes to a regularized least-squares solver, so the system is squared once more.

    Range in float32: weights lose about 6e-8 s^4 / (t^4 + ridge) of themselves, where s and t are the largest and the
    smallest singular value of M (t = 0 where K > C). Where that nears 1 the factor is NaN. Larger codes have larger
    weights, and errors grow with them: 0.1 to 0.3 for codes of size 1000. No scale before squaring mends that, as the
    condition stays; float64 has nine digits more.
    """
    A = tf.matmul(M, M, transpose_b=True)
    identity = tf.eye(M.shape[-2], dtype=M.dtype)
    return A, tf.linalg.cholesky(tf.matmul(A, A, transpose_a=True) + ridge * identity)


def solve_w(factors, M, z):
    """Weights [S, B, K] that explain codes z [S, B, C] by M [B, K, C], with `factors = factorize(M, ridge)`."""
    A, cholesky = factors
    Mz = tf.einsum("bkc,sbc->bks", M, z)
    return tf.einsum("bks->sbk", tf.linalg.cholesky_solve(cholesky, tf.matmul(A, Mz, transpose_a=True)))


def address_matrix(factors, M):
    """W [B, K, C] with `w = W z` for any code, for many codes by the same memory; arguments as for `solve_w`."""
    A, cholesky = factors
    return tf.linalg.cholesky_solve(cholesky, tf.matmul(A, M, transpose_a=True))


def innovate(state, w, z, noise_variance):
    """The `Innovation` of code z [B, C] addressed by w [B, K]."""
    wU = tf.linalg.matvec(state.M_cov, w)
    sigma_z = tf.reduce_sum(wU * w, -1) + noise_variance
    return Innovation(wU, sigma_z, z - tf.linalg.matvec(state.M_mean, w, transpose_a=True))


def posterior(state, innovation):
    """Bayes' rule for one code: the `MemoryState` given an `Innovation`.

    Limit of float32: the variance of a code written n times falls to about sigma_o^2 / n. Where that nears the
    rounding of the other variances (sigma_o = 0.1, thousands of writes of the same codes) eigenvalues can turn
    negative; a state in float64 stays far from it.
    """
    wU, sigma_z, delta = innovation
    sigma_z = sigma_z[:, tf.newaxis, tf.newaxis]
    M_mean = state.M_mean + wU[:, :, tf.newaxis] / sigma_z * delta[:, tf.newaxis, :]
    # Product before quotient: exactly symmetric, however many codes are written.
    M_cov = state.M_cov - wU[:, :, tf.newaxis] * wU[:, tf.newaxis, :] / sigma_z
    diagonal = tf.eye(M_cov.shape[-1], dtype=tf.bool)
    return MemoryState(M_mean, tf.where(diagonal, tf.clip_by_value(M_cov, EPSILON, MAX_VARIANCE), M_cov))


def dkl_update(innovation, noise_variance):
    """KL [B] of the memory after a code from the memory before it (exact, without the clip)."""
    _, sigma_z, delta = innovation
    beta = 1.0 - noise_variance / sigma_z
    code_size = delta.shape[-1]
    log_ratio = tf.math.log(noise_variance / sigma_z)
    return -0.5 * (code_size * beta - beta / sigma_z * tf.reduce_sum(delta**2, -1) + code_size * log_ratio)


class KanervaMemory(snt.Module):
    """A generative memory that is written by exact inference.

    Sequences are time-major as in the public code: z is [T, B, code_size]. States are `MemoryState`s and are always
    computed in at least float32; reads come back in the dtype of the cues.

        memory = KanervaMemory(code_size=100, memory_size=32)
        prior = memory.get_prior_state(batch_size)
        posterior, w, dkl_w, dkl_M = memory.update_state(z, prior)          # write an episode
        reads, dkl_w = memory.read_iteratively(noisy_z, posterior, 5)       # denoise: reads[-1]
        codes = memory.generate(16, posterior, seed=[0, 1])                 # or generate(16, prior, ...)

    Args:
      code_size: C, size of a code.
      memory_size: K, number of rows.
      num_opt_iters: times that w and the posterior are refined, in turn, when a code is written.
      w_prior_stddev: sigma_p.
      obs_noise_stddev: sigma_o; zero or less makes it a trainable variable.
      sample_w: reads use a sample of w. Writes always use its mean; the sample then enters their dkl_M.
      sample_M: w is solved for, and reads are taken from, a sample of the memory instead of its mean.
      initial_noise_stddev: where the trainable sigma_o starts (public code: 1).

    Variables (made by `initialize`, or when first needed): `prior_mean` [K, C], truncated normal of stddev 1;
    `log_prior_var` (), 0; `log_w_stddev` (), log 0.3; `log_obs_stddev` (), only where sigma_o is trainable.

    Raises:
      ValueError: a size is not positive, or a standard deviation that must be positive is not.

    Source: `memory.py` of deepmind/dynamic-kanerva-machines.
    """

    def __init__(
        self,
        code_size,
        memory_size,
        num_opt_iters=1,
        w_prior_stddev=1.0,
        obs_noise_stddev=1.0,
        sample_w=False,
        sample_M=False,
        initial_noise_stddev=1.0,
        name="KanervaMemory",
    ):
        super().__init__(name=name)
        check_positive(code_size=code_size, memory_size=memory_size, num_opt_iters=num_opt_iters)
        check_above_zero(w_prior_stddev=w_prior_stddev, initial_noise_stddev=initial_noise_stddev)
        self.code_size = code_size
        self.memory_size = memory_size
        self.num_opt_iters = num_opt_iters
        self.w_prior_stddev = w_prior_stddev
        self.obs_noise_stddev = obs_noise_stddev
        self.sample_w = sample_w
        self.sample_M = sample_M
        self.initial_noise_stddev = initial_noise_stddev

    def initialize(self, dtype=tf.float32):
        """Make all variables."""
        self.initialize_prior(dtype)
        self.initialize_noise(dtype)
        self.initialize_w(dtype)

    @snt.once
    def initialize_prior(self, dtype):
        """Make the prior's mean and variance, in at least float32."""
        dtype = variable_dtype(dtype)
        prior_mean = snt.initializers.TruncatedNormal()([self.memory_size, self.code_size], dtype)
        self.prior_mean = tf.Variable(prior_mean, name="prior_mean")
        self.log_prior_var = tf.Variable(tf.zeros([], dtype), name="log_prior_var")

    @snt.once
    def initialize_noise(self, dtype):
        """Make sigma_o, where it is trained."""
        if self.obs_noise_stddev <= 0:
            log_stddev = tf.constant(math.log(self.initial_noise_stddev), variable_dtype(dtype))
            self.log_obs_stddev = tf.Variable(log_stddev, name="log_obs_stddev")

    @snt.once
    def initialize_w(self, dtype):
        """Make the standard deviation of the posterior of w; 0.3 as the public code."""
        self.log_w_stddev = tf.Variable(tf.constant(math.log(0.3), variable_dtype(dtype)), name="log_w_stddev")

    # Parameters of the model.

    def prior_var(self, dtype=tf.float32):
        """Variance of every row of the prior memory, a scalar."""
        self.initialize_prior(dtype)
        return tf.cast(tf.exp(self.log_prior_var), dtype) + EPSILON

    def noise_stddev(self, dtype=tf.float32):
        """sigma_o, a scalar."""
        self.initialize_noise(dtype)
        if self.obs_noise_stddev > 0:
            return tf.constant(self.obs_noise_stddev, dtype)
        return tf.cast(tf.exp(self.log_obs_stddev), dtype)

    def w_stddev(self, dtype=tf.float32):
        """Standard deviation of q(w), a scalar."""
        self.initialize_w(dtype)
        return tf.cast(tf.exp(self.log_w_stddev), dtype)

    def factorize(self, M, noise_variance=None):
        """`factorize(M, lambda)` with this memory's `lambda = sigma_o^2 / sigma_p^2`; sigma_o^2 where it is known."""
        if noise_variance is None:
            noise_variance = self.noise_stddev(M.dtype) ** 2
        return factorize(M, noise_variance / self.w_prior_stddev**2)

    # Distributions.

    def get_prior_state(self, batch_size, dtype=tf.float32):
        """The prior memory, shared by the batch: a `MemoryState` in at least float32."""
        dtype = variable_dtype(dtype)
        self.initialize_prior(dtype)
        mean = tf.cast(self.prior_mean, dtype)
        cov = self.prior_var(dtype) * tf.eye(self.memory_size, dtype=dtype)
        return MemoryState(*(tf.tile(p[tf.newaxis], [batch_size, 1, 1]) for p in (mean, cov)))

    def get_prior_w(self, dtype=tf.float32):
        """p(w), a distribution over [K]."""
        ones = tf.ones([self.memory_size], dtype)
        return tfd.MultivariateNormalDiag(tf.zeros_like(ones), scale_diag=self.w_prior_stddev * ones)

    def get_posterior_w(self, w_mean):
        """q(w), a distribution over [K] with the batch shape of w_mean [..., K]."""
        ones = tf.ones([self.memory_size], w_mean.dtype)
        return tfd.MultivariateNormalDiag(w_mean, scale_diag=self.w_stddev(w_mean.dtype) * ones)

    def wrap_z_dist(self, z_mean):
        """p(z | w, M), a distribution over [C], around a read z_mean [..., C]."""
        ones = tf.ones([self.code_size], z_mean.dtype)
        return tfd.MultivariateNormalDiag(z_mean, scale_diag=self.noise_stddev(z_mean.dtype) * ones)

    def sample_prior_w(self, seq_length, batch_size, seed, dtype=tf.float32):
        """Weights [seq_length, batch_size, K] drawn from p(w)."""
        return self.w_prior_stddev * stateless_normal([seq_length, batch_size, self.memory_size], seed, dtype)

    def draw_w(self, w_mean, seed):
        """A sample of q(w) around w_mean [..., K]."""
        return w_mean + self.w_stddev(w_mean.dtype) * stateless_normal(tf.shape(w_mean), seed, w_mean.dtype)

    def draw_M(self, memory_state, seed):
        """A sample [B, K, C] of the memory: `R + L eps` with `L L^T = U`."""
        M_mean, M_cov = memory_state
        noise = stateless_normal(tf.shape(M_mean), seed, M_mean.dtype)
        return M_mean + tf.matmul(tf.linalg.cholesky(M_cov), noise)

    # KL terms.

    def get_dkl_w(self, w_mean):
        """KL [...] of q(w) around w_mean [..., K] from p(w)."""
        return self.get_posterior_w(w_mean).kl_divergence(self.get_prior_w(w_mean.dtype))

    def get_dkl_total(self, memory_state):
        """Divergence [B] of a memory from the prior memory, as the public code has it.

        Twice the KL between the memories that have only the diagonals of the covariances: there is no factor one half.
        """
        M_mean, M_cov = memory_state
        p = self.prior_var(M_mean.dtype)
        q = tf.linalg.diag_part(M_cov)
        t1 = self.code_size * tf.reduce_sum(q / p, -1)
        t2 = tf.reduce_sum((M_mean - tf.cast(self.prior_mean, M_mean.dtype)) ** 2 / p, [-2, -1])
        t3 = -self.code_size * self.memory_size
        t4 = self.code_size * tf.reduce_sum(tf.math.log(p) - tf.math.log(q), -1)
        return t1 + t2 + t3 + t4

    # Writing, reading, generating.

    def update_state(self, z, memory_state, seed=None):
        """Write an episode, code after code.

        Args:
          z: codes [T, B, C].
          memory_state: `MemoryState` to start from.
          seed: int32 [2], needed where w or M is sampled.

        Returns:
          `(final_memory, w, dkl_w, dkl_M)`: a `MemoryState`, the weights [T, B, K] (samples where `sample_w`), the KL
          [T, B] of their means from p(w), and the KL [T, B] of the memory after each code from the memory before it.

        Raises:
          ValueError: a shape does not fit, or the seed is missing.
        """
        z, memory_state = self._check(z, memory_state)
        self.initialize(z.dtype)
        num_codes = tf.shape(z)[0]
        seeds = tf.random.split(self._check_seed(seed), num_codes, alg="philox") if self._is_random else None

        def write(inputs, memory_state):
            z, index = inputs
            return self._write((z,) if seeds is None else (z, seeds[index]), memory_state)

        (w, dkl_w, dkl_M), final_memory = unroll(write, (z, tf.range(num_codes)), memory_state)
        return final_memory, w, dkl_w, dkl_M

    def _write(self, inputs, memory_state):
        z, *seed = inputs
        seeds = tf.unstack(tf.random.split(seed[0], self.num_opt_iters + 1, alg="philox")) if seed else None
        noise_variance = self.noise_stddev(z.dtype) ** 2
        new_state = memory_state
        # w is refined against the newest mean, but Bayes' rule always starts from the memory before the code.
        for i in range(self.num_opt_iters):
            M = self.draw_M(new_state, seeds[i]) if self.sample_M else new_state.M_mean
            w_mean = solve_w(self.factorize(M), M, z[tf.newaxis])[0]
            innovation = innovate(memory_state, w_mean, z, noise_variance)
            new_state = posterior(memory_state, innovation)
        w = w_mean
        if self.sample_w:
            w = self.draw_w(w_mean, seeds[-1])
            innovation = innovate(memory_state, w, z, noise_variance)
        return (w, self.get_dkl_w(w_mean), dkl_update(innovation, noise_variance)), new_state

    def read_with_z(self, z, memory_state, seed=None):
        """Read with cues.

        Args:
          z: cues [S, B, C].
          memory_state: `MemoryState` to read from.
          seed: int32 [2], needed where w or M is sampled.

        Returns:
          `(read, dkl_w)`: the mean [S, B, C] of what is read, in the dtype of z, and the KL [S, B] of the weights'
          means from p(w).

        Raises:
          ValueError: a shape does not fit, or the seed is missing.
        """
        dtype = tf.as_dtype(z.dtype)
        z, memory_state = self._check(z, memory_state)
        self.initialize(z.dtype)
        seeds = tf.unstack(tf.random.split(self._check_seed(seed), alg="philox")) if self._is_random else None
        M = self.draw_M(memory_state, seeds[0]) if self.sample_M else memory_state.M_mean
        w_mean = solve_w(self.factorize(M), M, z)
        w = self.draw_w(w_mean, seeds[1]) if self.sample_w else w_mean
        return tf.cast(self.get_w_to_z_mean(w, M), dtype), self.get_dkl_w(w_mean)

    def get_w_to_z_mean(self, w, M):
        """Reads [S, B, C] from M [B, K, C] by weights w [S, B, K]."""
        return tf.einsum("sbk,bkc->sbc", w, M)

    def read_iteratively(self, z, memory_state, num_iters, seed=None):
        """Read with cues, then with the reads, and so on: this removes noise from the cues.

        Since lambda > 0 each read also shrinks, so the last iterate is a clean-up, not a fixed point.

        Args:
          z, memory_state, seed: as for `read_with_z`.
          num_iters: number of reads.

        Returns:
          `(reads, dkl_w)` of every iterate: [num_iters, S, B, C] and [num_iters, S, B].

        Raises:
          ValueError: num_iters is not positive, a shape does not fit, or the seed is missing.
        """
        check_positive(num_iters=num_iters)
        self._check(z, memory_state)
        self.initialize(memory_state.M_mean.dtype)
        seeds = tf.random.split(self._check_seed(seed), num_iters, alg="philox") if self._is_random else None

        def read(index, z):
            z, dkl_w = self.read_with_z(z, memory_state, None if seeds is None else seeds[index])
            return (z, dkl_w), z

        reads, _ = unroll(read, tf.range(num_iters), z)
        return reads

    def generate(self, seq_length, memory_state, seed):
        """Codes [seq_length, B, C] drawn from the model: M ~ memory_state, w ~ p(w), z ~ p(z | w, M).

        Args:
          seq_length: codes per memory; the codes of one episode share one M.
          memory_state: `MemoryState` to draw the memory from, e.g. `get_prior_state(batch_size)`.
          seed: int32 [2].
        """
        dtype = memory_state.M_mean.dtype
        seeds = tf.unstack(tf.random.split(seed, 3, alg="philox"))
        M = self.draw_M(memory_state, seeds[0])
        z_mean = self.get_w_to_z_mean(self.sample_prior_w(seq_length, tf.shape(M)[0], seeds[1], dtype), M)
        return z_mean + self.noise_stddev(dtype) * stateless_normal(tf.shape(z_mean), seeds[2], dtype)

    @property
    def _is_random(self):
        return self.sample_w or self.sample_M

    def _check(self, z, memory_state):
        """Codes and memory in the dtype to compute in, with shapes checked."""
        M_mean, M_cov = (tf.convert_to_tensor(m) for m in memory_state)
        z = tf.cast(z, M_mean.dtype)
        K, C = self.memory_size, self.code_size
        expected = {"z": (z, [None, None, C]), "M_mean": (M_mean, [None, K, C]), "M_cov": (M_cov, [None, K, K])}
        for name, (tensor, shape) in expected.items():
            if not tensor.shape.is_compatible_with(shape):
                raise ValueError(f"{name}: shape {tensor.shape}, must be {tf.TensorShape(shape)}")
        return z, same_batch(z, MemoryState(M_mean, M_cov), "memory_state", time_major=True)

    def _check_seed(self, seed):
        if seed is None:
            raise ValueError("seed: None, must be an int32 tensor of shape [2] where sample_w or sample_M is set")
        return tf.convert_to_tensor(seed, tf.int32)
