"""Configuration of an agent's experiment: its world, core, torso, loss and optimizer."""

import dataclasses
from typing import Annotated, Any, Literal, Union

from tyro.conf import subcommand

from tfmem.cores.config import AnyCoreConfig, ConvLSTMConfig, check_core_config
from tfmem.rl.agent import ConvTorso, FrameTorso, MLPTorso
from tfmem.rl.learner import Objective
from tfmem.training import OptimizedConfig
from tfmem.validation import check_bool, check_integer, check_range, positive_ints


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPTorsoConfig:
    """ReLU layers over the flattened observation (`MLPTorso`)."""

    sizes: tuple[int, ...] = ()
    """Widths of the layers; (): the observation itself."""

    def make(self):
        return MLPTorso(**dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvTorsoConfig:
    """Convolutions over a grid, and two maps of coordinates (`ConvTorso`)."""

    filters: tuple[int, ...] = (12, 24)
    """Kernels of the layers. Paper: Santoro et al. 2018, A.3."""
    kernel_size: int = 2
    """Side of the kernels. Paper: A.3."""
    stride: int = 1
    """Stride of every layer. Paper: A.3."""
    padding: Literal["valid", "same"] = "valid"
    """Padding. Not specified; we use none, and "same" for cores of grids."""
    coordinates: bool = True
    """Append maps of x and y. Paper: A.3."""
    output: Literal["vector", "grid", "cells"] = "vector"
    """Form of the output: a vector, a grid, or a matrix with a row for each cell."""

    def make(self):
        return ConvTorso(**dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameTorsoConfig:
    """Encoder of frames of the belief models (`FrameTorso`)."""

    channels: tuple[int, ...] = (16, 32, 32)
    """Channels of the layers. Not specified; we use these."""
    embedding_size: int = 256
    """Size of a frame's embedding. Not specified; we use this."""

    def make(self):
        return FrameTorso(**dataclasses.asdict(self))


AnyTorsoConfig = Union[  # noqa: UP007 - of annotated types
    Annotated[MLPTorsoConfig, subcommand("mlp")],
    Annotated[ConvTorsoConfig, subcommand("conv")],
    Annotated[FrameTorsoConfig, subcommand("frames")],
]
# On the command line: `core:rmc`, `core:conv-lstm`, or `core:none` for an agent without memory.
AnyAgentCoreConfig = AnyCoreConfig | Annotated[ConvLSTMConfig, subcommand("conv-lstm")] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig(OptimizedConfig):
    """World, agent and learner; experiments narrow the type of `world`."""

    world: Any
    """World: see `tfmem.rl.rollout` and `tfmem.envs.grid`."""
    core: AnyAgentCoreConfig
    """Core: a configuration of `tfmem.cores.config`, or None for an agent without memory."""
    torso: AnyTorsoConfig = MLPTorsoConfig()
    """Map from observations to the core's inputs."""
    objective: Objective = dataclasses.field(default_factory=Objective)
    """Loss of the learner."""
    num_worlds: int
    """Worlds side by side, the batch B. Presets name the source, also of the next fields."""
    unroll_length: int
    """Steps of each world in an update, T."""
    policy_lag: int = 0
    """Age in updates of the actors' weights. 0: on policy (A2C); IMPALA has 1 or more."""
    action_input: bool = True
    """Give the core the previous action. Public code: scalable_agent does."""
    reward_input: Literal["clipped", "raw"] | None = "clipped"
    """Form of the last reward in the core's input, clipped to [-1, 1] (public code: scalable_agent); None: no input."""
    skip: bool = False
    """Give the heads the core's input as well. Not specified; with it relational memories learn faster."""
    mlp_sizes: tuple[int, ...] = ()
    """Widths of the ReLU layers in each head; (): linear heads."""
    final_learning_rate: float | None = None
    """Final value of a linear decay over decay_updates; None: a constant learning rate."""
    decay_updates: int = 100_000
    """Updates of the decay."""
    num_levels: int = 1024
    """Levels in the pool of training; each episode draws one of them."""
    eval_episodes: int = 512
    """Episodes of an evaluation, the first ones of as many worlds, on levels of another pool of this size."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_worlds", "unroll_length", "decay_updates", "num_levels", "eval_episodes"):
            check_integer(name, getattr(self, name), 1)
        check_integer("policy_lag", self.policy_lag, 0)
        if self.core is not None:
            check_core_config(self.core)
        if not getattr(self.world, "compiles", True):
            if self.jit_compile is True:
                raise ValueError("jit_compile: True, must be False: XLA cannot compile the world")
            object.__setattr__(self, "jit_compile", False)
        positive_ints("mlp_sizes", self.mlp_sizes)
        for name in ("action_input", "skip"):
            check_bool(name, getattr(self, name))
        if isinstance(self.torso, type) or not hasattr(self.torso, "make"):
            raise ValueError(f"torso: {self.torso!r}, must be a configuration of a torso, such as MLPTorsoConfig()")
        if not isinstance(self.objective, Objective):
            raise ValueError(f"objective: {self.objective!r}, must be an Objective")
        if self.final_learning_rate is not None:
            check_range("final_learning_rate", self.final_learning_rate, 0)
            if not self.final_learning_rate and self.decay_updates < self.num_updates:
                raise ValueError(
                    f"decay_updates: {self.decay_updates}, must be at least num_updates ({self.num_updates}), "
                    "since the learning rate is 0 then"
                )
