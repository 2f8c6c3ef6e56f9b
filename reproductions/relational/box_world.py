"""Viewport BoxWorld: open boxes in the right order to reach the gem (Santoro et al. 2018, §4.2, §5.3; appendix A.3).

A3 below is the paper's appendix A.3, IMPALA is scalable_agent, the public code of the agent that A3 names. Scores are
of unseen levels, with actions drawn from the policy: `solved` is the share in which the agent takes the gem,
`solved_path_<n>` and `solved_distractors_<n>` the same for levels with such a path or so many distractors.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfmem.cores.config import ConvLSTMConfig, LSTMConfig, RelationalMemoryConfig
from tfmem.envs.grid.box_world import BoxWorld, level_figure
from tfmem.rl import AgentConfig, AgentExperiment, ConvTorsoConfig, Objective

from ..agents import SMOKE, draw_learning_curves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(AgentConfig):
    world: BoxWorld
    """Levels and view. Paper: 14 x 14, paths of 1 to 5 locks, 0 to 5 distractors, 5 x 5 cells (A3, Figure 9)."""


GRID_TORSO = ConvTorsoConfig(padding="same", output="grid")
PAPER_CONFIG = Config(
    world=BoxWorld(),
    # A3: four memories, four heads, 1024 units in all, one pass of attention, "scalar memory gating".
    core=RelationalMemoryConfig(mem_slots=4, head_size=64, num_heads=4, gate_style="memory"),
    torso=ConvTorsoConfig(),  # A3
    # A3: discount and entropy. IMPALA: baseline and sums. Not specified: clipping of rewards; we do not clip.
    objective=Objective(discount=0.99, entropy_cost=0.005, baseline_cost=0.5, reward_mode="none"),
    num_worlds=32,  # A3: trajectories in a batch
    unroll_length=40,  # A3
    policy_lag=1,  # Not specified; IMPALA's queue makes actors lag behind; we use the smallest lag
    action_input=True,  # IMPALA, as the next
    reward_input="clipped",
    optimizer="tf1_rmsprop",  # IMPALA: RMSProp with these constants, and a linear decay to 0
    learning_rate=2e-4,  # A3: tuned in 1e-5 to 2e-4; we use the largest
    rms_decay=0.99,
    epsilon=0.1,
    final_learning_rate=0.0,
    decay_updates=781_250,
    num_updates=781_250,  # §5.3: 10^9 steps, at 32 x 40 steps an update
    updates_per_call=25,
    log_every=250,
    eval_every=12_500,
    num_levels=65_536,  # Not specified; we use a pool. The paper draws each level anew
    eval_episodes=2_048,  # Not specified; we use 2,048
    checkpoint_seconds=600.0,
    jit_compile=True,  # measured: faster on a CPU
)
# Not specified; we use smaller levels with at most one distractor, and a setting in which agents learn in minutes.
DEMO_CONFIG = dataclasses.replace(
    PAPER_CONFIG,
    world=BoxWorld(side=10, path_lengths=(1, 2), num_distractors=(0, 1)),
    core=RelationalMemoryConfig(mem_slots=4, head_size=16, num_heads=4),
    objective=Objective(entropy_cost=0.003, reward_mode="none", reward_scale=0.1, reduction="mean"),
    num_worlds=64,
    unroll_length=20,
    policy_lag=0,
    reward_input="raw",
    skip=True,
    optimizer="adam",
    learning_rate=1e-3,
    epsilon=None,
    gradient_norm_clip=0.5,
    decay_updates=8_000,
    num_updates=8_000,
    updates_per_call=20,
    log_every=50,
    eval_every=2_000,
    num_levels=8_192,
    eval_episodes=1_024,
    checkpoint_seconds=120.0,
)
PRESETS = {
    "paper": PAPER_CONFIG,
    # A3: 5 x 5, 64 channels, kernels of 2 x 2. Not specified: the torso's padding; we keep the grid's size.
    "paper_conv_lstm": dataclasses.replace(
        PAPER_CONFIG, core=ConvLSTMConfig(filters=64, kernel_size=2), torso=GRID_TORSO, jit_compile="auto"
    ),
    "demo": DEMO_CONFIG,
    "demo_conv_lstm": dataclasses.replace(
        DEMO_CONFIG,
        core=ConvLSTMConfig(filters=32, kernel_size=2),
        torso=GRID_TORSO,
        jit_compile="auto",  # measured: XLA's convolutions on a CPU take 40 times as long
    ),
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, core=LSTMConfig(units=128)),
    "demo_memoryless": dataclasses.replace(DEMO_CONFIG, core=None, mlp_sizes=(128, 128)),
    "smoke": dataclasses.replace(
        DEMO_CONFIG,
        world=BoxWorld(side=7, path_lengths=(1,), num_distractors=(0,), max_steps=8),
        core=RelationalMemoryConfig(mem_slots=2, head_size=2, num_heads=2),
        unroll_length=4,
        policy_lag=1,
        num_levels=4,
        jit_compile="auto",
        **SMOKE,
    ),
}
PAPER = {"solved": (0.98, "§5.3, RMC after 10^9 steps; ConvLSTM 0.73")}
DATASETS = ()
STATUS = "demo; paper 1%"
SIGNATURES = {"step", "initial_state"}


class Experiment(AgentExperiment):
    """BoxWorld."""

    name = "relational/box_world"

    def result(self, evaluation):
        solved, levels, scores = self.episodes().solved, self.unseen_levels, {}
        for name, values in (("path", levels.path_length), ("distractors", levels.num_distractors)):
            values = values.numpy()
            scores |= {f"solved_{name}_{value}": solved[values == value].mean() for value in np.unique(values)}
        return {**super().result(evaluation), **scores}

    def figures(self, folder):
        """Draw curves, and the unseen level with the most boxes as in Figure 9."""
        super().figures(folder)
        levels = tf.nest.map_structure(lambda leaf: leaf.numpy(), self.unseen_levels)
        most = int(np.argmax(levels.path_length + levels.num_distractors))
        level_figure(levels, most).savefig(folder / "level.png", dpi=120)


def compare(folders, out):
    """Draw solved levels and returns of several runs, as in §5.3; returns the names of the figures."""
    solved = draw_learning_curves(folders, out, "solved", "solved levels")
    return solved + draw_learning_curves(folders, out, "episode_return", "return of an episode")
