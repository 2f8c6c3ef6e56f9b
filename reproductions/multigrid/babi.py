"""bAbI, word by word, all tasks jointly, with 1-D multigrid memory (Huynh et al. 2020, Table 3; supplement B.3).

P-App below is the paper's supplement. Its Table 3, Figure 9 (the network) and all widths and lengths of training are
not readable in any source we found; what is ours is said below each field.
"""

import dataclasses
from typing import ClassVar, Literal

import tensorflow as tf

from reproductions._babi import BabiExperiment, check_config
from tfmem.cores import DNC
from tfmem.interop import SonnetCell
from tfmem.losses.sequence import accuracy, cross_entropy
from tfmem.models.multigrid import QuestionAnsweringModel
from tfmem.models.sequence import SequenceModel
from tfmem.training import check_range
from tfmem.training.sequence import SequenceConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SequenceConfig):
    version: str = "en-valid-10k"
    """Folder of bAbI v1.2; 1k or 10k is not said, the DNC's paper takes 10k."""
    tasks: tuple[int, ...] = tuple(range(1, 21))
    """Tasks that are learnt jointly; P-App B.3: all 20."""
    encoding: Literal["question", "story"] = "story"
    """Whole stories with their questions, as the DNC's paper has it (|V| = 159 is that of its words); ours."""
    group_by_length: bool = True
    """Whether a batch has sequences of like length alone; nothing where the batch is 1. Ours."""
    max_words: int = 0
    """Longest sequence of training; longer ones are left out and all are padded to it, as compiled bundles need. 0: all
    are taken, padded as a batch needs. Ours."""
    model: Literal["multigrid", "dnc"] = "multigrid"
    """What is compared; P-App C."""
    writer_levels: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Levels of each memory layer; P-App B.3: from 1x1 to 1x16. Their number is ours."""
    writer_filters: tuple[int, ...] = (64, 64, 64, 64, 64)
    """Channels of each memory layer; ours."""
    decoder_levels: tuple[int, ...] = (4, 3, 2)
    """Levels of the convolutions back to 1x1, to which the last layer is added; P-App B.3, their number is ours."""
    decoder_filters: tuple[int, ...] = (64, 64, 64)
    """Channels of these; ours."""
    residuals: tuple[tuple[int, int], ...] = ((1, 3), (3, 5))
    """Memory layers added to later ones; ours, as in the public code's other networks."""
    normalization: Literal["batch", "sequence"] | None = "sequence"
    """P-App B.3: sequence-wise."""
    peepholes: bool = False
    """Whether gates see the cell; the paper's equations yes, the public code no."""
    memory_size: int = 256
    """Slots of the DNC; P-App C."""
    word_size: int = 64
    """Size of a slot of the DNC; P-App C."""
    num_reads: int = 4
    """Read heads of the DNC beside one write head; P-App C."""
    units: int = 256
    """Of the DNC's LSTM; ours, as Mostafa-Samir/DNC-tensorflow."""
    dev_questions: int = 0
    """Sequences of each task in an evaluation on the dev set; 0: all. Ours."""

    supports_mixed_precision: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_config(self)
        for name in ("memory_size", "word_size", "num_reads", "units"):
            check_range(self, name, 1)


PAPER_CONFIG = Config(
    batch_size=1,  # P-App B.3
    learning_rate=1e-3,  # with Adam: ours
    gradient_norm_clip=10.0,  # ours
    num_updates=500_000,  # ours: about 9 passes over the stories of en-valid-10k
    log_every=100,
    eval_every=10_000,
    checkpoint_seconds=600.0,
)
# Ours: two tasks, three levels, batches of 16 stories, so that two CPU cores learn it in minutes.
DEMO_CONFIG = Config(
    tasks=(1, 20),
    writer_levels=(1, 2, 3),
    writer_filters=(24, 24, 24),
    decoder_levels=(2,),
    decoder_filters=(24,),
    residuals=((1, 3),),
    memory_size=32,
    word_size=16,
    num_reads=2,
    units=64,
    batch_size=16,
    learning_rate=3e-3,
    gradient_norm_clip=10.0,
    num_updates=2_500,
    log_every=25,
    eval_every=250,
    dev_questions=300,
)
PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_dnc": dataclasses.replace(
        PAPER_CONFIG, model="dnc", optimizer="tf1_rmsprop", learning_rate=1e-4, momentum=0.9
    ),  # Mostafa-Samir/DNC-tensorflow, for bAbI
    "demo": DEMO_CONFIG,
    "demo_dnc": dataclasses.replace(DEMO_CONFIG, model="dnc"),
    "smoke": Config(
        version="en-valid",
        tasks=(1, 8),
        writer_levels=(1, 2),
        writer_filters=(3, 3),
        decoder_levels=(),
        decoder_filters=(),
        residuals=((1, 2),),
        memory_size=3,
        word_size=3,
        num_reads=1,
        units=4,
        batch_size=3,
        learning_rate=1e-3,
        num_updates=8,
        log_every=2,
        eval_every=4,
        checkpoint_every=4,
        dev_questions=2,
    ),
}
PAPER = {
    "mean_error": (None, "Table 3, not readable in any source we found"),
    "failed_tasks": (None, "Table 3, not readable in any source we found"),
}
DATASETS = ("babi",)


class Experiment(BabiExperiment):
    name = "multigrid/babi"

    def make_model(self):
        config, num_words = self.config, len(self.words)
        if config.model == "dnc":
            core = DNC(
                access_config=dict(
                    memory_size=config.memory_size,
                    word_size=config.word_size,
                    num_reads=config.num_reads,
                    num_writes=1,
                ),
                controller_config=dict(hidden_size=config.units),
                output_size=num_words,
                clip_value=20.0,  # google-deepmind/dnc, train.py
            )
            cell = SonnetCell(core, dtype=config.policy)
            model = SequenceModel(cell, num_words, (), return_sequences=True, dtype=config.policy)
        else:
            model = QuestionAnsweringModel(
                num_words,
                writer_levels=config.writer_levels,
                writer_filters=config.writer_filters,
                decoder_levels=config.decoder_levels,
                decoder_filters=config.decoder_filters,
                writer_residuals=config.residuals,
                normalization=config.normalization,
                peepholes=config.peepholes,
                dtype=config.policy,
            )
        model.build((None, None, num_words))
        return model

    def forward(self, batch, carry, training):
        inputs = self.one_hot(batch["inputs"])
        if self.config.model == "dnc":
            return self.model.run(inputs), carry
        return self.model.run(inputs, lengths=batch["lengths"]), carry

    def scores(self, batch, outputs):
        total, _ = cross_entropy(outputs.logits, batch["targets"], batch["weights"])
        stories = tf.cast(tf.shape(batch["targets"])[1], total.dtype)
        # P-App B.3.2, Eq. 4: the sum over a story; with batches of several the mean of these (ours).
        return {"loss": total / stories, "accuracy": accuracy(outputs.logits, batch["targets"], batch["weights"])}
