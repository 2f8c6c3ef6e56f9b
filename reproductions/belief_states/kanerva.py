"""The dynamic Kanerva machine alone: episodes of MNIST digits, denoising and generation (Wu et al. 2018).

The memory is that of LSTM + Kanerva in Gregor et al. 2019; the paper it is from (arXiv 1811.09556) stores Omniglot,
CIFAR and DMLab images. CODE below is github.com/deepmind/dynamic-kanerva-machines, which is the memory alone.

Digits have a border of zeros to 32x32; a pixel is 1 where it is 128 or more, else 0. What CODE does not say (encoder,
decoder, likelihood, optimiser, noise of the cues) is our choice.
"""

import dataclasses
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from reproductions.belief_states.image_figures import image_grid
from tfmem import training
from tfmem.data.images import MNIST_PADDING, mnist_stream
from tfmem.models.kanerva_machine import KanervaMachine
from tfmem.training import Evaluation, RunConfig, check_range, numbered

EVALUATION_SEED = -1  # config.seed is not negative
TERMS = ("elbo_nats_per_image", "log_likelihood_nats", "autoencoder_nats", "kl_w_nats", "kl_memory_nats")
BOUNDS = (*TERMS, "elbo_at_means_nats_per_image")
CUES = ("clean", "salt_and_pepper", "occlusion")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    code_size: int = 100
    """Of a code; CODE's README: 100 for Omniglot."""
    memory_size: int = 32
    """Rows of the memory; CODE's README: 32 for Omniglot."""
    num_opt_iters: int = 1
    """Times that weights and posterior are refined when a code is written; CODE's default."""
    w_prior_stddev: float = 1.0
    """Of the weights; CODE's default."""
    obs_noise_stddev: float = 1.0
    """Of codes; CODE's default. Zero: trained, from 1."""
    sample: bool = False
    """Whether training reads samples of weights and memory, which makes its objective a bound, or their means; CODE's
    default: means."""
    memory_kl: Literal["public", "exact"] = "public"
    """The memory's divergence that training subtracts: CODE's README names `get_dkl_total`, which has the diagonals of
    the covariances alone and no factor one half. Reports have the exact one."""
    channels: tuple[int, int, int] = (32, 64, 128)
    """Of the encoder's layers, and of the decoder's from its end; ours."""
    episode_size: int = 32
    """Images of an episode; ours: as many as rows."""
    batch_size: int = 16
    """Episodes of an update; ours."""
    learning_rate: float = 1e-4
    """Of Adam, whose other settings are the usual ones; ours."""
    noise_fraction: float = 0.15
    """Of a cue's pixels that salt-and-pepper noise sets to 0 or 1, equally often; ours."""
    occlusion: int = 12
    """Side of the square of a cue that is set to 0, anywhere in the image; ours."""
    num_reads: int = 5
    """Reads of a cue in an evaluation, each with the image of the one before; ours."""
    eval_batches: int = 19
    """Batches of test images, from the first, in an evaluation; ours: 19 are all whole batches."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("episode_size", "batch_size", "num_reads", "eval_batches"):
            check_range(self, name, 1)
        check_range(self, "obs_noise_stddev", 0)
        check_range(self, "noise_fraction", 0, 1)
        check_range(self, "occlusion", 0, 28 + 2 * MNIST_PADDING)
        if self.memory_kl not in ("public", "exact"):
            raise ValueError(f"memory_kl: {self.memory_kl!r}, must be 'public' or 'exact'")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: {self.learning_rate}, must be greater than 0")


PRESETS = {
    # Number of updates: ours.
    "paper": Config(num_updates=200_000, updates_per_call=10, log_every=50, eval_every=5_000, checkpoint_seconds=600.0),
    # Ours: minutes on two CPU cores, and a true bound. With 16 rows the memory's KL falls: the weights alone then carry
    # the digit.
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
    """float32 from 0 to less than 1, the same under XLA and without."""
    return tf.cast(tf.random.stateless_uniform(shape, seed, 0, 2**24, tf.int32, alg="philox"), tf.float32) / 2**24


def salt_and_pepper(images, fraction, seed):
    """Images with this fraction of their pixels set to 0 or 1, equally often."""
    draw = _fractions(tf.shape(images), seed)
    return tf.where(draw < fraction / 2, 0.0, tf.where(draw < fraction, 1.0, images))


def occlude(images, side, seed):
    """Images [T, B, height, width, channels] with a square of zeros each, anywhere that it fits."""
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
        check_range(config, "eval_batches", 1, self.stream("evaluation").batches_per_pass)  # no image twice
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
            told = self.model(images, seed)
            kl_memory = told.kl_memory if self.config.memory_kl == "exact" else told.public_kl_memory
            bound = told.log_likelihood - told.kl_w - kl_memory / self.config.episode_size
            loss = -tf.reduce_mean(bound + told.autoencoder)
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply(gradients, weights)
        return carry, {"loss": loss, **self._told(told), "gradient_norm": tf.linalg.global_norm(gradients)}

    def _told(self, told):
        """The terms of an `EpisodeLoss`, in nats per image."""
        size = self.config.episode_size
        values = told.elbo / size, told.log_likelihood, told.autoencoder, told.kl_w, told.kl_memory / size
        return dict(zip(TERMS, map(tf.reduce_mean, values), strict=True))

    def _cues(self, images, number):
        """Cues by name: without noise, with noise, with a square missing."""
        config = self.config
        seeds = tf.unstack(tf.random.split(_seed(EVALUATION_SEED, number), 2, alg="philox"))
        noisy = salt_and_pepper(images, config.noise_fraction, seeds[0]), occlude(images, config.occlusion, seeds[1])
        return dict(zip(CUES, (images, *noisy), strict=True))

    def _scores(self, number, batch):
        """The bound with samples and at the means, and squared errors per pixel, of one batch.

        Errors, for every kind of cue: of the cue itself, of the autoencoder without a memory, of a read from the prior
        memory, after 1, 2, ... reads, and after as many reads with the code of the one before it.
        """
        images = self._episodes(batch)
        at_means = self.model(images)
        scores = {
            **self._told(self.model(images, _seed(EVALUATION_SEED, number))),
            "elbo_at_means_nats_per_image": tf.reduce_mean(at_means.elbo) / self.config.episode_size,
        }
        prior = self.model.initial_state(self.config.batch_size)
        state = self.model.write(images, prior)

        def error(told):
            return tf.reduce_mean(tf.square(told - images))

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
        """Test images."""
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
        image_grid(rows).save(folder / "denoising.png")

        seeds = tf.constant([[EVALUATION_SEED, n] for n in range(2)])
        count = len(rows[0])
        written = self.model.sample(4 * count, state, seeds[0]).numpy()[:, 0]
        prior = self.model.sample(4 * count, self.model.initial_state(1), seeds[1]).numpy()[:, 0]
        rows = np.concatenate([rows[0], written, prior]).reshape(9, count, *self.model.frame_shape)
        image_grid(rows).save(folder / "samples.png")
