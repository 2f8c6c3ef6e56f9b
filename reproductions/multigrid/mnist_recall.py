"""MNIST associative recall and classification (Huynh et al. 2020, Table 2; supplement B.2; public code mnist_recall).

The writer sees a sequence of digits; the reader is shown one of them again and names the class of the next one.
CODE below is github.com/trihuynh88/multigrid_mem, P-App the paper's supplement.
"""

import dataclasses
from typing import ClassVar, Literal

import numpy as np
import tensorflow as tf

from reproductions.multigrid._optimisation import apply_clipped, make_optimizer
from tfmem import plotting, training
from tfmem.models.multigrid import MNISTRecallModel
from tfmem.optimizers import linear_decay
from tfmem.tasks.mnist_recall import stream
from tfmem.training import Evaluation, RunConfig, check_range, numbered


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    steps: int = 10
    """Images of a sequence; CODE LOCAL_T_MAX 10."""
    writer_filters: tuple[int, ...] = (4, 4, 8, 8, 16)
    """Channels of each memory layer, all of three levels; CODE."""
    reader_filters: tuple[int, ...] = (4, 4, 8, 8, 16)
    """Channels of the reader's layers; CODE."""
    decoder_levels: tuple[int, ...] = (3, 3, 2, 2, 1)
    """Levels of the reader's second half, from the coarsest; CODE."""
    decoder_filters: tuple[int, ...] = (16, 16, 16, 16, 10)
    """Channels of the reader's second half; CODE."""
    normalization: Literal["batch", "sequence"] | None = "batch"
    """CODE: batch normalisation by the statistics of the data at hand, in training and evaluation."""
    peepholes: bool = False
    """Whether gates see the cell; the paper's equations yes, CODE no."""
    batch_size: int = 32
    """Sequences at a time; CODE BATCH_SIZE 32."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """CODE: TF 1's RMSProp with decay 0.99, momentum 0, epsilon 0.1."""
    learning_rate: float = 1e-3
    """At the start; CODE INITIAL_ALPHA 1e-3."""
    final_learning_rate: float = 1e-4
    """After decay_steps; CODE END_ALPHA 1e-4."""
    decay_steps: int = 1_000_000
    """Images per sequence seen, over which the rate falls linearly; CODE END_DECAY_TIME 1e6."""
    gradient_norm_clip: float = 1e5
    """Largest global norm; CODE GRAD_NORM_CLIP 100000."""
    eval_batches: int = 100
    """Batches of unseen digits in an evaluation; ours."""

    supports_mixed_precision: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "steps", 2)
        for name in ("batch_size", "decay_steps", "eval_batches"):
            check_range(self, name, 1)
        for name in ("learning_rate", "gradient_norm_clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)}, must be greater than 0")
        check_range(self, "final_learning_rate", 0)


PRESETS = {
    # CODE: 2e6 images per sequence, 10 to an update.
    "paper": Config(num_updates=200_000, updates_per_call=10, log_every=50, eval_every=5_000, checkpoint_seconds=600.0),
    # Ours: three images, so that a laptop learns it.
    "demo": Config(
        steps=3,
        batch_size=64,
        optimizer="adam",
        learning_rate=3e-3,
        final_learning_rate=3e-4,
        decay_steps=1_800,
        gradient_norm_clip=1e3,
        num_updates=600,
        updates_per_call=10,
        log_every=10,
        eval_every=200,
        eval_batches=40,
    ),
    "smoke": Config(
        steps=3,
        writer_filters=(2, 2),
        reader_filters=(2, 2),
        decoder_levels=(2, 1),
        decoder_filters=(4, 4),
        batch_size=4,
        num_updates=8,
        updates_per_call=2,
        log_every=2,
        checkpoint_every=4,
        eval_batches=2,
    ),
}
PAPER = {"accuracy": (None, "Table 2, not readable in any source we found")}
DATASETS = ("mnist",)


class Experiment(training.Experiment):
    name = "multigrid/mnist_recall"

    def __init__(self, config):
        super().__init__(config)
        depth, decoder_depth = len(config.writer_filters), len(config.decoder_filters)
        # CODE: every second layer from the third (decoder: from the fourth) adds the one two before it.
        residuals = [(n - 2, n) for n in range(3, depth + 1, 2)]
        self.model = MNISTRecallModel(
            writer_filters=config.writer_filters,
            reader_filters=config.reader_filters,
            decoder_levels=config.decoder_levels,
            decoder_filters=config.decoder_filters,
            writer_residuals=residuals,
            reader_residuals=residuals,
            decoder_residuals=[(n - 2, n) for n in range(4, decoder_depth + 1, 2)],
            normalization=config.normalization,
            peepholes=config.peepholes,
            dtype=config.policy,
        )
        self.model.build()
        self.optimizer = make_optimizer(config)
        self.optimizer.build(self.model.trainable_variables)
        self._streams = {}
        self._logits = tf.function(self._forward)
        self._evaluate_step = tf.function(self._evaluation_step, autograph=False)

    def stream(self, split):
        if split not in self._streams:
            config = self.config
            self._streams[split] = stream(split, config.batch_size, config.steps, config.seed)
        return self._streams[split]

    def variables(self):
        return {**numbered("model", self.model.variables), **numbered("optimizer", self.optimizer.variables)}

    def batch(self, update):
        return self.stream("train").batch(update)

    def data_source(self, split="train"):
        config = self.config
        arguments = {"batch_size": config.batch_size, "steps": config.steps, "seed": config.seed}
        return "tfmem.tasks.mnist_recall:stream", {"split": "test" if split == "evaluation" else split, **arguments}

    def _forward(self, batch):
        state = self.model.get_initial_state(self.config.batch_size)
        logits, _ = self.model.run({"images": batch["images"], "query": batch["query"]}, state)
        return tf.cast(logits, tf.float32)

    def train_step(self, update, batch, carry):
        config = self.config
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = self._forward(batch)
            # CODE: summed over the batch.
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits))
        gradients = tape.gradient(loss, [v.value for v in variables])
        rate = linear_decay(update * config.steps, config.learning_rate, config.final_learning_rate, config.decay_steps)
        norm = apply_clipped(self.optimizer, gradients, variables, config.gradient_norm_clip, rate)
        right = tf.equal(tf.argmax(logits, -1, tf.int32), batch["label"])
        accuracy = tf.reduce_mean(tf.cast(right, tf.float32))
        return carry, {"loss": loss, "accuracy": accuracy, "gradient_norm": norm, "learning_rate": rate}

    def evaluation(self):
        """Unseen digits: the carry is how many answers were right."""
        return Evaluation(self.config.eval_batches, tf.constant(0, tf.int64), self._evaluate_step)

    def _evaluation_step(self, number, batch, right):
        told = tf.argmax(self._forward(batch), -1, tf.int32)
        right += tf.reduce_sum(tf.cast(tf.equal(told, batch["label"]), tf.int64))
        return right, {"accuracy": right / ((number + 1) * self.config.batch_size)}

    def evaluate(self):
        return self.evaluation().scores(self.stream("test").batch)

    def _answers(self, count):
        """Batches of the test set with the digits that the model tells."""
        stream = self.stream("test")
        for number in range(count):
            batch = stream.batch(number)
            yield batch, tf.argmax(self._logits(tf.nest.map_structure(tf.constant, batch)), -1).numpy()

    def result(self, evaluation):
        """The accuracy, and beside it that of always telling the most frequent digit of the test episodes."""
        stream = self.stream("test")
        labels = np.concatenate([stream.batch(n)["label"] for n in range(self.config.eval_batches)])
        return {**evaluation, "majority_accuracy": float(np.bincount(labels).max() / len(labels))}

    def figures(self, folder):
        images, steps, told, labels = [], [], [], []
        for batch, answers in self._answers(6):
            images.append(batch["images"][:, 0, :, :, 0])
            steps.append(int(batch["query_step"]))
            told.append(answers[0])
            labels.append(batch["label"][0])
        figure = plotting.recall_figure(np.stack(images), steps, told, labels, "Recall on unseen digits")
        figure.savefig(folder / "recall.png", dpi=100)
