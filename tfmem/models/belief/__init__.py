"""Belief states and SimCore (Gregor et al. 2019, "Shaping Belief States with Generative Environment Models for RL",
appendices B, C, E and the listing in K).

Letters: x_t frame, a_t the one-hot action that LED TO frame t (zeros where there was none), T steps, B batch, L_o
overshoot length, N_t start points of a trajectory, N_g offsets of a rollout. All is time-major, [T, B, ...].

    e_t = encoder(x_t)                                       frame embedding
    b_t, s_t = belief core([e_t, a_t], s_{t-1})              writes its memory
    b_{t,d}, s_{t,d} = simulation core(a_{t+1+d}, s_{t,d-1}) for d = 0 ... L_o - 1, from s_{t,-1} = s_t;  does not write

Both networks have the same architecture. The simulation starts from the belief's state with its memory (B).
Paper: the LSTMs share no weights. Not specified for the memories' projections; we share none at all.
"""

from tfmem.models.belief.agent import BeliefModel, Beliefs, FrameEncoder, render, simulation_core
from tfmem.models.belief.probes import MapDecoder, PositionDecoder, map_mse, position_cells
from tfmem.models.belief.simcore import SimCoreHead, SimCoreLoss, unroll_sim, windows

__all__ = [
    "BeliefModel",
    "Beliefs",
    "FrameEncoder",
    "MapDecoder",
    "PositionDecoder",
    "SimCoreHead",
    "SimCoreLoss",
    "map_mse",
    "position_cells",
    "render",
    "simulation_core",
    "unroll_sim",
    "windows",
]
