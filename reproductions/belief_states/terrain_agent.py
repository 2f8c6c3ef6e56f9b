"""Agents that collect blocks in Procedural Terrain while SimCore shapes their beliefs (Gregor et al. 2019, D, F, I).

An agent sees first-person frames of a landscape and gets a reward for each of 20 yellow blocks. Its core learns from
the V-trace loss and from SimCore's loss at once. Decoders show how much of the map its beliefs hold (Figures 11, 12).
"""

import dataclasses

from tfmem.rl import Objective
from tfmem.rl.config import FrameTorsoConfig
from tfmem.rl.terrain_world import TerrainWorld

from ..agents import SMOKE
from . import agent, settings
from .agent import BeliefAgentConfig as Config
from .agent import BeliefAgentExperiment

DATASETS = ()
STATUS = "demo"
PAPER = {
    name: (None, "curves and pictures alone; their values are not readable") for name in ("episode_return", "map_mse")
}
SIGNATURES = {"step", "initial_state", "decode_map"}
compare = agent.compare
PAPER_CONFIG = Config(
    world=TerrainWorld(),
    **settings.LSTM,
    # D: discounted rewards, entropy, IMPALA. F: the entropy's cost is from 5e-4 to 3e-2; we use their geometric mean.
    # Not specified: discount, clipping and the value's weight; we use scalable_agent's, and means for both losses.
    objective=Objective(entropy_cost=4e-3, reward_mode="none", reduction="mean"),
    map_samples=True,  # I
    mlp_sizes=(200,),  # Not specified; we use a hidden layer, as the heads of the slot memory's public code (tvt)
    num_worlds=16,  # Not specified; we use this
    unroll_length=50,  # F: 24 to 100
    policy_lag=1,  # D: "slightly off policy"
    optimizer="adam",  # F, with Keras's beta_1 0.9 and beta_2 0.999, which are in the ranges
    learning_rate=2e-4,  # F: 1e-4 to 2e-4
    num_levels=2**20,  # Not specified; we use so many that few come twice
    eval_episodes=32,
    **settings.PAPER_UPDATES,
)
# Not specified; we use small frames, networks and worlds, for one CPU core and about a quarter of an hour. With this
# weight, SimCore's gradient at the core is about twice the policy's.
DEMO_CONFIG = dataclasses.replace(
    PAPER_CONFIG,
    **(settings.DEMO_MODEL | {"overshoot": 4}),
    world=TerrainWorld(frame_size=16, map_size=16, field_of_view=110.0, size=28, speed=0.75, max_steps=250),
    core=settings.DEMO["core"],
    torso=FrameTorsoConfig(embedding_size=64),
    simcore_weight=0.2,
    map_samples=False,
    objective=Objective(discount=0.97, entropy_cost=0.01, reward_mode="none", reduction="mean"),
    mlp_sizes=(64,),
    num_worlds=32,
    unroll_length=40,
    learning_rate=1e-3,
    gradient_norm_clip=0.5,
    eval_episodes=64,
    num_updates=1_500,
    log_every=20,
    eval_every=500,
    checkpoint_seconds=120.0,
)
PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_rma": dataclasses.replace(PAPER_CONFIG, **settings.RMA),
    "paper_kanerva": dataclasses.replace(PAPER_CONFIG, **settings.KANERVA),
    "paper_agent_alone": dataclasses.replace(PAPER_CONFIG, simcore_weight=0.0),
    "demo": DEMO_CONFIG,
    "demo_agent_alone": dataclasses.replace(DEMO_CONFIG, simcore_weight=0.0),
    "demo_generative": dataclasses.replace(DEMO_CONFIG, model="generative", map_samples=True),
    "demo_rma": dataclasses.replace(DEMO_CONFIG, **settings.DEMO_RMA),
    "demo_kanerva": dataclasses.replace(DEMO_CONFIG, **settings.DEMO_KANERVA),
    "smoke": dataclasses.replace(
        DEMO_CONFIG,
        **settings.SMOKE_MODEL,
        model="generative",
        map_samples=True,
        world=TerrainWorld(frame_size=8, map_size=8, size=16, num_blocks=60, speed=1.0, max_steps=9),
        core=settings.SMOKE["core"],
        torso=FrameTorsoConfig(channels=(2, 2), embedding_size=4),
        mlp_sizes=(),
        unroll_length=5,
        num_levels=8,
        **SMOKE,
    ),
}


class Experiment(BeliefAgentExperiment):
    name = "belief_states/terrain_agent"
