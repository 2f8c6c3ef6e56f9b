"""The language model: its equation, dropout, states handed over, precision, saving and export."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import relative_error
from tfmem.cores.lstm import LSTMStack
from tfmem.cores.relational import RelationalMemory
from tfmem.export import saved_model
from tfmem.models.language import LanguageModel
from tfmem.noise import dropout

WORDS = tf.constant([[0, 3], [2, 1], [4, 4], [1, 0]])  # [T, B]


def make(core=None, **arguments):
    keras.utils.set_random_seed(3)
    model = LanguageModel(core or LSTMStack(6, num_layers=1), 5, embedding_size=4, **arguments)
    model.build()
    return model


def test_the_softmax_shares_the_embeddings():
    model = make()
    outputs, _ = model.cell(tf.gather(model.embedding, WORDS[0]), model.get_initial_state(2))
    (kernel,), (bias,) = model.head.kernels, model.head.biases
    features = outputs.numpy() @ kernel.numpy() + bias.numpy()
    expected = features @ model.embedding.numpy().T + model.word_bias.numpy()
    assert relative_error(model.run(WORDS).logits[0], expected) < 1e-5


def test_states_are_handed_over():
    model = make(RelationalMemory(2, 2, 2))
    whole = model.run(WORDS)
    first = model.run(WORDS[:2])
    second = model.run(WORDS[2:], first.state)
    assert relative_error(tf.concat([first.logits, second.logits], 0), whole.logits) < 1e-5
    logits, _ = model(tf.transpose(WORDS), return_state=True)
    assert relative_error(tf.transpose(logits, [1, 0, 2]), whole.logits) < 1e-5


def test_dropout_needs_a_seed_and_follows_it():
    model = make(dropout=0.5)
    plain = model.embed(WORDS)
    np.testing.assert_array_equal(plain, tf.gather(model.embedding, WORDS))
    dropped = model.embed(WORDS, tf.constant([1, 2]))
    np.testing.assert_array_equal(dropped, model.embed(WORDS, tf.constant([1, 2])))
    assert not np.array_equal(dropped, model.embed(WORDS, tf.constant([1, 3])))
    kept = dropped.numpy() != 0
    np.testing.assert_allclose(dropped.numpy()[kept], 2 * plain.numpy()[kept], rtol=1e-6)
    assert 0 < kept.mean() < 1


def test_dropout_is_the_same_under_xla_and_drops_its_share():
    inputs, seed = tf.random.stateless_normal([200, 50], [0, 1]), tf.constant([3, 4], tf.int64)
    plain = dropout(inputs, 0.3, seed)
    compiled = tf.function(dropout, jit_compile=True)(inputs, 0.3, seed)
    np.testing.assert_array_equal(plain.numpy() == 0, compiled.numpy() == 0)
    np.testing.assert_allclose(plain, compiled, rtol=1e-6)
    assert abs((plain.numpy() == 0).mean() - 0.3) < 0.02  # four standard deviations
    np.testing.assert_array_equal(dropout(inputs, 0.0, seed), inputs)


def test_mixed_precision():
    core = LSTMStack(6, num_layers=1, dtype="mixed_bfloat16")
    low, full = make(core, dtype="mixed_bfloat16"), make()
    low.set_weights(full.get_weights())
    output = low.run(WORDS)
    assert output.logits.dtype == tf.float32
    assert tf.nest.flatten(output.state)[0].dtype == tf.bfloat16
    assert all(variable.dtype == "float32" for variable in low.variables)
    assert relative_error(output.logits, full.run(WORDS).logits) < 0.05


def test_saving_and_export(tmp_path):
    model = make()
    expected = model.run(WORDS)
    model.save(tmp_path / "model.keras")
    assert relative_error(keras.models.load_model(tmp_path / "model.keras").run(WORDS).logits, expected.logits) < 1e-6
    saved_model(model, tmp_path / "saved")
    signatures = tf.saved_model.load(str(tmp_path / "saved")).signatures
    sequence = signatures["sequence"](words=tf.transpose(WORDS))
    assert relative_error(tf.transpose(sequence["logits"], [1, 0, 2]), expected.logits) < 1e-5
    state = signatures["initial_state"](batch_size=tf.constant(2))
    for t in range(len(WORDS)):
        state = signatures["step"](words=WORDS[t], **state)
        assert relative_error(state.pop("logits"), expected.logits[t]) < 1e-5


def test_bad_dropout():
    with pytest.raises(ValueError, match=r"dropout: 1\.0, must be from 0 to less than 1"):
        make(dropout=1.0)
