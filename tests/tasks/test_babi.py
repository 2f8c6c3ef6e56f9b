"""bAbI: both encodings, padding, and the count of errors."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.text_data import babi_story
from tfmem.data.babi import parse
from tfmem.data.babi import words as words_of
from tfmem.data.datasets import babi as read
from tfmem.data.files import DATA_DIR
from tfmem.tasks import babi

TEXT = """1 Mary moved to the bathroom.
2 John got the milk, and 2 apples.
3 Where is Mary? \tbathroom\t1
4 John took the football there.
5 What is John carrying? \tmilk,football\t2 4
1 Daniel is a swan.
2 What is Daniel?\tSwan\t1
"""
STORIES = parse(TEXT, 8)
VOCABULARY = babi.vocabulary(STORIES)


def told(sequence, name):
    return " ".join(VOCABULARY[i] for i in getattr(sequence, name))


def test_vocabulary():
    assert VOCABULARY[0] == "-"
    assert list(VOCABULARY[1:]) == sorted(VOCABULARY[1:])
    assert "2" not in VOCABULARY
    assert "," not in VOCABULARY


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("apple, milk", ("apple", "milk")),
        ("apple ,milk,", ("apple", "milk")),
        ("living room", ("living", "room")),
        ("ice-cream", ("ice", "cream")),
        ("Café", ("café",)),
        ("CAFE\u0301", ("café",)),
        ("Straße,Москва", ("straße", "москва")),
        ("don't", ("don", "t")),
        ("room_2", ("room",)),
    ],
)
def test_texts_and_answers_are_cut_by_one_rule(answer, words):
    stories = parse(f"1 Mary saw {answer} there.\n2 What did Mary see?\t{answer}\t1\n", 1)
    statement, question = stories[0].lines
    assert question.answer == words
    assert words_of(statement.text) == ["mary", "saw", *words, "there", "."]
    vocabulary = babi.vocabulary(stories)
    assert set(vocabulary) == {"-", ".", "?", "mary", "saw", "there", "what", "did", "see", *words}
    (sequence,) = babi.encode(stories, vocabulary)
    assert sequence.questions.sum() == len(words)


def test_story_encoding():
    whole, short = babi.encode(STORIES, VOCABULARY, "story")
    assert told(whole, "inputs") == (
        "mary moved to the bathroom . john got the milk and apples . where is mary ? - "
        "john took the football there . what is john carrying ? - -"
    )
    assert told(short, "inputs") == "daniel is a swan . what is daniel ? -"
    at = np.flatnonzero(whole.questions)
    assert [VOCABULARY[i] for i in whole.inputs[at]] == ["-"] * 3
    assert [VOCABULARY[i] for i in whole.targets[at]] == ["bathroom", "milk", "football"]
    assert whole.questions[at].tolist() == [1, 2, 2]
    assert np.all(whole.targets[whole.questions == 0] == 0)


def test_question_encoding():
    first, second, _ = babi.encode(STORIES, VOCABULARY, "question")
    assert told(first, "inputs") == "mary moved to the bathroom . john got the milk and apples . where is mary ? -"
    assert told(second, "inputs") == (
        "mary moved to the bathroom . john got the milk and apples . john took the football there . "
        "what is john carrying ? - -"
    )
    assert [VOCABULARY[i] for i in second.targets[-2:]] == ["milk", "football"]
    assert second.questions.tolist() == [0] * (len(second.questions) - 2) + [1, 1]


def test_encoding_of_what_is_unknown():
    with pytest.raises(ValueError, match="vocabulary: without 'mary', must have all words of task 8"):
        babi.encode(STORIES, ("-", "."), "story")
    with pytest.raises(ValueError, match="encoding: 'x', must be one of 'story', 'question'"):
        babi.encode(STORIES, VOCABULARY, "x")


@given(seed=st.integers(0, 10**6), size=st.integers(1, 5), grouped=st.booleans())
def test_batches(seed, size, grouped):
    rng = np.random.default_rng(seed)
    stories = parse("".join(babi_story(rng, 8) for _ in range(4)), 8) + STORIES
    vocabulary = babi.vocabulary(stories)
    sequences = babi.encode(stories, vocabulary, "question")
    batches = babi.Batches(sequences, size, grouped, seed=seed)
    batch, again = batches.batch(3), batches.batch(3)
    for name, array in batch.items():
        np.testing.assert_array_equal(array, again[name])
    steps = batch["inputs"].shape[0]
    assert batch["inputs"].shape == (steps, size) == batch["mask"].shape
    assert steps in babi.LENGTHS
    for b in range(size):
        length = batch["lengths"][b]
        match = [s for s in sequences if np.array_equal(s.inputs, batch["inputs"][:length, b])]
        assert match
        assert not batch["inputs"][length:, b].any()
        assert batch["mask"][:, b].sum() == (match[0].questions > 0).sum()
        assert not grouped or babi.padded_length(length) == steps

    seen = [
        batch["inputs"][: batch["lengths"][b], b].tolist() for batch, found in batches.all() for b in range(len(found))
    ]
    assert sorted(seen) == sorted(s.inputs.tolist() for s in sequences)
    assert all(batch["inputs"].shape[1] == size for batch, _ in batches.all())


def test_batches_of_one_length():
    sequences = babi.encode(STORIES, VOCABULARY, "question")
    batches = babi.Batches(sequences, 4, group_by_length=False, max_words=20)
    seen = [batches.batch(update) for update in range(20)]
    assert {batch["inputs"].shape for batch in seen} == {(20, 4)}
    assert {n for batch in seen for n in batch["lengths"].tolist()} == {len(s.inputs) for s in sequences} - {26}


def test_padded_length():
    assert [babi.padded_length(n) for n in (1, 16, 17, 1024, 1025, 2049)] == [16, 16, 24, 1024, 2048, 3072]


def test_errors_are_counted_by_question_and_task():
    sequences = babi.encode(STORIES, VOCABULARY, "story")
    targets = babi.pad(sequences)["targets"]
    counts = babi.ErrorCounts()
    counts.add(sequences, targets)
    assert (counts.errors, counts.mean, counts.failed) == ({8: 0.0}, 0.0, 0)
    wrong = targets.copy()
    wrong[np.flatnonzero(sequences[0].questions == 2), 0] = 0  # both words of one answer: one wrong question
    counts.add(sequences, wrong)
    assert counts.errors == {8: pytest.approx(100 / 6)}
    assert counts.failed == 1
    counts.add([sequences[0]._replace(task=1)], wrong)
    assert counts.errors == {1: 50.0, 8: pytest.approx(100 / 6)}
    assert counts.mean == pytest.approx((50 + 100 / 6) / 2)
    assert counts.failed == 2


def test_bad_batches():
    for sequences, most in (([], 0), (babi.encode(STORIES, VOCABULARY), 3)):
        with pytest.raises(ValueError, match=f"sequences: none of at most max_words = {most}"):
            babi.Batches(sequences, 2, max_words=most)
    with pytest.raises(ValueError, match="batch_size: 0"):
        babi.Batches(babi.encode(STORIES, VOCABULARY), 0)


@pytest.mark.skipif(not os.environ.get(DATA_DIR), reason=f"{DATA_DIR} is not set")
def test_the_real_files():
    stories = {split: read("en-valid", split) for split in ("train", "valid", "test")}
    vocabulary = babi.vocabulary([story for part in stories.values() for story in part])
    assert len(vocabulary) == 159  # Huynh et al. 2020, supplement B.3
    sequences = babi.encode(stories["test"], vocabulary, "question")
    assert len(sequences) == 20_000
    assert max(len(s.inputs) for s in sequences) == 1357
    assert sum(s.questions.max() for s in babi.encode(stories["test"], vocabulary, "story")) == 20_000
