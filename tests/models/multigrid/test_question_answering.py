"""1-D multigrid question answering: shapes, padding, states handed over, saving and export."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import relative_error
from tfmem.export import saved_model
from tfmem.models import QuestionAnsweringModel

SMALL = dict(writer_levels=(1, 2, 3), writer_filters=(3, 3, 4), decoder_levels=(2,), decoder_filters=(3,))


def make(**arguments):
    keras.utils.set_random_seed(5)
    model = QuestionAnsweringModel(7, **{**SMALL, "writer_residuals": ((1, 3),), **arguments})
    model.build()
    return model


def one_hot(rng, steps, batch):
    return tf.one_hot(rng.integers(0, 7, (steps, batch)), 7)


def test_the_papers_grids():
    model = QuestionAnsweringModel(159)
    model.build()
    sizes = [layer.sizes for layer in (*model.writer, *model.decoder, model.answer)]
    assert sizes[4] == (1, 2, 4, 8, 16)
    assert sizes[0] == sizes[-1] == (1,)
    assert model.memory_cells == 64 * (1 + 3 + 7 + 15 + 31)
    assert [s.cell.shape[1] for s in model.get_initial_state(2)[4]] == [1, 2, 4, 8, 16]


def test_padding_changes_nothing(rng):
    model = make()
    inputs = one_hot(rng, 9, 2)
    alone = model.run(inputs[:5, :1], lengths=tf.constant([5])).logits
    padded = model.run(inputs, lengths=tf.constant([5, 9])).logits
    np.testing.assert_array_equal(model.run(inputs, lengths=tf.constant([5, 9], tf.int64)).logits, padded)
    assert relative_error(padded[:5, :1], alone) < 1e-5
    assert relative_error(model.run(inputs[:5, :1]).logits, alone) < 1e-5
    assert relative_error(model.run(inputs[:, 1:]).logits, padded[:, 1:]) < 1e-5


def test_states_are_handed_over(rng):
    model = make(normalization=None)
    inputs = one_hot(rng, 6, 2)
    whole, first = model.run(inputs), model.run(inputs[:2])
    second = model.run(inputs[2:], first.state)
    assert relative_error(tf.concat([first.logits, second.logits], 0), whole.logits) < 1e-5
    changed = inputs.numpy()
    changed[0] = changed[0, :, ::-1]
    assert relative_error(model.run(changed).logits[-1], whole.logits[-1]) > 1e-4


def test_graph_and_gradient(rng):
    model = make()
    inputs, lengths = one_hot(rng, 5, 2), tf.constant([5, 3])

    def loss():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(model.run(inputs, lengths=lengths).logits ** 2)
        return value, tape.gradient(value, [v.value for v in model.trainable_variables])

    (eager, eager_gradients), (graph, gradients) = loss(), tf.function(loss, autograph=False)()
    assert relative_error(graph, eager) < 1e-5
    for got, expected in zip(gradients, eager_gradients, strict=True):
        assert relative_error(got, expected) < 1e-4
        assert np.any(expected)


def test_saving_and_export(rng, tmp_path):
    tiny = dict(writer_levels=(1, 2), writer_filters=(3, 3), decoder_levels=(), decoder_filters=())
    model = make(normalization=None, writer_residuals=(), **tiny)
    inputs = one_hot(rng, 4, 2)
    expected = model.run(inputs).logits
    model.save(tmp_path / "model.keras")
    assert relative_error(keras.models.load_model(tmp_path / "model.keras").run(inputs).logits, expected) < 1e-6
    saved_model(model, tmp_path / "saved")
    signatures = tf.saved_model.load(str(tmp_path / "saved")).signatures
    sequence = signatures["sequence"](inputs=tf.transpose(inputs, [1, 0, 2]))
    assert relative_error(tf.transpose(sequence["logits"], [1, 0, 2]), expected) < 1e-5
    state = signatures["initial_state"](batch_size=tf.constant(2))
    for t in range(len(inputs)):
        state = signatures["step"](inputs=inputs[t], **state)
        assert relative_error(state.pop("logits"), expected[t]) < 1e-5


def test_bad_layers():
    with pytest.raises(ValueError, match=r"writer_levels: .* must have one entry per layer"):
        make(writer_levels=(1, 2))
    with pytest.raises(ValueError, match="vocabulary_size: 0"):
        QuestionAnsweringModel(0)
