"""Common settings of the SimCore experiments.

Paper: Gregor et al. 2019; A, B, E, F, G, H, I, K in the fields' texts are its appendices.
"""

import dataclasses
import math
from typing import Literal

from tfmem.cores.config import AnyCoreConfig, KanervaConfig, RMAConfig, SonnetLSTMConfig
from tfmem.losses.geco import GECO
from tfmem.models.convdraw import ConvDRAW, DeterministicFrameModel
from tfmem.training import RunConfig
from tfmem.validation import check_above_zero, check_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFields:
    """Fields of SimCore's loss, its model of frames and the map decoder; the defaults are `paper`'s."""

    overshoot: int = 12
    """L_o, steps of a rollout. Paper: 1, 2, 3, 6, 12 (Table 2)."""
    model: Literal["generative", "deterministic"] = "generative"
    """Model of frames. Paper: ConvDRAW with GECO, or a deterministic one (A, G). Not specified: the form of the latter;
    we use ConvDRAW's decoder with the squared error."""
    num_start_points: int = 6
    """N_t, rollouts of a trajectory. Paper: Table 2."""
    num_offsets: int = 2
    """N_g, modelled frames of a rollout, at most L_o. Paper: Table 2."""
    num_draw_steps: int = 8
    """Steps of ConvDRAW and of the deterministic decoder. Paper: 8 (Table 2)."""
    latent_channels: int = 16
    """Channels of the latents of a step. Not specified; we use this."""
    encoder_hidden: tuple[int, int] = (16, 16)
    """Channels of ConvDRAW's encoder layers. Paper: appendix A."""
    state_channels: int = 64
    """Channels of ConvDRAW's states. Paper: appendix A. Not specified for the encoder; we use the same."""
    decoder_hidden: tuple[int, int] = (32, 32)
    """Channels of ConvDRAW's decoder layers. Paper: appendix A."""
    conditioning_channels: int = 16
    """Channels of ConvDRAW's map of a belief. Not specified; we use this."""
    kappa: float = 1e-3
    """Squared error per pixel that GECO allows. Paper: about 1e-3 is best for maps (G). Not specified per what; we use
    pixels."""
    multiplier_rate: float = 0.1
    """Rate of GECO's lambda; see convdraw. Not specified; we use this."""
    map_channels: tuple[int, int, int] = (64, 32, 16)
    """Channels of the map decoder's layers. Not specified; we use these."""
    map_samples: bool = False
    """Train a ConvDRAW to sample maps given the belief. Paper: yes in terrain (I). Not specified at which steps; we use
    N_t steps of each trajectory."""

    def __post_init__(self):
        super().__post_init__()
        check_range("overshoot", self.overshoot, 1)
        check_above_zero(kappa=self.kappa)
        check_range("multiplier_rate", self.multiplier_rate, 0)

    @property
    def generative(self):
        return self.model == "generative"

    def frame_model(self, frame_shape, belief_size):
        """Make the model of frames given a belief."""
        if self.generative:
            return ConvDRAW(frame_shape, belief_size, **self._sizes(), **self._latent_sizes())
        return DeterministicFrameModel(frame_shape, belief_size, **self._sizes())

    def map_model(self, map_shape, belief_size):
        """Make the ConvDRAW of maps given a belief."""
        return ConvDRAW(map_shape, belief_size, **self._sizes(), **self._latent_sizes())

    def geco(self, shape, weight=1.0):
        """Make the GECO of images of a shape, whose loss will be multiplied by `weight`."""
        return GECO(self.kappa, math.prod(shape), rate=self.multiplier_rate / weight)

    def _sizes(self):
        return {
            "num_steps": self.num_draw_steps,
            "decoder_channels": self.state_channels,
            "decoder_hidden": self.decoder_hidden,
            "conditioning_channels": self.conditioning_channels,
        }

    def _latent_sizes(self):
        return {
            "latent_channels": self.latent_channels,
            "encoder_hidden": self.encoder_hidden,
            "encoder_channels": self.state_channels,
            "prior_channels": self.state_channels,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCoreConfig(ModelFields, RunConfig):
    """Fields of every SimCore experiment; the defaults are `paper`'s."""

    core: AnyCoreConfig
    """Core of the belief and the simulation network. Paper: LSTM, LSTM + RMA or LSTM + Kanerva (B), 512 to 1024 units
    (Table 2)."""
    train_core: bool = True
    """Train SimCore; else only the probes on an untrained core's beliefs, a baseline that the paper lacks."""
    unroll_length: int = 100
    """L_u, frames of a trajectory. Paper: 24 to 100 (Table 2)."""
    frame_size: int = 64
    """Side of the frames. Paper: 64 (A)."""
    frame_channels: tuple[int, ...] = (16, 32, 32)
    """Channels of the frame encoder's layers. Not specified; we use these."""
    embedding_size: int = 256
    """Size of a frame's embedding. Not specified; we use this."""
    map_size: int = 32
    """Side of the map. Not specified; we use this."""
    cells_per_side: int = 8
    """Cells per side of the grid in which the position decoder predicts a cell. Not specified; we use this."""
    position_hidden: int = 256
    """Units of the position decoder. Not specified; we use this."""
    field_of_view: float = 80.0
    """Field of view of the agent, degrees. Not specified; we use this."""
    num_episodes: int = 20_000
    """Episodes in the training file. Not specified; we use this."""
    eval_episodes: int = 256
    """Episodes of other worlds in the evaluation file. Not specified; we use this."""
    batch_size: int = 16
    """Trajectories of an update. Not specified; we use this."""
    learning_rate: float = 2e-4
    """Learning rate of Adam. Paper: 1e-4 to 2e-4 (Table 2)."""
    beta_1: float = 0.9
    """Decay of Adam's first moment. Paper: 0 to 0.95 (Table 2)."""
    beta_2: float = 0.999
    """Decay of Adam's second moment. Paper: 0.99 to 0.999 (Table 2)."""

    def __post_init__(self):
        super().__post_init__()
        check_range("overshoot", self.overshoot, 1, self.unroll_length - 1)
        check_range("batch_size", self.batch_size, 1, min(self.num_episodes, self.eval_episodes))
        check_above_zero(learning_rate=self.learning_rate)
        for name in ("beta_1", "beta_2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, must be from 0 to less than 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WalkerConfig(SimCoreConfig):
    """Fields of the experiments in which an exploring agent walks; the defaults are `paper`'s."""

    speed: float
    """Length of a move, in units of the world. Not specified; presets choose it."""
    num_headings: int = 12
    """Turns of a full circle. Not specified; we use this."""
    look: float = 0.05
    """Probability per step that the exploring agent stops to look around. Not specified; we use this."""

    def __post_init__(self):
        super().__post_init__()
        check_above_zero(speed=self.speed)
        check_range("look", self.look, 0, 1)


LSTM = {"core": SonnetLSTMConfig(hidden_size=1024)}  # Table 2
KANERVA = {"core": KanervaConfig(hidden_size=1024, memory_size=32, word_size=512)}  # Table 4
# Table 3. RMA's order is not specified; we use the public code's. In Appendix C's order, written for Kanerva, the word
# is made after the LSTM and stored without its gradient, so that the listing's loss would not train what is written.
RMA = {"core": RMAConfig(hidden_size=1024, memory_size=1350, word_size=200, num_reads=3, top_k=50, order="code")}
# Not specified; we use small frames, networks and worlds, for one CPU core and about a quarter of an hour. After a turn
# of 30 degrees, a view of 110 degrees shares most of the frame with the one before; otherwise beliefs start to learn
# late. In 23 actions the agent makes about four moves and looks around between them.
DEMO_MODEL = {
    "overshoot": 2,
    "model": "deterministic",
    "num_draw_steps": 2,
    "latent_channels": 8,
    "encoder_hidden": (8, 8),
    "state_channels": 32,
    "decoder_hidden": (16, 8),
    "conditioning_channels": 32,
    "kappa": 5e-3,
    "multiplier_rate": 0.02,
    "map_channels": (32, 32, 16),
}
DEMO = {
    **DEMO_MODEL,
    "unroll_length": 24,
    "core": SonnetLSTMConfig(hidden_size=128),
    "frame_size": 16,
    "embedding_size": 64,
    "map_size": 16,
    "position_hidden": 64,
    "field_of_view": 110.0,
    "num_episodes": 16_000,
    "eval_episodes": 256,
    "learning_rate": 2e-3,
    "num_updates": 6_000,
    "updates_per_call": 10,
    "log_every": 20,
    "eval_every": 1_000,
}
DEMO_RMA = {"core": RMAConfig(hidden_size=128, memory_size=32, word_size=32, num_reads=2, top_k=8)}
DEMO_KANERVA = {"core": KanervaConfig(hidden_size=128, memory_size=8, word_size=64)}
SMOKE_MODEL = {
    "overshoot": 2,
    "num_start_points": 2,
    "num_draw_steps": 1,
    "latent_channels": 2,
    "encoder_hidden": (2, 2),
    "state_channels": 4,
    "decoder_hidden": (2, 2),
    "conditioning_channels": 2,
    "map_channels": (2, 2, 2),
}
SMOKE = {
    **SMOKE_MODEL,
    "unroll_length": 6,
    "core": SonnetLSTMConfig(hidden_size=8),
    "frame_size": 8,
    "frame_channels": (2, 2),
    "embedding_size": 4,
    "map_size": 8,
    "cells_per_side": 3,
    "position_hidden": 4,
    "num_episodes": 8,
    "eval_episodes": 8,
    "batch_size": 4,
    "num_updates": 8,
    "updates_per_call": 2,
    "log_every": 2,
    "checkpoint_every": 4,
}
PAPER_UPDATES = {  # not specified; we use these
    "num_updates": 200_000,
    "updates_per_call": 10,
    "log_every": 50,
    "eval_every": 5_000,
    "checkpoint_seconds": 600.0,
}
_NO_NUMBER = "curves and pictures alone; their values are not readable"
PAPER = {name: (None, _NO_NUMBER) for name in ("map_mse", "map_mse_last", "position_accuracy")}
SIGNATURES = {"step", "initial_state", "simulate", "render"}
