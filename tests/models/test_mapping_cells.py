"""Cells that map: the multigrid writer step by step equals the whole sequence; any core answers queries."""

import numpy as np
import pytest
import tensorflow as tf

from tfmem.backend import keras
from tfmem.cores.config import ConvLSTMConfig, DNCConfig, LSTMConfig
from tfmem.export import saved_model
from tfmem.models import CoreLocalizationModel, LocalizationModel, LocalizingCell, MappingCell
from tfmem.models.config import MappingNetworkConfig
from tfmem.recurrence import unroll

SIZES = dict(
    writer_levels=(2, 2, 3),
    writer_filters=(2, 3, 4),
    reader_filters=(2, 3, 2),
    decoder_levels=(3, 2, 1),
    decoder_filters=(3, 3, 1),
    writer_residuals=((1, 3),),
)
CONFIG = MappingNetworkConfig(**SIZES)


def normal(seed, *shape):
    return tf.random.stateless_normal(shape, [seed, 0])


@pytest.fixture
def cell():
    cell = CONFIG.make()
    cell.build((None, 3, 3, 4))
    return cell


def test_steps_equal_the_localization_models_sequence(cell):
    views, queries = normal(0, 5, 2, 3, 3, 4), normal(1, 5, 2, 3, 3, 4)
    output, state = unroll(cell, views, cell.get_initial_state(2))
    memories, expected = cell.network.write(views, cell.network.get_initial_state(2))
    for found, whole in ((output.memories, memories), (state, expected)):
        tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), tuple(found), tuple(whole))
    np.testing.assert_array_equal(output.coarsest, output.memories[-1][0])
    logits, _ = cell.network.run({"observation": views, "query_3": queries}, cell.network.get_initial_state(2))
    np.testing.assert_allclose(cell.locate(queries, output), logits["logits_3"], atol=1e-5)
    tf.nest.assert_same_structure(cell.state_size, state)
    assert [size for size in tf.nest.flatten(cell.output_size)] == [x.shape[2:] for x in tf.nest.flatten(output)]


@pytest.mark.parametrize(
    "config", [LSTMConfig(units=5), DNCConfig(memory_size=4, word_size=3, hidden_size=5), ConvLSTMConfig(filters=3)]
)
def test_any_core_answers_queries(config):
    core = config.make()
    cell = LocalizingCell(core, 6, (7,))
    shape = (3, 3, 4) if isinstance(config, ConvLSTMConfig) else (36,)
    cell.build((None, *shape))
    x = normal(0, 4, 2, *shape)
    output, state = unroll(cell, x, cell.get_initial_state(2))
    plain = unroll(cell.cell, x, cell.cell.get_initial_state(batch_size=2))
    tf.nest.map_structure(np.testing.assert_array_equal, (output, state), plain)
    query = normal(1, 4, 2, 3, 3, 4)
    logits = cell.locate(query, output)
    assert logits.shape == (4, 2, 6, 6)
    read = tf.reshape(tf.nest.flatten(output)[0], [4, 2, -1])
    hidden = tf.concat([read, tf.reshape(query, [4, 2, -1])], -1)
    (first, last), biases = cell.locator.kernels, cell.locator.biases
    expected = tf.nn.relu(tf.tensordot(hidden, first, 1) + biases[0])
    expected = tf.tensordot(expected, last, 1) + biases[1]
    np.testing.assert_allclose(tf.reshape(logits, [4, 2, 36]), expected, atol=1e-5)
    assert len(cell.trainable_variables) == len(cell.cell.trainable_variables) + 4


@pytest.mark.parametrize("kind", ["multigrid", "lstm"])
def test_configurations_come_back(kind):
    cell = CONFIG.make() if kind == "multigrid" else LocalizingCell(LSTMConfig(units=4).make(), 6, (3,))
    shape = (None, 3, 3, 4) if kind == "multigrid" else (None, 4)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(cell))
    for c in (cell, again):
        if not c.built:
            c.build(shape)
    assert [v.shape for v in again.weights] == [v.shape for v in cell.weights]
    assert again.get_config() == cell.get_config()


def test_wrong_inputs_and_networks(cell):
    with pytest.raises(ValueError, match=r"^core: LSTMConfig\(.*\), must be .*: give what its `make\(\)` returns"):
        CoreLocalizationModel(LSTMConfig(), 6)
    with pytest.raises(ValueError, match=r"^map_size: 0, must be a positive integer"):
        CoreLocalizationModel(LSTMConfig().make(), 0)
    with pytest.raises(ValueError, match=r"^inputs: shape \(3, 3, 9\), must be \(3, 3, 4\), the view alone"):
        CONFIG.make().build((None, 3, 3, 9))
    normalizing = LocalizationModel(normalization="sequence", reader_residuals=(), decoder_residuals=(), **SIZES)
    with pytest.raises(ValueError, match=r"^normalization: 'sequence', must be None"):
        MappingCell(normalizing)
    normalizing.build()
    with pytest.raises(ValueError, match=r"^normalization: 'sequence', must be None for single steps"):
        normalizing.writer.step((tf.zeros([1, 3, 3, 4]),), normalizing.get_initial_state(1))


def test_the_model_of_a_cell_saves_and_exports(tmp_path, rng):
    model = CoreLocalizationModel(DNCConfig(memory_size=4, word_size=3, hidden_size=5).make(), 6, (7,))
    inputs = {name: rng.normal(size=(2, 4, 3, 3, 4)).astype(np.float32) for name in ("observation", "query_3")}
    logits, state = model(inputs, return_state=True)
    assert logits["logits_3"].shape == (2, 4, 6, 6)
    vectors = np.concatenate([inputs["observation"], inputs["query_3"]], -1).reshape(2, 4, 72).swapaxes(0, 1)
    output, expected = unroll(model.cell, tf.constant(vectors), model.get_initial_state(2))
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state, expected)
    located = model.cell.locate(tf.constant(inputs["query_3"].swapaxes(0, 1)), output)
    np.testing.assert_allclose(logits["logits_3"].numpy().swapaxes(0, 1), located, atol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(inputs)["logits_3"], logits["logits_3"], atol=1e-6)
    saved_model(model, tmp_path / "exported")
    loaded = tf.saved_model.load(tmp_path / "exported").signatures["sequence"]
    found = loaded(**{name: tf.constant(x) for name, x in inputs.items()})["logits_3"]
    np.testing.assert_allclose(found, logits["logits_3"], atol=1e-5)
