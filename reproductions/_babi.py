"""What the bAbI experiments share: their data, the answers of a model, and the choice of the best weights."""

import functools

import numpy as np
import tensorflow as tf

from reproductions._sequence import SequenceExperiment
from tfmem.tasks import babi, datasets
from tfmem.training import check_range, numbered


def check_config(config):
    """Raises a ValueError for fields that are out of range."""
    if config.version not in datasets.BABI_VERSIONS or "valid" not in config.version:
        versions = [v for v in datasets.BABI_VERSIONS if "valid" in v]
        raise ValueError(f"version: {config.version!r}, must be one of {versions}: the best weights need a dev set")
    if not config.tasks or not set(config.tasks) <= set(range(1, babi.NUM_TASKS + 1)):
        raise ValueError(f"tasks: {config.tasks}, must be numbers from 1 to {babi.NUM_TASKS}, at least one")
    if config.updates_per_call != 1:
        raise ValueError(f"updates_per_call: {config.updates_per_call}, must be 1: batches differ in length")
    check_range(config, "dev_questions", 0)


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
    def stories(self):
        """Stories by split."""
        config = self.config
        return {split: datasets.babi(config.version, split, config.tasks) for split in ("train", "valid", "test")}

    @functools.cached_property
    def words(self):
        """The vocabulary of all splits and chosen tasks."""
        return babi.vocabulary([story for part in self.stories.values() for story in part])

    @functools.cached_property
    def _batches(self):
        return {split: self._make_batches(split) for split in self.stories}

    def _make_batches(self, split):
        config = self.config
        sequences = babi.encode(self.stories[split], self.words, config.encoding)
        if split == "valid" and config.dev_questions:
            by_task = {task: [s for s in sequences if s.task == task] for task in config.tasks}
            sequences = [s for some in by_task.values() for s in some[: config.dev_questions]]
        return babi.Batches(sequences, config.batch_size, config.group_by_length)

    def variables(self):
        return {**super().variables(), **numbered("best", self.best), "best_error": self.best_error}

    def batch(self, update):
        return self._batches["train"].draw(self.generator(update))

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
        for batch, valid in self._batches[split].all():
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
