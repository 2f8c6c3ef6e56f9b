"""Program evaluation: read a program by character, write its value (Santoro et al. 2018, §5.2; appendix A.2).

A2 below is the paper's appendix A.2, CODE Sonnet 1's examples/rmc_learn_to_execute.py and learn_to_execute.py.
"""

import dataclasses
from typing import ClassVar, Literal

import numpy as np
import tensorflow as tf

from tfmem.cores import DNC, EntityMemory, LSTMStack, RelationalMemory
from tfmem.interop import SonnetCell
from tfmem.losses.sequence import accuracy, cross_entropy, solved
from tfmem.models.sequence import EncoderDecoder
from tfmem.tasks.learning_to_execute import MEMORY_TASKS, START, VOCABULARY, LearningToExecute, ProgramStream, text
from tfmem.training import check_range
from tfmem.training.sequence import EVALUATION_SEED, SequenceConfig, SequenceExperiment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SequenceConfig):
    task: Literal["addition", "control", "full_program", "copy", "reverse", "double", "algebra", "if_for"] = "addition"
    """The first six are A2's, with the operations of CODE's ADDITION, ALG_CTRL, ALL; the last two are CODE's others."""
    max_length: int = 5
    """Digits of the longest literals; Table 1 5, Figure 8 5 and 6."""
    max_nesting: int = 2
    """Deepest nesting; Table 1 2, Figure 8 2 and 3. Copy, reverse and double have none."""
    modulus_digits_beyond_length: Literal[0, 1] = 1
    """Values are modulo 10^(length + this): CODE and A2's printed answers 1, A2's printed programs 0."""
    curriculum: Literal["mix", "combine", "naive"] = "mix"
    """Lengths and nestings of training samples; A2 Mix."""
    updates_per_level: int = 10
    """Of combine and naive; CODE goes up by the loss, which is every 10 calls unless it grows. Ours by updates."""
    decoding: Literal["non_autoregressive", "teacher_forcing", "own_predictions"] = "non_autoregressive"
    """What the writing core sees: nothing (CODE; A2: strongest), the answer so far, or the likeliest character so far.
    The last two are evaluated on the likeliest character so far, teacher forcing on the answer so far as well."""
    model: Literal["rmc", "lstm", "entnet", "dnc"] = "rmc"
    """The core; A2 compares these four."""
    total_units: int = 2048
    """Of all memories together: RMC and EntNet, A2 1024 or 2048; DNC, A2 80 times 64."""
    num_memories: int = 4
    """RMC, A2 2 or 4; EntNet's cells, A2 2, 4, 6 or 8; the DNC's slots, A2 80."""
    num_heads: int = 4
    """RMC, A2 2 or 4; read heads of the DNC, A2 4 (and one write head)."""
    gate_style: Literal["unit", "memory"] = "memory"
    """Of the RMC; A2 one gate for each memory."""
    units: int = 2048
    """Of each of the LSTM's two layers, A2 1024 or 2048; of the DNC's two controller layers, A2 128, 256 or 512."""
    mlp_sizes: tuple[int, ...] = (256, 256, 256, 256)
    """Layers between the core's outputs and the logits; A2, for every core."""

    supports_mixed_precision: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if min(self.mlp_sizes, default=1) < 1:
            raise ValueError(f"mlp_sizes: {self.mlp_sizes}, must be at least 1 each")
        for name in ("updates_per_level", "total_units", "num_memories", "num_heads", "units"):
            check_range(self, name, 1)
        parts = {"rmc": self.num_memories * self.num_heads, "lstm": 1}.get(self.model, self.num_memories)
        if self.total_units % parts:
            raise ValueError(
                f"total_units: {self.total_units}, must be a multiple of {parts} (num_memories; RMC: times num_heads)"
            )
        LearningToExecute(**self.data())

    def data(self):
        """Arguments of `LearningToExecute`."""
        return {
            "task": self.task,
            "max_length": self.max_length,
            "max_nesting": 1 if self.task in MEMORY_TASKS else self.max_nesting,
            "modulus_digits_beyond_length": self.modulus_digits_beyond_length,
        }

    def core(self):
        memory_units = self.total_units // self.num_memories
        match self.model:
            case "rmc":
                core = RelationalMemory(
                    mem_slots=self.num_memories,
                    head_size=memory_units // self.num_heads,
                    num_heads=self.num_heads,
                    gate_style=self.gate_style,
                )
                return SonnetCell(core, dtype=self.policy)
            case "lstm":
                return LSTMStack(self.units, num_layers=2, dtype=self.policy)
            case "entnet":
                return EntityMemory(self.num_memories, memory_units, dtype=self.policy)
            case "dnc":
                # A2: an LSTM as controller, but for the memorisation tasks a feed-forward one.
                controller = "feedforward" if self.task in MEMORY_TASKS else "lstm"
                core = DNC(
                    access_config=dict(
                        memory_size=self.num_memories, word_size=memory_units, num_reads=self.num_heads, num_writes=1
                    ),
                    controller_config=dict(type=controller, hidden_size=self.units, num_layers=2),
                    output_size=self.units,
                    clip_value=20.0,  # google-deepmind/dnc, train.py
                )
                return SonnetCell(core, dtype=self.policy)


PAPER_CONFIG = Config(
    batch_size=128,  # A2
    learning_rate=1e-3,  # A2
    num_updates=200_000,  # A2
    eval_batches=100,  # A2: 12,800 samples of the largest length and nesting
    updates_per_call=20,
    log_every=100,
    eval_every=5_000,
    checkpoint_seconds=600.0,
)
# Ours: sized for two CPU cores and minutes.
DEMO_CONFIG = Config(
    max_length=3,
    total_units=256,
    num_memories=4,
    num_heads=2,
    units=128,
    mlp_sizes=(128,),
    batch_size=64,
    learning_rate=1e-3,
    gradient_norm_clip=5.0,
    num_updates=6_000,
    updates_per_call=20,
    log_every=50,
    eval_every=1_000,
    eval_batches=40,
)
PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_lstm": dataclasses.replace(PAPER_CONFIG, model="lstm"),
    "paper_entnet": dataclasses.replace(PAPER_CONFIG, model="entnet"),
    "paper_dnc": dataclasses.replace(PAPER_CONFIG, model="dnc", num_memories=80, total_units=80 * 64, units=256),
    "demo": DEMO_CONFIG,
    "demo_copy": dataclasses.replace(DEMO_CONFIG, task="copy", max_length=5, num_updates=3_000),
    "demo_reverse": dataclasses.replace(DEMO_CONFIG, task="reverse", max_length=5, num_updates=3_000),
    "smoke": Config(
        max_length=2,
        total_units=8,
        num_memories=2,
        num_heads=2,
        decoding="teacher_forcing",
        mlp_sizes=(4,),
        batch_size=4,
        learning_rate=1e-3,
        num_updates=8,
        updates_per_call=2,
        log_every=2,
        checkpoint_every=4,
        eval_batches=2,
    ),
}
PAPER = {
    "accuracy": (
        0.999,
        "Table 1, addition, RMC; control 0.996, full program 0.790; copy, reverse, double and other cores unknown",
    )
}
DATASETS = ()


class Experiment(SequenceExperiment):
    name = "relational/program_evaluation"

    def __init__(self, config):
        self.data = LearningToExecute(**config.data())
        super().__init__(config)
        self._streams = {split: ProgramStream(**self.data_source(split)[1]) for split in ("train", "evaluation")}

    def make_model(self):
        start = None if self.config.decoding == "non_autoregressive" else START
        config = self.config
        model = EncoderDecoder(config.core(), len(VOCABULARY), start, config.mlp_sizes, dtype=config.policy)
        model.build()
        return model

    def data_source(self, split="train"):
        config = self.config
        told = {"data": config.data(), "batch_size": config.batch_size}
        if split == "train":
            told |= {"curriculum": config.curriculum, "updates_per_level": config.updates_per_level}
            told |= {"seed": config.seed}
        else:
            told |= {"curriculum": "test", "seed": EVALUATION_SEED % 2**32}
        return "tfmem.tasks.learning_to_execute:ProgramStream", told

    def batch(self, update):
        return self._streams["train"].batch(update)

    def evaluation_batch(self, number):
        return self._streams["evaluation"].batch(number)

    def forward(self, batch, carry, training):
        def write(targets=None):
            return self.model.run(batch["programs"], batch["program_lengths"], self.data.num_steps_out, targets)

        if self.config.decoding != "teacher_forcing":
            logits = write()
            return {"trained": logits, "written": logits}, carry
        forced = write(batch["answers"])
        return {"trained": forced, "written": forced if training else write()}, carry

    def scores(self, batch, outputs):
        """Loss and accuracy for each character of the answers; how many answers are wholly right."""
        answers = batch["answers"]
        mask = tf.range(self.data.num_steps_out)[:, tf.newaxis] < batch["answer_lengths"]
        scores = {
            "loss": cross_entropy(outputs["trained"], answers, mask),
            "accuracy": accuracy(outputs["written"], answers, mask),
            "solved": solved(outputs["written"], answers, mask),
        }
        if outputs["trained"] is not outputs["written"]:
            scores["forced_accuracy"] = accuracy(outputs["trained"], answers, mask)
        return scores

    def result(self, evaluation):
        """The scores, and beside them the accuracy of always writing each place's most frequent character."""
        batches = [self.evaluation_batch(number) for number in range(self.config.eval_batches)]
        answers = np.concatenate([batch["answers"] for batch in batches], axis=1)
        lengths = np.concatenate([batch["answer_lengths"] for batch in batches])
        places = [row[lengths > place] for place, row in enumerate(answers)]
        right = sum(np.bincount(row).max() for row in places if len(row))
        return {**evaluation, "majority_accuracy": float(right / lengths.sum())}

    def figures(self, folder):
        super().figures(folder)
        batch = self.evaluation_batch(0)
        outputs, _ = self.forward(tf.nest.map_structure(tf.constant, batch), (), training=False)
        told = tf.argmax(outputs["written"], -1).numpy()
        lines = [f"{'program':{self.data.num_steps}}  {'answer':{self.data.num_steps_out}}  told"]
        for column, (length, size) in enumerate(zip(batch["program_lengths"], batch["answer_lengths"], strict=True)):
            program, answer = text(batch["programs"][:, column], length), text(batch["answers"][:, column], size)
            told_text = text(told[:, column], size)
            lines.append(f"{program:{self.data.num_steps}}  {answer:{self.data.num_steps_out}}  {told_text}")
        (folder / "samples.txt").write_text("\n".join(lines) + "\n", "utf-8")
