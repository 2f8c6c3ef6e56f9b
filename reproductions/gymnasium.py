"""Any core as an agent in any Gymnasium environment with discrete actions.

    reproduce run gymnasium --world.id CartPole-v1 core:rmc --core.mem-slots 4
    reproduce run gymnasium --preset repeat_previous core:none
    reproduce run gymnasium --preset building

The environment's steps are Python, so neither XLA nor bundles take them; the worlds of the papers are in the graph
(relational/box_world, relational/mini_pacman, metalearned/maze). The presets of POPGym need `pip install popgym`.
"""

import dataclasses

from tfmem.cores.config import LSTMConfig
from tfmem.rl import AgentConfig, AgentExperiment, Objective
from tfmem.rl.config import ConvTorsoConfig, MLPTorsoConfig
from tfmem.rl.gymnasium_world import GymnasiumWorld


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(AgentConfig):
    world: GymnasiumWorld
    """Environment."""


# Not specified; we use advantage actor-critic with settings that learn POPGym's easy levels in minutes.
DEFAULT = Config(
    world=GymnasiumWorld(),
    core=LSTMConfig(units=64),
    torso=MLPTorsoConfig(sizes=(64,)),
    objective=Objective(discount=0.99, entropy_cost=0.01, reward_mode="none", reduction="mean"),
    num_worlds=32,
    unroll_length=32,
    skip=True,
    reward_input="raw",
    optimizer="adam",
    learning_rate=2e-3,
    gradient_norm_clip=0.5,
    num_updates=1_500,
    updates_per_call=10,
    log_every=20,
    eval_every=500,
    eval_episodes=128,
)


def _popgym(name, steps, **changes):
    world = GymnasiumWorld(f"popgym:popgym-{name}Easy-v0", max_episode_steps=steps)
    return dataclasses.replace(DEFAULT, world=world, **changes)


# The easiest staircase: a cliff of two blocks on 5 x 5 cells, a piece of food, and eight loose blocks, of which one is
# enough. Not specified; we use small frames and this.
_STAIRCASE = '{"frame_size": 16, "map_size": 1, "size": 5, "cliff": 2, "num_blocks": 8}'
PRESETS = {
    "cartpole": DEFAULT,
    "repeat_previous": _popgym("RepeatPrevious", 51),
    "position_only_cartpole": _popgym("PositionOnlyCartPole", 200),
    "concentration": _popgym("Concentration", 104),
    "building": dataclasses.replace(
        DEFAULT,
        world=GymnasiumWorld("tfmem.envs:tfmem/Building-v0", 100, _STAIRCASE),
        torso=ConvTorsoConfig(filters=(16, 32), kernel_size=3, stride=2),
        objective=dataclasses.replace(DEFAULT.objective, entropy_cost=1e-3),  # rewards are rare: more keeps it random
        learning_rate=1e-3,
        eval_every=0,
        checkpoint_seconds=60.0,
    ),
    "smoke": dataclasses.replace(
        DEFAULT,
        core=LSTMConfig(units=4),
        torso=MLPTorsoConfig(sizes=(4,)),
        num_worlds=2,
        unroll_length=4,
        num_updates=8,
        updates_per_call=2,
        log_every=2,
        eval_every=0,
        eval_episodes=2,
        checkpoint_every=4,
    ),
}
PAPER = {}
DATASETS = ()
STATUS = "building"
SIGNATURES = {"step", "initial_state"}


class Experiment(AgentExperiment):
    name = "gymnasium"


def run_name(preset, config):
    """Name of a run's folder: the preset, the environment and the core."""
    core = "none" if config.core is None else type(config.core).__name__.removesuffix("Config")
    return f"{preset}-{config.world.id.split(':')[-1].replace('/', '-')}-{core}"
