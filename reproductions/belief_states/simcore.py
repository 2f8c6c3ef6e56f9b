"""Common part of the SimCore experiments: episodes of a world, beliefs, the model that shapes them, probes, figures.

Paper: Gregor et al. 2019; A, B, E, F, G, H, I, K below are its appendices; `settings` has the fields. How to write one:

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(SimCoreConfig):
        num_blocks: int = 20
        \"\"\"Blocks of the world. Paper: 20 (I).\"\"\"

    class Experiment(SimCoreExperiment):
        name = "belief_states/terrain"

        def world(self):        # World("tfmem/Terrain-v0", arguments for gymnasium.make_vec, side, policy)

An update uses whole episodes of L_u frames. The loss is GECO's for frames modelled in rollouts (generative) or their
summed squared error (deterministic), plus the probes' losses, without gradients into the beliefs.
"""

import abc
import functools
import math
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfmem import training
from tfmem.data import episode_cache
from tfmem.envs.worlds import ACTIONS
from tfmem.models.belief import BeliefModel, MapDecoder, PositionDecoder, SimCoreHead, map_mse, position_cells
from tfmem.training import Evaluation, numbered
from tfmem.training.run_folder import RunFolder

from .figures import decoded_maps_figure, episode_figure, geco_figure, map_error_figure, rollout_figure

EVALUATION_SEED = -1  # config.seed is not negative
TRAINING_EPISODES, EVALUATION_EPISODES = 0, 1  # seeds of the files, shared by all runs
MOST_FOR_THE_MEAN_MAP = 1_000
SHOWN_AT = 0.7  # fraction of the trajectory; H shows the maps at step 70 of 100
SHOWN_MAPS, SHOWN_ROLLOUTS, SHOWN_STEPS, SHOWN_SAMPLES, ROLLOUT = 8, 3, 5, 3, 12
DECODED = "decoded_maps.npz"  # input of comparison.py


class World(NamedTuple):
    """World of the episodes."""

    id: str
    arguments: dict
    """Arguments of `gymnasium.make_vec`."""
    side: float
    """Length of the world's sides."""
    policy: Any
    """Policy that makes the episodes: see `tfmem.envs.exploration`."""
    num_actions: int = len(ACTIONS)
    """Number of the agent's actions."""


class SimCoreOutput(NamedTuple):
    """Output for a batch, of an update or of a step of an evaluation."""

    loss: tf.Tensor
    scores: dict
    errors: tf.Tensor  # [L_u, B], of the decoded map
    decoded: tf.Tensor  # [L_u, B, M, M, 3]
    states: Any  # nest of [L_u, B, ...]
    beliefs: tf.Tensor  # [L_u, B, C]


def frame_loss(output, geco, training, scores, prefix=""):
    """Compute the loss of a model of frames, and add its metrics to `scores`.

    Args:
      output: `SimCoreLoss` or `FrameLoss`.
      geco: its `GECO`; None: the loss is the summed squared error.
      training: update GECO's averages; else the loss of GECO is 0.
      scores: dict of scalars by name.
      prefix: of the names.
    """
    dimensions = math.prod(output.reconstruction.shape[1:])
    if geco is None or not training:
        scores[f"{prefix}error_per_pixel"] = tf.reduce_mean(output.error) / dimensions
    if geco is None:
        return tf.reduce_mean(output.error)
    if not training:
        scores[f"{prefix}kl_nats"] = tf.reduce_mean(output.kl)
        return tf.constant(0.0)
    terms = geco(output.error, output.kl)
    named = {"error_per_pixel": terms.error, "kl_nats": terms.kl}
    named |= {"constraint": terms.constraint, "multiplier": terms.multiplier}
    scores.update({prefix + score: value for score, value in named.items()})
    return terms.loss


class SimCoreExperiment(training.Experiment):
    """World, belief model and probes; see the top of this file."""

    rollouts_at = SHOWN_AT  # fraction of the trajectory at which the pictured rollouts start

    def __init__(self, config):
        super().__init__(config)
        self._streams = {}
        frame_shape, map_shape = (config.frame_size,) * 2 + (3,), (config.map_size,) * 2 + (3,)
        self.model = BeliefModel(
            frame_shape,
            self.world().num_actions,
            functools.partial(config.frame_model, frame_shape),
            config.core,
            encoder_channels=config.frame_channels,
            embedding_size=config.embedding_size,
        )
        self.head = SimCoreHead(
            self.model.simulation,
            self.model.frame_model,
            sim_length=config.overshoot,
            num_to_model_time=config.num_start_points,
            num_to_model_sim=config.num_offsets,
        )
        size = self.model.belief_size
        self.map_decoder = MapDecoder(size, map_shape, config.map_channels)
        self.position_decoder = PositionDecoder(size, config.cells_per_side**2, config.position_hidden)
        self.probes = [self.map_decoder, self.position_decoder]
        self.gecos = {}
        if config.generative:
            self.gecos["model"] = config.geco(frame_shape)
        if config.map_samples:
            self.map_model = config.map_model(map_shape, size)
            self.gecos["map_model"] = config.geco(map_shape)
            self.probes.append(self.map_model)
        self.optimizer = keras.optimizers.Adam(
            config.learning_rate, beta_1=config.beta_1, beta_2=config.beta_2, epsilon=1e-8
        )
        self.optimizer.build(self._trained())

    @abc.abstractmethod
    def world(self):
        """Return the `World` of the configuration."""

    # Data

    def data_source(self, split="train"):
        config, world, training_split = self.config, self.world(), split == "train"
        file = episode_cache.cached_file(
            world.id,
            number=config.num_episodes if training_split else config.eval_episodes,
            length=config.unroll_length - 1,
            seed=TRAINING_EPISODES if training_split else EVALUATION_EPISODES,
            policy=world.policy,
            arguments=world.arguments,
        )
        seed = config.seed if training_split else None
        return "tfmem.data.episode_cache:trajectories", {"file": file, "batch_size": config.batch_size, "seed": seed}

    def stream(self, split):
        if split not in self._streams:
            self._streams[split] = episode_cache.trajectories(**self.data_source(split)[1])
        return self._streams[split]

    def batch(self, update):
        return self.stream("train").batch(update)

    # Training

    def _trained(self):
        modules = [self.model, *self.probes] if self.config.train_core else self.probes
        return [variable for module in modules for variable in module.trainable_variables]

    def variables(self):
        modules = {"model": self.model, "map_decoder": self.map_decoder, "position_decoder": self.position_decoder}
        if self.config.map_samples:
            modules["map_samples"] = self.map_model
        modules |= {f"geco_{name}": geco for name, geco in self.gecos.items()}
        modules["optimizer"] = self.optimizer
        return {k: v for name, module in modules.items() for k, v in numbered(name, module.variables).items()}

    def _inputs(self, batch):
        """Return frames from 0 to 1 and the one-hot actions before them; the first frame has none."""
        frames = tf.cast(batch["frames"], tf.float32) / 255.0
        actions = tf.one_hot(batch["actions"], self.world().num_actions)
        return frames, tf.concat([tf.zeros_like(actions[:1]), actions], 0)

    def _output(self, batch, seed, training):
        """Compute the `SimCoreOutput` of a batch; in training, update GECO's averages."""
        seeds = tf.unstack(tf.random.split(seed, 3, alg="philox"))
        frames, actions = self._inputs(batch)
        beliefs, states, _ = self.model.belief(frames, actions)
        losses, scores = [], {}
        if self.config.train_core:
            output = self.head(frames, actions, states, seeds[0])
            losses.append(frame_loss(output, self.gecos.get("model"), training, scores))
        maps = tf.cast(batch["maps"], tf.float32) / 255.0
        decoded = self.map_decoder(beliefs)
        errors = map_mse(decoded, maps)
        cells = position_cells(batch["positions"], self.world().side, self.config.cells_per_side)
        logits = self.position_decoder(beliefs)
        position_loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(cells, logits))
        right = tf.argmax(logits, -1, tf.int32) == cells
        if self.config.map_samples:
            steps, size = self.config.unroll_length, self.config.num_start_points
            times = tf.random.stateless_uniform([size], seeds[1], 0, steps, tf.int32, alg="philox")
            beliefs_then = tf.stop_gradient(tf.reshape(tf.gather(beliefs, times), [-1, beliefs.shape[-1]]))
            maps_then = tf.reshape(tf.gather(maps, times), [-1, *maps.shape[2:]])
            output = self.map_model(maps_then, beliefs_then, seeds[2])
            losses.append(frame_loss(output, self.gecos["map_model"], training, scores, "map_samples_"))
        scores |= {
            "map_mse": tf.reduce_mean(errors),
            "map_mse_last": tf.reduce_mean(errors[-1]),
            "position_loss": position_loss,
            "position_accuracy": tf.reduce_mean(tf.cast(right, tf.float32)),
        }
        loss = tf.add_n([*losses, scores["map_mse"], position_loss])
        return SimCoreOutput(loss, scores, errors, decoded, states, beliefs)

    def train_step(self, update, batch, carry):
        seed = tf.stack([tf.constant(self.config.seed, tf.int32), tf.cast(update, tf.int32)])
        weights = self._trained()
        multipliers = [
            geco.multiplier.w for name, geco in self.gecos.items() if self.config.train_core or name != "model"
        ]
        with tf.GradientTape() as tape:
            output = self._output(batch, seed, training=True)
        gradients = tape.gradient(output.loss, [*weights, *multipliers], unconnected_gradients="zero")
        self.optimizer.apply(gradients[: len(weights)], weights)
        for multiplier, ascent in zip(multipliers, gradients[len(weights) :], strict=True):
            multiplier.assign_sub(ascent)
        norm = tf.linalg.global_norm(gradients[: len(weights)])
        return carry, {"loss": output.loss, **output.scores, "gradient_norm": norm}

    # Evaluation

    def _scores(self, number, batch):
        seed = tf.stack([tf.constant(EVALUATION_SEED, tf.int32), tf.cast(number, tf.int32)])
        return self._output(batch, seed, training=False)

    @functools.cached_property
    def _evaluation(self):
        """Evaluation of unseen episodes."""
        names = ["map_mse", "map_mse_last", "position_accuracy", "position_loss"]
        names += ["error_per_pixel"] * self.config.train_core + ["kl_nats"] * (
            self.config.train_core and self.config.generative
        )
        names += ["map_samples_error_per_pixel", "map_samples_kl_nats"] * self.config.map_samples
        steps = self.config.eval_episodes // self.config.batch_size
        return Evaluation.mean_of(steps, names, lambda number, batch: self._scores(number, batch).scores)

    def evaluation(self):
        return self._evaluation

    def evaluate(self):
        return self.evaluation().scores(self.stream("evaluation").batch)

    def result(self, evaluation):
        return {**evaluation, **self.baselines()}

    @functools.cached_property
    def _mean_map(self):
        """Return the mean of training maps, and the most visited cell."""
        file, config = self.stream("train").file, self.config
        total, visits = np.zeros([config.map_size] * 2 + [3]), np.zeros(config.cells_per_side**2)
        number = min(len(file), MOST_FOR_THE_MEAN_MAP)
        for episode in range(number):
            arrays = file[episode]
            total += arrays["maps"].mean(0) / (255.0 * number)
            visits += np.bincount(self._cells(arrays["positions"]), minlength=len(visits))
        return total, int(visits.argmax())

    def _cells(self, positions):
        return position_cells(positions, self.world().side, self.config.cells_per_side).numpy().ravel()

    def _unseen(self):
        """Iterate over the batches of an evaluation."""
        stream = self.stream("evaluation")
        return (stream.batch(number) for number in range(self.evaluation().num_steps))

    def baselines(self):
        """Scores without a belief: predict the mean map and the most frequent cell of training episodes."""
        mean_map, most_frequent = self._mean_map
        errors, right = [], []
        for batch in self._unseen():
            errors.append(np.square(batch["maps"] / 255.0 - mean_map).mean((1, 2, 3, 4)))
            right.append(np.mean(self._cells(batch["positions"]) == most_frequent))
        errors = np.mean(errors, 0)
        return {
            "mean_map_mse": float(errors.mean()),
            "mean_map_mse_last": float(errors[-1]),
            "most_frequent_cell_accuracy": float(np.mean(right)),
        }

    # Pictures

    def figures(self, folder):
        config = self.config
        trained = [row for row in RunFolder(folder.parent).metrics() if "train/loss" in row]
        if "model" in self.gecos and config.train_core:
            geco_figure(trained, config.kappa, self.name).savefig(folder / "geco.png", dpi=120)
        self.draw_curves(folder, ("map_mse", "map_mse_last", "position_accuracy"))

        batch = self.stream("evaluation").batch(0)
        output = self._scores(0, tf.nest.map_structure(tf.constant, batch))
        frames, maps, decoded = batch["frames"] / 255.0, batch["maps"] / 255.0, output.decoded.numpy()
        step = round(SHOWN_AT * (config.unroll_length - 1))
        model = f"{type(config.core).__name__.removesuffix('Config')}, {config.model}"
        shown = slice(SHOWN_MAPS)
        setting = f"$L_o$ = {config.overshoot}" if config.train_core else "untrained"
        figure = decoded_maps_figure(maps[step, shown], {model: {setting: decoded[step, shown]}}, self.name)
        figure.savefig(folder / "decoded_maps.png", dpi=120)

        along, mean_map = self._errors_along()
        errors = {"this trajectory": output.errors[:, 0].numpy(), "mean of all": along, "mean map": mean_map}
        steps = np.unique(np.linspace(0, config.unroll_length - 1, SHOWN_STEPS).round().astype(int))
        pictures = {int(t): (maps[t, 0], decoded[t, 0], frames[t, 0]) for t in steps}
        map_error_figure(errors, pictures, title=self.name).savefig(folder / "map_error.png", dpi=120)
        np.savez_compressed(
            folder / DECODED,
            maps=maps[step, shown].astype(np.float32),
            decoded=decoded[step, shown],
            errors=along,
            mean_map_errors=mean_map,
        )
        if config.train_core:
            start = round(self.rollouts_at * (config.unroll_length - 1))
            self._rollouts(batch, output, start).savefig(folder / "rollouts.png", dpi=120)
        if config.map_samples:
            self._map_samples(output, frames[:, 0], maps[:, 0], steps).savefig(folder / "map_samples.png", dpi=120)

    def _errors_along(self):
        """Mean errors [L_u] of the evaluation's maps at each step: of the decoded maps, of the mean map."""
        decoded = tf.function(lambda number, batch: self._scores(number, batch).errors, autograph=False)
        errors = []
        for number, batch in enumerate(self._unseen()):
            tensors = tf.nest.map_structure(tf.constant, batch)
            mean_map = np.square(batch["maps"] / 255.0 - self._mean_map[0]).mean((2, 3, 4))
            errors.append([decoded(tf.constant(number), tensors).numpy().mean(1), mean_map.mean(1)])
        return np.mean(errors, 0)

    def _rollouts(self, batch, output, start):
        """Simulate in latent space from `start` and sample frames: inputs over samples (Figures 13 and 14)."""
        frames, actions = self._inputs(batch)
        start = min(start, self.config.unroll_length - 2)
        end = min(start + 1 + ROLLOUT, self.config.unroll_length)
        state = tf.nest.map_structure(lambda s: s[start], output.states)
        beliefs, _ = self.model.simulate(state, actions[start + 1 : end])
        beliefs = beliefs[:, :SHOWN_ROLLOUTS]
        samples = self.model.render(beliefs, tf.constant([EVALUATION_SEED, 0])).numpy().swapaxes(0, 1)
        inputs = frames[start + 1 : end, :SHOWN_ROLLOUTS].numpy().swapaxes(0, 1)
        return rollout_figure(inputs, samples, title=f"{self.name}: rollouts from step {start}")

    def _map_samples(self, output, frames, maps, steps):
        """Columns of `steps`: the frame, the true map, the decoded one, samples (Figure 11)."""
        beliefs = tf.gather(output.beliefs[:, 0], steps)
        rows = {"frame": frames[steps], "map": maps[steps], "decoded": output.decoded.numpy()[steps, 0]}
        for n in range(SHOWN_SAMPLES):
            rows[f"sample {n + 1}"] = self.map_model.sample(beliefs, tf.constant([EVALUATION_SEED, n])).numpy()
        return episode_figure(rows, steps.tolist(), title=self.name)
