"""The chunked softmax against the whole one: values, gradients, dtypes, XLA."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import relative_error
from tfmem.losses.chunked_softmax import chunked_softmax_cross_entropy


@pytest.fixture
def arrays(rng):
    features, embedding, bias = rng.normal(size=(7, 4)), rng.normal(size=(11, 4)), rng.normal(size=11)
    return *(a.astype(np.float32) for a in (features, embedding, bias)), rng.integers(0, 11, 7).astype(np.int32)


def value_and_gradients(arrays, chunk, dtype=tf.float32):
    features, embedding, bias, targets = (tf.constant(a) for a in arrays)
    upstream = tf.range(7.0)
    with tf.GradientTape() as tape:
        tape.watch([features, embedding, bias])
        if chunk:
            losses = chunked_softmax_cross_entropy(features, tf.cast(embedding, dtype), bias, targets, chunk)
        else:
            logits = tf.matmul(features, embedding, transpose_b=True) + bias
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        total = tf.reduce_sum(upstream * losses)
    return losses, *tape.gradient(total, [features, embedding, bias])


@pytest.mark.parametrize(
    ("mode", "chunk"), [*((mode, chunk) for mode in ("eager", "graph") for chunk in (1, 3, 7, 100)), ("xla", 3)]
)
def test_equals_the_whole_softmax(arrays, chunk, mode):
    run = value_and_gradients
    if mode != "eager":
        run = tf.function(lambda: value_and_gradients(arrays, chunk), jit_compile=mode == "xla", autograph=False)
        run = (lambda compiled: lambda *_: compiled())(run)
    for got, expected in zip(run(arrays, chunk), value_and_gradients(arrays, None), strict=True):
        assert relative_error(got, expected) < 1e-5


def test_any_number_of_places_and_low_precision(arrays):
    features, embedding, bias, targets = arrays
    run = tf.function(
        lambda x, y: chunked_softmax_cross_entropy(x, embedding, bias, y, 3),
        input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32)],
    )
    expected = value_and_gradients(arrays, None)[0]
    for count in (1, 3, 7):
        assert relative_error(run(features[:count], targets[:count]), expected[:count]) < 1e-5
    low = value_and_gradients(arrays, 3, tf.bfloat16)
    assert low[0].dtype == low[1].dtype == tf.float32
    assert relative_error(low[0], expected) < 2e-2


def test_bad_chunk(arrays):
    with pytest.raises(ValueError, match="chunk: 0, must be at least 1"):
        chunked_softmax_cross_entropy(*(tf.constant(a) for a in arrays), 0)
