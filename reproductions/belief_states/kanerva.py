"""Dynamic Kanerva machine alone: episodes of MNIST digits, denoising and generation (Wu et al. 2018).

The memory is that of LSTM + Kanerva in Gregor et al. 2019. Its own paper (arXiv 1811.09556) stores Omniglot, CIFAR and
DMLab images. CODE below is github.com/deepmind/dynamic-kanerva-machines, which has the memory alone.

Digits are padded with zeros to 32x32; pixels of 128 or more are 1, others 0. Not specified: encoder, decoder,
likelihood, optimizer and noise of the cues; we use those of the fields below.
"""

import dataclasses
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from tfmem import plotting, training
from tfmem.data.images import MNIST_PADDING, mnist_stream
from tfmem.models.kanerva_machine import KanervaMachine
from tfmem.training import Evaluation, RunConfig, numbered
from tfmem.validation import check_above_zero, check_choice, check_range

EVALUATION_SEED = -1  # config.seed is not negative
TERMS = ("elbo_nats_per_image", "log_likelihood_nats", "autoencoder_nats", "kl_w_nats", "kl_memory_nats")
BOUNDS = (*TERMS, "elbo_at_means_nats_per_image")
CUES = ("clean", "salt_and_pepper", "occlusion")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    code_size: int = 100
    """Size of a code. Public code: 100 for Omniglot (README)."""
    memory_size: int = 32
    """Rows of the memory. Public code: 32 for Omniglot (README)."""
    num_opt_iters: int = 1
    """Refinements of weights and posterior at each write of a code. Public code: 1 (default)."""
    w_prior_stddev: float = 1.0
    """Prior standard deviation of the weights. Public code: 1 (default)."""
    obs_noise_stddev: float = 1.0
    """Standard deviation of codes. Public code: 1 (default). 0: trained, from 1."""
    sample: bool = False
    """Read samples of weights and memory in training, so that its objective is a bound; else their means. Public code:
    means (default)."""
    memory_kl: Literal["public", "exact"] = "public"
    """Divergence of the memory that training subtracts. Public code: `get_dkl_total` (README), with only the diagonals
    of the covariances and without a factor one half. Reports have the exact divergence."""
    channels: tuple[int, int, int] = (32, 64, 128)
    """Channels of the encoder's layers, and of the decoder's from its end. Not specified; we use these."""
    episode_size: int = 32
    """Images of an episode. Not specified; we use the number of rows."""
    batch_size: int = 16
    """Episodes of an update. Not specified; we use this."""
    learning_rate: float = 1e-4
    """Learning rate of Adam, with its default constants. Not specified; we use this."""
    noise_fraction: float = 0.15
    """Fraction of a cue's pixels that salt-and-pepper noise sets to 0 or 1, equally often. Not specified; we use this.
    """
    occlusion: int = 12
    """Side of the square, anywhere in a cue, that is set to 0. Not specified; we use this."""
    num_reads: int = 5
    """Reads of a cue in an evaluation, each with the image of the one before. Not specified; we use this."""
    eval_batches: int = 19
    """Batches of an evaluation, from the first test image. Not specified; we use 19: all whole batches."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("episode_size", "batch_size", "num_reads", "eval_batches"):
            check_range(name, getattr(self, name), 1)
        check_range("obs_noise_stddev", self.obs_noise_stddev, 0)
        check_range("noise_fraction", self.noise_fraction, 0, 1)
        check_range("occlusion", self.occlusion, 0, 28 + 2 * MNIST_PADDING)
        check_choice("memory_kl", self.memory_kl, ("public", "exact"))
        check_above_zero(learning_rate=self.learning_rate)


PRESETS = {
    # Number of updates: not specified; we use this.
    "paper": Config(num_updates=200_000, updates_per_call=10, log_every=50, eval_every=5_000, checkpoint_seconds=600.0),
    # Not specified; we use sizes for minutes on two CPU cores, and a true bound. With 16 rows the memory's KL falls:
    # then the weights alone carry the digit.
    "demo": Config(
        code_size=50,
        memory_size=8,
        channels=(16, 32, 64),
        sample=True,
        memory_kl="exact",
        episode_size=8,
        batch_size=16,
        learning_rate=1e-3,
        num_updates=4_000,
        updates_per_call=10,
        log_every=20,
        eval_every=1_000,
        eval_batches=20,
    ),
    "smoke": Config(
        code_size=6,
        memory_size=4,
        channels=(2, 3, 4),
        sample=True,
        memory_kl="exact",
        episode_size=3,
        batch_size=2,
        num_reads=2,
        num_updates=8,
        updates_per_call=2,
        log_every=2,
        checkpoint_every=4,
        eval_batches=2,
    ),
}
_NO_NUMBER = "none for MNIST: the paper stores Omniglot, CIFAR and DMLab images"
PAPER = {name: (None, _NO_NUMBER) for name in ("elbo_nats_per_image", *(f"{cue}_error_1" for cue in CUES))}
DATASETS = ("mnist",)
STATUS = "demo"
SIGNATURES = {"write", "read", "sample", "initial_state"}


def _seed(seed, number):
    return tf.stack([tf.constant(seed), tf.cast(number, tf.int32)])


def _fractions(shape, seed):
    """Draw float32 numbers from 0 to less than 1, the same under XLA and without."""
    return tf.cast(tf.random.stateless_uniform(shape, seed, 0, 2**24, tf.int32, alg="philox"), tf.float32) / 2**24


def salt_and_pepper(images, fraction, seed):
    """Set this fraction of the images' pixels to 0 or 1, equally often."""
    draw = _fractions(tf.shape(images), seed)
    return tf.where(draw < fraction / 2, 0.0, tf.where(draw < fraction, 1.0, images))


def occlude(images, side, seed):
    """Set a square at a random location of each image [T, B, height, width, channels] to zero."""
    height, width = images.shape[2:4]
    first = _fractions([2, *images.shape[:2], 1], seed)

    def inside(first, size):
        first = tf.floor(first * (size - side + 1))
        places = tf.range(size, dtype=tf.float32)
        return (places >= first) & (places < first + side)

    rows, columns = inside(first[0], height), inside(first[1], width)
    return tf.where(rows[..., :, None, None] & columns[..., None, :, None], 0.0, images)


class Experiment(training.Experiment):
    name = "belief_states/kanerva"

    def __init__(self, config):
        super().__init__(config)
        self._streams = {}
        batches = self.stream("evaluation").batches_per_pass  # no image twice
        check_range("eval_batches", config.eval_batches, 1, batches)
        frame_shape = self.stream("train").images.shape[1:]
        self.model = KanervaMachine(
            frame_shape,
            code_size=config.code_size,
            memory_size=config.memory_size,
            channels=config.channels,
            num_opt_iters=config.num_opt_iters,
            w_prior_stddev=config.w_prior_stddev,
            obs_noise_stddev=config.obs_noise_stddev,
        )
        self.optimizer = keras.optimizers.Adam(config.learning_rate)
        self.optimizer.build(self.model.trainable_variables)
        reads = [f"error_{n + 1}" for n in range(config.num_reads)]
        of_cues = ["cue_error", "autoencoder_error", "unwritten_error", *reads, "codes_error"]
        scores = [*BOUNDS, *(f"{cue}_{score}" for cue in CUES for score in of_cues)]
        self._evaluation = Evaluation.mean_of(config.eval_batches, scores, self._scores)

    def data_source(self, split="train"):
        config = self.config
        arguments = {"split": "train", "batch_size": config.episode_size * config.batch_size, "seed": config.seed}
        if split == "evaluation":
            arguments |= {"split": "test", "seed": None}
        return "tfmem.data.images:mnist_stream", arguments

    def stream(self, split):
        if split not in self._streams:
            self._streams[split] = mnist_stream(**self.data_source(split)[1])
        return self._streams[split]

    def batch(self, update):
        return self.stream("train").batch(update)

    def variables(self):
        return {**numbered("model", self.model.variables), **numbered("optimizer", self.optimizer.variables)}

    def _episodes(self, batch):
        """Binary images [T, B, height, width, channels]."""
        images = tf.cast(batch["images"] >= 128, tf.float32)
        return tf.reshape(images, [self.config.episode_size, self.config.batch_size, *images.shape[1:]])

    def train_step(self, update, batch, carry):
        images = self._episodes(batch)
        weights = self.model.trainable_variables
        seed = _seed(self.config.seed, update) if self.config.sample else None
        with tf.GradientTape() as tape:
            terms = self.model(images, seed)
            kl_memory = terms.kl_memory if self.config.memory_kl == "exact" else terms.public_kl_memory
            bound = terms.log_likelihood - terms.kl_w - kl_memory / self.config.episode_size
            loss = -tf.reduce_mean(bound + terms.autoencoder)
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply(gradients, weights)
        return carry, {"loss": loss, **self._terms(terms), "gradient_norm": tf.linalg.global_norm(gradients)}

    def _terms(self, loss):
        """Terms of an `EpisodeLoss`, in nats per image."""
        size = self.config.episode_size
        values = loss.elbo / size, loss.log_likelihood, loss.autoencoder, loss.kl_w, loss.kl_memory / size
        return dict(zip(TERMS, map(tf.reduce_mean, values), strict=True))

    def _cues(self, images, number):
        """Cues by name: without noise, with noise, with a square missing."""
        config = self.config
        seeds = tf.unstack(tf.random.split(_seed(EVALUATION_SEED, number), 2, alg="philox"))
        noisy = salt_and_pepper(images, config.noise_fraction, seeds[0]), occlude(images, config.occlusion, seeds[1])
        return dict(zip(CUES, (images, *noisy), strict=True))

    def _scores(self, number, batch):
        """Compute the bound with samples and at the means, and squared errors per pixel, of one batch.

        Errors, for every kind of cue: of the cue itself, of the autoencoder without a memory, of a read from the prior
        memory, after 1, 2, ... reads, and after as many reads with the code of the previous read.
        """
        images = self._episodes(batch)
        at_means = self.model(images)
        scores = {
            **self._terms(self.model(images, _seed(EVALUATION_SEED, number))),
            "elbo_at_means_nats_per_image": tf.reduce_mean(at_means.elbo) / self.config.episode_size,
        }
        prior = self.model.initial_state(self.config.batch_size)
        state = self.model.write(images, prior)

        def error(predicted):
            return tf.reduce_mean(tf.square(predicted - images))

        for name, cues in self._cues(images, number).items():
            scores[f"{name}_cue_error"] = error(cues)
            codes = self.model.encode(cues)
            scores[f"{name}_autoencoder_error"] = error(self.model.decode(codes))
            scores[f"{name}_unwritten_error"] = error(self.model.read(cues, prior))
            reads = self.model.read_iteratively(cues, state, self.config.num_reads)
            for n in range(self.config.num_reads):
                scores[f"{name}_error_{n + 1}"] = error(reads[n])
            by_codes, _ = self.model.memory.read_iteratively(codes, state, self.config.num_reads)
            scores[f"{name}_codes_error"] = error(self.model.decode(by_codes[-1]))
        return scores

    def evaluation(self):
        """Evaluation of test images."""
        return self._evaluation

    def evaluate(self):
        return self.evaluation().scores(self.stream("evaluation").batch)

    def figures(self, folder):
        batch = self.stream("evaluation").batch(0)
        images = self._episodes(batch)
        state = self.model.write(images, self.model.initial_state(self.config.batch_size))

        def first_episode(images):
            return images.numpy()[:16, 0]

        rows = [first_episode(images)]
        for name, cues in self._cues(images, 0).items():
            reads = self.model.read_iteratively(cues, state, self.config.num_reads)
            rows += [] if name == "clean" else [first_episode(cues)]
            rows += [first_episode(reads[0]), first_episode(reads[-1])]
        plotting.image_grid(rows).save(folder / "denoising.png")

        seeds = tf.constant([[EVALUATION_SEED, n] for n in range(2)])
        count = len(rows[0])
        written = self.model.sample(4 * count, state, seeds[0]).numpy()[:, 0]
        prior = self.model.sample(4 * count, self.model.initial_state(1), seeds[1]).numpy()[:, 0]
        rows = np.concatenate([rows[0], written, prior]).reshape(9, count, *self.model.frame_shape)
        plotting.image_grid(rows).save(folder / "samples.png")
