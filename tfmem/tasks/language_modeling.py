"""Word-level language modelling (Santoro et al. 2018, §5.4, A.4): corpora as numbers, streams, frequency buckets.

The text of a split is one long row of words, each line followed by <eos>. Truncated back-propagation reads it in
`batch_size` contiguous parts side by side, window after window, so that each update starts from the state of the one
before:

    row b:   | b L .. b L + T | b L + T .. b L + 2T | ...        L = words of a part, T = window
    target:  the next word

numpy only, time-major.
"""

import array
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfmem.atomic import replacing
from tfmem.data.corpora import CORPORA, SPLITS
from tfmem.data.datasets import text_file, text_lines
from tfmem.data.files import CorruptDataError, cache_folder
from tfmem.validation import check_array, check_choice, check_positive

END_OF_LINE, UNKNOWN = "<eos>", "<unk>"
_FORMAT = 2  # of the cache


class Vocabulary:
    """Words by falling frequency in the training text, ties in alphabetical order; a word's id is its place.

    Args:
        counts: `{word: occurrences in the training text}`.
        size: words to keep, always with <eos> and <unk>; None: all. The others' counts go to <unk>.

    Attributes:
        words: tuple of words.
        counts: int64 [size], occurrences in the training text.
    """

    def __init__(self, counts, size=None):
        if size is not None and size < 3:
            raise ValueError(f"size: {size}, must be at least 3: {END_OF_LINE}, {UNKNOWN} and a word")
        special = {END_OF_LINE, UNKNOWN}
        order = sorted((word for word in counts if word not in special), key=lambda word: (-counts[word], word))
        kept = order if size is None else order[: size - len(special)]
        counts = dict(counts)
        counts[UNKNOWN] = counts.get(UNKNOWN, 0) + sum(counts[word] for word in order[len(kept) :])
        counts.setdefault(END_OF_LINE, 0)
        self.words = tuple(sorted([*kept, *special], key=lambda word: (-counts[word], word)))
        self.counts = np.array([counts[word] for word in self.words], np.int64)
        self.ids = {word: number for number, word in enumerate(self.words)}

    def __len__(self):
        return len(self.words)

    def encode(self, lines):
        """Lines (lists of words) as ids, each with <eos> behind it: an iterator of ints."""
        ids, unknown, end = self.ids, self.ids[UNKNOWN], self.ids[END_OF_LINE]
        for line in lines:
            for word in line:
                yield ids.get(word, unknown)
            yield end


def frequency_buckets(counts, bounds=(10_000, 1_000)):
    """The bucket of each word by its occurrences in the training text (Table 3: > 10K, 10K-1K, < 1K).

    Args:
        counts: int [V].
        bounds: falling; bucket 0 has more than bounds[0] occurrences, the next ones more than their bound or as many,
            the last one less than all.

    Returns:
        int32 [V].

    Raises:
        ValueError: bounds that do not fall.
    """
    bounds = np.asarray(bounds)
    if np.any(np.diff(bounds) >= 0):
        raise ValueError(f"bounds: {bounds.tolist()}, must fall")
    counts = np.asarray(counts)
    below = [counts <= bounds[0], *(counts < bound for bound in bounds[1:])]
    return np.sum(below, axis=0).astype(np.int32)


class Corpus(NamedTuple):
    """A corpus as ids: int32 arrays that may be mapped from a file."""

    vocabulary: Vocabulary
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def load_corpus(name, vocabulary_size=None, data_dir=None, cache_dir=None):
    """Read a corpus as numbers and keep them in a cache.

    The cache is made in a temporary folder that is renamed once it is whole, under a name with a digest of
    the source files (sizes and times) and the vocabulary's size.

    Args:
        name: one of `tfmem.data.corpora.CORPORA`.
        vocabulary_size: words to keep; None: all of the training text.
        data_dir: as for `tfmem.data.datasets.text_lines`.
        cache_dir: folder of the numbers; None: `tfmem.data.files.cache_folder()`.

    Raises:
        ValueError: an unknown corpus; or as `Vocabulary`.
        MissingDataError, CorruptDataError: as `text_lines`; or a training text without words.
    """
    check_choice("name", name, CORPORA)
    files = {split: text_file(name, split, data_dir) for split in SPLITS}
    stats = {split: file and (str(file), file.stat().st_size, file.stat().st_mtime_ns) for split, file in files.items()}
    digest = hashlib.sha256(json.dumps([_FORMAT, name, vocabulary_size, stats], sort_keys=True).encode()).hexdigest()
    root = Path(cache_dir or cache_folder())
    folder = root / f"{name}-{digest[:16]}"
    if not folder.exists():
        root.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(folder) as partial:
                partial.mkdir()
                _write_cache(partial, name, vocabulary_size, data_dir)
        except OSError:  # another process was first
            if not folder.exists():
                raise
    try:
        rows = [row.split(" ") for row in (folder / "vocabulary.txt").read_text("utf-8").splitlines()]
        vocabulary = Vocabulary({word: int(count) for word, count in rows})
        arrays = {split: np.load(folder / f"{split}.npy", mmap_mode="r") for split in SPLITS}
    except (OSError, ValueError) as error:
        raise CorruptDataError(f"the cache {folder} is damaged ({error}). Delete it; it will be made again.") from error
    return Corpus(vocabulary, **arrays)


def _write_cache(folder, name, vocabulary_size, data_dir):
    counts = Counter()
    for line in text_lines(name, "train", data_dir):
        counts.update(line)
        counts[END_OF_LINE] += 1
    if set(counts) <= {END_OF_LINE}:
        raise CorruptDataError(f"the training text of {name} has no words")
    vocabulary = Vocabulary(counts, vocabulary_size)
    rows = (f"{word} {count}" for word, count in zip(vocabulary.words, vocabulary.counts, strict=True))
    (folder / "vocabulary.txt").write_text("\n".join(rows) + "\n", "utf-8")
    for split in SPLITS:
        ids = array.array("i", vocabulary.encode(text_lines(name, split, data_dir)))
        np.save(folder / f"{split}.npy", np.frombuffer(ids, np.int32))


class TokenStream:
    """Windows of a text for truncated back-propagation; `batch(update)` is a function of the update alone.

    A pass has `windows_per_pass` windows; the words behind the last whole window of each part are left out. Then the
    text is read again, from states anew ("first").

    Args:
        ids: int [N], the text.
        batch_size: B, parts that are read side by side.
        window: T, steps of back-propagation.
        seed: non-negative integer, goes into the seeds of dropout.

    Raises:
        ValueError: an argument below 1, or a text that has no whole window for each part.
    """

    def __init__(self, ids, batch_size, window, seed=0):
        check_positive(batch_size=batch_size, window=window)
        self.ids, self.batch_size, self.window, self.seed = ids, batch_size, window, seed
        self.part = (len(ids) - 1) // batch_size
        self.windows_per_pass = self.part // window
        if not self.windows_per_pass:
            raise ValueError(f"ids: {len(ids)} words, must be more than batch_size * window = {batch_size * window}")

    def batch(self, update):
        """dict: inputs, targets [T, B] int32; first, bool: the text starts anew; dropout_seed, int64 [2]."""
        start = update % self.windows_per_pass * self.window
        rows = np.stack([self.ids[b * self.part + start :][: self.window + 1] for b in range(self.batch_size)], axis=1)
        return {
            "inputs": rows[:-1],
            "targets": rows[1:],
            "first": np.bool_(start == 0),
            "dropout_seed": np.array([self.seed, update], np.int64),
        }


class EvaluationWindows:
    """All of a text but its first word as targets exactly once, in parts and windows as in training.

    Args:
        ids: int [N], at least two words.
        batch_size: parts that are read side by side.
        window: steps of a window.

    Raises:
        ValueError: an argument below 1 or too large, or a text of less than two words.
    """

    def __init__(self, ids, batch_size, window):
        check_positive(batch_size=batch_size, window=window)
        if len(ids) < 2:
            raise ValueError(f"ids: {len(ids)} words, must be at least 2")
        check_array(window, batch_size, window=window, batch_size=batch_size)
        self.ids, self.batch_size, self.window = ids, batch_size, window
        self.part = -(-(len(ids) - 1) // batch_size)

    def __len__(self):
        return -(-self.part // self.window)

    def batch(self, number):
        """dict: inputs, targets [window, B] int32; mask [window, B] float32, 0 on padding; first, bool scalar."""
        step = np.arange(number * self.window, (number + 1) * self.window)[:, np.newaxis]
        place = np.arange(self.batch_size) * self.part + step
        valid = (step < self.part) & (place < len(self.ids) - 1)
        place = np.where(valid, place, 0)
        return {
            "inputs": np.asarray(self.ids[place], np.int32),
            "targets": np.asarray(self.ids[place + 1], np.int32),
            "mask": valid.astype(np.float32),
            "first": np.bool_(number == 0),
        }


def training_stream(corpus, vocabulary_size, batch_size, window, seed):
    """The `TokenStream` of a corpus's training text; see `load_corpus`."""
    return TokenStream(load_corpus(corpus, vocabulary_size).train, batch_size, window, seed)


def validation_windows(corpus, vocabulary_size, batch_size, window, words):
    """The `EvaluationWindows` of the first `words` words of a corpus's validation text (0: all); see `load_corpus`."""
    ids = load_corpus(corpus, vocabulary_size).valid
    return EvaluationWindows(ids[: words + 1] if words else ids, batch_size, window)
