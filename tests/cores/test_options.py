"""Keras's options of recurrent cells: dropout, initializers, regularizers, constraints."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmem
from tfmem.cores import (
    ConvLSTM,
    EntityMemory,
    LookupMemory,
    LSTMStack,
    MetalearnedMemory,
    MultigridConvLSTM,
    PlasticRNN,
)

CELLS = {
    "PlasticRNN": lambda **options: PlasticRNN(4, **options),
    "LSTMStack": lambda **options: LSTMStack(4, 2, **options),
    "EntityMemory": lambda **options: EntityMemory(3, 4, **options),
    "LookupMemory": lambda **options: LookupMemory(4, word_size=3, max_steps=9, **options),
    "MetalearnedMemory": lambda **options: MetalearnedMemory(4, memory_size=3, word_size=3, **options),
    "ConvLSTM": lambda **options: ConvLSTM(2, **options),
    "MultigridConvLSTM": lambda **options: MultigridConvLSTM((3, 6), 2, **options),
}
STEP = {"ConvLSTM": (3, 3, 2), "MultigridConvLSTM": (3, 3, 2)}
BATCH, STEPS = 3, 6


def sequences(name):
    return tf.random.stateless_normal([BATCH, STEPS, *STEP.get(name, (5,))], [1, 2])


def outputs(layer, x, **options):
    return [np.asarray(o) for o in tf.nest.flatten(layer(x, **options))]


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(
    "rates", [{"dropout": 0.5}, {"recurrent_dropout": 0.5}, {"dropout": 0.3, "recurrent_dropout": 0.3}]
)
def test_dropout_is_for_training_and_inference_stays_as_it_is(name, rates):
    keras.utils.set_random_seed(1)
    plain = tfmem.RNN(CELLS[name](), return_sequences=True)
    layer = tfmem.RNN(CELLS[name](seed=3, **rates), return_sequences=True)
    x = sequences(name)
    expected = outputs(plain, x)
    layer.build(x.shape)
    layer.set_weights(plain.get_weights())
    for a, b in zip(outputs(layer, x), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    first, second = outputs(layer, x, training=True), outputs(layer, x, training=True)
    assert all(np.all(np.isfinite(o)) for o in first)
    assert any(np.any(a != b) for a, b in zip(first, expected, strict=True))
    assert any(np.any(a != b) for a, b in zip(first, second, strict=True))
    if len(rates) == 2:
        compiled = tf.function(lambda x: layer(x, training=True), jit_compile=True)
        assert any(np.any(np.asarray(a) != b) for a, b in zip(tf.nest.flatten(compiled(x)), expected, strict=True))


class Watching(PlasticRNN):
    """Lists the masks that its steps get, and what its projection sees."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = {"masks": [], "inputs": []}

    def project_inputs(self, inputs):
        self.seen["inputs"].append(inputs)
        return super().project_inputs(inputs)

    def step(self, projected, states, mask=None):
        self.seen["masks"].append(mask)
        return super().step(projected, states, mask)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_mask_is_drawn_once_per_sequence(stacked):
    cell = Watching(50, dropout=0.5, recurrent_dropout=0.25)
    layer = tfmem.RNN([keras.layers.LSTMCell(40), cell, LSTMStack(3, dropout=0.5)] if stacked else cell)
    x = tf.ones([BATCH, STEPS, 40])
    layer(x)
    for part in cell.seen.values():
        part.clear()
    layer(x, training=True)
    masks = [np.asarray(mask) for mask in cell.seen["masks"]]
    assert len(masks) == STEPS
    assert all(np.array_equal(mask, masks[0]) for mask in masks)
    np.testing.assert_allclose(np.unique(masks[0]), [0, 1 / 0.75], rtol=1e-6)
    assert np.any(masks[0][0] != masks[0][1])
    assert 0.1 < np.mean(masks[0] == 0) < 0.4
    inputs = np.concatenate([np.reshape(i, [-1, BATCH, 40]) for i in cell.seen["inputs"]])
    dropped = inputs == 0
    assert len(inputs) == STEPS
    assert np.all(dropped == dropped[0])
    assert 0.3 < np.mean(dropped) < 0.7


def test_dropout_drops_what_the_recurrent_matrix_sees_and_the_gradient_agrees():
    cell = PlasticRNN(4, recurrent_dropout=0.5, seed=1)
    layer = tfmem.RNN(cell, return_sequences=True)
    x = tf.random.stateless_normal([2, 5, 3], [1, 2])
    layer(x)
    state = cell.seed_generator.state.numpy()
    mask = keras.random.dropout(tf.ones([2, 4]), 0.5, seed=cell.seed_generator)
    cell.seed_generator.state.assign(state)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, training=True) ** 2)
    gradient = tape.gradient(loss, cell.w.value)
    states = cell.get_initial_state(2)
    with tf.GradientTape() as tape:
        expected = 0.0
        for t in range(5):
            output, states = cell.step(cell.project_inputs(x[:, t]), states, mask)
            expected += tf.reduce_sum(output**2)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, tape.gradient(expected, cell.w.value), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_options_of_weights(name):
    create, x = CELLS[name], sequences(name)
    roles = [r for r in ("kernel", "recurrent", "bias") if r in type(create()).roles]
    for role in roles:
        options = {
            f"{role}_initializer": keras.initializers.RandomUniform(2.0, 3.0),
            f"{role}_regularizer": keras.regularizers.L1(0.1),
            f"{role}_constraint": "non_neg",
        }
        cell = create(**options)
        layer = tfmem.RNN(cell)
        layer(x)
        large = [w for w in cell.weights if np.any(w.numpy() >= 2)]
        assert large
        assert sum(np.sum(w.numpy() >= 2) for w in large) > 0
        for i, a in enumerate(large):
            assert not any(a.shape == b.shape and np.all(a.numpy() == b.numpy()) for b in large[:i]), a.path
        regular = [w for w in cell.weights if w.regularizer is not None]
        assert {w.path for w in large} <= {w.path for w in regular}
        np.testing.assert_allclose(sum(layer.losses), sum(0.1 * np.sum(np.abs(w.numpy())) for w in regular), rtol=1e-5)
        assert all(w.constraint is not None for w in regular)
        copy = type(cell).from_config(json.loads(json.dumps(cell.get_config())))
        assert json.dumps(copy.get_config()) == json.dumps(cell.get_config())
    for role in {"kernel", "recurrent", "bias"} - set(roles):
        with pytest.raises(ValueError, match=f"{role}_regularizer"):
            create(**{f"{role}_regularizer": "l2"})


@pytest.mark.parametrize("name", CELLS)
def test_dropout_is_checked_saved_and_absent_from_older_files(name):
    for option in ("dropout", "recurrent_dropout"):
        for wrong in (-0.1, 1.0):
            with pytest.raises(ValueError, match=f"^{option}: {wrong}, must be from 0 to less than 1"):
                CELLS[name](**{option: wrong})
    cell = CELLS[name](dropout=0.25, recurrent_dropout=0.5, seed=7)
    config = cell.get_config()
    copy = type(cell).from_config(config)
    assert (copy.dropout, copy.recurrent_dropout, copy.seed) == (0.25, 0.5, 7)
    new = ("dropout", "recurrent_dropout", "seed", "regularizer", "constraint", "recurrent_initializer")
    older = {key: value for key, value in CELLS[name]().get_config().items() if not key.endswith(new)}
    assert type(cell).from_config(older).dropout == 0
    assert not any("seed" in v.path for v in CELLS[name]().variables)


def test_forget_bias_stays_with_another_bias_initializer():
    cell = LSTMStack(3, forget_bias=2.0, bias_initializer=keras.initializers.Constant(0.5))
    cell.build((None, 4))
    np.testing.assert_array_equal(cell.biases[0], [0.5] * 3 + [2.0] * 3 + [0.5] * 6)
