"""bAbI as a task: sequences of words from its files, percentages of wrong questions as scores.

numpy only; `tfmem.tasks.babi` has encodings, batches and the count of errors.
"""

import dataclasses
import functools
from typing import Literal

import numpy as np

from tfmem.data.babi import VERSIONS
from tfmem.tasks import babi
from tfmem.tasks.base import Task
from tfmem.validation import check_range


@dataclasses.dataclass(frozen=True)
class Babi(Task):
    """bAbI v1.2, several tasks jointly; a target is a word of the answer.

    Raises:
      ValueError: a field is out of range; reading may raise `MissingDataError` or `CorruptDataError`.
    """

    version: str = "en-valid-10k"
    """Folder of bAbI v1.2, one with a dev set."""
    tasks: tuple[int, ...] = tuple(range(1, babi.NUM_TASKS + 1))
    """Jointly learned tasks."""
    encoding: Literal["question", "story"] = "story"
    """Whole stories with their questions, or each question after its story."""
    group_by_length: bool = True
    """Batch sequences of about the same length. Not specified; we do."""
    max_words: int = 0
    """Longest training sequence; longer ones are left out and all are padded to it, as compiled bundles need. 0: no
    limit, and padding by batch. Not specified; we use 0."""
    dev_questions: int = 0
    """Sequences of each task in an evaluation on the dev set; 0: all. Not specified; we use all."""

    num_steps = None

    def __post_init__(self):
        versions = [v for v in VERSIONS if "valid" in v]
        if self.version not in versions:
            raise ValueError(f"version: {self.version!r}, must be one of {versions}: the best weights need a dev set")
        if not self.tasks or not set(self.tasks) <= set(range(1, babi.NUM_TASKS + 1)):
            raise ValueError(f"tasks: {self.tasks}, must be numbers from 1 to {babi.NUM_TASKS}, at least one")
        for name in ("max_words", "dev_questions"):
            check_range(name, getattr(self, name), 0)

    @functools.cached_property
    def _data(self):
        return babi.read_tasks(self.version, self.tasks)

    @property
    def words(self):
        """Vocabulary of all splits and chosen tasks."""
        return self._data[0]

    @property
    def stories(self):
        """Stories by split."""
        return self._data[1]

    @property
    def input_size(self):
        return len(self.words)

    output_size = input_size

    @functools.cached_property
    def _unseen(self):
        """Encoded sequences of the dev and the test set."""
        encoded = {split: babi.encode(self.stories[split], self.words, self.encoding) for split in ("valid", "test")}
        if self.dev_questions:
            by_task = ([s for s in encoded["valid"] if s.task == task] for task in self.tasks)
            encoded["valid"] = [s for some in by_task for s in some[: self.dev_questions]]
        return encoded

    def _batching(self, batch_size, seed):
        return {
            "batch_size": batch_size,
            "group_by_length": self.group_by_length,
            "max_words": self.max_words,
            "seed": seed,
        }

    def data_source(self, split, batch_size, seed):
        """Return the training batches if all have one length, as compiled bundles need; else None."""
        if split != "train" or not self.max_words:
            return None
        data = {"version": self.version, "tasks": self.tasks, "encoding": self.encoding}
        return "tfmem.tasks.babi:training_batches", {**data, **self._batching(batch_size, seed)}

    def source(self, split, batch_size, seed):
        """Open the training batches, of any length; None for "evaluation": `evaluate` reads the other splits."""
        if split != "train":
            return None
        sequences = babi.encode(self.stories["train"], self.words, self.encoding)
        return babi.Batches(sequences, **self._batching(batch_size, seed))

    def scores(self, logits, batch):
        """Compute cross entropy and the accuracy of the answers' words."""
        from tfmem.losses.sequence import accuracy, cross_entropy

        answers = batch.targets, batch.mask
        return {"loss": cross_entropy(logits, *answers), "accuracy": accuracy(logits, *answers)}

    def errors(self, predict, split, batch_size):
        """Count a split's errors in `babi.ErrorCounts`; arguments are those of `evaluate`."""
        counts = babi.ErrorCounts()
        for batch, sequences in babi.Batches(self._unseen[split], batch_size).all():
            counts.add(sequences, predict(batch))
        return counts

    def evaluate(self, predict, split, batch_size):
        """Compute the mean error (percent) and failed tasks; for the test set, also each task's error."""
        counts = self.errors(predict, split, batch_size)
        if split == "valid":
            return {"dev_mean_error": counts.mean, "dev_failed_tasks": float(counts.failed)}
        by_task = {f"error_task_{task}": float(error) for task, error in counts.errors.items()}
        return {"mean_error": counts.mean, "failed_tasks": float(counts.failed), **by_task}

    def baselines(self, batches):
        """Compute the mean error (percent) of predicting each task's most frequent training answer."""

        def answers(split, task):
            lines = [line for story in self.stories[split] if story.task == task for line in story.lines]
            return [line.answer for line in lines if line.answer]

        def error(task):
            given = answers("train", task)
            guess = max(set(given), key=given.count)
            return 100.0 * np.mean([answer != guess for answer in answers("test", task)])

        return {"blind_mean_error": float(np.mean([error(task) for task in self.tasks]))}
