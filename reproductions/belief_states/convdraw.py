"""ConvDRAW as an unconditional model of MNIST digits or of frames, with GECO (Gregor et al. 2019, appendices A and G).

A, F and G below are the paper's appendices; it trains ConvDRAW on frames of its environments, not on digits. Digits
are padded with zeros to 32x32, so their states are 4x4; those of 64x64 frames are 8x8. Values are from 0 to 1.
"""

import dataclasses
import math
from typing import Literal

import keras
import tensorflow as tf

from tfmem import plotting, training
from tfmem.data import episode_cache
from tfmem.data.images import mnist_stream
from tfmem.envs.exploration import ExploringPolicy
from tfmem.losses.geco import GECO
from tfmem.models.convdraw import ConvDRAW
from tfmem.training import Evaluation, RunConfig, numbered
from tfmem.training.run_folder import RunFolder
from tfmem.validation import check_above_zero, check_range

from .figures import geco_figure

EVALUATION_SEED = -1  # config.seed is not negative
# Frames per walk of random_city, and probability to look around. Not specified; we use these.
EPISODE_FRAMES, EPISODE_LOOK = 20, 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    num_steps: int = 8
    """Steps of ConvDRAW. Paper: 8 (A, Table 2)."""
    data: Literal["mnist", "random_city"] = "mnist"
    """Data to model: digits, or frames of Random City."""
    frame_size: int = 64
    """Side of the frames of random_city. Paper: 64 (A)."""
    num_episodes: int = 500
    """Walks through cities that give the frames; a tenth is for evaluation. Not specified; we use this."""
    latent_channels: int = 16
    """Channels of the latents of a step. Not specified; we use this."""
    encoder_hidden: tuple[int, int] = (16, 16)
    """Channels of the encoder's layers. Paper: appendix A."""
    encoder_channels: int = 64
    """Channels of the encoder's state. Not specified; we use the other states' number."""
    prior_channels: int = 64
    """Channels of the prior network's state. Paper: appendix A."""
    decoder_channels: int = 64
    """Channels of the decoder's state. Paper: appendix A."""
    decoder_hidden: tuple[int, int] = (32, 32)
    """Channels of the decoder's layers. Paper: appendix A."""
    conditioning_channels: int = 16
    """Channels of the learned map in place of a conditioning. Not specified; we use this."""
    min_stddev: float = 0.01
    """Floor of the latents' standard deviations. Not specified; we use this."""
    kappa: float = 1e-3
    """Squared error per pixel that GECO allows. Paper: about 1e-3 is best for maps (G). Not specified per what; we use
    pixels."""
    multiplier_rate: float = 0.1
    """Rate of lambda; an update multiplies it by about exp(4 rate * constraint per pixel). Not specified; we use
    0.1."""
    batch_size: int = 100
    """Images of an update. Not specified; we use this."""
    learning_rate: float = 2e-4
    """Learning rate of Adam. Paper: 1e-4 to 2e-4 (Table 2)."""
    beta_1: float = 0.9
    """Decay of Adam's first moment. Paper: 0 to 0.95 (Table 2)."""
    beta_2: float = 0.999
    """Decay of Adam's second moment. Paper: 0.99 to 0.999 (Table 2)."""
    eval_batches: int = 100
    """Batches of an evaluation, from the first test image. Not specified; we use 100 of 100: all digits."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("batch_size", "eval_batches"):
            check_range(name, getattr(self, name), 1)
        check_range("num_episodes", self.num_episodes, 10)
        if self.data == "random_city":  # an evaluation must fill a batch too
            check_range("batch_size", self.batch_size, 1, self.num_episodes // 10 * EPISODE_FRAMES)
        check_above_zero(kappa=self.kappa, learning_rate=self.learning_rate)
        check_range("multiplier_rate", self.multiplier_rate, 0)
        for name in ("beta_1", "beta_2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, must be from 0 to less than 1")


# Number of updates: not specified; we use this.
_PAPER = Config(num_updates=200_000, updates_per_call=10, log_every=50, eval_every=5_000, checkpoint_seconds=600.0)
# Not specified; we use half the channels and a larger error, for two CPU cores and about twenty minutes.
_DEMO = Config(
    latent_channels=8,
    encoder_hidden=(8, 16),
    encoder_channels=32,
    prior_channels=32,
    decoder_channels=32,
    decoder_hidden=(16, 8),
    conditioning_channels=8,
    kappa=1e-2,
    batch_size=32,
    learning_rate=1e-3,
    num_updates=4_000,
    updates_per_call=10,
    log_every=20,
    eval_every=1_000,
    eval_batches=312,
)
PRESETS = {
    "paper": _PAPER,
    "paper_frames": dataclasses.replace(_PAPER, data="random_city", eval_batches=10),
    "demo": _DEMO,
    "demo_frames": dataclasses.replace(_DEMO, data="random_city", frame_size=16, kappa=2e-3, eval_batches=31),
    "smoke": Config(
        num_steps=2,
        frame_size=8,
        num_episodes=10,
        latent_channels=2,
        encoder_hidden=(2, 2),
        encoder_channels=4,
        prior_channels=4,
        decoder_channels=4,
        decoder_hidden=(2, 2),
        conditioning_channels=2,
        batch_size=4,
        num_updates=8,
        updates_per_call=2,
        log_every=2,
        checkpoint_every=4,
        eval_batches=2,
    ),
}
_NO_NUMBER = "none: the paper trains it on frames of its environments"
PAPER = {name: (None, _NO_NUMBER) for name in ("error_per_pixel", "kl_nats", "bound_nats_per_dim")}
DATASETS = ("mnist",)
STATUS = "demo"
SIGNATURES = {"sample", "reconstruct"}


class Experiment(training.Experiment):
    name = "belief_states/convdraw"

    def __init__(self, config):
        super().__init__(config)
        self._streams = {}
        batches = self.stream("evaluation").batches_per_pass  # no image twice
        check_range("eval_batches", config.eval_batches, 1, batches)
        frame_shape = self.stream("train").images.shape[1:]
        canvas = {"mnist": 0.0, "random_city": 0.5}[config.data]  # most of a digit's image is black
        self.model = ConvDRAW(
            frame_shape,
            num_steps=config.num_steps,
            latent_channels=config.latent_channels,
            encoder_hidden=config.encoder_hidden,
            encoder_channels=config.encoder_channels,
            prior_channels=config.prior_channels,
            decoder_channels=config.decoder_channels,
            decoder_hidden=config.decoder_hidden,
            conditioning_channels=config.conditioning_channels,
            canvas=canvas,
            min_stddev=config.min_stddev,
        )
        self.dimensions = math.prod(frame_shape)
        self.geco = GECO(config.kappa, self.dimensions, rate=config.multiplier_rate)
        self.optimizer = keras.optimizers.Adam(
            config.learning_rate, beta_1=config.beta_1, beta_2=config.beta_2, epsilon=1e-8
        )
        self.optimizer.build(self.model.trainable_variables)
        self._evaluate_step = tf.function(self._evaluation_step, autograph=False)

    def data_source(self, split="train"):
        config, training_split = self.config, split == "train"
        order = {"batch_size": config.batch_size, "seed": config.seed if training_split else None}
        if config.data == "mnist":
            return "tfmem.data.images:mnist_stream", {"split": "train" if training_split else "test", **order}
        file = episode_cache.cached_file(
            "tfmem/RandomCity-v0",
            number=config.num_episodes if training_split else config.num_episodes // 10,
            length=EPISODE_FRAMES - 1,
            seed=0 if training_split else 1,
            policy=ExploringPolicy(EPISODE_LOOK),
            arguments={"frame_size": config.frame_size},
        )
        return "tfmem.data.episode_cache:frames", {"file": file, **order}

    def stream(self, split):
        if split not in self._streams:
            stream = mnist_stream if self.config.data == "mnist" else episode_cache.frames
            self._streams[split] = stream(**self.data_source(split)[1])
        return self._streams[split]

    def batch(self, update):
        return self.stream("train").batch(update)

    def variables(self):
        return {
            **numbered("model", self.model.variables),
            **numbered("geco", self.geco.variables),
            **numbered("optimizer", self.optimizer.variables),
        }

    def _frame_loss(self, batch, seed, number):
        """Compute the `FrameLoss` of a batch; noise depends on the seed and the batch's number."""
        frames = tf.cast(batch["images"], tf.float32) / 255.0
        return self.model(frames, None, tf.stack([tf.constant(seed, tf.int32), tf.cast(number, tf.int32)]))

    def _bound(self, error, kl):
        """Bound -log p(x) <= KL - log N(x; c_T, kappa), in nats per dimension, of values from 0 to 1."""
        variance = self.config.kappa
        return kl / self.dimensions + error / (2 * variance) + math.log(2 * math.pi * variance) / 2

    def train_step(self, update, batch, carry):
        weights, w = self.model.trainable_variables, self.geco.multiplier.w
        with tf.GradientTape() as tape:
            frame_loss = self._frame_loss(batch, self.config.seed, update)
            terms = self.geco(frame_loss.error, frame_loss.kl)
        *gradients, ascent = tape.gradient(terms.loss, [*weights, w])
        self.optimizer.apply(gradients, weights)
        w.assign_sub(ascent)
        return carry, {
            "loss": terms.loss,
            "error_per_pixel": terms.error,
            "kl_nats": terms.kl,
            "constraint": terms.constraint,
            "multiplier": terms.multiplier,
            "gradient_norm": tf.linalg.global_norm(gradients),
        }

    def evaluation(self):
        """Evaluate test images; the carry is the sum of the batches' mean errors and KLs."""
        return Evaluation(self.config.eval_batches, (tf.constant(0.0), tf.constant(0.0)), self._evaluate_step)

    def _evaluation_step(self, number, batch, carry):
        frame_loss = self._frame_loss(batch, EVALUATION_SEED, number)
        errors, kls = carry
        errors += tf.reduce_mean(frame_loss.error) / self.dimensions
        kls += tf.reduce_mean(frame_loss.kl)
        done = tf.cast(number + 1, tf.float32)
        error, kl = errors / done, kls / done
        scores = {"error_per_pixel": error, "kl_nats": kl, "bound_nats_per_dim": self._bound(error, kl)}
        return (errors, kls), scores

    def evaluate(self):
        return self.evaluation().scores(self.stream("evaluation").batch)

    def figures(self, folder):
        samples = self.model.sample(64, tf.constant([EVALUATION_SEED, 0])).numpy()
        plotting.image_grid(samples.reshape(8, 8, *samples.shape[1:])).save(folder / "samples.png")
        images = self.stream("evaluation").images[:48]
        model = self._frame_loss({"images": images}, EVALUATION_SEED, 0).reconstruction.numpy()
        pairs = zip(
            (images / 255.0).reshape(4, -1, *model.shape[1:]), model.reshape(4, -1, *model.shape[1:]), strict=True
        )
        plotting.image_grid([row for pair in pairs for row in pair]).save(folder / "reconstructions.png")
        rows = [row for row in RunFolder(folder.parent).metrics() if "train/loss" in row]
        geco_figure(rows, self.config.kappa, self.name).savefig(folder / "geco.png", dpi=120)
