"""tfmem.RNN: symbolic shapes, masks, nests, states handed over and kept, equality with Keras's own RNN."""

import json
import re

import keras
import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

import tfmem
from tests.conformance.toys import KerasToy, SonnetToy, ToyOutput, ToyState
from tests.support import relative_error
from tfmem.cores import ConvLSTM, EntityMemory, KanervaCore, LookupMemory, MetalearnedMemory, PlasticRNN


@pytest.fixture
def sequences(rng):
    return tuple(tf.constant(rng.standard_normal([3, 6, 4]), tf.float32) for _ in range(2))


def close(actual, expected, tolerance=1e-6):
    for a, e in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        assert relative_error(a, e) <= tolerance


def test_symbolic_shapes_are_those_of_the_values(sequences):
    inputs = tuple(keras.Input([None, 4]) for _ in range(2))
    output, slots, steps = tfmem.RNN(KerasToy(5), return_sequences=True, return_state=True)(inputs)
    assert isinstance(output, ToyOutput)
    assert output.value.shape == (None, None, 5)
    assert output.slots.shape == (None, None, 2, 5)
    assert slots.shape == (None, 2, 5)
    assert steps.shape == (None,)
    assert steps.dtype == "int32"
    model = keras.Model(inputs, [*output, slots, steps])
    values = model(sequences)
    assert [v.shape.as_list() for v in values] == [[3, 6, 5], [3, 6, 2, 5], [3, 2, 5], [3]]
    np.testing.assert_array_equal(values[3], [6, 6, 6])
    np.testing.assert_array_equal(values[1][:, -1], values[2])


def test_compute_output_shape_of_a_layer_alone():
    layer = tfmem.RNN(tfmem.as_keras_cell(SonnetToy(5, {})), return_state=True)
    assert layer.compute_output_shape((None, 7, 4)) == (ToyOutput((None, 5), (None, 2, 5)), (None, 2, 5), (None,))


def test_a_state_in_a_functional_model_is_handed_over(sequences):
    layer = tfmem.RNN(KerasToy(5), return_sequences=True, return_state=True)
    whole, *final = layer(sequences)
    inputs = tuple(keras.Input([None, 4]) for _ in range(2))
    state = ToyState(keras.Input([2, 5]), keras.Input([], dtype="int32"))
    output, *next_state = layer(inputs, initial_state=state)
    model = keras.Model([*inputs, *state], [*output, *next_state])
    _, *middle = layer(tuple(x[:, :2] for x in sequences))
    *output, slots, steps = model([*(x[:, 2:] for x in sequences), *middle])
    close([output, slots, steps], [[o[:, 2:] for o in whole], *final])


def test_initial_state_must_be_the_cells(sequences):
    layer = tfmem.RNN(KerasToy(5))
    for state in ([tf.zeros([3, 2, 5])], [tf.zeros([3, 5]), tf.zeros([3])], [tf.zeros([3, 2, 6]), tf.zeros([3])]):
        with pytest.raises(ValueError, match=r"initial_state: shapes \[.*, must be those of the cell's state"):
            layer(sequences, initial_state=state)


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("zero_output_for_mask", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_keras_for_its_own_cells(rng, return_sequences, go_backwards, zero_output_for_mask, masked):
    x = tf.constant(rng.standard_normal([4, 6, 3]), tf.float32)
    mask = None
    if masked:
        mask = np.array([[0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]], bool)
    options = dict(return_sequences=return_sequences, go_backwards=go_backwards, return_state=True)
    if return_sequences:
        options["zero_output_for_mask"] = zero_output_for_mask
    cell = keras.layers.LSTMCell(5)
    expected = keras.layers.RNN(cell, **options)(x, mask=mask)
    layer = tfmem.RNN(cell, **options)
    close(layer(x, mask=mask), expected)
    close(tf.function(layer)(x, mask=mask), expected)


def test_a_mask_of_padding_gives_the_state_of_the_prefix(sequences):
    layer = tfmem.RNN(KerasToy(5), return_state=True)
    mask = tf.sequence_mask([2, 6, 4], 6)
    output, *state = layer(sequences, mask=(mask, None))
    for row, length in enumerate([2, 6, 4]):
        prefix = tuple(x[row : row + 1, :length] for x in sequences)
        close(tf.nest.map_structure(lambda x, r=row: x[r : r + 1], [output, *state]), list(layer(prefix)))


def test_masks_flow_through_a_model(rng):
    tokens = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0]])
    model = keras.Sequential(
        [
            keras.layers.Embedding(6, 4, mask_zero=True),
            tfmem.RNN(keras.layers.LSTMCell(3), return_sequences=True),
            tfmem.RNN(keras.layers.GRUCell(3)),
        ]
    )
    padded = np.pad(tokens, [[0, 0], [0, 3]])
    close(model(padded), model(tokens))
    bidirectional = keras.layers.Bidirectional(tfmem.RNN(keras.layers.LSTMCell(3), return_sequences=True))
    assert bidirectional(rng.standard_normal([2, 5, 4]).astype(np.float32)).shape == (2, 5, 6)


def test_backwards_a_mask_is_in_the_order_of_the_outputs():
    """Padding takes no part in an average over the outputs, in whichever order they are."""
    embedding = keras.layers.Embedding(3, 4, mask_zero=True)
    layer = tfmem.RNN(PlasticRNN(4), return_sequences=True, go_backwards=True)
    model = keras.Sequential([embedding, layer, keras.layers.GlobalAveragePooling1D()])
    expected = tf.reduce_mean(layer(embedding(np.array([[1, 2]])), mask=None), 1)
    assert np.any(expected)
    close(model(np.array([[1, 2, 0, 0]])), expected)
    ids = keras.Input([4], dtype="int32")
    close(keras.Model(ids, model(ids))(np.array([[1, 2, 0, 0]])), expected)
    last = tfmem.RNN(PlasticRNN(4), go_backwards=True)
    assert last.compute_mask(tf.ones([1, 2, 4]), tf.ones([1, 2], tf.bool)) is None


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_stateful_layer_refuses_another_batch_and_keeps_its_state(sequences, jit_compile):
    layer = tfmem.RNN(KerasToy(5), stateful=True)
    layer(sequences)
    before = [s.numpy() for s in layer.states]
    spec = tf.TensorSpec([None, 6, 4])
    compiled = tf.function(lambda *x: layer(x), input_signature=[spec, spec], jit_compile=jit_compile)
    for size in (1, 2):
        part = tuple(x[:size] for x in sequences)
        with pytest.raises(ValueError, match=rf"\(stateful\): batch of 3, must be {size}, that of the inputs"):
            layer(part)
        with pytest.raises(tf.errors.InvalidArgumentError):
            compiled(*part)
    compiled(*sequences)
    assert any(np.any(s != b) for s, b in zip(layer.states, before, strict=True))


STARTS_FROM_WEIGHTS = {
    "MetalearnedMemory": lambda: MetalearnedMemory(4, memory_size=4, word_size=3),
    "EntityMemory": lambda: EntityMemory(3, 4),
    "KanervaCore": lambda: tfmem.as_keras_cell(KanervaCore(4, 4, 3)),
}


@pytest.mark.parametrize("name", STARTS_FROM_WEIGHTS)
def test_a_stateful_layer_starts_from_the_weights_that_it_then_has(tmp_path, rng, name):
    def build():
        layer = tfmem.RNN(STARTS_FROM_WEIGHTS[name](), return_sequences=True, stateful=True)
        return keras.Sequential([keras.Input(batch_shape=(2, 6, 4)), layer])

    x = rng.standard_normal([2, 6, 4]).astype(np.float32)
    model = build()
    model.set_weights([w + 0.3 * rng.standard_normal(w.shape).astype(w.dtype) for w in model.get_weights()])
    cell = model.layers[0].cell
    expected = tfmem.RNN(cell, return_sequences=True)(x)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    by_weights, by_file = build(), build()
    by_weights.set_weights(model.get_weights())
    by_file.load_weights(tmp_path / "model.weights.h5")
    for one in (model, loaded, by_weights, by_file):
        close(tf.function(one)(x), expected)
    _, *state = tfmem.RNN(cell, return_state=True)(x)
    again = tfmem.RNN(cell, return_sequences=True)(x, initial_state=state)
    for one in (model, loaded):
        close(one(x), again)
        one.layers[0].reset_state()
        close(one(x), expected)


def test_keras_arithmetic_before_the_layer(rng):
    x = rng.standard_normal([2, 5, 3]).astype(np.float32)
    inputs = keras.Input([None, 3])
    layer = tfmem.RNN(PlasticRNN(4))
    for arithmetic in (lambda x: x * 2, lambda x: 3 * x - 1, lambda x: x / 2, lambda x: -x):
        close(keras.Model(inputs, layer(arithmetic(inputs)))(x), layer(arithmetic(x)))


def test_integers_are_cast():
    x = np.arange(24).reshape(2, 4, 3) % 5
    layer = tfmem.RNN(PlasticRNN(4))
    expected = layer(x.astype(np.float32))
    for dtype in (np.int32, np.int64, np.uint8, np.float64):
        close(layer(x.astype(dtype)), expected)
    inputs = keras.Input([None, 3], dtype="int32")
    close(keras.Model(inputs, layer(inputs))(x), expected)


def test_too_few_and_too_many_axes():
    layer = tfmem.RNN(PlasticRNN(4))
    for _ in range(2):  # before and after it is built
        for shape in ((8, 4), (8, 4, 2, 3)):
            with pytest.raises(
                ValueError, match=rf"sequences: shape {re.escape(str(shape))}, must be \[B, T, features\]"
            ):
                layer(tf.ones(shape))
        with pytest.raises(ValueError, match=r"sequences: shape \(None, 4\), must be \[B, T, features\]"):
            layer(keras.Input([4]))
        with pytest.raises(ValueError, match=r"sequences: shape \(8, 0, 3\), must be .* with at least one time step"):
            layer(tf.ones([8, 0, 3]))
        layer(tf.ones([8, 4, 3]))
    with pytest.raises(ValueError, match=r"sequences: shape \(8, 4, 3\), must be \[B, T, side, side, channels\]"):
        tfmem.RNN(ConvLSTM(3))(tf.ones([8, 4, 3]))
    with pytest.raises(ValueError, match=r"sequences: shape \(8, 4\), must be \[B, T, ...\] with at least 3 axes"):
        tfmem.RNN(keras.layers.LSTMCell(4))(tf.ones([8, 4]))


@pytest.mark.parametrize("shape", [(4, 5), (6, 4), (1, 6), (4,), (4, 6, 1)])
def test_a_mask_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"mask: shape .* must be \[B, T\], here \(4, 6\)"):
        tfmem.RNN(PlasticRNN(4))(tf.ones([4, 6, 3]), mask=np.ones(shape, bool))


def test_stateful_needs_a_table_of_fixed_size():
    with pytest.raises(ValueError, match=r"stateful: True, .*`max_steps`"):
        tfmem.RNN(LookupMemory(4), stateful=True)(tf.ones([2, 6, 3]))
    layer = tfmem.RNN(LookupMemory(4, max_steps=8), stateful=True)
    layer(tf.ones([2, 6, 3]))
    before = [s.numpy() for s in layer.states]
    with pytest.raises(ValueError, match="larger `max_steps`"):
        layer(tf.ones([2, 6, 3]))
    for state, value in zip(layer.states, before, strict=True):
        np.testing.assert_array_equal(state, value)


def test_half_precision_is_the_cells_as_well():
    for cell in (PlasticRNN(4), [keras.layers.LSTMCell(4)], tfmem.as_keras_cell(SonnetToy(5, {}))):
        with pytest.raises(
            ValueError, match=r"dtype: 'mixed_bfloat16', must be float32 or that of the cell, .* float32"
        ):
            tfmem.RNN(cell, dtype="mixed_bfloat16")
    half = PlasticRNN(4, dtype="mixed_bfloat16")
    x = tf.ones([2, 3, 4])
    assert tfmem.RNN(half, dtype="mixed_bfloat16")(x).dtype == tf.bfloat16
    stack = [keras.layers.LSTMCell(4, dtype="mixed_bfloat16") for _ in range(2)]
    assert tfmem.RNN(stack, dtype="mixed_bfloat16")(x).dtype == tf.bfloat16
    assert tfmem.RNN(half)(x).dtype == tf.float32


def test_what_is_no_cell_says_what_to_use():
    with pytest.raises(ValueError, match=r"cell: .*LSTM.*, must be a Keras cell: give tfmem.as_keras_cell\(core\)"):
        tfmem.RNN(snt.LSTM(4))
    for layer in (keras.layers.LSTM(4), tfmem.RNN(PlasticRNN(4))):
        with pytest.raises(ValueError, match=r"cell: .*must be a cell and not a layer: give the layer's `cell`"):
            tfmem.RNN(layer)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit(sequences, jit_compile):
    inputs = tuple(keras.Input([6, 4]) for _ in range(2))
    output = tfmem.RNN(KerasToy(5))(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(output.value))
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=jit_compile)
    history = model.fit(sequences, np.arange(3.0).reshape(3, 1), epochs=30, verbose=0)
    assert history.history["loss"][-1] < 0.2 * history.history["loss"][0]


def test_stateful_continues_and_resets_to_the_cells_initial_state(sequences):
    cell = KerasToy(5)
    layer = tfmem.RNN(cell, stateful=True)
    whole = tfmem.RNN(cell)(sequences)
    halves = [tuple(x[:, i : i + 3] for x in sequences) for i in (0, 3)]
    for _ in range(2):
        layer(halves[0])
        close(tf.function(layer)(halves[1]), whole)
        layer.reset_state()
    close(layer.states, cell.get_initial_state(3))
    assert len(layer.weights) == 2
    with pytest.raises(ValueError, match=r"sequences: shape .*, must have a fixed batch size"):
        tfmem.RNN(KerasToy(5), stateful=True).build([(None, 6, 4), (None, 6, 4)])


def test_mixed_precision_keeps_the_cells_state_dtypes(sequences):
    layer = tfmem.RNN(KerasToy(5, dtype="mixed_bfloat16"), return_state=True, dtype="mixed_bfloat16")
    output, slots, steps = layer(sequences)
    assert output.value.dtype == slots.dtype == tf.bfloat16
    assert steps.dtype == tf.int32
    assert all(w.dtype == "float32" for w in layer.weights)


def test_dropout_of_keras_cells():
    layer = tfmem.RNN(keras.layers.LSTMCell(8, dropout=0.5, recurrent_dropout=0.5))
    x = tf.ones([2, 5, 3])
    run = tf.function(lambda x, training: layer(x, training=training))
    assert np.any(run(x, True) != run(x, False))
    assert np.any(run(x, True) != run(x, True))
    np.testing.assert_allclose(run(x, False), layer(x), atol=1e-6)


def test_configuration(sequences):
    layer = tfmem.RNN(KerasToy(5), return_sequences=True, return_state=True, go_backwards=True)
    expected = layer(sequences)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    copy = keras.saving.deserialize_keras_object(config)
    assert json.dumps(copy.get_config()) == json.dumps(layer.get_config())
    copy.set_weights(layer.get_weights())
    close(copy(sequences), expected)


def test_unroll_is_refused():
    with pytest.raises(ValueError, match="unroll: True, must be False"):
        tfmem.RNN(KerasToy(5), unroll=True)
