"""Configurations of whole models in place of a core's: `SupervisedConfig(task=..., core=SortNetworkConfig(...))`.

The multigrid networks read pyramids, so they contain no separate core. A configuration has

    make_model(task, policy)        a built Keras model for a `tfmem.tasks.base.Task`
    run(model, task, inputs, lengths)   a `SequenceOutput` of the task's inputs, time-major

Level n of a multigrid layer has side base * 2^(n-1).
"""

import dataclasses
import math
from typing import Literal

import tensorflow as tf

from tfmem import models
from tfmem.models.sequence import SequenceOutput
from tfmem.tasks.priority_sort import patches


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultigridConfig:
    """Sizes of a multigrid network: memory layers, and convolutions from them back to the coarsest grid.

    Public code: github.com/trihuynh88/multigrid_mem, which has mapping and MNIST recall.
    """

    writer_levels: tuple[int, ...]
    """Levels of each memory layer, from the coarsest up."""
    writer_filters: tuple[int, ...]
    """Channels of each memory layer."""
    writer_residuals: tuple[tuple[int, int], ...] = ()
    """Pairs (earlier, later) of memory layers, counted from 1, whose outputs are added."""
    decoder_levels: tuple[int, ...]
    """Levels of the convolutions back to the coarsest grid."""
    decoder_filters: tuple[int, ...]
    """Channels of those convolutions."""
    decoder_residuals: tuple[tuple[int, int], ...] = ()
    """As writer_residuals, of the convolutions."""
    normalization: Literal["batch", "sequence"] | None = None
    """Normalization of layers by statistics of the current batch, or of each sequence; None: no normalization."""
    peepholes: bool = False
    """Peephole connections. Paper: yes (equations). Public code: no."""

    def arguments(self):
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SortNetworkConfig(MultigridConfig):
    """Encoder-decoder of sorting (`SortModel`), for `PrioritySort` and `MNISTSort`. Paper: supplement B.2."""

    def make_model(self, task, policy):
        size = task.input_size - 2
        classes = task.output_size != size
        if not classes and size != 9:
            raise ValueError(f"num_bits: {size}, must be 9 (3x3) for a multigrid network")
        if classes and len(set(self.writer_levels)) > 1:
            raise ValueError(f"writer_levels: {self.writer_levels}, must be equal: images go to all levels")
        model = models.SortModel(
            item_shape=(math.isqrt(size), math.isqrt(size), 2),
            input_levels=self.writer_levels[0] if classes else 1,
            num_classes=task.output_size if classes else None,
            dtype=policy,
            **self.arguments(),
        )
        model.build()
        return model

    def items(self, task, inputs):
        """Convert inputs [T, B, ...] to patches [n, B, side, side, 2] of the vector and its priority."""
        shown = inputs[: task.num_steps - 1 - task.num_outputs]
        return patches(shown[..., :-2], shown[..., -2])

    def run(self, model, task, inputs, lengths=None):
        """Compute logits of the last `num_outputs` steps, the only ones with answers."""
        logits, state = model.run(self.items(task, inputs), task.num_outputs)
        return SequenceOutput(tf.cast(logits, tf.float32), (), state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecallNetworkConfig(MultigridConfig):
    """Writer and reader of recall (`RecallModel`), for `AssociativeRecall`. Paper: supplement B.2."""

    reader_filters: tuple[int, ...]
    """Channels of the reader's layers, whose levels are the writer's."""
    reader_residuals: tuple[tuple[int, int], ...] = ()
    """As writer_residuals, of the reader's layers."""

    def make_model(self, task, policy):
        if task.num_bits != 9:
            raise ValueError(f"num_bits: {task.num_bits}, must be 9 (3x3) for a multigrid network")
        model = models.RecallModel(dtype=policy, **self.arguments())
        model.build()
        return model

    def items(self, task, inputs):
        """Convert inputs [T, B, ...] to items as patches [n, B, 3, 3, 1]."""
        return patches(inputs[: task.num_items, :, : task.num_bits])

    def run(self, model, task, inputs, lengths=None):
        query = patches(inputs[task.num_items, :, : task.num_bits])
        state = model.get_initial_state(inputs.shape[1])
        logits, state = model.run({"items": self.items(task, inputs), "query": query}, state)
        return SequenceOutput(tf.cast(logits, tf.float32), (), state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MappingNetworkConfig(MultigridConfig):
    """Writer of an agent that explores, and reader of its map (`MappingCell`). Public code: mapping_localization."""

    reader_filters: tuple[int, ...]
    """Channels of the reader's layers, whose levels are the writer's."""
    reader_residuals: tuple[tuple[int, int], ...] = ()
    """As writer_residuals, of the reader's layers."""

    def make(self, num_steps=None, policy="float32"):
        return models.MappingCell(models.LocalizationModel(dtype=policy, **self.arguments()), dtype=policy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnsweringNetworkConfig(MultigridConfig):
    """1-D multigrid memory over words (`QuestionAnsweringModel`), for tasks of tokens. Paper: supplement B.3."""

    def make_model(self, task, policy):
        model = models.QuestionAnsweringModel(task.output_size, dtype=policy, **self.arguments())
        model.build((None, None, task.input_size))
        return model

    def run(self, model, task, inputs, lengths=None):
        return model.run(inputs, lengths=lengths)
