"""Learning to execute (Zaremba & Sutskever 2014; Santoro et al. 2018, §4.2): read a small program, write its value.

Public code: Sonnet 1's examples/learn_to_execute.py; programs and order of draws are the same, so a seeded
`random.Random` gives its samples. A program of length L and nesting D is made in D rounds. Each draws an operation and
its operands: literals of exactly L digits, except that from the second round on the first is the program so far:

    add  a+b     subtract  a-b     multiply  a*b     if  aifb<celsed (or >)     for  x=afor[k]x+=b,  k from 1 to 9
    copy  a  -> a     reverse  a  -> its digits backwards     double  a  -> its digits twice

Values of the first five are taken modulo 10^(L+1) at the end. Paper: `% 10**length` in print, but L+1 digits in its
answers. Text is read and written by character. numpy and the standard library only.
"""

import dataclasses
import random
from typing import Literal, NamedTuple

import numpy as np

from tfmem.tasks.base import Batch, Task
from tfmem.validation import check_array, check_choice, check_range

# The public vocabulary in the order of its indices. Programs by character never contain words or the first three.
VOCABULARY = (
    *("_unk_", "_null_", "_eos_", "|", " ", "!", "(", ")", "*", "+", "-", ".", "/", *"0123456789", ":", "<", "=", ">"),
    *("[", "]", "a", "e", "else", "f", "for", "g", "i", "if", "l", "n", "o", "r", "range", "s", "x", "~"),
)
START, PADDING = VOCABULARY.index("~"), VOCABULARY.index(".")
_TABLE = bytes(VOCABULARY.index(chr(c)) if chr(c) in VOCABULARY else 0 for c in range(256))

# Operations of a task in the public code's order; its name for the task is in the comment.
TASKS = {
    "addition": ("add",),  # ADDITION
    "algebra": ("add", "subtract", "multiply"),  # ALGEBRA
    "control": ("add", "subtract", "if"),  # ALG_CTRL: the paper's sample of "control" mixes if with +
    "if_for": ("if", "for"),  # CONTROL
    "full_program": ("add", "subtract", "multiply", "if", "for"),  # ALL
    "copy": ("copy",),  # COPY
    "double": ("double",),  # DOUBLE
    "reverse": ("reverse",),  # REVERSE
}
MEMORY_TASKS = ("copy", "double", "reverse")
NUM_OPERANDS = {"add": 2, "subtract": 2, "multiply": 2, "if": 4, "for": 2, "copy": 1, "double": 1, "reverse": 1}
EXTRA_CHARACTERS = {"add": 1, "subtract": 1, "multiply": 1, "if": 7, "for": 11, "copy": 0, "double": 0, "reverse": 0}


class Expression(NamedTuple):
    value: int | str
    text: str


def apply(operation, operands, rng):
    """Apply an operation to `Expression`s; `rng` draws the comparison of `if` and the rounds of `for`."""
    a, b, c, d = (*operands, None, None, None)[:4]
    match operation:
        case "add":
            return Expression(a.value + b.value, f"{a.text}+{b.text}")
        case "subtract":
            return Expression(a.value - b.value, f"{a.text}-{b.text}")
        case "multiply":
            return Expression(a.value * b.value, f"{a.text}*{b.text}")
        case "if":
            sign = "<>"[rng.randint(0, 1)]
            holds = b.value < c.value if sign == "<" else b.value > c.value
            return Expression(a.value if holds else d.value, f"{a.text}if{b.text}{sign}{c.text}else{d.text}")
        case "for":
            rounds = rng.randint(1, 9)
            return Expression(a.value + rounds * b.value, f"x={a.text}for[{rounds}]x+={b.text}")
        case "copy":
            return Expression(a.text, a.text)
        case "double":
            return Expression(a.text * 2, a.text)
        case "reverse":
            return Expression(a.text[::-1], a.text)


@dataclasses.dataclass(frozen=True)
class LearningToExecute(Task):
    """Programs by character and their values; an `EncoderDecoder` reads and writes them.

    A `Batch` has programs [T, B] as inputs, with their `lengths`, and answers [T', B] as targets; tokens are padded.

    Raises:
      ValueError: a field is out of range.
    """

    program: Literal["addition", "control", "full_program", "copy", "reverse", "double", "algebra", "if_for"] = (
        "addition"
    )
    """Operations of a program, one of `TASKS`."""
    max_length: int = 5
    """Length of the longest literals, in digits."""
    max_nesting: int = 2
    """Deepest nesting; 1 for copy, double and reverse, as in the public code."""
    modulus_digits_beyond_length: Literal[0, 1] = 1
    """Values are modulo 10^(length + this). Public code: 1. Paper: 1 in its answers, 0 in its programs."""
    curriculum: Literal["mix", "combine", "naive"] = "mix"
    """Lengths and nestings of training samples (`Curriculum`). Evaluations have the largest of both."""
    updates_per_level: int = 10
    """Updates after which combine and naive rise. Public code: by the loss, every 10 unless it grows."""

    def __post_init__(self):
        check_choice("program", self.program, TASKS)
        check_range("max_length", self.max_length, 1)
        if self.max_nesting < 1 or (self.program in MEMORY_TASKS and self.max_nesting > 1):
            raise ValueError(
                f"max_nesting: {self.max_nesting}, must be at least 1, and 1 for {', '.join(MEMORY_TASKS)}"
            )
        if self.modulus_digits_beyond_length not in (0, 1):
            raise ValueError(f"modulus_digits_beyond_length: {self.modulus_digits_beyond_length}, must be 0 or 1")
        check_range("updates_per_level", self.updates_per_level, 1)

    input_size = output_size = len(VOCABULARY)

    @property
    def num_steps(self):
        """T: characters of the longest program. The public code pads further."""
        longest = self.max_length
        for _ in range(self.max_nesting):
            longest = 2 + max(
                longest + (NUM_OPERANDS[op] - 1) * self.max_length + EXTRA_CHARACTERS[op] for op in TASKS[self.program]
            )
        return longest - 2

    @property
    def num_steps_out(self):
        """T': characters of the longest answer. The public code pads further."""
        if self.program in MEMORY_TASKS:
            return self.max_length * (2 if self.program == "double" else 1)
        return self.max_length + self.modulus_digits_beyond_length

    def sample(self, length, nesting, rng):
        """Draw a program and its answer, both text, with `rng`, a `random.Random`."""
        operations, made = TASKS[self.program], None
        low, high = 10 ** (length - 1), 10**length - 1
        for _ in range(nesting):
            operation = rng.choice(operations)
            operands = [] if made is None else [made._replace(text=f"({made.text})")]
            while len(operands) < NUM_OPERANDS[operation]:
                literal = rng.randint(low, high)
                operands.append(Expression(literal, str(literal)))
            made = apply(operation, operands, rng)
        if self.program in MEMORY_TASKS:
            return made.text, made.value
        return made.text, str(made.value % 10 ** (length + self.modulus_digits_beyond_length))

    def batch(self, batch_size, curriculum, rng):
        """Draw `batch_size` samples as a `Batch`; each draws length and nesting, then the program, from `rng`."""
        samples = [self.sample(*curriculum.draw(rng), rng) for _ in range(batch_size)]
        programs, answers = zip(*samples, strict=True)
        inputs, lengths = tokens(programs, self.num_steps)
        targets, answer_lengths = tokens(answers, self.num_steps_out)
        mask = np.arange(self.num_steps_out)[:, np.newaxis] < answer_lengths
        return Batch(inputs, targets, mask.astype(np.float32), lengths)

    def data_source(self, split, batch_size, seed):
        arguments = {"data": dataclasses.asdict(self), "batch_size": batch_size}
        if split == "train":
            arguments |= {"seed": seed, "curriculum": self.curriculum, "updates_per_level": self.updates_per_level}
        else:
            arguments |= {"seed": 2**32 - 1, "curriculum": "test"}
        return "tfmem.tasks.learning_to_execute:ProgramStream", arguments

    def baselines(self, batches):
        """Return the accuracy of predicting each place's most frequent character."""
        batches = list(batches)
        targets, mask = (np.concatenate([getattr(b, name) for b in batches], axis=1) for name in ("targets", "mask"))
        places = [row[counts > 0] for row, counts in zip(targets, mask, strict=True)]
        right = sum(np.bincount(row).max() for row in places if len(row))
        return {"majority_accuracy": float(right / (mask > 0).sum())}


def tokens(texts, num_steps):
    """Convert texts to tokens, int32 [num_steps, B], padded with ".", and their lengths, int32 [B].

    Raises:
      ValueError: a text is longer than `num_steps`.
    """
    lengths = np.array([len(text) for text in texts], np.int32)
    if lengths.max() > num_steps:
        raise ValueError(f"texts: {max(texts, key=len)!r} of {lengths.max()} characters, must have at most {num_steps}")
    padded = "".join(text.ljust(num_steps, ".") for text in texts).encode("latin-1").translate(_TABLE)
    return np.frombuffer(padded, np.uint8).reshape(len(texts), num_steps).T.astype(np.int32), lengths


def text(column, length):
    """Convert tokens [T] to text, up to `length`."""
    return "".join(VOCABULARY[token] for token in column[:length])


class Curriculum:
    """Lengths and nestings of samples (Zaremba & Sutskever 2014, §4, as in the public code).

        mix        length uniform from 1 to max_length, nesting uniform from 1 to max_nesting, for each sample
        combine    the same, up to the present level
        naive      the present level
        test       max_length and max_nesting

    Levels rise in length first, then in nesting. Public code: they rise by the losses. Here `ProgramStream` raises them
    by the batch's number, so that data do not depend on losses.

    Args:
      kind: one of these four names.
      max_length, max_nesting: the last level.
      rises: number of levels passed.
    """

    KINDS = ("mix", "combine", "naive", "test")

    def __init__(self, kind, max_length, max_nesting, rises=0):
        check_choice("kind", kind, self.KINDS)
        self.kind = kind
        self.max_length = max_length
        self.max_nesting = max_nesting
        self.rises = rises

    @property
    def level(self):
        """Current level, (length, nesting)."""
        length = min(1 + self.rises, self.max_length)
        return length, min(1 + max(self.rises - (self.max_length - 1), 0), self.max_nesting)

    def draw(self, rng):
        """Draw (length, nesting) of a sample; `rng` is a `random.Random`."""
        if self.kind == "test":
            return self.max_length, self.max_nesting
        if self.kind == "naive":
            return self.level
        length, nesting = self.level if self.kind == "combine" else (self.max_length, self.max_nesting)
        return rng.randint(1, length), rng.randint(1, nesting)


class ProgramStream:
    """Batches of programs by number: `batch(number)` follows from the number and the seed alone.

    Args:
      data: a `LearningToExecute`, or its arguments as a dict.
      batch_size: programs of a batch.
      seed: of the draws, 0 to 2**32 - 1.
      curriculum: a kind of `Curriculum`.
      updates_per_level: batches per level of a curriculum.

    Raises:
      ValueError: an argument is out of range, also of `LearningToExecute` and `Curriculum`.
    """

    def __init__(self, data, batch_size, seed, curriculum="mix", updates_per_level=1):
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("updates_per_level", updates_per_level, 1),
        ):
            if value < least:
                raise ValueError(f"{name}: {value}, must be at least {least}")
        self.data = LearningToExecute(**data) if isinstance(data, dict) else data
        self.batch_size, self.seed = batch_size, seed
        self.updates_per_level = updates_per_level
        self._curriculum = lambda rises: Curriculum(curriculum, self.data.max_length, self.data.max_nesting, rises)
        self._curriculum(0)
        steps = max(self.data.num_steps, self.data.num_steps_out)
        check_array(steps, batch_size, max_length=self.data.max_length, batch_size=batch_size)

    def batch(self, number):
        """Make the arrays of the `Batch` of `number`, counted from 0."""
        rng = random.Random(int(np.random.default_rng([self.seed, number]).integers(2**63)))
        return self.data.batch(self.batch_size, self._curriculum(number // self.updates_per_level), rng).arrays()
