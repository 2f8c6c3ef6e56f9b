"""Mapping and localization in mazes (Huynh et al. 2020, §4.1; supplement B.1; public code mapping_localization).

An agent walks through a maze and sees 3x3 cells at a time. The writer stores a map; readers predict the locations of a
queried patch. CODE below is github.com/trihuynh88/multigrid_mem, P-App is the paper's supplement.
"""

import dataclasses
from typing import Literal

import numpy as np
import tensorflow as tf

from tfmem.axes import merge_leading
from tfmem.cores.config import AnyCoreConfig, DNCConfig, LSTMConfig
from tfmem.losses.localization import (
    Counts,
    localization_counts,
    localization_loss,
    localization_scores,
    prior_counts,
    target_sum,
)
from tfmem.models import CoreLocalizationModel, LocalizationModel
from tfmem.optimizers import linear_decay
from tfmem.tasks.mapping import UNKNOWN, VIEW, MappingStream, MappingTask, recentre
from tfmem.training import Evaluation
from tfmem.training.sequence import SequenceExperiment
from tfmem.validation import check_range

from .figures import MappingFrame, mapping_figure, save_mapping_gif
from .memories import draw_memory, slots
from .routing import figure_1
from .settings import DNC, LSTM, PublicCodeConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(PublicCodeConfig):
    map_size: int = 25
    """Side of the maze with its outer wall. Public code: 25 (MAP_SIZE)."""
    walk: Literal["spiral", "random"] = "spiral"
    """Walk of the agent. Public code: spiral. Not specified for the random walk; we use uniform moves."""
    episode_length: int | None = None
    """Steps of an episode; None: one per inner cell. Public code: one per inner cell."""
    query_sizes: tuple[int, ...] = (3,)
    """Sides of the queried patches. Paper: 3 and 9 (P-App B.1.1). Public code: 3."""
    label_after_move: bool = True
    """Compute the label after the agent's move. Public code: yes."""
    centred: bool = False
    """Put the start at the center of the answer's map. Paper: yes (P-App B.1.1). Public code: no, (map_size, map_size).
    """
    hold_out: int = 0
    """Reserve one maze in this many for evaluation; 0: none. Not specified; we use 0: large mazes rarely repeat."""
    core: AnyCoreConfig | None = None
    """Core of a baseline, which sees view and query; None: the multigrid network below."""
    locator_sizes: tuple[int, ...] = (64,)
    """Widths of the ReLU layers by which a core answers queries. Not specified; we use one of 64."""
    base_size: int = 3
    """Side of the coarsest grid. Public code: 3. With levels of 1 alone, ConvLSTMs and convolutions at one scale."""
    writer_levels: tuple[int, ...] = (2, 2, 3, 3, 4, 4, 5)
    """Levels of each memory layer from 3x3 up, as in the public code."""
    writer_filters: tuple[int, ...] = (4, 4, 8, 8, 16, 16, 16)
    """Channels of each memory layer, as in the public code."""
    reader_filters: tuple[int, ...] = (4, 4, 8, 8, 16, 16, 16)
    """Channels of the reader's layers, as in the public code."""
    decoder_levels: tuple[int, ...] = (4, 4, 3, 3, 2, 2, 1)
    """Levels of the reader's second half, from the finest down, as in the public code."""
    decoder_filters: tuple[int, ...] = (16, 16, 16, 16, 16, 16, 1)
    """Channels of the reader's second half, as in the public code."""
    writer_residuals: tuple[tuple[int, int], ...] = ((1, 3), (3, 5), (5, 7))
    """Layers added to later ones, as in the public code."""
    reader_residuals: tuple[tuple[int, int], ...] = ((1, 3), (3, 5))
    """The same in the reader."""
    decoder_residuals: tuple[tuple[int, int], ...] = ((2, 4), (4, 6))
    """The same in its second half."""
    window: int = 20
    """Steps of truncated back-propagation. Public code: 20 (LOCAL_T_MAX)."""
    gradient_norm_clip: float | None = 1e4
    """Largest global norm of the gradient. Public code: 10000 (GRAD_NORM_CLIP)."""
    batch_parts: Literal["auto"] | int = 1
    """Equal parts of the batch whose gradients are computed one after the other and added; saves memory. "auto": 2 on a
    CPU, 1 on a GPU. Results are the same up to rounding. Not specified; we use "auto" at the paper's size."""
    eval_batches: int = 2
    """Batches of unseen mazes in an evaluation, each for a whole episode. Not specified; we use 2."""

    def __post_init__(self):
        super().__post_init__()
        check_range("window", self.window, 1)
        if self.batch_parts != "auto" and (self.batch_parts < 1 or self.batch_size % self.batch_parts):
            raise ValueError(
                f"batch_parts: {self.batch_parts}, must be 'auto' or divide batch_size, here {self.batch_size}"
            )
        if self.core is not None and self.query_sizes != (VIEW,):
            raise ValueError(f"query_sizes: {self.query_sizes}, must be ({VIEW},) with a core")
        self.task()

    @property
    def parts(self):
        """Number of parts that `batch_parts` means on this machine."""
        if self.batch_parts == "auto":
            return 1 if self.batch_size % 2 or tf.config.list_physical_devices("GPU") else 2
        return self.batch_parts

    def task(self):
        return MappingTask(
            map_size=self.map_size,
            query_sizes=self.query_sizes,
            walk=self.walk,
            episode_length=self.episode_length,
            target_size=self.base_size * 2 ** (self.writer_levels[-1] - 1),
            centred=self.centred,
            label_after_move=self.label_after_move,
        )


# CODE counts environment steps: 2e6 of them, 529 to an episode of 27 windows.
PAPER_CONFIG = Config(
    num_updates=102_080,
    updates_per_call=5,
    log_every=20,
    eval_every=2_000,
    checkpoint_seconds=600.0,
    batch_parts="auto",
)

# P-App D: 0.12 M parameters and 8 K memory cells on 15x15 maps. Not specified: widths; these have 120,969 and 7,983.
SMALL = dict(
    map_size=15,
    writer_levels=(2, 2, 3, 3, 4),
    writer_filters=(4, 4, 6, 6, 7),
    reader_filters=(4, 4, 8, 8, 14),
    decoder_levels=(4, 3, 3, 2, 1),
    decoder_filters=(12, 12, 12, 12, 1),
    writer_residuals=((1, 3), (3, 5)),
    reader_residuals=((1, 3), (3, 5)),
    decoder_residuals=((2, 4),),
)

# Not specified; we put the start in the center: the 5x5 locations of a 7x7 map fit a 6x6 answer, so two levels suffice.
TINY = dict(
    map_size=7,
    hold_out=4,
    centred=True,
    writer_levels=(2, 2, 2),
    writer_filters=(8, 12, 16),
    reader_filters=(8, 12, 16),
    decoder_levels=(2, 1, 1),
    decoder_filters=(16, 16, 1),
    writer_residuals=(),
    reader_residuals=(),
    decoder_residuals=(),
    optimizer="adam",
    epsilon=1e-7,  # Keras's
)

PAPER_15X15 = dataclasses.replace(PAPER_CONFIG, **SMALL, num_updates=106_510)


def one_scale(side, writer_filters, reader_filters, decoder_filters):
    """Changes that make a multigrid network a stack of ConvLSTMs, and convolutions, at the scale of the answer.

    The standard network of the supplement's Figure 1. Not specified: its layers; we use as many as the other's.
    """
    return dict(
        base_size=side,
        writer_levels=(1,) * len(writer_filters),
        writer_filters=writer_filters,
        reader_filters=reader_filters,
        decoder_levels=(1,) * len(decoder_filters),
        decoder_filters=decoder_filters,
        writer_residuals=(),
        reader_residuals=(),
        decoder_residuals=(),
    )


DEMO_CONFIG = Config(
    **TINY,
    window=25,
    learning_rate=4e-3,
    final_learning_rate=4e-4,
    decay_steps=15_000,
    gradient_norm_clip=100.0,
    num_updates=600,
    updates_per_call=10,
    log_every=10,
    eval_every=200,
    eval_batches=4,
)
# Demos of vector cores: an update is cheaper, so they get more. Not specified; we use these.
LONGER = dict(learning_rate=2e-3, final_learning_rate=2e-4, decay_steps=50_000, num_updates=2_000, log_every=20)

PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_15x15": PAPER_15X15,
    # P-App C and D: 500 slots of 16, four read heads; 0.75 M parameters and 8 K cells. Units are those that give them.
    "paper_dnc": dataclasses.replace(
        PAPER_15X15, core=DNCConfig(memory_size=500, word_size=16, num_reads=4, hidden_size=304), **DNC
    ),
    # Not specified: sizes; as many parameters as paper_15x15, for the ConvLSTM also as many cells.
    "paper_lstm": dataclasses.replace(PAPER_15X15, core=LSTMConfig(units=105), **LSTM),
    "paper_conv_lstm": dataclasses.replace(
        PAPER_15X15, **one_scale(24, (2, 3, 3, 3, 3), (39,) * 5, (39, 39, 39, 39, 1))
    ),
    "spiral_9x9_query": dataclasses.replace(PAPER_CONFIG, query_sizes=(3, 9)),
    "random_walk": dataclasses.replace(PAPER_CONFIG, walk="random"),
    "demo": DEMO_CONFIG,
    "demo_random_walk": dataclasses.replace(DEMO_CONFIG, walk="random"),
    # Not specified; we use the smallest maze with 9x9 patches around more than one place.
    "demo_9x9_query": dataclasses.replace(
        DEMO_CONFIG,
        map_size=11,
        query_sizes=(3, 9),
        window=27,  # a third of the spiral
        writer_levels=(2, 2, 3),
        decoder_levels=(3, 2, 1),
        decay_steps=48_600,
        num_updates=1_800,
    ),
    # As many parameters as the demo; the DNC and the ConvLSTM also as many cells of memory.
    "demo_dnc": dataclasses.replace(
        DEMO_CONFIG, core=DNCConfig(memory_size=100, word_size=16, num_reads=4, hidden_size=92), **LONGER
    ),
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, core=LSTMConfig(units=132), **LONGER),
    "demo_conv_lstm": dataclasses.replace(DEMO_CONFIG, **one_scale(6, (15, 15, 15), (41, 41, 41), (41, 41, 1))),
    "smoke": Config(
        **TINY | dict(writer_filters=(2, 2, 4), reader_filters=(2, 2, 4), decoder_filters=(4, 4, 1)),
        batch_size=2,
        window=8,
        eval_batches=1,
        num_updates=8,
        updates_per_call=2,
        log_every=2,
        checkpoint_every=4,
    ),
}
PAPER = {"f_score": (None, "Table 1, not readable in any source we found")}
DATASETS = ()
STATUS = "demo"


class Experiment(SequenceExperiment):
    name = "multigrid/mapping"
    summed_scores = ("loss",)

    def __init__(self, config):
        self.task = config.task()
        super().__init__(config)
        self.stream, self.unseen = (
            MappingStream(
                self.task, config.batch_size, config.window, config.seed, split=split, hold_out=config.hold_out
            )
            for split in ("train", "evaluation")
        )
        self._evaluate_window = tf.function(self._window_logits)
        self._score_step = tf.function(self._score_window, autograph=False)

    def make_model(self):
        config = self.config
        if config.core is not None:
            core = config.core.make(self.task.length, config.policy)
            model = CoreLocalizationModel(core, self.task.target_size, config.locator_sizes, dtype=config.policy)
            model.build()
            return model
        model = LocalizationModel(
            base_size=config.base_size,
            view_size=VIEW,
            writer_levels=config.writer_levels,
            writer_filters=config.writer_filters,
            reader_filters=config.reader_filters,
            decoder_levels=config.decoder_levels,
            decoder_filters=config.decoder_filters,
            query_sizes=config.query_sizes,
            writer_residuals=config.writer_residuals,
            reader_residuals=config.reader_residuals,
            decoder_residuals=config.decoder_residuals,
            peepholes=config.peepholes,
            dtype=config.policy,
        )
        model.build()
        return model

    def initial_carry(self):
        return self.model.get_initial_state(self.config.batch_size)

    def batch(self, update):
        return self.stream.batch(update)

    def evaluation_batch(self, number):
        return self.unseen.batch(number)

    def data_source(self, split="train"):
        config = self.config
        arguments = {
            "task": dataclasses.asdict(self.task),
            "batch_size": config.batch_size,
            "length": config.window,
            "seed": config.seed,
            "split": split,
            "hold_out": config.hold_out,
        }
        return "tfmem.tasks.mapping:stream", arguments

    def environment_steps(self, update):
        """Environment steps before update number `update`. Public code: global_t, which decays the learning rate."""
        windows = self.stream.windows_per_episode
        return update // windows * self.task.length + update % windows * self.config.window

    def batch_axis(self, name, array):
        return None if name == "mask" else super().batch_axis(name, array)

    def learning_rate(self, update):
        config = self.config
        steps = self.environment_steps(update)
        return linear_decay(steps, config.learning_rate, config.final_learning_rate, config.decay_steps)

    def forward(self, batch, carry, training):
        """Compute the logits of a window by name; the memory starts anew where an episode starts."""
        size = batch["writer"].shape[1]
        start = self.model.get_initial_state(tf.shape(batch["writer"])[1] if size is None else size)
        state = tf.nest.map_structure(lambda s, new: tf.where(batch["first"], new, s), carry, start)
        return self._window_logits(batch, state)

    def scores(self, batch, outputs):
        """Compute the loss, a sum over readers, steps, batch and cells. Paper: supplement B.1.2."""
        losses = [
            localization_loss(outputs[f"logits_{q}"], batch[f"target_{q}"], batch[f"asked_{q}"])
            for q in self.model.query_sizes
        ]
        return {"loss": tf.add_n(losses)}

    def gradients(self, batch, carry):
        """Add the gradients and losses of `batch_parts`: the loss is a sum over sequences."""
        gradients_of_part, parts = super().gradients, self.config.parts
        if parts == 1:
            return gradients_of_part(batch, carry)
        size = self.config.batch_size // parts
        time_major = {name: x for name, x in batch.items() if x.shape.rank > 1}
        time_major = {name: tf.reshape(x, [-1, parts, size, *x.shape[2:]]) for name, x in time_major.items()}
        states = tf.nest.map_structure(lambda s: tf.reshape(s, [parts, size, *s.shape[1:]]), carry)
        flat_states = tf.nest.flatten(states)

        def body(part, sums, arrays):
            own = {**batch, **{name: x[:, part] for name, x in time_major.items()}}
            *found, state = gradients_of_part(own, tf.nest.map_structure(lambda s: s[part], states))
            # An identity that stays: `tfmem.recurrence` says which fault of the memory optimizer it keeps away.
            found = tf.nest.map_structure(lambda x: tf.raw_ops.PlaceholderWithDefault(input=x, shape=x.shape), found)
            sums = tf.nest.map_structure(tf.add, sums, found)
            arrays = [a.write(part, s) for a, s in zip(arrays, tf.nest.flatten(state), strict=True)]
            return part + 1, sums, arrays

        zeros = [[tf.zeros(v.shape, v.dtype) for v in self.model.trainable_variables], {"loss": tf.zeros([])}]
        arrays = [tf.TensorArray(s.dtype, parts, element_shape=s.shape[1:]) for s in flat_states]
        _, (gradients, scores), arrays = tf.while_loop(
            lambda part, *_: part < parts,
            body,
            (0, zeros, arrays),
            parallel_iterations=1,  # side by side they would need the memory that parts save
            maximum_iterations=parts,
        )
        flat = [merge_leading(a.stack(), 2) for a in arrays]
        return gradients, scores, tf.nest.pack_sequence_as(carry, flat)

    def _window_logits(self, batch, state):
        inputs = {"observation": batch["writer"], **{f"query_{q}": batch[f"query_{q}"] for q in self.model.query_sizes}}
        logits, state = self.model.run(inputs, state)
        return {name: tf.cast(values, tf.float32) for name, values in logits.items()}, state

    def evaluation(self):
        """Evaluate unseen mazes; the carry is the memory, and right and wrong cells by query size."""
        counts = {q: Counts(*[tf.constant(0, tf.int64)] * 3) for q in self.model.query_sizes}
        steps = self.config.eval_batches * self.stream.windows_per_episode
        return Evaluation(steps, (self.initial_carry(), counts), self._score_step)

    def _score_window(self, number, batch, carry):
        state, totals = carry
        logits, state = self.forward(batch, state, training=False)
        for q in self.model.query_sizes:
            counts = localization_counts(logits[f"logits_{q}"], batch[f"target_{q}"], batch[f"asked_{q}"])
            totals = {**totals, q: tf.nest.map_structure(tf.add, totals[q], counts)}
        return (state, totals), _scores({q: localization_scores(counts) for q, counts in totals.items()})

    def result(self, evaluation):
        """Return the scores and two baselines: an untrained network, and the mean map of training episodes."""
        trained = [v.numpy() for v in self.model.variables]
        fresh = self.make_model()
        for variable, value in zip(self.model.variables, fresh.variables, strict=True):
            variable.assign(value)
        untrained = self.evaluate()
        for variable, value in zip(self.model.variables, trained, strict=True):
            variable.assign(value)
        prior = _scores({q: self._prior_scores(q) for q in self.model.query_sizes})
        return {
            **evaluation,
            **{f"untrained_{name}": value for name, value in untrained.items() if "f_score" in name},
            **{f"map_prior_{name}": float(value) for name, value in prior.items() if "f_score" in name},
        }

    def _prior_scores(self, size):
        def total(stream):
            sums = None
            for number in range(self.config.eval_batches):
                for window in stream.episode(number).windows(self.config.window):
                    more = target_sum(tf.constant(window[f"target_{size}"]), tf.constant(window[f"asked_{size}"]))
                    sums = more if sums is None else tf.nest.map_structure(tf.add, sums, more)
            return sums

        return localization_scores(prior_counts(total(self.stream), total(self.unseen)))

    def frames(self, every=1, item=0, size=VIEW):
        """Predict along an unseen episode by the reader of a query size: a `MappingFrame` every `every` steps."""
        episode = self.unseen.episode(0)
        target_size = self.model.map_size
        world = recentre(episode.maps, target_size, UNKNOWN, self.task.start)[item]
        state, start = self.initial_carry(), 0
        write = tf.function(self.model.write) if self.config.core is None else None
        for window in episode.windows(self.config.window):
            batch = tf.nest.map_structure(tf.constant, window)
            memories, _ = write(batch["writer"], state) if write else ([()], ())
            logits, state = self._evaluate_window(batch, state)
            probability = tf.sigmoid(logits[f"logits_{size}"]).numpy()
            for step in range(int(window["num_steps"])):
                t = start + step
                if t % every and t != episode.length - 1:
                    continue
                query = window[f"query_{size}"][step, item]
                yield MappingFrame(
                    world=world,
                    path=episode.relative_positions[: t + 1, item],
                    view=episode.views(t, t + 1)[0, item],
                    query=np.where(query[..., 0] + query[..., 1] > 0, query[..., 1], UNKNOWN),
                    prediction=probability[step, item],
                    target=window[f"target_{size}"][step, item],
                    memory=tuple(tf.cast(grid[step, item], tf.float32).numpy() for grid in memories[-1]),
                    title=f"step {t + 1} of {episode.length}",
                )
            start += self.config.window

    def memory(self):
        """Slots of a DNC along an unseen episode of one agent, `{name: [T, slots, word]}`; {} for other memories."""
        if self.config.core is None:
            return {}
        walk, model = self.unseen.episode(0).window(0, self.task.length), self.model
        shown = model.core_inputs({"observation": walk["writer"][:, :1], "query_3": walk["query_3"][:, :1]})
        return slots(model.cell, tf.cast(shown, model.compute_dtype), model.get_initial_state(1))

    def figures(self, folder):
        figure_1().savefig(folder / "routing.png", dpi=100)
        for size in self.model.query_sizes:
            name = "mapping" if size == VIEW else f"mapping_{size}x{size}"
            frames = list(self.frames(every=max(1, self.task.length // 40), size=size))
            save_mapping_gif(folder / f"{name}.gif", frames)
            for part, frame in (("middle", frames[len(frames) // 2]), ("end", frames[-1])):
                mapping_figure(frame).savefig(folder / f"{name}_{part}.png", dpi=100)
        draw_memory(self, self.memory(), folder)


def _scores(by_size):
    """Join scores by query size into one dict; 3x3 queries keep the bare names."""
    return {
        name if size == VIEW else f"{name}_{size}x{size}": getattr(scores, name)
        for size, scores in by_size.items()
        for name in ("precision", "recall", "f_score")
    }
