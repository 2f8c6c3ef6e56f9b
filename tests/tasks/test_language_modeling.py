"""Language modelling: vocabulary, frequency buckets, contiguous streams, the cache."""

import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import at_once
from tests.text_data import write_wikitext
from tfmem.data.files import DATA_DIR, CorruptDataError, MissingDataError
from tfmem.tasks.language_modeling import (
    EvaluationWindows,
    TokenStream,
    Vocabulary,
    frequency_buckets,
    load_corpus,
)


def test_vocabulary():
    counts = {"b": 5, "a": 5, "c": 1, "d": 2, "<eos>": 3}
    everything = Vocabulary(counts)
    assert everything.words == ("a", "b", "<eos>", "d", "c", "<unk>")
    assert everything.counts.tolist() == [5, 5, 3, 2, 1, 0]
    cut = Vocabulary(counts, size=4)
    assert cut.words == ("a", "b", "<eos>", "<unk>")
    assert cut.counts.tolist() == [5, 5, 3, 3]
    assert list(cut.encode([["a", "d"], [], ["b"]])) == [0, 3, 2, 2, 1, 2]
    assert len(Vocabulary(counts, size=100)) == 6
    with pytest.raises(ValueError, match="size: 2, must be at least 3"):
        Vocabulary(counts, size=2)


def test_frequency_buckets():
    counts = [20_000, 10_001, 10_000, 1_000, 999, 0]
    assert frequency_buckets(counts).tolist() == [0, 0, 1, 1, 2, 2]
    assert frequency_buckets(counts, bounds=(5,)).tolist() == [0, 0, 0, 0, 0, 1]
    with pytest.raises(ValueError, match="must fall"):
        frequency_buckets(counts, bounds=(10, 10))


@given(st.integers(1, 200), st.integers(1, 6), st.integers(1, 8))
def test_streams_are_contiguous(more, batch_size, window):
    count = batch_size * window + more  # the shortest text that a stream takes has more = 1
    ids = np.arange(count, dtype=np.int32)
    stream = TokenStream(ids, batch_size, window)
    batches = [stream.batch(update) for update in range(stream.windows_per_pass)]
    rows = np.concatenate([batch["inputs"] for batch in batches])
    targets = np.concatenate([batch["targets"] for batch in batches])
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(targets, rows + 1)
    np.testing.assert_array_equal(np.diff(rows, axis=0), 1)
    np.testing.assert_array_equal(rows[0], np.arange(batch_size) * ((count - 1) // batch_size))
    assert stream.part - len(rows) < window
    assert [bool(batch["first"]) for batch in batches] == [True] + [False] * (len(batches) - 1)
    assert stream.batch(7)["dropout_seed"].tolist() == [0, 7]
    again = stream.batch(2 * stream.windows_per_pass + len(batches) - 1)
    np.testing.assert_array_equal(again["inputs"], batches[-1]["inputs"])


@given(st.integers(2, 100), st.integers(1, 5), st.integers(1, 7))
def test_evaluation_sees_each_word_once(count, batch_size, window):
    ids = np.arange(count, dtype=np.int32)[::-1].copy()
    source = EvaluationWindows(ids, batch_size, window)
    windows = [source.batch(number) for number in range(len(source))]
    mask = np.stack([w["mask"] for w in windows]) > 0
    targets = np.stack([w["targets"] for w in windows])[mask]
    inputs = np.stack([w["inputs"] for w in windows])[mask]
    assert sorted(targets) == sorted(ids[1:])
    np.testing.assert_array_equal(inputs, targets + 1)
    assert [bool(w["first"]) for w in windows] == [True] + [False] * (len(windows) - 1)


def test_bad_streams():
    with pytest.raises(ValueError, match="must be more than batch_size \\* window = 8"):
        TokenStream(np.zeros(8, np.int32), 2, 4)
    with pytest.raises(ValueError, match="window: 0"):
        TokenStream(np.zeros(8, np.int32), 2, 0)
    with pytest.raises(ValueError, match=r"ids: 1 words, must be at least 2"):
        EvaluationWindows(np.zeros(1, np.int32), 1, 1)


def test_corpus_and_its_cache(tmp_path, monkeypatch):
    texts = write_wikitext(tmp_path)
    cache = tmp_path / "cache"
    corpus = load_corpus("wikitext-2", data_dir=tmp_path, cache_dir=cache)
    words = Counter(word for line in texts["train"].split("\n")[:-1] for word in [*line.split(), "<eos>"])
    assert dict(zip(corpus.vocabulary.words, corpus.vocabulary.counts.tolist(), strict=True)) == words
    for split, ids in zip(("train", "valid", "test"), corpus[1:], strict=True):
        told = [corpus.vocabulary.words[i] for i in ids]
        assert told == [word for line in texts[split].split("\n")[:-1] for word in [*line.split(), "<eos>"]]

    monkeypatch.setattr("tfmem.tasks.language_modeling.text_lines", None)  # the cache alone is read now
    again = load_corpus("wikitext-2", data_dir=tmp_path, cache_dir=cache)
    np.testing.assert_array_equal(again.train, corpus.train)
    assert again.vocabulary.words == corpus.vocabulary.words
    monkeypatch.undo()

    assert len(load_corpus("wikitext-2", 5, tmp_path, cache).vocabulary) == 5
    with (tmp_path / "wikitext-2" / "train.txt").open("a") as file:
        file.write(" new \n")
    assert "new" in load_corpus("wikitext-2", data_dir=tmp_path, cache_dir=cache).vocabulary.words
    assert len(list(cache.iterdir())) == 3
    damaged = next(cache.iterdir())
    for path in cache.glob("*/valid.npy"):
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CorruptDataError, match=r"the cache .* is damaged .* Delete it"):
        load_corpus("wikitext-2", data_dir=tmp_path, cache_dir=cache)
    assert damaged.exists()


def test_two_makers_of_one_cache(tmp_path):
    texts = write_wikitext(tmp_path)
    words = sum(len(line.split()) + 1 for line in texts["train"].split("\n")[:-1])
    for trial in range(100):
        cache = tmp_path / f"cache{trial}"
        corpora = at_once(*[lambda cache=cache: load_corpus("wikitext-2", None, tmp_path, cache)] * 2)
        assert [len(corpus.train) for corpus in corpora] == [words] * 2
        assert len(list(cache.iterdir())) == 1


def test_a_failed_cache_leaves_nothing(tmp_path):
    write_wikitext(tmp_path)
    (tmp_path / "wikitext-2" / "valid.txt").write_bytes(b" \xff\xfe \n")
    with pytest.raises(CorruptDataError, match=r"valid.txt is not UTF-8"):
        load_corpus("wikitext-2", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    with pytest.raises(MissingDataError, match="is not in"):
        load_corpus("wikitext-103", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match="name: 'x', must be one of"):
        load_corpus("x")


@pytest.mark.skipif(not os.environ.get(DATA_DIR), reason=f"{DATA_DIR} is not set")
def test_the_real_files(tmp_path):
    corpus = load_corpus("wikitext-2", cache_dir=tmp_path)
    assert [len(ids) for ids in corpus[1:]] == [2_088_628, 217_646, 245_569]
    assert len(corpus.vocabulary) == 33_278
    assert corpus.vocabulary.counts.sum() == 2_088_628
