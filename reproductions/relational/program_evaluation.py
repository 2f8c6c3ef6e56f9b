"""Program evaluation: read a program by character, write its value (Santoro et al. 2018, §5.2; appendix A.2).

A2 below is the paper's appendix A.2, CODE is Sonnet 1's examples/rmc_learn_to_execute.py and learn_to_execute.py. In A2
the DNC's controller is an LSTM, but a feed-forward network for copy, reverse and double
(`core:dnc --core.controller feedforward`).
"""

import dataclasses
from typing import ClassVar, Literal

import tensorflow as tf

from tfmem.cores.config import (
    AnyCoreConfig,
    DNCConfig,
    EntityMemoryConfig,
    LSTMConfig,
    RelationalMemoryConfig,
)
from tfmem.losses.sequence import accuracy, cross_entropy, solved
from tfmem.models.sequence import MLP_SIZES, EncoderDecoder
from tfmem.tasks.base import Batch
from tfmem.tasks.learning_to_execute import START, LearningToExecute, text
from tfmem.training.sequence import SequenceConfig, SequenceExperiment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SequenceConfig):
    task: LearningToExecute
    """Paper: six programs (A2), with the operations of CODE's ADDITION, ALG_CTRL, ALL; algebra and if_for are CODE's
    others. Digits: Table 1 5, Figure 8 5 and 6; nesting: Table 1 2, Figure 8 2 and 3; curriculum: Mix (A2)."""
    core: AnyCoreConfig
    """The core. Paper: RMC, LSTM, EntNet and DNC (A2)."""
    separate_decoder: bool = False
    """Read and write with two cores of the same kind. Paper: an encoder and a decoder (A2). Public code: one core."""
    mlp_sizes: tuple[int, ...] = MLP_SIZES
    """Layers between the core's outputs and the logits. Paper: four of 256, for every core (A2)."""
    decoding: Literal["non_autoregressive", "teacher_forcing", "own_predictions"] = "non_autoregressive"
    """Input of the decoder: nothing, the answer so far, or the likeliest character so far. Public code: nothing. Paper:
    nothing is strongest (A2). The last two are evaluated on the likeliest character so far, teacher forcing also on the
    answer so far."""

    supports_mixed_precision: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if min(self.mlp_sizes, default=1) < 1:
            raise ValueError(f"mlp_sizes: {self.mlp_sizes}, must be at least 1 each")
        if getattr(self.core, "meta_weight", 0) > 0:
            raise ValueError(
                f"core: meta_weight {self.core.meta_weight}, must be 0: this experiment has the task's loss alone"
            )


PAPER_CONFIG = Config(
    task=LearningToExecute("addition", max_length=5, max_nesting=2),
    # A2: 1024 or 2048 units in 2 or 4 memories, 2 or 4 heads, one gate for each memory.
    core=RelationalMemoryConfig(mem_slots=4, head_size=128, num_heads=4, gate_style="memory"),
    batch_size=128,  # A2
    learning_rate=1e-3,  # A2
    num_updates=200_000,  # A2
    eval_batches=100,  # A2: 12,800 samples of the largest length and nesting
    updates_per_call=20,
    log_every=100,
    eval_every=5_000,
    checkpoint_seconds=600.0,
)
# Not specified; we use sizes for minutes on two CPU cores.
DEMO_CONFIG = Config(
    task=LearningToExecute("addition", max_length=3, max_nesting=2),
    core=RelationalMemoryConfig(mem_slots=4, head_size=32, num_heads=2, gate_style="memory"),
    mlp_sizes=(128,),
    batch_size=64,
    learning_rate=1e-3,
    gradient_norm_clip=5.0,
    num_updates=6_000,
    updates_per_call=20,
    log_every=50,
    eval_every=1_000,
    eval_batches=40,
    jit_compile=True,  # measured: faster on a CPU
)
PRESETS = {
    "paper": PAPER_CONFIG,
    # A2: two layers of 1024 or 2048.
    "paper_lstm": dataclasses.replace(PAPER_CONFIG, core=LSTMConfig(units=2048, num_layers=2)),
    # A2: 2, 4, 6 or 8 cells, 1024 or 2048 units together.
    "paper_entnet": dataclasses.replace(PAPER_CONFIG, core=EntityMemoryConfig(num_cells=4, units=512)),
    # A2: 80 slots of 64, four read heads, one write head, two layers of 128, 256 or 512.
    "paper_dnc": dataclasses.replace(
        PAPER_CONFIG, core=DNCConfig(memory_size=80, word_size=64, num_reads=4, hidden_size=256, num_layers=2)
    ),
    "demo": DEMO_CONFIG,
    "demo_copy": dataclasses.replace(
        DEMO_CONFIG, task=LearningToExecute("copy", max_length=5, max_nesting=1), num_updates=3_000
    ),
    "demo_reverse": dataclasses.replace(
        DEMO_CONFIG, task=LearningToExecute("reverse", max_length=5, max_nesting=1), num_updates=3_000
    ),
    "smoke": Config(
        task=LearningToExecute("addition", max_length=2, max_nesting=2),
        core=RelationalMemoryConfig(mem_slots=2, head_size=2, num_heads=2, gate_style="memory"),
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
    "top_accuracy": (
        0.999,
        "Table 1, addition, RMC; control 0.996, full program 0.790; copy, reverse, double and other cores unknown",
    )
}
DATASETS = ()
STATUS = "demo; paper 3%"


class Experiment(SequenceExperiment):
    name = "relational/program_evaluation"
    top_scores: ClassVar[dict] = {"accuracy": max}  # A2 reports the top score

    def __init__(self, config):
        super().__init__(config)
        self._sources = {
            split: config.task.source(split, config.batch_size, config.seed) for split in ("train", "evaluation")
        }

    def make_model(self):
        config, task = self.config, self.config.task
        start = None if config.decoding == "non_autoregressive" else START
        cores = [
            config.core.make(task.num_steps + task.num_steps_out, config.policy)
            for _ in range(1 + config.separate_decoder)
        ]
        model = EncoderDecoder(cores[0], task.output_size, start, config.mlp_sizes, *cores[1:], dtype=config.policy)
        model.build()
        return model

    def data_source(self, split="train"):
        return self.config.task.data_source(split, self.config.batch_size, self.config.seed)

    def batch(self, update):
        return self._sources["train"].batch(update)

    def evaluation_batch(self, number):
        return self._sources["evaluation"].batch(number)

    def forward(self, batch, carry, training):
        def write(targets=None):
            return self.model.run(batch["inputs"], batch["lengths"], self.config.task.num_steps_out, targets)

        if self.config.decoding != "teacher_forcing":
            logits = write()
            return {"trained": logits, "written": logits}, carry
        forced = write(batch["targets"])
        return {"trained": forced, "written": forced if training else write()}, carry

    def scores(self, batch, outputs):
        """Compute loss and accuracy per character of the answers, and the fraction of completely right answers."""
        answers = batch["targets"], batch["mask"]
        scores = {
            "loss": cross_entropy(outputs["trained"], *answers),
            "accuracy": accuracy(outputs["written"], *answers),
            "solved": solved(outputs["written"], *answers),
        }
        if outputs["trained"] is not outputs["written"]:
            scores["forced_accuracy"] = accuracy(outputs["trained"], *answers)
        return scores

    def result(self, evaluation):
        """Return the scores and the task's baselines."""
        batches = (Batch(**self.evaluation_batch(number)) for number in range(self.config.eval_batches))
        return {**evaluation, **self.config.task.baselines(batches)}

    def figures(self, folder):
        super().figures(folder)
        task, batch = self.config.task, self.evaluation_batch(0)
        outputs, _ = self.forward(tf.nest.map_structure(tf.constant, batch), (), training=False)
        predictions = tf.argmax(outputs["written"], -1).numpy()
        lines = [f"{'program':{task.num_steps}}  {'answer':{task.num_steps_out}}  prediction"]
        sizes = batch["mask"].sum(0).astype(int)
        for column, (length, size) in enumerate(zip(batch["lengths"], sizes, strict=True)):
            program = text(batch["inputs"][:, column], length)
            answer, prediction = (text(tokens[:, column], size) for tokens in (batch["targets"], predictions))
            lines.append(f"{program:{task.num_steps}}  {answer:{task.num_steps_out}}  {prediction}")
        (folder / "samples.txt").write_text("\n".join(lines) + "\n", "utf-8")
