"""What sorting and recall (Huynh et al. 2020, Table 2; supplement B.2) share: optimiser, baselines, scores, pictures.

P-App below is the paper's supplement, CODE github.com/trihuynh88/multigrid_mem, DNC google-deepmind/dnc.
"""

import abc
import dataclasses
from typing import ClassVar, Literal

import numpy as np
import tensorflow as tf

from reproductions.multigrid._optimisation import public_rmsprop
from tfmem import plotting
from tfmem.cores import DNC, LSTMStack
from tfmem.interop import SonnetCell
from tfmem.losses.sequence import accuracy, binary_cross_entropy, bit_accuracy, cross_entropy
from tfmem.models.multigrid import SortModel
from tfmem.models.sequence import SequenceModel
from tfmem.optimizers import linear_decay
from tfmem.recurrence import unroll
from tfmem.training import check_range
from tfmem.training.sequence import EVALUATION_SEED, SequenceConfig, SequenceExperiment, make_optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlgorithmicConfig(SequenceConfig):
    """Fields of sorting and recall."""

    num_items: int
    """Items of a sequence; unknown, ours."""
    model: Literal["multigrid", "dnc", "lstm"] = "multigrid"
    """What is compared: multigrid and DNC, P-App C; the LSTM is ours."""
    writer_levels: tuple[int, ...]
    """Levels of each memory layer, from 3x3 up; P-App B.2 gives their number and the finest."""
    writer_filters: tuple[int, ...]
    """Channels of each memory layer; ours, as CODE has them where it has the task."""
    decoder_levels: tuple[int, ...]
    """Levels of the convolutions back to 3x3, from the coarsest; P-App B.2, their number is ours."""
    decoder_filters: tuple[int, ...]
    """Channels of these; ours."""
    writer_residuals: tuple[tuple[int, int], ...] = ((1, 3), (3, 5))
    """Memory layers added to later ones; CODE."""
    decoder_residuals: tuple[tuple[int, int], ...] = ((2, 4),)
    """The same in the convolutions back; CODE."""
    normalization: Literal["batch", "sequence"] | None = None
    """Unknown; CODE: "batch" for MNIST, none for bits."""
    peepholes: bool = False
    """Whether gates see the cell; the paper's equations yes, CODE no."""
    memory_size: int = 500
    """Slots of the DNC; P-App C."""
    word_size: int = 16
    """Size of a slot of the DNC; P-App C."""
    num_reads: int = 4
    """Read heads of the DNC beside one write head; P-App C."""
    units: int = 128
    """Of the DNC's LSTM, or of the LSTM; P-App C: so that parameters are comparable. The numbers are ours."""
    optimizer: Literal["public_rmsprop", "adam", "tf1_rmsprop"] = "public_rmsprop"
    """CODE's is TF 1's RMSProp with decay 0.99, momentum 0, epsilon 0.1 (public_rmsprop); the others are ours."""
    final_learning_rate: float = 1e-4
    """After decay_updates; CODE END_ALPHA 1e-4."""
    decay_updates: int = 100_000
    """Updates over which the rate falls linearly; CODE, MNIST recall: 1e6 images, 10 to an update."""

    supports_mixed_precision: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        for name in ("memory_size", "word_size", "num_reads", "units", "decay_updates"):
            check_range(self, name, 1)
        check_range(self, "final_learning_rate", 0)


def check_bits(config):
    """Raises a ValueError where an item of `num_bits` is no patch of the multigrid models."""
    if config.model == "multigrid" and config.num_bits != 9:
        raise ValueError(f"num_bits: {config.num_bits}, must be 9 (3x3) for the model multigrid")


PAPER_SETTINGS = dict(
    batch_size=32,  # CODE
    learning_rate=1e-3,  # CODE
    gradient_norm_clip=1e5,  # CODE, MNIST recall: of the loss summed over the batch
    num_updates=200_000,  # CODE, MNIST recall
    updates_per_call=10,
    log_every=50,
    eval_every=5_000,
    eval_batches=100,
    checkpoint_seconds=600.0,
)
DNC_SETTINGS = dict(
    model="dnc",
    optimizer="tf1_rmsprop",  # DNC, train.py: learning rate 1e-4, no momentum, epsilon 1e-10
    learning_rate=1e-4,
    final_learning_rate=1e-4,
    gradient_norm_clip=1600.0,  # DNC: 50 for the mean over sequences, here the sum over 32
)
# Ours.
LSTM_SETTINGS = dict(
    model="lstm", optimizer="adam", learning_rate=1e-3, final_learning_rate=1e-4, gradient_norm_clip=1600.0
)
# Ours: fewer items and small networks, so that two CPU cores learn it in minutes.
DEMO_SETTINGS = dict(
    writer_residuals=(),
    decoder_residuals=(),
    memory_size=32,
    num_reads=1,
    units=64,
    batch_size=64,
    optimizer="adam",
    gradient_norm_clip=1e3,
    updates_per_call=10,
    log_every=20,
    eval_every=200,
    eval_batches=40,
)
# Ours.
SMOKE_SETTINGS = dict(
    writer_residuals=(),
    decoder_residuals=(),
    batch_size=2,
    learning_rate=1e-3,
    num_updates=8,
    updates_per_call=2,
    log_every=2,
    checkpoint_every=4,
    eval_batches=2,
)


class AlgorithmicExperiment(SequenceExperiment):
    """`loss` is the cross entropy summed over the batch and what is asked for (P-App B.2.2; CODE sums), `error` the
    share of wrong bits or classes.

    A batch has "target", float32 [..., K] bits or int32 [...] classes; `forward` gives logits [..., K].
    """

    def make_optimizer(self):
        if self.config.optimizer == "public_rmsprop":
            return public_rmsprop(self.config.learning_rate)
        return make_optimizer(self.config)

    def learning_rate(self, update):
        config = self.config
        return linear_decay(update, config.learning_rate, config.final_learning_rate, config.decay_updates)

    def make_model(self):
        if self.config.model == "multigrid":
            model = self.make_multigrid()
            model.build()
        else:
            model = self._make_baseline()
        return model

    def _make_baseline(self):
        config = self.config
        input_size, output_size = self.baseline_sizes()
        if config.model == "lstm":
            cell = LSTMStack(config.units, num_layers=1, dtype=config.policy)
        else:
            core = DNC(
                access_config=dict(
                    memory_size=config.memory_size,
                    word_size=config.word_size,
                    num_reads=config.num_reads,
                    num_writes=1,
                ),
                controller_config=dict(hidden_size=config.units),
                output_size=output_size,
                clip_value=20.0,  # DNC, train.py
            )
            cell = SonnetCell(core, dtype=config.policy)
        model = SequenceModel(cell, output_size, (), return_sequences=True, dtype=config.policy)
        model.build((None, None, input_size))
        return model

    @abc.abstractmethod
    def make_multigrid(self):
        """The multigrid model."""

    @abc.abstractmethod
    def baseline_sizes(self):
        """(size of an input, of an answer) of the baselines."""

    @abc.abstractmethod
    def baseline_inputs(self, batch):
        """What the baselines see, [T, B, size of an input]."""

    @abc.abstractmethod
    def guess(self, batch):
        """Answers, a numpy array as "target", that know what was shown but not which item is asked for."""

    def scores(self, batch, outputs):
        target = batch["target"]
        if target.dtype.is_integer:
            loss, _ = cross_entropy(outputs, target)
            right, count = accuracy(outputs, target)
        else:
            asked = tf.ones(tf.shape(target)[:-1])
            loss, _ = binary_cross_entropy(outputs, target, asked)
            right, count = bit_accuracy(outputs, target, asked)
        return {"loss": loss, "error": (count - right, count)}

    def evaluation_data(self, number):
        """The evaluation's batch `number`, drawn or given."""
        return self._drawn(tf.nest.map_structure(tf.constant, self.evaluation_batch(number)), EVALUATION_SEED, number)

    def result(self, evaluation):
        """The error, and beside it that of telling what most of a sequence's items have."""
        batches = [self.evaluation_data(number) for number in range(self.config.eval_batches)]
        wrong = [np.mean(self.guess(batch) != batch["target"].numpy()) for batch in batches]
        return {**evaluation, "majority_error": float(np.mean(wrong))}

    @abc.abstractmethod
    def multigrid_memory(self, batch):
        """The grids of the last memory layer after every item, a pyramid of [items, B, s, s, C]."""

    def memory(self, batch):
        """The memory while a batch's first sequence is shown: {name: [items, rows, columns]}; {} for the LSTM.

        Grids are means over channels.
        """
        if self.config.model == "multigrid":
            grids = (tf.cast(grid[:, 0], tf.float32).numpy().mean(-1) for grid in self.multigrid_memory(batch))
            return {f"{grid.shape[-1]}×{grid.shape[-1]}": grid for grid in grids}
        if self.config.model == "lstm":
            return {}
        cell = self.model.cell

        def step(inputs, state):
            _, state = cell(inputs, state)
            return state.access_state.memory, state

        inputs = tf.cast(self.baseline_inputs(batch)[: self.config.num_items, :1], self.model.compute_dtype)
        memory, _ = unroll(step, inputs, self.model.get_initial_state(1))
        return {f"{memory.shape[2]} slots of {memory.shape[3]}": tf.cast(memory[:, 0], tf.float32).numpy()}

    def figures(self, folder):
        super().figures(folder)
        memory = self.memory(self.evaluation_data(0))
        if memory:
            plotting.memory_figure({self.config.model: memory}, title=self.name).savefig(folder / "memory.png", dpi=120)


class SortExperiment(AlgorithmicExperiment):
    """Sorting, by the encoder-decoder; a configuration has `num_outputs`."""

    item_shape, num_classes = (3, 3, 2), None

    @abc.abstractmethod
    def items(self, batch):
        """The inputs as the encoder sees them, [n, B, *item_shape]."""

    def make_multigrid(self):
        config = self.config
        return SortModel(
            writer_levels=config.writer_levels,
            writer_filters=config.writer_filters,
            decoder_levels=config.decoder_levels,
            decoder_filters=config.decoder_filters,
            item_shape=self.item_shape,
            input_levels=config.writer_levels[0] if self.num_classes else 1,
            num_classes=self.num_classes,
            writer_residuals=config.writer_residuals,
            decoder_residuals=config.decoder_residuals,
            normalization=config.normalization,
            peepholes=config.peepholes,
            dtype=config.policy,
        )

    def forward(self, batch, carry, training):
        if self.config.model == "multigrid":
            logits, _ = self.model.run(self.items(batch), self.config.num_outputs)
            logits = tf.cast(logits, tf.float32)
        else:
            logits = self.model.run(self.baseline_inputs(batch)).logits[-self.config.num_outputs :]
        return logits, carry

    def multigrid_memory(self, batch):
        items = self.items(batch)
        memories, _ = self.model.write(items, self.model.get_initial_state(items.shape[1]))
        return memories[-1]
