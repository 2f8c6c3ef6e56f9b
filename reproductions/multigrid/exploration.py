"""Joint exploration, mapping and localization in mazes (Huynh et al. 2020; last demonstration of supplement E).

An agent chooses its way through the mazes of multigrid/mapping. It is rewarded for cells that it has not seen before,
and its memory answers queries as there: where has this 3x3 patch been seen? The paper has a video of this and no text.
Not specified: rewards, algorithm, sizes and scores; we use the design below. A3C below is the public code to which the
paper's own credits its structure, miyosuda/async_deep_reinforce; CODE is github.com/trihuynh88/multigrid_mem.

Scores are of the first episodes in unseen mazes, with actions drawn from the policy: `seen` is the share of the visible
cells that the agent has seen at the end, `steps_to_90` the mean steps to 90 % of them (those of the episode, if it sees
fewer), `f_score` that of multigrid/mapping.
"""

import dataclasses
import functools
from typing import Annotated, NamedTuple

import numpy as np
import tensorflow as tf
from tyro.conf import subcommand

from tfmem.cores.config import ConvLSTMConfig, DNCConfig, LSTMConfig
from tfmem.envs.grid.mapping_maze import Levels, MappingMaze
from tfmem.losses.localization import (
    Counts,
    TargetSum,
    localization_counts,
    localization_loss,
    localization_scores,
    prior_counts,
    target_sum,
)
from tfmem.models import LocalizingCell
from tfmem.models.config import MappingNetworkConfig
from tfmem.rl import AgentConfig, AgentExperiment, ConvTorsoConfig, Objective
from tfmem.rl.agent import RandomAgent
from tfmem.rl.config import AnyAgentCoreConfig
from tfmem.rl.experiment import EVALUATION_SEED
from tfmem.tasks.mapping import UNKNOWN, VIEW, recentre
from tfmem.validation import check_range

from ..agents import SMOKE, by_setting, draw_learning_curves
from ..runs import open_run
from .explorers import Curve, Frontier, Spiral
from .figures import MappingFrame, exploration_figure, mapping_figure, save_mapping_gif


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(AgentConfig):
    world: MappingMaze
    """Mazes. Not specified; we use those of multigrid/mapping, rewards and lengths of `MappingMaze`."""
    core: AnyAgentCoreConfig | Annotated[MappingNetworkConfig, subcommand("multigrid")]
    """Memory. With `multigrid` the policy reads the writer's coarsest grid. Not specified; we use that grid."""
    localization_weight: float = 1.0
    """Weight of the localization loss, the mean over the map's cells; 0: no such loss. Not specified; we use 1."""
    locator_sizes: tuple[int, ...] = (64,)
    """Widths of the ReLU layers by which other cores answer queries. Not specified; we use one of 64."""

    def __post_init__(self):
        super().__post_init__()
        check_range("localization_weight", self.localization_weight, 0)
        if self.core is None and self.localization_weight:
            raise ValueError(f"localization_weight: {self.localization_weight}, must be 0 without a core")
        if isinstance(self.core, MappingNetworkConfig):
            finest = 3 * 2 ** (self.core.writer_levels[-1] - 1)
            if self.world.target_size != finest:
                raise ValueError(
                    f"target_size: {self.world.target_size}, must be {finest}, the side of the network's finest grid"
                )
        if min(self.locator_sizes, default=1) < 1:
            raise ValueError(f"locator_sizes: {self.locator_sizes}, must be at least 1 each")


VIEW_TORSO = ConvTorsoConfig(filters=(), coordinates=False, output="grid")  # the view as it is
PAPER_CONFIG = Config(
    # Not specified; we use the mazes and the network of mapping's paper_15x15.
    world=MappingMaze(side=15, max_steps=338, target_size=24),
    core=MappingNetworkConfig(
        writer_levels=(2, 2, 3, 3, 4),
        writer_filters=(4, 4, 6, 6, 7),
        writer_residuals=((1, 3), (3, 5)),
        reader_filters=(4, 4, 8, 8, 14),
        reader_residuals=((1, 3), (3, 5)),
        decoder_levels=(4, 3, 3, 2, 1),
        decoder_filters=(12, 12, 12, 12, 1),
        decoder_residuals=((2, 4),),
    ),
    torso=VIEW_TORSO,
    mlp_sizes=(256,),  # Not specified; we use one layer
    # A3C: these numbers, with sums over the batch. Not specified in the paper.
    objective=Objective(discount=0.99, entropy_cost=0.01, baseline_cost=0.5, reward_mode="none"),
    num_worlds=32,  # CODE: agents in mapping's batch
    unroll_length=20,  # A3C, and CODE's window of back-propagation
    action_input=False,  # CODE: the writer gets the view and the place alone
    reward_input=None,
    optimizer="tf1_rmsprop",  # A3C, also the next
    rms_decay=0.99,
    epsilon=0.1,
    learning_rate=7e-4,
    final_learning_rate=0.0,
    decay_updates=156_250,
    gradient_norm_clip=40.0,  # A3C, per variable there
    num_updates=156_250,  # A3C: 10^8 steps
    updates_per_call=5,
    log_every=50,
    eval_every=5_000,
    num_levels=16_384,  # Not specified; we use a pool
    eval_episodes=256,  # Not specified; we use 256
    checkpoint_seconds=600.0,
)
# Other cores of as many parameters, localization included.
VECTOR = dict(torso=ConvTorsoConfig(filters=(), coordinates=False, output="vector"))
# Not specified; we use small mazes with more walls, the network of mapping's demo, and settings that learn in minutes.
DEMO_CONFIG = dataclasses.replace(
    PAPER_CONFIG,
    world=MappingMaze(side=7, max_steps=32, target_size=6, centred=True, density=0.45),
    core=MappingNetworkConfig(
        writer_levels=(2, 2, 2),
        writer_filters=(8, 12, 16),
        reader_filters=(8, 12, 16),
        decoder_levels=(2, 1, 1),
        decoder_filters=(16, 16, 1),
    ),
    skip=True,
    mlp_sizes=(64,),
    objective=Objective(discount=0.95, entropy_cost=0.003, reward_mode="none", reward_scale=0.3, reduction="mean"),
    num_worlds=40,
    unroll_length=32,
    optimizer="adam",
    learning_rate=2e-3,
    epsilon=None,
    gradient_norm_clip=0.5,
    final_learning_rate=2e-4,
    decay_updates=800,
    num_updates=800,
    updates_per_call=10,
    log_every=10,
    eval_every=200,
    num_levels=128,
    eval_episodes=256,
    checkpoint_seconds=120.0,
)
PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_no_localization": dataclasses.replace(PAPER_CONFIG, localization_weight=0.0),
    "paper_lstm": dataclasses.replace(PAPER_CONFIG, core=LSTMConfig(units=101), **VECTOR),
    "paper_dnc": dataclasses.replace(
        PAPER_CONFIG, core=DNCConfig(memory_size=128, word_size=16, num_reads=4, hidden_size=73), **VECTOR
    ),
    "paper_conv_lstm": dataclasses.replace(PAPER_CONFIG, core=ConvLSTMConfig(filters=19)),
    "demo": DEMO_CONFIG,
    "demo_no_localization": dataclasses.replace(DEMO_CONFIG, localization_weight=0.0),
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, core=LSTMConfig(units=147), **VECTOR),
    "demo_dnc": dataclasses.replace(
        DEMO_CONFIG, core=DNCConfig(memory_size=64, word_size=16, hidden_size=123), **VECTOR
    ),
    "demo_conv_lstm": dataclasses.replace(DEMO_CONFIG, core=ConvLSTMConfig(filters=41)),
    "smoke": dataclasses.replace(
        DEMO_CONFIG,
        world=MappingMaze(side=7, max_steps=8, target_size=6, centred=True),
        core=MappingNetworkConfig(
            writer_levels=(2, 2),
            writer_filters=(2, 3),
            reader_filters=(2, 3),
            decoder_levels=(2, 1),
            decoder_filters=(3, 1),
        ),
        mlp_sizes=(4,),
        locator_sizes=(4,),
        unroll_length=4,
        num_levels=4,
        **SMOKE,
    ),
}
PAPER = {"seen": (None, "supplement E has a video, no numbers")}
DATASETS = ()
STATUS = "demo"
SIGNATURES = {"step", "initial_state"}
SHARE = 0.9  # of the visible cells, for steps_to_90


class Totals(NamedTuple):
    """Sums over the steps of an evaluation so far.

    found: cells seen in each world, int32 [B].
    slow: steps after which less than `SHARE` of the visible cells were seen, int32 [B].
    curve: share of the visible cells after each step, mean over worlds, [evaluation steps, T].
    counts, targets: of the queries, without queries ().
    """

    found: tf.Tensor
    slow: tf.Tensor
    curve: tf.Tensor
    counts: Counts | tuple
    targets: TargetSum | tuple


class Experiment(AgentExperiment):
    """Exploration; with a `localization_weight` the memory also learns to answer queries."""

    name = "multigrid/exploration"

    def __init__(self, config):
        super().__init__(config)
        _ = self.unseen_levels  # too few of them are an error before a run begins

    def make_core(self):
        core, config = super().make_core(), self.config
        if core is None or hasattr(core, "locate"):
            return core
        return LocalizingCell(core, self.world.target_size, config.locator_sizes)

    def auxiliary_loss(self):
        own, config = super().auxiliary_loss(), self.config
        if not config.localization_weight:
            return own

        def loss(entries, output):
            # Entry T is entry 0 of the next record.
            labels, core = tf.nest.map_structure(lambda x: x[:-1], (entries.labels, output.core))
            logits = self.model.cell.locate(labels.query, core)
            number = self.world.target_size**2
            if config.objective.reduction == "mean":
                number *= config.unroll_length * config.num_worlds
            total = config.localization_weight / number * localization_loss(logits, labels.target)
            return total if own is None else total + own(entries, output)

        return loss

    # Evaluation

    @functools.cached_property
    def unseen_levels(self):
        """Mazes of evaluations, a pool of tensors, without those of training: small mazes are few."""
        number, trained = self.config.eval_episodes, {maze.tobytes() for maze in self.levels.cells.numpy()}
        drawn = self.world.levels(20 * number, EVALUATION_SEED).cells
        unseen = [maze for maze in drawn if maze.tobytes() not in trained][:number]
        if len(unseen) < number:
            raise ValueError(f"num_levels: {self.config.num_levels}, must leave mazes for evaluations: {self.world}")
        return Levels(tf.constant(np.stack(unseen)))

    def measure(self, agent):
        config, world = self.config, self.world
        visible, length = tf.cast(world.num_visible(self.unseen_levels), tf.float32), config.unroll_length
        locates = hasattr(getattr(agent, "cell", None), "locate")

        def measure(number, trajectory, totals):
            entries = trajectory.entries
            playing = number * length + tf.range(length, dtype=tf.int64) < world.max_steps  # in its first episode
            new = tf.round(VIEW * tf.maximum(entries.reward[1:], 0.0))
            new = tf.cast(tf.where(playing[:, None], new, 0.0), tf.int32)
            found = totals.found + tf.cumsum(new)
            share = tf.cast(found, tf.float32) / visible
            slow = totals.slow + tf.reduce_sum(tf.cast((share < SHARE) & playing[:, None], tf.int32), 0)
            row = tf.cast(number, tf.int32)[None, None]
            curve = tf.tensor_scatter_nd_update(totals.curve, row, tf.reduce_mean(share, 1)[None])
            steps = tf.cast(tf.minimum(slow + 1, world.max_steps), tf.float32)
            scores = {"seen": tf.reduce_mean(share[-1]), "steps_to_90": tf.reduce_mean(steps)}
            if not locates:
                return totals._replace(found=found[-1], slow=slow, curve=curve), scores
            output, _ = agent.unroll(
                entries.observation, entries.action, entries.reward, entries.done, trajectory.core_state
            )
            labels, core = tf.nest.map_structure(lambda x: x[:-1], (entries.labels, output.core))
            mask = tf.tile(playing[:, None], [1, config.eval_episodes])
            counts = localization_counts(agent.cell.locate(labels.query, core), labels.target, mask)
            counts = tf.nest.map_structure(tf.add, totals.counts, counts)
            targets = tf.nest.map_structure(tf.add, totals.targets, target_sum(labels.target, mask))
            return Totals(found[-1], slow, curve, counts, targets), {**scores, **localization_scores(counts)._asdict()}

        zeros = tf.zeros([config.eval_episodes], tf.int32)
        counts = targets = ()
        if locates:
            nothing = tf.constant(0, tf.int64)
            counts = Counts(*[nothing] * 3)
            targets = TargetSum(tf.zeros([world.target_size] * 2, tf.int64), nothing)
        curve = tf.zeros([-(-world.max_steps // length), length])
        return measure, Totals(zeros + VIEW**2, zeros, curve, counts, targets)

    def curve(self, agent):
        """Run an evaluation of any explorer: a `Curve`."""
        (_, _, totals), scores = self.evaluation_of(agent).run(lambda number: {})
        return Curve(totals.curve.numpy().reshape(-1)[: self.world.max_steps], scores["steps_to_90"])

    @functools.cached_property
    def baselines(self):
        """A `Curve` of each explorer that does not learn, by name."""
        world = self.world
        explorers = {"random": RandomAgent(world.num_actions), "spiral": Spiral(world), "frontier": Frontier(world)}
        return {name: self.curve(explorer) for name, explorer in explorers.items()}

    def result(self, evaluation):
        """The scores, those of the baselines, the best map without observations, and the number of parameters."""
        (_, _, totals), _ = self.evaluation().run(lambda number: {})
        scores = {}
        for name, curve in self.baselines.items():
            scores |= {f"{name}_seen": float(curve.seen[-1]), f"{name}_steps_to_90": curve.steps_to_90}
        if totals.targets:
            prior = localization_scores(prior_counts(totals.targets, totals.targets))
            scores["map_prior_f_score"] = float(prior.f_score)
        return {**super().result(evaluation), **scores, "parameters": self.model.count_params()}

    # Figures

    def frames(self, every=1, number=0):
        """Play an episode in an unseen maze: a `MappingFrame` every `every` steps."""
        world, agent, played = self.world, self.model, self.play(number)
        states = tf.nest.map_structure(lambda x: tf.constant(x[:-1]), played.states)
        actions, rewards = (np.concatenate([[0], x[:-1]]) for x in (played.actions, played.rewards))
        done = np.arange(len(actions)) == 0
        record = (world.observe(states), tf.cast(actions, tf.int32), tf.cast(rewards, tf.float32), tf.constant(done))
        output, _ = agent.unroll(*(x[:, None] for x in record), agent.initial_state(1))
        labels, seen = world.labels(states), world.seen(states).numpy()
        probability = tf.sigmoid(agent.cell.locate(labels.query[:, None], output.core))[:, 0].numpy()
        memories = output.core.memories[-1] if hasattr(output.core, "memories") else ()
        side, size, start = world.side, world.target_size, world.task().start
        cells = played.states.cells[0].reshape(side, side)
        path = np.stack(np.divmod(played.states.player, side), -1) + start - side // 2
        for t in range(len(actions)):
            if t % every and t != len(actions) - 1:
                continue
            view, query = ((x[t, ..., 1]).numpy() for x in (record[0], labels.query))
            yield MappingFrame(
                world=recentre(cells, size, UNKNOWN, start),
                seen=recentre(seen[t].reshape(side, side), size, False, start),
                path=path[: t + 1],
                view=view,
                query=query,
                prediction=probability[t],
                target=labels.target[t].numpy(),
                memory=tuple(grid[t, 0].numpy() for grid in memories),
                title=f"step {t} of {world.max_steps}: {seen[t].sum()} cells seen",
            )

    def figures(self, folder):
        """Draw curves, cells seen against steps, and an episode as the mapping video."""
        super().figures(folder)
        curves = {"agent": self.curve(self.model), **self.baselines}
        exploration_figure({name: curve.seen for name, curve in curves.items()}).savefig(folder / "seen.png", dpi=120)
        if self.config.core is None:
            return
        frames = list(self.frames(every=max(1, self.world.max_steps // 60)))
        save_mapping_gif(folder / "exploration.gif", frames)
        for name, frame in (("exploration_middle", frames[len(frames) // 2]), ("exploration_end", frames[-1])):
            mapping_figure(frame).savefig(folder / f"{name}.png", dpi=100)


def compare(folders, out):
    """Draw learning curves of several runs, and cells seen against steps (means over seeds); returns their names."""
    curves = {}
    for setting, same in by_setting(folders).items():
        experiments = [open_run(folder.path)[1] for folder in same]
        curves[setting] = np.mean([experiment.curve(experiment.model).seen for experiment in experiments], 0)
    experiment = experiments[-1]
    curves |= {name: curve.seen for name, curve in experiment.baselines.items()}
    exploration_figure(curves).savefig(out / "seen.png", dpi=120)
    return ["seen.png", *draw_learning_curves(folders, out, "episode_return", "return of an episode")]
