"""bAbI question answering (Weston et al. 2015, v1.2), word by word, several tasks jointly.

A story is a list of lines; some are questions. Two encodings as sequences of words:

    "story" (DNC, Graves et al. 2016): the whole story with its questions where they stand, one placeholder for each
    word of an answer behind its question:
        mary moved to the bathroom . where is mary ? -  john went ... where is john ? -
    "question" (MNM, Munkhdalai et al. 2019, App. A): for each question the statements before it, then the question,
    then its placeholders. Earlier questions: not specified ("the end of its related story"); we leave them out.

The target at a placeholder is a word of the answer; no other step counts. The 20 English tasks have 156 words; with
".", "?" and "-", |V| = 159 (Huynh et al. 2020).
A question is right if all its words are; a task has failed if more than 5% of its questions are wrong.

numpy only, time-major. `tfmem.data.babi` has the files, the form of a story and the rule that cuts it into words.
"""

from typing import NamedTuple

import numpy as np

from tfmem.data.babi import splits as splits_of
from tfmem.data.babi import words
from tfmem.data.datasets import babi
from tfmem.tasks.base import Batch
from tfmem.validation import check_array, check_choice, check_range

NUM_TASKS = 20
PLACEHOLDER = "-"
FAILED_ABOVE = 5.0  # percent
# Padded lengths of batches, so that few shapes are compiled; longer sequences get a multiple of the last.
LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class Encoded(NamedTuple):
    """Encoded sequence: int32 [T] each. `questions` is 1, 2, ... at the placeholders of each question, else 0."""

    task: int
    inputs: np.ndarray
    targets: np.ndarray
    questions: np.ndarray


def vocabulary(stories):
    """All words of stories, questions and answers, the placeholder first, then in alphabetical order."""
    found = {word for story in stories for line in story.lines for word in (*words(line.text), *line.answer)}
    return (PLACEHOLDER, *sorted(found - {PLACEHOLDER}))


def read_tasks(version, tasks, data_dir=None):
    """Read the vocabulary of some tasks in all splits of a version, and their stories by split.

    Arguments and errors are those of `tfmem.data.datasets.babi`.
    """
    stories = {split: babi(version, split, tasks, data_dir) for split in splits_of(version)}
    return vocabulary([story for part in stories.values() for story in part]), stories


def training_batches(version, tasks, encoding, **arguments):
    """Make the `Batches` of the training stories (see `read_tasks`, `encode`); `arguments` are those of `Batches`."""
    words, stories = read_tasks(version, tasks)
    return Batches(encode(stories["train"], words, encoding), **arguments)


def encode(stories, vocabulary, encoding="story"):
    """Encode stories as a list of `Encoded` sequences.

    Args:
        stories: `Story`s.
        vocabulary: words, the placeholder first; a word's id is its place.
        encoding: "story" or "question"; see the top of this file.

    Raises:
        ValueError: an unknown encoding, or a word that is not in the vocabulary.
    """
    check_choice("encoding", encoding, ("story", "question"))
    ids = {word: number for number, word in enumerate(vocabulary)}
    encoded = []
    try:
        for story in stories:
            inputs, answers, questions = [], [], 0
            for line in story.lines:
                text = [ids[word] for word in words(line.text)]
                if not line.answer:
                    inputs += text
                    continue
                answer = [ids[word] for word in line.answer]
                with_question = [*inputs, *text, *[ids[PLACEHOLDER]] * len(answer)]
                if encoding == "question":
                    encoded.append(_sequence(story.task, with_question, [(len(with_question), answer)]))
                else:
                    inputs = with_question
                    answers.append((len(inputs), answer))
                questions += 1
            if encoding == "story" and answers:
                encoded.append(_sequence(story.task, inputs, answers))
    except KeyError as error:
        raise ValueError(f"vocabulary: without {error.args[0]!r}, must have all words of task {story.task}") from None
    return encoded


def _sequence(task, inputs, answers):
    """Make an `Encoded`; `answers` are pairs (place after the last placeholder, ids)."""
    targets, questions = np.zeros(len(inputs), np.int32), np.zeros(len(inputs), np.int32)
    for number, (end, answer) in enumerate(answers, start=1):
        targets[end - len(answer) : end] = answer
        questions[end - len(answer) : end] = number
    return Encoded(task, np.array(inputs, np.int32), targets, questions)


def padded_length(length):
    """Smallest of `LENGTHS`, or multiple of the last, that holds `length` steps."""
    return next((bound for bound in LENGTHS if length <= bound), -(-length // LENGTHS[-1]) * LENGTHS[-1])


def pad(sequences, steps=0):
    """Batch `Encoded` sequences, padded at the end with the placeholder to `steps`; 0: a common `padded_length`.

    Returns:
        dict: inputs, targets [T, B] int32; mask [T, B] float32, 1 at placeholders of answers; lengths [B] int32.
    """
    steps = steps or padded_length(max(len(s.inputs) for s in sequences))

    def stack(name):
        return np.stack([np.pad(getattr(s, name), (0, steps - len(s.inputs))) for s in sequences], axis=1)

    lengths = np.array([len(s.inputs) for s in sequences], np.int32)
    return Batch(stack("inputs"), stack("targets"), (stack("questions") > 0).astype(np.float32), lengths).arrays()


class Batches:
    """Batches of encoded sequences, all tasks mixed; `batch(update)` is a function of the seed and the update.

    Args:
        sequences: `Encoded`s, at least one.
        batch_size: sequences of a batch.
        group_by_length: batches have sequences of one padded length, drawn with its probability among all sequences;
            else a batch is as long as its longest sequence. Not specified; we use the former: less padding, but a batch
            then has fewer different tasks.
        max_words: leave out longer sequences and pad every batch to it; 0: neither.
        seed: non-negative integer.

    Raises:
        ValueError: no sequences (of at most `max_words`), or a batch size below 1 or too large.
    """

    def __init__(self, sequences, batch_size, group_by_length=True, max_words=0, seed=0):
        self.sequences = [s for s in sequences if not max_words or len(s.inputs) <= max_words]
        if not self.sequences:
            raise ValueError(f"sequences: none of at most max_words = {max_words}, must have at least one")
        check_range("batch_size", batch_size, 1)
        self.batch_size, self.group_by_length, self.seed = batch_size, group_by_length, seed
        self.steps = max_words
        check_array(max(max_words, *(len(s.inputs) for s in self.sequences)), batch_size, batch_size=batch_size)
        self.lengths = np.array([padded_length(len(s.inputs)) for s in self.sequences])

    def batch(self, update):
        """Draw the batch of an update with replacement, as from `pad`."""
        generator = np.random.default_rng([self.seed, update])
        if self.group_by_length:
            among = np.flatnonzero(self.lengths == generator.choice(self.lengths))
            chosen = generator.choice(among, self.batch_size)
        else:
            chosen = generator.integers(len(self.sequences), size=self.batch_size)
        return pad([self.sequences[i] for i in chosen], self.steps)

    def all(self):
        """Iterate over (batch, its sequences) with every sequence once, by length.

        The last batch of a length is filled with repeats of its first sequence, which are not among "its sequences".
        """
        for length in np.unique(self.lengths):
            among = np.flatnonzero(self.lengths == length)
            for start in range(0, len(among), self.batch_size):
                part = [self.sequences[i] for i in among[start : start + self.batch_size]]
                yield pad(part + part[:1] * (self.batch_size - len(part))), part


class ErrorCounts:
    """Counter of wrong answers by task: `add` batches, then read `errors`, `mean` and `failed`."""

    def __init__(self):
        self.wrong, self.asked = np.zeros(NUM_TASKS + 1, np.int64), np.zeros(NUM_TASKS + 1, np.int64)

    def add(self, sequences, predictions):
        """Count `Encoded` sequences by predicted words, int [T, B]; columns after the last sequence are left out."""
        for sequence, predicted in zip(sequences, predictions.T, strict=False):
            questions = sequence.questions
            missed = questions[(questions > 0) & (predicted[: len(questions)] != sequence.targets)]
            self.wrong[sequence.task] += len(np.unique(missed))
            self.asked[sequence.task] += questions.max()

    @property
    def errors(self):
        """`{task: percentage of its questions with a wrong answer}` of the tasks with questions."""
        return {int(t): 100.0 * self.wrong[t] / self.asked[t] for t in np.flatnonzero(self.asked)}

    @property
    def mean(self):
        """Mean over tasks of their error, percent."""
        return float(np.mean(list(self.errors.values())))

    @property
    def failed(self):
        """Number of tasks with an error above 5%."""
        return sum(error > FAILED_ABOVE for error in self.errors.values())
