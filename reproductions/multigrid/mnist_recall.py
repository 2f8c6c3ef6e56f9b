"""MNIST associative recall and classification (Huynh et al. 2020, Table 2; supplement B.2; public code mnist_recall).

The writer gets a sequence of digits; the reader gets one of them again and predicts the class of the next one. CODE
below is github.com/trihuynh88/multigrid_mem, P-App is the paper's supplement.
"""

import dataclasses
from typing import Literal

import numpy as np
import tensorflow as tf

from tfmem.losses.sequence import accuracy
from tfmem.models.multigrid import MNISTRecallModel
from tfmem.optimizers import linear_decay
from tfmem.tasks.mnist_recall import stream
from tfmem.training.sequence import SequenceExperiment
from tfmem.validation import check_range

from .figures import recall_figure
from .settings import PublicCodeConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(PublicCodeConfig):
    steps: int = 10
    """Images of a sequence. Public code: 10 (LOCAL_T_MAX)."""
    writer_filters: tuple[int, ...] = (4, 4, 8, 8, 16)
    """Channels of each memory layer, all of three levels, as in the public code."""
    reader_filters: tuple[int, ...] = (4, 4, 8, 8, 16)
    """Channels of the reader's layers, as in the public code."""
    decoder_levels: tuple[int, ...] = (3, 3, 2, 2, 1)
    """Levels of the reader's second half, from the coarsest, as in the public code."""
    decoder_filters: tuple[int, ...] = (16, 16, 16, 16, 10)
    """Channels of the reader's second half, as in the public code."""
    normalization: Literal["batch", "sequence"] | None = "batch"
    """Normalization. Public code: batch normalization by the current batch's statistics, in training and evaluation."""
    gradient_norm_clip: float | None = 1e5
    """Largest global norm of the gradient. Public code: 100000 (GRAD_NORM_CLIP)."""
    eval_batches: int = 100
    """Batches of unseen digits in an evaluation. Not specified; we use 100."""

    def __post_init__(self):
        super().__post_init__()
        check_range("steps", self.steps, 2)


PRESETS = {
    # CODE: 2e6 images per sequence, 10 to an update.
    "paper": Config(num_updates=200_000, updates_per_call=10, log_every=50, eval_every=5_000, checkpoint_seconds=600.0),
    # Not specified; we use three images, which a laptop can learn.
    "demo": Config(
        steps=3,
        batch_size=64,
        optimizer="adam",
        epsilon=1e-7,  # Keras's
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
STATUS = "demo; paper 1%"


class Experiment(SequenceExperiment):
    name = "multigrid/mnist_recall"
    summed_scores = ("loss",)

    def __init__(self, config):
        super().__init__(config)
        self._streams = {}
        self._logits = tf.function(lambda batch: self.forward(batch, (), training=False)[0])

    def make_model(self):
        config = self.config
        depth, decoder_depth = len(config.writer_filters), len(config.decoder_filters)
        # CODE: every second layer from the third (decoder: from the fourth) adds the one two before it.
        residuals = [(n - 2, n) for n in range(3, depth + 1, 2)]
        model = MNISTRecallModel(
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
        model.build()
        return model

    def stream(self, split):
        if split not in self._streams:
            config = self.config
            self._streams[split] = stream(split, config.batch_size, config.steps, config.seed)
        return self._streams[split]

    def batch(self, update):
        return self.stream("train").batch(update)

    def evaluation_batch(self, number):
        return self.stream("test").batch(number)

    def data_source(self, split="train"):
        config = self.config
        arguments = {"batch_size": config.batch_size, "steps": config.steps, "seed": config.seed}
        return "tfmem.tasks.mnist_recall:stream", {"split": "test" if split == "evaluation" else split, **arguments}

    def learning_rate(self, update):
        config = self.config
        images = update * config.steps
        return linear_decay(images, config.learning_rate, config.final_learning_rate, config.decay_steps)

    def batch_axis(self, name, array):
        return 0 if name == "query" else super().batch_axis(name, array)

    def forward(self, batch, carry, training):
        state = self.model.get_initial_state(batch["label"].shape[0])
        logits, _ = self.model.run({"images": batch["images"], "query": batch["query"]}, state)
        return tf.cast(logits, tf.float32), carry

    def scores(self, batch, outputs):
        """Compute the scores. Public code: the loss is the cross entropy summed over the batch."""
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], outputs))
        return {"loss": loss, "accuracy": accuracy(outputs, batch["label"])}

    def _answers(self, count):
        """Iterate over batches of the test set and the model's predicted digits."""
        stream = self.stream("test")
        for number in range(count):
            batch = stream.batch(number)
            yield batch, tf.argmax(self._logits(tf.nest.map_structure(tf.constant, batch)), -1).numpy()

    def result(self, evaluation):
        """Return the scores, and the accuracy of always predicting the most frequent digit of the test episodes."""
        stream = self.stream("test")
        labels = np.concatenate([stream.batch(n)["label"] for n in range(self.config.eval_batches)])
        return {**evaluation, "majority_accuracy": float(np.bincount(labels).max() / len(labels))}

    def figures(self, folder):
        images, steps, predictions, labels = [], [], [], []
        for batch, answers in self._answers(6):
            images.append(batch["images"][:, 0, :, :, 0])
            steps.append(int(batch["query_step"]))
            predictions.append(answers[0])
            labels.append(batch["label"][0])
        figure = recall_figure(np.stack(images), steps, predictions, labels, "Recall on unseen digits")
        figure.savefig(folder / "recall.png", dpi=100)
