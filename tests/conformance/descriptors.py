"""The table of all cores: how to make a small one, what it reads, and what proves it equal to its original."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import sonnet as snt
import tensorflow as tf

import tfmem.cores
from tests.conformance.toys import KerasToy, SonnetToy, UsedDNC
from tfmem.cores.base import ReadOnly
from tfmem.cores.dnc import MemoryAccess
from tfmem.cores.entity import EntityMemory
from tfmem.cores.kanerva import KanervaCore, ReadOnlyKanerva
from tfmem.cores.lookup import LookupMemory
from tfmem.cores.lstm import LSTM, LSTMStack
from tfmem.cores.metalearned import MetalearnedMemory
from tfmem.cores.multigrid import ConvLSTM, MultigridConvLSTM
from tfmem.cores.plastic import PlasticRNN
from tfmem.cores.relational import RelationalMemory
from tfmem.cores.rma import RMACore, RMAWriter
from tfmem.cores.tvt import TVTCore
from tfmem.interop import as_keras_cell, as_sonnet_core

BATCH, STEPS = 4, 3


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      name: of the row; the class's, and the variant.
      create: makes the core in its native framework.
      input_shape: of one step's input without the batch, or a tuple of them.
      bad: `{argument: function that gives it a wrong value}`; the ValueError must name the argument.
      proof: below tests/, the arrays of the public original or the slow reference that the core is compared with.
    """

    name: str
    create: Callable[[], Any]
    input_shape: tuple
    bad: dict[str, Callable[[], Any]]
    proof: str | None

    @property
    def framework(self):
        return "sonnet" if isinstance(self.create(), snt.RNNCore) else "keras"

    def inputs(self, *leading, seed=0):
        """Random inputs [*leading, ...]."""
        rng = np.random.default_rng(seed)
        return keras.tree.map_shape_structure(
            lambda shape: tf.constant(rng.standard_normal([*leading, *shape]), tf.float32), self.input_shape
        )

    def specs(self, *leading):
        return keras.tree.map_shape_structure(lambda shape: tf.TensorSpec([*leading, *shape]), self.input_shape)

    def make(self, seed=1):
        """The core with random weights, as a Sonnet core and as a Keras cell."""
        keras.utils.set_random_seed(seed)
        native = self.create()
        core = native if isinstance(native, snt.RNNCore) else as_sonnet_core(native)
        cell = as_keras_cell(native) if core is native else native
        cell.build(keras.tree.map_shape_structure(lambda shape: (None, *shape), self.input_shape))
        core(self.inputs(1), core.initial_state(1))
        for i, variable in enumerate(core.trainable_variables):
            variable.assign_add(0.2 * tf.random.stateless_normal(variable.shape, [seed, i], dtype=variable.dtype))
        return core, cell


def sizes(argument, create):
    """Wrong values of a size."""
    return {argument: lambda: create(**{argument: 0})}


def rmc(**options):
    return RelationalMemory(**{"mem_slots": 3, "head_size": 4, "num_heads": 2, "input_bias": 0.5, **options})


def dnc(controller=(), **options):
    access = {"memory_size": 5, "word_size": 3, "num_reads": 2, "num_writes": 1}
    arguments = {"access_config": access, "controller_config": {"hidden_size": 6, **dict(controller)}, "output_size": 4}
    return UsedDNC(**{**arguments, "clip_value": 20, **options})


def kanerva(**options):
    return KanervaCore(**{"hidden_size": 5, "memory_size": 4, "word_size": 3, "projection_hidden_size": 6, **options})


def rma(**options):
    arguments = {"hidden_size": 5, "memory_size": 6, "word_size": 4, "num_reads": 2, "top_k": 3}
    return RMACore(**{**arguments, **options})


def tvt(**options):
    arguments = {"num_actions": 3, "num_latents": 4, "control_hidden_size": 5, "memory_size": 6, "memory_num_reads": 2}
    heads = {"memory_top_k": 0, "num_policy_hiddens": (5,), "baseline_mlp_num_hiddens": (5,)}
    return TVTCore(**{**arguments, **heads, **options})


def mnm(**options):
    return MetalearnedMemory(**{"units": 5, "num_heads": 2, "memory_size": 4, "word_size": 3, **options})


def lookup(**options):
    return LookupMemory(**{"units": 5, "num_heads": 2, "word_size": 3, "max_steps": 8, **options})


def multigrid(**options):
    return MultigridConvLSTM(**{"sizes": (3, 6), "filters": 2, **options})


ROWS = [
    Row("SonnetToy", lambda: SonnetToy(5, {"a": (1, [2])}), (3,), {"units": lambda: SonnetToy(0, {})}, None),
    Row("KerasToy", lambda: KerasToy(5), ((3,), (3,)), {"units": lambda: KerasToy(0)}, None),
    Row("RelationalMemory", rmc, (5,), {**sizes("mem_slots", rmc), **sizes("num_heads", rmc)}, "goldens/rmc"),
    Row(
        "RelationalMemory: matrix, memory gate, output gate",
        lambda: rmc(treat_input_as_matrix=True, gate_style="memory", output_gate=True, num_blocks=2, key_size=3),
        (2, 5),
        {"gate_style": lambda: rmc(gate_style="units")},
        "goldens/rmc",
    ),
    Row(
        "DNC",
        dnc,
        (5,),
        {
            **sizes("output_size", dnc),
            "clip_value": lambda: dnc(clip_value=-1),
            "controller_config": lambda: dnc({"type": "gru"}),
        },
        "goldens/dnc",
    ),
    Row(
        "DNC: two LSTM layers, two writes",
        lambda: dnc(
            {"num_layers": 2}, access_config={"memory_size": 5, "word_size": 3, "num_reads": 1, "num_writes": 2}
        ),
        (5,),
        {"access_config": lambda: dnc(access_config={"slots": 5})},
        "goldens/dnc",
    ),
    Row(
        "DNC: feed-forward",
        lambda: dnc({"type": "feedforward", "num_layers": 2}, clip_value=None),
        (5,),
        {"hidden_size": lambda: dnc({"hidden_size": 0})},
        "references/dnc.py",
    ),
    Row(
        "KanervaCore",
        kanerva,
        (5,),
        {**sizes("memory_size", kanerva), "read_projection": lambda: kanerva(read_projection="cnn")},
        "goldens/kanerva",
    ),
    Row(
        "KanervaCore: projections as in Table 4",
        lambda: kanerva(read_projection="mlp", write_projection="linear"),
        (5,),
        {"initial_noise_variance": lambda: kanerva(initial_noise_variance=0.0)},
        "goldens/kanerva",
    ),
    Row("RMACore", rma, (5,), {**sizes("word_size", rma), "top_k": lambda: rma(top_k=7)}, "goldens/rma"),
    Row(
        "RMACore: code's order, dense, two layers",
        lambda: rma(order="code", top_k=0, num_layers=2),
        (5,),
        {"order": lambda: rma(order="reversed")},
        "goldens/rma",
    ),
    Row("TVTCore", tvt, (5,), sizes("num_actions", tvt), "goldens/rma"),
    Row(
        "MetalearnedMemory: MNM-g",
        lambda: mnm(return_meta_loss=True, recall_delay=2, recall_weights=(1.0, 0.5, 0.25)),
        (5,),
        {**sizes("num_heads", mnm), "write": lambda: mnm(write="hebb")},
        "references/metalearned.py",
    ),
    Row(
        "MetalearnedMemory: MNM-p",
        lambda: mnm(write="local", learn_initial_memory=True),
        (5,),
        sizes("memory_layers", mnm),
        "references/metalearned.py",
    ),
    Row(
        "LookupMemory",
        lookup,
        (5,),
        {**sizes("word_size", lookup), **sizes("max_steps", lookup)},
        "references/lookup.py",
    ),
    Row(
        "EntityMemory",
        lambda: EntityMemory(3, 4),
        (5,),
        {"num_cells": lambda: EntityMemory(0, 4), "units": lambda: EntityMemory(3, 0)},
        "references/entity.py",
    ),
    Row(
        "PlasticRNN",
        lambda: PlasticRNN(5),
        (4,),
        {"units": lambda: PlasticRNN(0), "rule": lambda: PlasticRNN(5, rule="x")},
        "references/plastic.py",
    ),
    Row("LSTM", lambda: LSTM(4), (5,), {"hidden_size": lambda: LSTM(0)}, "goldens/simcore"),
    Row("LSTMStack", lambda: LSTMStack(4, 2), (5,), {"num_layers": lambda: LSTMStack(4, 0)}, "references/lstm.py"),
    Row(
        "ConvLSTM",
        lambda: ConvLSTM(3, peepholes=True),
        (4, 4, 2),
        {"filters": lambda: ConvLSTM(0), "rank": lambda: ConvLSTM(3, rank=3)},
        "goldens/multigrid",
    ),
    Row(
        "MultigridConvLSTM",
        multigrid,
        ((3, 3, 2), (6, 6, 2)),
        {"sizes": lambda: multigrid(sizes=(3, 9)), **sizes("filters", multigrid)},
        "goldens/multigrid",
    ),
    Row(
        "MultigridConvLSTM: 1-D, peepholes",
        lambda: multigrid(rank=1, peepholes=True),
        ((6, 2),),
        sizes("kernel_size", multigrid),
        "references/multigrid.py",
    ),
]

# Cores of tfmem.cores that are no rows.
EXEMPT = {
    ReadOnly: "a view of another core, without a configuration of its own; tested with RMACore",
    ReadOnlyKanerva: "as ReadOnly; tested with KanervaCore",
    MemoryAccess: "a part of DNC; tested there",
    RMAWriter: "a part of RMACore, with nothing to train",
}


def core_class(row):
    """The package's class that a row tests."""
    return next(c for c in type(row.create()).__mro__ if c.__module__.startswith("tfmem."))


def is_core(value):
    """Return whether a value is the class of a core or cell, and not an abstract base."""
    if not inspect.isclass(value):
        return False
    if issubclass(value, snt.RNNCore):
        return not inspect.isabstract(value)
    return issubclass(value, keras.layers.Layer) and hasattr(value, "get_initial_state") and hasattr(value, "step")


def all_cores():
    """Every public class of a core in the modules of tfmem.cores."""
    found = set()
    for module in pkgutil.walk_packages(tfmem.cores.__path__, "tfmem.cores."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if is_core(value) and not name.startswith("_") and value.__module__.startswith("tfmem.cores"):
                found.add(value)
    return found
