"""Recall and sorting of items: what is handed over, what the answer depends on, saving."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.support import relative_error
from tfmem.models.multigrid import RecallModel, SortModel, nearest_neighbour

TINY = dict(
    writer_levels=(2, 3),
    writer_filters=(2, 3),
    decoder_levels=(2, 1),
    decoder_filters=(3, 1),
    writer_residuals=((1, 2),),
    decoder_residuals=(),
)
DIGITS = TINY | dict(
    writer_levels=(2, 2),
    decoder_filters=(3, 4),
    item_shape=(28, 28, 2),
    input_levels=2,
    num_classes=5,
    normalization="batch",
)


def make(kind, **changes):
    if kind is RecallModel:
        changes = dict(reader_filters=(2, 6), reader_residuals=((1, 2),), item_shape=(3, 3, 2)) | changes
    model = kind(**TINY | changes)
    model.build()
    return model


@pytest.fixture
def items(rng):
    return rng.normal(size=(2, 4, 3, 3, 2)).astype(np.float32)


@pytest.mark.parametrize("digits", [False, True])
def test_every_weight_and_every_item_counts_for_every_answer(rng, digits):
    model = make(SortModel, **(DIGITS if digits else {}))
    shown = tf.constant(rng.normal(size=(2, 4, *model.item_shape)), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(shown)
        logits = model(shown, num_outputs=3)
        answers = [tf.reduce_sum(logits[:, t] * rng.normal(size=logits.shape[-1])) for t in range(3)]
        total = tf.add_n(answers)
    assert logits.shape == (2, 3, 5 if digits else 9)
    gradients = tape.gradient(total, [v.value for v in model.trainable_variables])
    assert [v.path for v, g in zip(model.trainable_variables, gradients, strict=True) if g is None] == []
    for answer in answers:
        seen = np.abs(tape.gradient(answer, shown)).sum((2, 3, 4))
        assert (seen > 0).all()


def test_items_one_by_one_then_answers_one_by_one(items):
    model = make(SortModel)
    functions = {name: function for name, (function, _) in model.export_functions().items()}
    state = functions["initial_state"](2)["state"]
    for t in range(4):
        state = functions["step"](tf.constant(items[:, t]), state)["state"]
    answers = []
    for _ in range(5):
        output = functions["answer"](state)
        state = output["state"]
        answers.append(output["logits"])
    whole = functions["sequence"](tf.constant(items), 5)["logits"]
    assert relative_error(tf.stack(answers, 1), whole) < 1e-5
    # The first answer is that of a decoder whose layers start from the encoder's cells and hidden grids.
    _, written = model.write(tf.transpose(items, [1, 0, 2, 3, 4]), model.get_initial_state(2))
    grids = (tf.ones([2, 3, 3, 1]),)
    outputs = []
    for layer, layer_state in zip(model.teller.layers, written, strict=True):
        grids, _ = layer(grids, layer_state)
        if outputs:  # the residual (1, 2): 2 channels and a zero, on the levels that both have
            grids = (
                *(g + tf.pad(o, [[0, 0]] * 3 + [[0, 1]]) for g, o in zip(grids, outputs[0], strict=False)),
                grids[2],
            )
        outputs.append(grids)
    assert relative_error(model.answer(tuple(g[None] for g in grids))[0], whole[:, 0]) < 1e-5


def test_recall_reads_after_the_last_item_and_continues(items):
    model = make(RecallModel)
    query = items[:, 1]
    whole, state = model({"items": items, "query": query}, return_state=True)
    assert whole.shape == (2, 9)
    _, middle = model({"items": items[:, :2], "query": query}, return_state=True)
    second, end = model({"items": items[:, 2:], "query": query}, initial_state=middle, return_state=True)
    assert relative_error(second, whole) < 1e-5
    for a, b in zip(tf.nest.flatten(end), tf.nest.flatten(state), strict=True):
        assert relative_error(a, b) < 1e-5
    for changed in ({"query": query + 1}, {"items": np.concatenate([items[:, :1] + 1, items[:, 1:]], 1)}):
        assert relative_error(model({"items": items, "query": query} | changed), whole) > 1e-3


def test_every_weight_of_recall_is_trained(items):
    model = make(RecallModel, normalization="batch", num_classes=5, decoder_filters=(3, 4))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model({"items": items, "query": items[:, 1]}) ** 2)
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert [v.path for v, g in zip(model.trainable_variables, gradients, strict=True) if g is None] == []


@pytest.mark.parametrize("kind", [RecallModel, SortModel])
def test_config_and_weights_round_trip(kind, items, tmp_path):
    import keras

    model = make(kind)
    inputs = items if kind is SortModel else {"items": items, "query": items[:, 0]}
    expected = model(inputs)
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(
        keras.models.load_model(tmp_path / "model.keras")(inputs), expected, rtol=1e-5, atol=1e-6
    )
    clone = kind.from_config(json.loads(json.dumps(model.get_config())))
    clone.build()
    assert [v.shape for v in clone.weights] == [v.shape for v in model.weights]
    assert clone.memory_cells == (9 + 36) * 2 + (9 + 36 + 144) * 3


def test_nearest_neighbour_reads_the_floor(rng):
    image = rng.normal(size=(2, 28, 28, 1))
    small = nearest_neighbour(tf.constant(image), 12)
    for row in range(12):
        for column in range(12):
            np.testing.assert_array_equal(small[:, row, column], image[:, int(row * 28 / 12), int(column * 28 / 12)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(decoder_levels=(4, 1)), "decoder_levels: .4, 1., must be at most 3 levels and end with 1"),
        (dict(decoder_levels=(2, 2)), "decoder_levels: .2, 2., must be at most 3 levels and end with 1"),
        (dict(decoder_filters=(3, 2)), "decoder_filters: .* must end with 1 where num_classes is None"),
        (dict(item_shape=(3, 4, 1)), "item_shape: .3, 4, 1., must be .side, side, channels."),
        (dict(input_levels=0), "input_levels: 0, must be a positive integer"),
        (dict(writer_filters=(2,)), "writer_levels: .* must have one entry per layer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SortModel(**TINY | arguments)
