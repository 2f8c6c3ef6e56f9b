"""The dynamic Kanerva machine as a model of episodes of images (Wu et al. 2018, "Learning Attractor Dynamics for
Generative Memory", arXiv 1811.09556): an encoder and a decoder around `tfmem.cores.kanerva.KanervaMemory`.

An episode X = x_1 ... x_T shares one memory M; e is the encoder, d the decoder, z_t = e(x_t) a code:

    p(M) = N(R_0, p I)    p(w_t) = N(0, sigma_p^2 I)    p(x_t | w_t, M) = Bernoulli(d(w_t^T M))

    write      q(M) = N(R, U), the memory after z_1 ... z_T, by Bayes' rule in the space of codes
    address    q(w_t) = N(w(z_t, R), sigma_w^2 I), by least squares

    log p(X) >= sum_t ( E_{q(w_t) q(M)} log p(x_t | w_t, M) - KL[q(w_t); p(w_t)] ) - KL[q(M); p(M)]

Training adds the log-likelihood of the autoencoder, log p(x_t | d(e(x_t))), so that codes are worth keeping.

Public code: the memory alone (github.com/deepmind/dynamic-kanerva-machines). It reads the means of q(w) and q(M), not
samples, and its KL of the memory differs: see `EpisodeLoss`. Encoder, decoder and likelihood are not specified; we use
convolutions and Bernoulli pixels.
"""

from typing import NamedTuple

import sonnet as snt
import tensorflow as tf

from tfmem.cores.kanerva import KanervaMemory, MemoryState, solve_w
from tfmem.noise import standard_normal
from tfmem.recurrence import swap_batch_and_time, unroll
from tfmem.validation import is_integer


class EpisodeLoss(NamedTuple):
    """Output of a `KanervaMachine` for B episodes of T images, in nats."""

    log_likelihood: tf.Tensor  # [T, B], log p(x | w, M) of what is read
    autoencoder: tf.Tensor  # [T, B], log p(x | d(e(x))), without the memory
    kl_w: tf.Tensor  # [T, B], exact
    kl_memory: tf.Tensor  # [B], exact
    public_kl_memory: tf.Tensor  # [B], `KanervaMemory.get_dkl_total`: diagonals alone, and no factor one half
    reconstruction: tf.Tensor  # [T, B, height, width, channels], probabilities of what is read

    @property
    def elbo(self):
        """[B], of whole episodes; a bound on log p(X) where reads are samples."""
        return tf.reduce_sum(self.log_likelihood - self.kl_w, 0) - self.kl_memory


class KanervaMachine(snt.Module):
    """Episodes of images in a generative memory.

    Images are float32 from 0 to 1, time-major: [T, B, *frame_shape]. States are `MemoryState`s of B memories.

        machine = KanervaMachine((32, 32, 1))
        loss = machine(images, seed=[0, 1])                     # EpisodeLoss
        state = machine.write(images, machine.initial_state(B))
        clean = machine.read_iteratively(noisy, state, 5)[-1]
        digits = machine.sample(16, state, seed=[0, 2])         # or of machine.initial_state(B)

    Noise is a function of the seed alone (philox). Everything is float32.

    Args:
      frame_shape: (height, width, channels); 8 must divide height and width.
      code_size: C; public code: 100 for Omniglot.
      memory_size: K, rows of the memory; public code: 32 for Omniglot.
      channels: of the encoder's three layers (4x4, stride 2, ReLU), the decoder's in reverse. Not specified; we
        use 32, 64 and 128.
      num_opt_iters, w_prior_stddev, obs_noise_stddev: of `KanervaMemory`, whose defaults are the public code's.

    Raises:
      ValueError: an argument is out of range.
    """

    def __init__(
        self,
        frame_shape,
        code_size=100,
        memory_size=32,
        channels=(32, 64, 128),
        num_opt_iters=1,
        w_prior_stddev=1.0,
        obs_noise_stddev=1.0,
        name="KanervaMachine",
    ):
        super().__init__(name=name)
        self.frame_shape = tuple(frame_shape)
        if len(self.frame_shape) != 3 or self.frame_shape[0] % 8 or self.frame_shape[1] % 8 or min(frame_shape) < 1:
            raise ValueError(
                f"frame_shape: {frame_shape}, must be (height, width, channels); 8 must divide height and width"
            )
        if len(channels) != 3 or not all(map(is_integer, channels)):
            raise ValueError(f"channels: {channels}, must be three integers greater than 0")
        self.memory = KanervaMemory(code_size, memory_size, num_opt_iters, w_prior_stddev, obs_noise_stddev)
        self.memory.initialize()
        first, second, third = channels
        height, width, frame_channels = self.frame_shape
        self.encoder = snt.Sequential(
            [
                snt.Conv2D(first, 4, 2),
                tf.nn.relu,
                snt.Conv2D(second, 4, 2),
                tf.nn.relu,
                snt.Conv2D(third, 4, 2),
                tf.nn.relu,
                snt.Flatten(),
                snt.Linear(code_size),
            ]
        )
        self.decoder = snt.Sequential(
            [
                snt.Linear(height // 8 * (width // 8) * third),
                tf.nn.relu,
                snt.Reshape([height // 8, width // 8, third]),
                snt.Conv2DTranspose(second, 4, stride=2),
                tf.nn.relu,
                snt.Conv2DTranspose(first, 4, stride=2),
                tf.nn.relu,
                snt.Conv2DTranspose(frame_channels, 4, stride=2),
            ]
        )
        self._logits(self.encode(tf.zeros([1, 1, *self.frame_shape])))  # makes their variables

    def encode(self, images):
        """Codes [T, B, C] of images."""
        images = tf.convert_to_tensor(images)
        if images.shape.rank != 5 or tuple(images.shape[2:]) != self.frame_shape:
            raise ValueError(f"images: shape {images.shape}, must be [T, B, {', '.join(map(str, self.frame_shape))}]")
        return snt.BatchApply(self.encoder)(images)

    def _logits(self, codes):
        return snt.BatchApply(self.decoder)(codes)

    def decode(self, codes):
        """Images of codes [T, B, C]: the probability of every pixel."""
        return tf.sigmoid(self._logits(codes))

    def initial_state(self, batch_size):
        """The prior memory, for every episode of the batch."""
        return self.memory.get_prior_state(batch_size)

    def __call__(self, images, seed=None):
        """The `EpisodeLoss` of images, each episode in a memory of its own.

        Args:
          seed: int32 [2]: reads are of one sample of q(w) and q(M). None: of their means, as the public code reads.
        """
        z = self.encode(images)
        prior = self.initial_state(z.shape[1] or tf.shape(z)[1])
        state, *_ = self.memory.update_state(z, prior)
        w_mean = solve_w(self.memory.factorize(state.M_mean), state.M_mean, z)
        w, M = w_mean, state.M_mean
        if seed is not None:
            seeds = _split(seed)
            w += self.memory.w_stddev() * standard_normal(tf.shape(w), seeds[0])
            M = _draw(state, seeds[1])
        logits = self._logits(self.memory.get_w_to_z_mean(w, M))
        return EpisodeLoss(
            log_likelihood=_log_likelihood(images, logits),
            autoencoder=_log_likelihood(images, self._logits(z)),
            kl_w=self.memory.get_dkl_w(w_mean),
            kl_memory=_kl_memory(state, self.memory.prior_mean, self.memory.prior_var()),
            public_kl_memory=self.memory.get_dkl_total(state),
            reconstruction=tf.sigmoid(logits),
        )

    def write(self, images, state):
        """The memories after images, written one after another."""
        return self.memory.update_state(self.encode(images), state)[0]

    def read(self, cues, state):
        """Images that the memories hold for cues [S, B, height, width, channels]."""
        return self.decode(self.memory.read_with_z(self.encode(cues), state)[0])

    def read_iteratively(self, cues, state, num_reads):
        """Reads with cues, then with the images that were read, and so on: [num_reads, S, B, height, width, channels].

        A read is linear in the code, so reading again with the code that was read changes next to nothing
        (`KanervaMemory.read_iteratively`); through decoder and encoder it does.
        """

        def again(_, cues):
            images = self.read(cues, state)
            return images, images

        return unroll(again, tf.range(num_reads), tf.convert_to_tensor(cues))[0]

    def sample(self, num_images, state, seed):
        """Images [num_images, B, height, width, channels] from the model: one M ~ state for each episode, w ~ p(w).

        Args:
          seed: int32 [2].
        """
        seeds = _split(seed)
        batch_size, rows = tf.shape(state.M_mean)[0], self.memory.memory_size
        w = self.memory.w_prior_stddev * standard_normal([num_images, batch_size, rows], seeds[0])
        return self.decode(self.memory.get_w_to_z_mean(w, _draw(state, seeds[1])))

    def export_functions(self):
        """Signatures for `tfmem.export.saved_model`, batch-major: `write`, `read`, `sample`, `initial_state`."""
        rows, columns = self.memory.memory_size, self.memory.code_size
        state = MemoryState(tf.TensorSpec([None, rows, columns]), tf.TensorSpec([None, rows, rows]))
        images = tf.TensorSpec([None, None, *self.frame_shape])
        integer = tf.TensorSpec([], tf.int32)

        def write(images, state):
            return {"state": self.write(swap_batch_and_time(images), state)}

        def read(cues, state):
            return {"images": swap_batch_and_time(self.read(swap_batch_and_time(cues), state))}

        def sample(num_images, state, seed):
            return {"images": swap_batch_and_time(self.sample(num_images, state, seed))}

        def initial_state(batch_size):
            return {"state": self.initial_state(batch_size)}

        return {
            "write": (write, {"images": images, "state": state}),
            "read": (read, {"cues": images, "state": state}),
            "sample": (sample, {"num_images": integer, "state": state, "seed": tf.TensorSpec([2], tf.int32)}),
            "initial_state": (initial_state, {"batch_size": integer}),
        }


def _split(seed):
    return tf.unstack(tf.random.split(seed, 2, alg="philox"))


def _draw(state, seed):
    """A sample [B, K, C] of the memories: `R + L eps` with `L L^T = U`."""
    return state.M_mean + tf.matmul(tf.linalg.cholesky(state.M_cov), standard_normal(tf.shape(state.M_mean), seed))


def _log_likelihood(images, logits):
    """[T, B]"""
    return -tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(images, logits), [2, 3, 4])


def _kl_memory(state, prior_mean, prior_var):
    """KL [B] of memories N(R, U) from N(prior_mean, prior_var I); U is shared by the C columns."""
    rows, columns = prior_mean.shape
    trace = tf.linalg.trace(state.M_cov) / prior_var
    log_ratio = rows * tf.math.log(prior_var) - tf.linalg.logdet(state.M_cov)
    distance = tf.reduce_sum(tf.square(state.M_mean - prior_mean), [1, 2]) / prior_var
    return 0.5 * (columns * (trace - rows + log_ratio) + distance)
