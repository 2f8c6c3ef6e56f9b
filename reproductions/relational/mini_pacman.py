"""Mini Pacman: eat food, avoid ghosts, hunt them with a pill (Santoro et al. 2018, §4.2, §5.3; Figure 10).

The paper gives neither networks nor training of this task; we use those of BoxWorld (appendix A.3). The score,
`episode_return`, is the sum of rewards of an episode, with actions drawn from the policy.
"""

import dataclasses

from tfmem.cores.config import LSTMConfig, RelationalMemoryConfig
from tfmem.envs.grid.mini_pacman import MiniPacman
from tfmem.rl import AgentConfig, AgentExperiment, Objective

from ..agents import SMOKE, draw_learning_curves
from . import box_world


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(AgentConfig):
    world: MiniPacman
    """Maze and view. Paper: 5 x 5 cells around the player, and the whole maze (§4.2)."""


def _config(like, **changes):
    """Make a `Config` with the fields of another world's."""
    fields = {field.name: getattr(like, field.name) for field in dataclasses.fields(like)}
    return Config(**fields | changes)


PAPER_CONFIG = _config(
    box_world.PAPER_CONFIG,
    world=MiniPacman(),  # Not specified: mode and limit; we use "regular" and the public code's 3,000 steps
    num_updates=781_250,  # Not specified; we use BoxWorld's 10^9 steps
    num_levels=16_384,  # layouts of pills, player and ghosts. Not specified; we use 16,384
    eval_episodes=256,  # Not specified; we use 256
)
FULL = MiniPacman(viewport=False)
# Not specified; we use as many weights as the relational memory has; the whole maze is a wider input.
LSTM, FULL_LSTM = LSTMConfig(units=215), LSTMConfig(units=77)
# Not specified; we use 1,000 steps (public code: its examples), and a setting in which agents learn in minutes.
DEMO_CONFIG = dataclasses.replace(
    PAPER_CONFIG,
    world=MiniPacman(max_steps=1_000),
    core=RelationalMemoryConfig(mem_slots=4, head_size=16, num_heads=4),
    objective=Objective(entropy_cost=0.01, reward_mode="none", reward_scale=0.2, reduction="mean"),
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
    num_levels=4_096,
    checkpoint_seconds=120.0,
)
PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_lstm": dataclasses.replace(PAPER_CONFIG, core=LSTM),
    "paper_full": dataclasses.replace(PAPER_CONFIG, world=FULL),
    "paper_full_lstm": dataclasses.replace(PAPER_CONFIG, world=FULL, core=FULL_LSTM),
    "demo": DEMO_CONFIG,
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, core=LSTMConfig(units=128)),
    "smoke": dataclasses.replace(
        DEMO_CONFIG,
        world=MiniPacman(max_steps=8),
        core=RelationalMemoryConfig(mem_slots=2, head_size=2, num_heads=2),
        unroll_length=4,
        num_levels=4,
        jit_compile="auto",
        **SMOKE,
    ),
}
PAPER = {"episode_return": (677.0, "§5.3, Fig. 10, viewport, RMC; LSTM 550; whole maze 1159 and 598")}
DATASETS = ()
STATUS = "demo"
SIGNATURES = {"step", "initial_state"}


class Experiment(AgentExperiment):
    """Mini Pacman."""

    name = "relational/mini_pacman"


def compare(folders, out):
    """Draw scores of several runs, as in Figure 10; returns the names of the figures."""
    return draw_learning_curves(folders, out, "episode_return", "score")
