"""Agents that learn to act while SimCore shapes their beliefs (Gregor et al. 2019, appendices B, D and I).

    x_t = [encoder(frame_t), reward_t, onehot(a_t)]     a_t led to frame t
    b_t, s_t = belief core(x_t, s_{t-1})                the core's state is reset where an episode starts
    policy, value = heads(b_t)
    loss = V-trace(policy, value) + w SimCore(rollouts of the simulation core from s_t)

One update has both losses; both pass gradients into the core and the encoder (D). A frame that the simulation would
reach over the end of an episode is not modelled. The decoders of maps get no gradient into the beliefs, and have an
optimizer of their own, so that they leave the agent as it is.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfmem import export, plotting
from tfmem.cores.config import AnyCoreConfig
from tfmem.envs.grid.base import take
from tfmem.models.belief import MapDecoder, SimCoreHead, map_mse, render, simulation_core
from tfmem.optimizers import make_optimizer
from tfmem.recurrence import swap_batch_and_time, unroll
from tfmem.rl import AgentConfig, AgentExperiment
from tfmem.rl.config import FrameTorsoConfig
from tfmem.rl.experiment import EVALUATION_SEED
from tfmem.rl.learner import Auxiliary, AuxiliaryLoss, draws
from tfmem.rl.rollout import initial_actor_state, rollout
from tfmem.rl.terrain_world import TerrainWorld
from tfmem.training import numbered
from tfmem.validation import check_range

from ..agents import by_setting, draw_learning_curves
from .figures import episode_figure, map_error_figure, rollout_figure
from .settings import ModelFields
from .simcore import frame_loss

MOST_FOR_THE_MEAN_MAP = 256
SHOWN_STEPS, SHOWN_SAMPLES, SHOWN_ROLLOUTS, SHOWN_FRAMES, ROLLOUT = 6, 3, 3, 12, 12
ROLLOUT_STARTS_AT = 0.25  # of an episode
ALONG = "map_error_along.npz"  # input of `compare`


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeliefAgentConfig(ModelFields, AgentConfig):
    """Configuration of an agent whose beliefs SimCore shapes."""

    world: TerrainWorld
    """World. Paper: Procedural Terrain with 20 blocks (I)."""
    core: AnyCoreConfig
    """Core of the belief and the simulation network. Paper: LSTM, LSTM + RMA or LSTM + Kanerva (B), 512 to 1024 units
    (Table 2)."""
    torso: FrameTorsoConfig = dataclasses.field(default_factory=FrameTorsoConfig)
    """Encoder of frames."""
    simcore_weight: float = 1.0
    """Weight w of SimCore's loss beside the actor-critic loss; 0: the agent alone. Not specified; presets choose it."""

    def __post_init__(self):
        super().__post_init__()
        check_range("overshoot", self.overshoot, 1, self.unroll_length)
        check_range("simcore_weight", self.simcore_weight, 0)


class Totals(NamedTuple):
    """Sums of an evaluation.

    running: bool [B], True for worlds whose first episode has not ended.
    along: [steps, 3] by step of the episode: errors of decoded maps, of the mean map, number of worlds.
    last: [B, 2], both errors at the last step so far.
    sums: of SimCore's scores, by name.
    """

    running: tf.Tensor
    along: tf.Tensor
    last: tf.Tensor
    sums: dict


class BeliefAgentExperiment(AgentExperiment):
    """Agent, SimCore and decoders of the map; see the top of this file.

    Scores are those of `AgentExperiment` (`episode_return` is the number of blocks) and, over the same episodes,
    "map_mse", "map_mse_start" and "map_mse_end": the decoded map's error, mean over steps, at the first frame, and at
    the last step of an episode; the same of "mean_map", the mean map of training levels; "error_per_pixel" and
    "kl_nats" of the frames modelled in rollouts.
    """

    def auxiliary(self):
        config, world = self.config, self.world
        frame_shape, map_shape = world.observation_shape, (world.map_size, world.map_size, 3)
        sizes = tf.nest.flatten(self.model.cell.output_size)
        if len(sizes) > 1:
            raise ValueError(f"core: {config.core!r}, must be a core whose output is a vector")
        size = tf.TensorShape(sizes[0]).num_elements()
        trained, self.gecos = [], {}
        if config.simcore_weight:
            self.simulation = simulation_core(config.core.make(world.max_steps + 1))
            self.simulation.project_inputs(tf.zeros([1, world.num_actions]))
            self.frame_model = config.frame_model(frame_shape, size)
            self.head = SimCoreHead(
                self.simulation, self.frame_model, config.overshoot, config.num_start_points, config.num_offsets
            )
            trained = [*self.simulation.trainable_variables, *self.frame_model.trainable_variables]
            if config.generative:
                self.gecos["model"] = config.geco(frame_shape, config.simcore_weight)
        self.map_decoder = MapDecoder(size, map_shape, config.map_channels)
        self.probes = list(self.map_decoder.trainable_variables)
        if config.map_samples:
            self.map_model = config.map_model(map_shape, size)
            self.gecos["map_model"] = config.geco(map_shape)
            self.probes += self.map_model.trainable_variables
        self.probe_optimizer = make_optimizer("adam", config.learning_rate)
        self.probe_optimizer.build(self.probes)
        return Auxiliary(
            functools.partial(self.losses, training=True),
            needs_states=bool(config.simcore_weight),
            variables=trained,
            own_variables=[*self.probes, *(geco.multiplier.w for geco in self.gecos.values())],
            learn=self._learn_own,
        )

    def variables(self):
        names = ("simulation", "frame_model", "map_decoder", "map_model")
        modules = {name: getattr(self, name) for name in names if hasattr(self, name)}
        modules |= {f"geco_{name}": geco for name, geco in self.gecos.items()}
        found = {k: v for name, module in modules.items() for k, v in numbered(name, module.variables).items()}
        return {**super().variables(), **found, **numbered("probe_optimizer", self.probe_optimizer.variables)}

    # Losses

    def losses(self, entries, output, number, training):
        """Compute the `AuxiliaryLoss` of a record: SimCore's, weighted, and the decoders'.

        Args:
          entries, output: of the record, see `Auxiliary`.
          number: of the update, or of the step of an evaluation; draws follow from it.
          training: update GECO's averages, and draw by the run's seed.
        """
        config = self.config
        first = config.seed if training else -1  # config.seed is not negative
        seeds = tf.unstack(tf.random.split(tf.stack([first, tf.cast(number, tf.int32)]), 3, alg="philox"))
        beliefs, scores, losses, watched = tf.nest.flatten(output.core)[0], {}, [], {}
        if config.simcore_weight:
            modelled = self._modelled(entries, output.states, seeds[0])
            losses.append(config.simcore_weight * frame_loss(modelled, self.gecos.get("model"), training, scores))
            floats = [s for s in tf.nest.flatten(output.states) if s.dtype.is_floating]
            watched = {"policy_gradient_at_core": beliefs, "simcore_gradient_at_core": floats}
        # Entry T is entry 0 of the next record. No rollout models entry 0.
        beliefs, labels = beliefs[:-1], entries.labels[:-1]
        maps = tf.cast(labels, tf.float32) / 255.0
        scores["map_mse"] = tf.reduce_mean(map_mse(self.map_decoder(beliefs), maps))
        losses.append(scores["map_mse"])
        if config.map_samples:
            times = tf.random.stateless_uniform(
                [config.num_start_points], seeds[1], 0, config.unroll_length, tf.int32, alg="philox"
            )
            given = tf.stop_gradient(tf.reshape(tf.gather(beliefs, times), [-1, beliefs.shape[-1]]))
            sampled = self.map_model(tf.reshape(tf.gather(maps, times), [-1, *maps.shape[2:]]), given, seeds[2])
            losses.append(frame_loss(sampled, self.gecos["map_model"], training, scores, "map_samples_"))
        return AuxiliaryLoss(tf.add_n(losses), scores, watched)

    def _modelled(self, entries, states, seed):
        """Model frames of rollouts; those beyond an episode's end count nothing, the others more in their place."""
        frames = tf.cast(entries.observation, tf.float32) / 255.0
        actions = tf.one_hot(entries.action, self.world.num_actions)
        output = self.head(frames, actions, states, seed)
        starts = tf.cumsum(tf.cast(entries.done, tf.int32))  # [T + 1, B], of episodes so far
        after = tf.gather(starts, output.frame_indices[..., 0])  # [N_g, N_t, B]
        before = tf.gather(starts, output.sim_time_indices[..., 0])
        inside = tf.reshape(tf.cast(after == before, tf.float32), [-1])
        share = inside * tf.math.divide_no_nan(1.0, tf.reduce_mean(inside))
        return output._replace(error=share * output.error, kl=share * output.kl)

    def _learn_own(self, gradients):
        number = len(self.probes)
        self.probe_optimizer.apply(gradients[:number], self.probes)
        for geco, ascent in zip(self.gecos.values(), gradients[number:], strict=True):
            geco.multiplier.w.assign_sub(ascent)

    # Evaluation

    def _believed(self, number, record):
        """Return entries, beliefs, decoded maps and maps of a record without its last frame, and its scores."""
        e = record.entries
        frames = e.observation, e.action, e.reward, e.done
        keep_states = bool(self.config.simcore_weight)
        output, _ = self.model.unroll(*frames, record.core_state, keep_states=keep_states)
        scores = self.losses(e, output, number, training=False).metrics
        beliefs = tf.nest.flatten(output.core)[0]
        found = e, beliefs, self.map_decoder(beliefs), tf.cast(e.labels, tf.float32) / 255.0
        return tf.nest.map_structure(lambda x: x[:-1], found), scores

    def measure(self, agent):
        """Measure errors of decoded maps by the step of the episode, and SimCore's scores."""
        if agent is not self.model:
            return super().measure(agent)
        config, mean_map = self.config, tf.constant(self._mean_map)
        length, batch_size = config.unroll_length, config.eval_episodes
        steps = -(-self.world.max_steps // length) * length

        def measure(number, record, totals):
            (entries, _, decoded, maps), scores = self._believed(number, record)
            errors = tf.stack([map_mse(decoded, maps), map_mse(mean_map, maps)])  # [2, T, B]
            ends = tf.concat([entries.done[:1] & (number > 0), entries.done[1:]], 0)
            inside = totals.running & (tf.cumsum(tf.cast(ends, tf.int32)) == 0)
            seen = tf.where(inside, errors, 0.0)
            place = tf.cast(number, tf.int32) * length + tf.range(length)[:, tf.newaxis]
            rows = tf.concat([tf.reduce_sum(seen, -1), tf.reduce_sum(tf.cast(inside[tf.newaxis], tf.float32), -1)], 0)
            along = tf.tensor_scatter_nd_add(totals.along, place, tf.transpose(rows))
            left = tf.reduce_sum(tf.cast(inside, tf.int32), 0)
            last = tf.gather(tf.transpose(errors, [2, 1, 0]), tf.maximum(left - 1, 0), batch_dims=1)
            last = tf.where(left[:, tf.newaxis] > 0, last, totals.last)
            del scores["map_mse"]
            sums = {name: totals.sums[name] + score for name, score in scores.items()}
            whole, end = tf.reduce_sum(along, 0), tf.reduce_mean(last, 0)
            found = {name: total / tf.cast(number + 1, tf.float32) for name, total in sums.items()}
            for index, name in enumerate(("map_mse", "mean_map_mse")):
                start = along[0, index] / along[0, 2]
                found |= {name: whole[index] / whole[2], f"{name}_start": start, f"{name}_end": end[index]}
            return Totals(inside[-1], along, last, sums), found

        zeros = {name: tf.constant(0.0) for name in self._scores_of_models()}
        return measure, Totals(tf.ones([batch_size], tf.bool), tf.zeros([steps, 3]), tf.zeros([batch_size, 2]), zeros)

    def _scores_of_models(self):
        """List the names of the scores of SimCore's rollouts and of sampled maps."""
        names = ["error_per_pixel"] * bool(self.config.simcore_weight) + ["kl_nats"] * ("model" in self.gecos)
        return names + ["map_samples_error_per_pixel", "map_samples_kl_nats"] * self.config.map_samples

    def errors_along(self):
        """Compute mean errors by step of the episode, [2, steps]: of the decoded map, of the mean map."""
        (_, _, totals), _ = self._evaluation.run(lambda number: {})
        along = totals.along.numpy()
        along = along[along[:, 2] > 0]
        return (along[:, :2] / along[:, 2:]).T

    def watch(self, batch_size):
        """Run the first episodes on `batch_size` levels of evaluations.

        Returns:
          `(core_states, found)`: the core's state before every T steps, a list of nests [batch_size, ...]; and
          `(entries, beliefs, decoded maps, maps)`, numpy arrays [max_steps, batch_size, ...].
        """
        config = self.config
        decisions = self.world.draw(tf.constant([EVALUATION_SEED, 0], tf.int64), batch_size)
        decisions = decisions._replace(level=tf.range(batch_size))
        actor = initial_actor_state(self.model, self.world, self.unseen_levels, batch_size, decisions)

        @tf.function(autograph=False)
        def run(number, actor):
            uniforms, seeds = draws(EVALUATION_SEED, number, config.unroll_length, batch_size)
            actor, record = rollout(self.model, self.world, self.unseen_levels, actor, uniforms, seeds)
            return actor, self._believed(number, record)[0]

        core_states, chunks = [], []
        for number in range(-(-self.world.max_steps // config.unroll_length)):
            core_states.append(actor.core_state)
            actor, found = run(tf.constant(number, tf.int64), actor)
            chunks.append(found)
        found = tf.nest.map_structure(lambda *parts: np.concatenate(parts)[: self.world.max_steps], *chunks)
        return core_states, found

    @functools.cached_property
    def _mean_map(self):
        """Return the mean of maps of training levels at the start, from 0 to 1."""
        number = min(self.config.num_levels, MOST_FOR_THE_MEAN_MAP)
        start = self.world.begin(take(self.levels, tf.range(number)).seed)
        return np.float32(self.world.labels(start).numpy() / 255.0).mean(0)

    # Pictures

    def figures(self, folder):
        super().figures(folder)
        self.draw_curves(folder, ("map_mse", "map_mse_start", "map_mse_end", "error_per_pixel"))
        along, of_mean_map = self.errors_along()
        np.savez_compressed(folder / ALONG, errors=along, mean_map_errors=of_mean_map)

        core_states, found = self.watch(min(SHOWN_ROLLOUTS, self.config.eval_episodes))
        entries, beliefs, decoded, maps = found
        frames, errors = entries.observation / 255.0, np.square(decoded - maps).mean((2, 3, 4))
        ends = [int(np.argmax(done[1:])) + 1 if done[1:].any() else len(done) for done in entries.done.T]
        steps = np.unique(np.linspace(0, ends[0] - 1, SHOWN_STEPS).round().astype(int))
        pictures = {int(t): (maps[t, 0], decoded[t, 0], frames[t, 0]) for t in steps}
        curves = {"this trajectory": errors[: ends[0], 0], "mean of all": along, "mean map": of_mean_map}
        map_error_figure(curves, pictures, title=self.name).savefig(folder / "map_error.png", dpi=120)

        steps = np.unique(np.linspace(0, ends[0] - 1, SHOWN_FRAMES).round().astype(int))
        rows = {"frame": frames[steps, 0], "map": maps[steps, 0], "decoded": decoded[steps, 0]}
        if self.config.map_samples:
            for n in range(SHOWN_SAMPLES):
                seed = tf.constant([-1, n])
                rows[f"sample {n + 1}"] = self.map_model.sample(tf.constant(beliefs[steps, 0]), seed).numpy()
        episode_figure(rows, steps, title=self.name).savefig(folder / "episode.png", dpi=120)

        start = int(ROLLOUT_STARTS_AT * min(ends))
        length = min(ROLLOUT, min(ends) - 1 - start)
        if self.config.simcore_weight and length > 0:
            chunk, size = divmod(start, self.config.unroll_length)
            until = tf.nest.map_structure(lambda x: tf.constant(x[start - size : start + 1]), entries)
            frames_until = until.observation, until.action, until.reward, until.done
            _, state = self.model.unroll(*frames_until, core_states[chunk])
            actions = tf.one_hot(entries.action[start + 1 : start + 1 + length], self.world.num_actions)
            simulated, _ = unroll(self.simulation, actions, state)
            samples = render(self.frame_model, simulated, tf.constant([-1, 0])).numpy().swapaxes(0, 1)
            inputs = frames[start + 1 : start + 1 + length].swapaxes(0, 1)
            title = f"{self.name}: rollouts from step {start}"
            rollout_figure(inputs, samples, title=title).savefig(folder / "rollouts.png", dpi=120)

    # Export

    def export(self, folder):
        """Write the SavedModel of `Served`."""
        export.saved_model(Served(self), folder)


class Served(tf.Module):
    """Signatures of an agent's SavedModel; frames and maps are float32, from 0 to 1, in results.

    step           observation, previous_action, reward, done [B], state -> logits, value, belief [B, C], state
    initial_state  batch_size -> state
    decode_map     belief [N, C] -> map
    simulate       state, actions [B, T, num_actions] -> beliefs [B, T, C], state; not of an agent alone, nor `render`
    render         belief [N, C], seed int32 [2] -> frame
    """

    def __init__(self, experiment):
        super().__init__()
        self.agent, self.map_decoder = experiment.model, experiment.map_decoder
        self.simulation = getattr(experiment, "simulation", None)
        self.frame_model = getattr(experiment, "frame_model", None)

    def export_functions(self):
        def step(observation, previous_action, reward, done, state):
            output, state = self.agent.step(observation, previous_action, reward, done, state)
            belief = tf.nest.flatten(output.core)[0]
            return {"logits": output.logits, "value": output.value, "belief": belief, "state": state}

        agents = self.agent.export_functions()
        arguments = agents["step"][1]
        belief = tf.TensorSpec([None, tf.TensorShape(self.agent.cell.output_size).num_elements()])
        functions = {
            "step": (step, arguments),
            "initial_state": agents["initial_state"],
            "decode_map": (lambda belief: {"map": self.map_decoder(belief)}, {"belief": belief}),
        }
        if self.simulation is None:
            return functions

        def simulate(state, actions):
            beliefs, state = unroll(self.simulation, swap_batch_and_time(actions), state)
            return {"beliefs": swap_batch_and_time(beliefs), "state": state}

        def render_frame(belief, seed):
            return {"frame": render(self.frame_model, belief, seed)}

        actions = tf.TensorSpec([None, None, self.agent.num_actions])
        return {
            **functions,
            "simulate": (simulate, {"state": arguments["state"], "actions": actions}),
            "render": (render_frame, {"belief": belief, "seed": tf.TensorSpec([2], tf.int32)}),
        }


def compare(folders, out):
    """Draw learning curves of runs, and their map errors along an episode; returns the names of the figures."""
    along = {}
    for setting, same in by_setting(folders).items():
        along[setting] = []
        for folder in same:
            with np.load(folder.figures / ALONG) as arrays:
                errors, of_mean_map = arrays["errors"], arrays["mean_map_errors"]
            along[setting].append((np.arange(len(errors), dtype=float), errors))
    along["mean map"] = [(np.arange(len(of_mean_map), dtype=float), of_mean_map)]
    figure = plotting.curves_figure(along, "step of the episode", "map MSE", window=plotting.window_of("map_mse"))
    figure.savefig(out / "map_error.png", dpi=120)
    return [*draw_learning_curves(folders, out, "episode_return", "blocks"), "map_error.png"]
