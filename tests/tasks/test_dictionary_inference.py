"""Dictionary inference: a translator that sees the characters alone finds every target."""

import numpy as np
import pytest
import tensorflow as tf

from tests.references.dictionary_inference import read, translate
from tfmem.tasks.dictionary_inference import NUM_LETTERS, QUERY_DRAWS, DictionaryInference


def episodes(batch):
    inputs, targets, mask = (np.transpose(array) for array in batch[:3])
    return list(zip(inputs, targets, mask > 0, strict=True))


@pytest.mark.parametrize("new_alphabets", [True, False])
@pytest.mark.parametrize(("k", "length"), [(4, 1), (8, 4), (12, 8), (16, 12)])
def test_the_examples_tell_every_target(k, length, new_alphabets):
    task = DictionaryInference(k, length, new_alphabets=new_alphabets)
    batch = task(tf.constant([3, k]), 50)
    assert [t.shape for t in batch[:3]] == [(task.num_steps, 50)] * 3
    assert [t.dtype for t in batch[:3]] == [tf.int32, tf.int32, tf.float32]
    assert task.num_steps == k * (2 * length + 2) + 2 * length + 1
    for inputs, targets, mask in episodes(batch):
        examples, question, placeholders = read(inputs)
        assert {len(word) for example in examples for word in example} | {len(question), placeholders} == {length}
        assert len(examples) == k
        assert (question in [source for source, _ in examples]) == (length == 1)
        np.testing.assert_array_equal(mask, np.arange(task.num_steps) >= task.num_steps - length)
        assert translate(inputs) == targets[mask].tolist()
        assert not targets[~mask].any()


def test_given_episode():
    task = DictionaryInference(support_size=2, length=3)
    letters = np.arange(26).reshape(1, 2, 13)
    batch = task.batch(*(tf.constant(x, tf.int32) for x in (letters, [[[0, 1, 2], [12, 0, 0]]], [[2, 12, 1]])))
    examples, question, _ = read(batch.inputs.numpy()[:, 0])
    assert (examples, question) == ([("abc", "nop"), ("maa", "znn")], "cmb")
    assert batch.targets.numpy()[-3:, 0].tolist() == ["abcdefghijklmnopqrstuvwxyz".index(c) for c in "pzo"]


@pytest.mark.parametrize("new_alphabets", [True, False])
def test_mappings_are_new_and_uniform(new_alphabets):
    task = DictionaryInference(4, 1, new_alphabets=new_alphabets)
    counts, dictionaries = np.zeros([NUM_LETTERS, NUM_LETTERS]), set()
    for inputs, _, _ in episodes(task(tf.constant([0, 0]), 20_000)):
        dictionaries.add(tuple(inputs[: task.num_steps - 3].tolist()))
        counts[inputs[0], inputs[2]] += 1
    possible = np.zeros([NUM_LETTERS, NUM_LETTERS], bool)
    if new_alphabets:
        possible[:] = ~np.eye(NUM_LETTERS, dtype=bool)
    else:
        possible[:13, 13:] = True
    assert not counts[~possible].any()
    expected = 20_000 / possible.sum()
    # Chi-squared over its degrees of freedom: 1 for a uniform choice.
    assert 0.75 < np.mean((counts[possible] - expected) ** 2 / expected) < 1.25
    assert len(dictionaries) > 0.99 * 20_000


def test_query_letters_are_uniform_among_the_different_letters_shown():
    task = DictionaryInference(3, 2)
    rare = common = 0
    for inputs, _, _ in episodes(task(tf.constant([5, 6]), 20_000)):
        examples, question, _ = read(inputs)
        shown = "".join(source for source, _ in examples)
        letters = set(shown)
        if len(letters) == 5:  # one letter was shown twice
            (twice,) = (letter for letter in letters if shown.count(letter) == 2)
            common += question.count(twice)
            rare += len(question) - question.count(twice)
    assert 0.18 < common / (common + rare) < 0.22


def test_a_word_of_the_support_set_is_drawn_again():
    # One example of two letters: a quarter of all draws is the example, and QUERY_DRAWS of them in a row are rare.
    task = DictionaryInference(1, 2)
    different = same = 0
    for inputs, _, _ in episodes(task(tf.constant([7, 8]), 20_000)):
        [(source, _)], question, _ = read(inputs)
        if source[0] != source[1]:
            different, same = different + 1, same + (question == source)
    assert same / different == pytest.approx(0.25**QUERY_DRAWS, rel=0.5)


def test_function_of_the_seed_compiled_or_not():
    task = DictionaryInference(4, 2)
    batch = task(tf.constant([1, 2]), 5)
    compiled = tf.function(task.__call__, jit_compile=True)(tf.constant([1, 2]), 5)
    for a, b in zip(batch[:3], compiled[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(batch.inputs, task(tf.constant([1, 3]), 5).inputs)


@pytest.mark.parametrize("field", ["support_size", "length"])
def test_bad_arguments(field):
    with pytest.raises(ValueError, match=f"{field}: 0, must be at least 1"):
        DictionaryInference(**{field: 0})
