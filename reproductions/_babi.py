"""What the bAbI experiments share: their data, the answers of a model, and the choice of the best weights."""

import functools

import numpy as np
import tensorflow as tf

from tfmem.data.babi import VERSIONS
from tfmem.tasks import babi
from tfmem.training import check_range, numbered
from tfmem.training.sequence import SequenceExperiment


def check_config(config):
    """Raises a ValueError for fields that are out of range."""
    if config.version not in VERSIONS or "valid" not in config.version:
        versions = [v for v in VERSIONS if "valid" in v]
        raise ValueError(f"version: {config.version!r}, must be one of {versions}: the best weights need a dev set")
    if not config.tasks or not set(config.tasks) <= set(range(1, babi.NUM_TASKS + 1)):
        raise ValueError(f"tasks: {config.tasks}, must be numbers from 1 to {babi.NUM_TASKS}, at least one")
    if config.updates_per_call != 1:
        raise ValueError(f"updates_per_call: {config.updates_per_call}, must be 1: batches differ in length")
    for name in ("max_words", "dev_questions"):
        check_range(config, name, 0)


class BabiExperiment(SequenceExperiment):
    """A model that reads words and tells a word at every step; `forward` gives logits [T, B, V] or a tuple with them.

    Early stopping: with each evaluation on the dev set, the weights with the least mean error are kept. `result` puts
    them back and scores them on the test set.
    """

    def __init__(self, config):
        super().__init__(config)
        self.best = [tf.Variable(v, trainable=False) for v in self.model.trainable_variables]
        self.best_error = tf.Variable(float("inf"), trainable=False)
        self._told = tf.function(self._tell, autograph=False)

    @functools.cached_property
    def _data(self):
        return babi.read_tasks(self.config.version, self.config.tasks)

    @property
    def words(self):
        """The vocabulary of all splits and chosen tasks."""
        return self._data[0]

    @property
    def stories(self):
        """Stories by split."""
        return self._data[1]

    @property
    def _batching(self):
        config = self.config
        return {
            "batch_size": config.batch_size,
            "group_by_length": config.group_by_length,
            "max_words": config.max_words,
            "seed": config.seed,
        }

    @functools.cached_property
    def _training(self):
        return babi.Batches(babi.encode(self.stories["train"], self.words, self.config.encoding), **self._batching)

    @functools.cached_property
    def _unseen(self):
        """Batches of the dev and the test set."""
        config = self.config
        encoded = {s: babi.encode(self.stories[s], self.words, config.encoding) for s in ("valid", "test")}
        if config.dev_questions:
            by_task = {task: [s for s in encoded["valid"] if s.task == task] for task in config.tasks}
            encoded["valid"] = [s for some in by_task.values() for s in some[: config.dev_questions]]
        return {split: babi.Batches(sequences, config.batch_size) for split, sequences in encoded.items()}

    def data_source(self, split="train"):
        """The training batches where they are all of one length, as compiled bundles need them."""
        if split != "train" or not self.config.max_words:
            return None
        config = self.config
        told = {"version": config.version, "tasks": config.tasks, "encoding": config.encoding}
        return "tfmem.tasks.babi:training_batches", {**told, **self._batching}

    def evaluation(self):
        """None: stories of all lengths, and the best weights are kept (`evaluate`)."""

    def variables(self):
        return {**super().variables(), **numbered("best", self.best), "best_error": self.best_error}

    def batch(self, update):
        return self._training.batch(update)

    def one_hot(self, words):
        """Words [...] as the model's inputs [..., V]."""
        return tf.one_hot(words, len(self.words))

    def forward(self, batch, carry, training):
        return self.model.run(self.one_hot(batch["inputs"])), carry

    def _tell(self, batch):
        outputs, _ = self.forward(batch, self.initial_carry(), training=False)
        return tf.argmax(tf.nest.flatten(outputs)[0], -1)

    def errors(self, split):
        """`babi.ErrorCounts` of a split."""
        counts = babi.ErrorCounts()
        for batch, valid in self._unseen[split].all():
            counts.add(batch, self._told(tf.nest.map_structure(tf.constant, batch)).numpy(), valid)
        return counts

    def evaluate(self):
        """Mean error (percent) and failed tasks on the dev set; keeps the weights where they are the best so far."""
        counts = self.errors("valid")
        if counts.mean < self.best_error.numpy():
            self.best_error.assign(counts.mean)
            for best, variable in zip(self.best, self.model.trainable_variables, strict=True):
                best.assign(variable)
        return {"dev_mean_error": counts.mean, "dev_failed_tasks": float(counts.failed)}

    def _take_best(self):
        if np.isfinite(self.best_error.numpy()):
            for best, variable in zip(self.best, self.model.trainable_variables, strict=True):
                variable.assign(best)

    def export(self, folder):
        self._take_best()
        super().export(folder)

    def result(self, evaluation):
        """The test set with the best weights: mean error, failed tasks, each task's error; beside it a blind guess."""
        self._take_best()
        counts = self.errors("test")
        return {
            "mean_error": counts.mean,
            "failed_tasks": float(counts.failed),
            "best_dev_mean_error": float(self.best_error.numpy()),
            **evaluation,
            "blind_mean_error": self.blind_error(),
            **{f"error_task_{task}": float(error) for task, error in counts.errors.items()},
        }

    def blind_error(self):
        """Mean error (percent) of telling each task's most frequent answer of the training stories."""

        def answers(split, task):
            lines = [line for story in self.stories[split] if story.task == task for line in story.lines]
            return [line.answer for line in lines if line.answer]

        def error(task):
            given = answers("train", task)
            guess = max(set(given), key=given.count)
            return 100.0 * np.mean([answer != guess for answer in answers("test", task)])

        return float(np.mean([error(task) for task in self.config.tasks]))
