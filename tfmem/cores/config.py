"""Configurations of the cores: the only place that maps names to cores.

A configuration is a frozen dataclass with the arguments of its core and `make`:

    core = DNCConfig(memory_size=64).make()

Experiments accept any of them, and any other dataclass with such a `make`. Default sizes train on a CPU; the papers'
sizes are in the presets of `reproductions`.
"""

import dataclasses
from typing import Annotated, ClassVar, Literal, Union

from tyro.conf import subcommand

from tfmem import cores
from tfmem.validation import check_range


def check_core_config(core):
    """Raise a ValueError unless `core` is an object with the `make` of a configuration, or with `make_model`."""
    if isinstance(core, type) or not (hasattr(core, "make") or hasattr(core, "make_model")):
        raise ValueError(f"core: {core!r}, must be a configuration of a core, such as LSTMConfig()")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoreConfig:
    """Base of the configurations. Its fields are the arguments of `core`, a class of `tfmem.cores`."""

    core: ClassVar[str]
    meta_weight: ClassVar[float] = 0.0  # weight of the core's own loss, `meta_loss`, if its output has one

    def make(self, num_steps=None, policy="float32"):
        """Make the core.

        Args:
          num_steps: length of the longest sequence, for cores that store every step; None: unknown.
          policy: name of its Keras dtype policy. With another than "float32", a Sonnet core is returned as a Keras
            cell.
        """
        return self._made(policy, **dataclasses.asdict(self))

    def _made(self, policy, **arguments):
        from tfmem.backend import keras
        from tfmem.interop import SonnetCell

        kind = getattr(cores, self.core)
        if issubclass(kind, keras.layers.Layer):
            return kind(dtype=policy, **arguments)
        core = kind(**arguments)
        return core if policy == "float32" else SonnetCell(core, dtype=policy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LSTMConfig(CoreConfig):
    """LSTM layers (`LSTMStack`)."""

    core = "LSTMStack"
    units: int = 128
    """Units of each layer."""
    num_layers: int = 1
    """Number of layers."""
    skip_connections: bool = True
    """Each layer also gets the input, and the output holds all layers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SonnetLSTMConfig(CoreConfig):
    """One LSTM layer with the weights and initial values of Sonnet 1 (`LSTM`)."""

    core = "LSTM"
    hidden_size: int = 128
    """Units."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelationalMemoryConfig(CoreConfig):
    """Relational Memory Core (`RelationalMemory`)."""

    core = "RelationalMemory"
    mem_slots: int = 4
    """Number of memories N."""
    head_size: int = 16
    """Size of a head; a memory has head_size * num_heads elements."""
    num_heads: int = 4
    """Attention heads."""
    num_blocks: int = 1
    """Rounds of attention in a step."""
    gate_style: Literal["unit", "memory"] = "unit"
    """One gate per element, or per memory."""
    attention_mlp_layers: int = 2
    """Layers of the MLP after attention."""
    key_size: int | None = None
    """Size of keys and queries; None: head_size."""
    output_gate: bool = False
    """Output gate. Paper: yes. Public code: no."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DNCConfig(CoreConfig):
    """Differentiable neural computer (`DNC`)."""

    core = "DNC"
    memory_size: int = 32
    """Slots N."""
    word_size: int = 16
    """Size of a slot W."""
    num_reads: int = 1
    """Read heads."""
    num_writes: int = 1
    """Write heads."""
    controller: Literal["lstm", "feedforward"] = "lstm"
    """Type of the controller."""
    hidden_size: int = 64
    """Units of each layer of the controller."""
    num_layers: int = 1
    """Layers of the controller."""
    output_size: int | None = None
    """Size of the output; None: hidden_size."""
    clip_value: float | None = 20.0
    """Bound of the controller's and the core's outputs. Public code: 20 (google-deepmind/dnc, train.py)."""

    def make(self, num_steps=None, policy="float32"):
        return self._made(
            policy,
            access_config=dict(
                memory_size=self.memory_size,
                word_size=self.word_size,
                num_reads=self.num_reads,
                num_writes=self.num_writes,
            ),
            controller_config=dict(type=self.controller, hidden_size=self.hidden_size, num_layers=self.num_layers),
            output_size=self.output_size or self.hidden_size,
            clip_value=self.clip_value,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EntityMemoryConfig(CoreConfig):
    """Recurrent Entity Network (`EntityMemory`)."""

    core = "EntityMemory"
    num_cells: int = 4
    """Cells m."""
    units: int = 64
    """Size of a cell."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LookupMemoryConfig(CoreConfig):
    """LSTM with a soft-attention look-up table (`LookupMemory`)."""

    core = "LookupMemory"
    units: int = 64
    """Units of the LSTM."""
    num_heads: int = 1
    """Heads H."""
    word_size: int = 32
    """Size of keys and values."""

    def make(self, num_steps=None, policy="float32"):
        return self._made(policy, **dataclasses.asdict(self), max_steps=num_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetalearnedMemoryConfig(CoreConfig):
    """Metalearned neural memory (`MetalearnedMemory`): MNM-p by the local write, MNM-g by the gradient write."""

    core = "MetalearnedMemory"
    units: int = 64
    """Hidden units of the controller, d_h."""
    num_heads: int = 1
    """Keys and values of each kind, H."""
    memory_layers: int = 3
    """Layers of the memory."""
    memory_size: int = 32
    """Width of the memory's hidden layers, D_l."""
    word_size: int = 32
    """Size of keys and values, d_k = d_v."""
    write: Literal["local", "gradient"] = "local"
    """Learned local update (MNM-p) or gradient step (MNM-g)."""
    meta_weight: float = 1.0
    """Weight of the meta loss relative to the task's. Paper: 1 (Eq. 6)."""
    recall_delay: int = 0
    """Largest delay of Eq. 5."""
    recall_weights: tuple[float, ...] = (1.0,)
    """lambda_0 to lambda_recall_delay of Eq. 5."""
    mean_error: bool = False
    """Divide Eqs. 2 and 5 by d_v, as in Eq. 9. Paper: Eqs. 2 and 5 as printed do not."""
    initial_rate: float = 0.25
    """beta at the start. Not specified; we use 0.25, and 0.05 at the paper's sizes: MNM-g diverges at 1/2."""
    memory_gain: float = 3**0.5
    """phi_0 is uniform in +-gain/sqrt(fan-in). Not specified; we use sqrt(3), which keeps the size of activations."""
    read_first: bool = False
    """Read the memory before the step's write. Paper: both orders. We write first."""
    output_activation: Literal["tanh", "linear"] = "tanh"
    """Activation of the memory's last layer. Paper: tanh (App. A)."""
    feedback_activation: str = "tanh"
    """Activation of MNM-p's q^l. Not specified; we use tanh."""

    def __post_init__(self):
        check_range("meta_weight", self.meta_weight, 0)
        if len(self.recall_weights) != self.recall_delay + 1:
            raise ValueError(
                f"recall_weights: {self.recall_weights}, must be recall_delay + 1 = {self.recall_delay + 1} numbers"
            )

    def make(self, num_steps=None, policy="float32"):
        arguments = dataclasses.asdict(self)
        del arguments["meta_weight"]
        return self._made(policy, return_meta_loss=True, **arguments)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlasticRNNConfig(CoreConfig):
    """Recurrent layer with Hebbian traces (`PlasticRNN`)."""

    core = "PlasticRNN"
    units: int = 64
    """Neurons."""
    rule: Literal["hebb", "oja"] = "hebb"
    """Hebbian decay (Eq. 2) or Oja's rule (Eq. 3)."""
    homogeneous: bool = False
    """All connections share one plasticity."""
    initial_eta: float = 0.01
    """Plasticity rate at the start."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RMAConfig(CoreConfig):
    """LSTM with the slot memory of the Reconstructive Memory Agent (`RMACore`)."""

    core = "RMACore"
    hidden_size: int = 64
    """Units of each LSTM layer."""
    memory_size: int = 64
    """Rows of the memory."""
    word_size: int = 32
    """Size of a row."""
    num_reads: int = 3
    """Read heads."""
    top_k: int = 0
    """Rows in each read; 0: all."""
    num_layers: int = 1
    """LSTM layers."""
    order: Literal["paper", "code"] = "code"
    """Order of read, LSTM and write; see `RMACore`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class KanervaConfig(CoreConfig):
    """LSTM with a Kanerva memory (`KanervaCore`)."""

    core = "KanervaCore"
    hidden_size: int = 64
    """Units of the LSTM."""
    memory_size: int = 16
    """Rows of the memory K."""
    word_size: int = 64
    """Size of a code C."""
    read_projection: Literal["linear", "mlp"] = "linear"
    """Map to the read word. Paper: linear (C's text and Figure 8; Table 4 has it the other way round)."""
    write_projection: Literal["linear", "mlp"] = "mlp"
    """Map to the written word. Paper: MLP (C's text and Figure 8; Table 4 has it the other way round)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvLSTMConfig(CoreConfig):
    """Convolutional LSTM (`ConvLSTM`) for inputs that are grids."""

    core = "ConvLSTM"
    filters: int = 32
    """Channels of the state."""
    kernel_size: int = 3
    """Side of the kernels."""


# On the command line: `core:dnc --core.memory-size 64`.
AnyCoreConfig = Union[  # noqa: UP007 - of annotated types
    Annotated[LSTMConfig, subcommand("lstm")],
    Annotated[SonnetLSTMConfig, subcommand("sonnet-lstm")],
    Annotated[RelationalMemoryConfig, subcommand("rmc")],
    Annotated[DNCConfig, subcommand("dnc")],
    Annotated[EntityMemoryConfig, subcommand("entnet")],
    Annotated[LookupMemoryConfig, subcommand("lstm-salu")],
    Annotated[MetalearnedMemoryConfig, subcommand("mnm")],
    Annotated[PlasticRNNConfig, subcommand("plastic")],
    Annotated[RMAConfig, subcommand("rma")],
    Annotated[KanervaConfig, subcommand("kanerva")],
]
