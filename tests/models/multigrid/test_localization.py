"""The localization model: readers, states, saving, export, presets."""

import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import first_of, relative_error
from tfmem.models import LocalizationModel, MNISTRecallModel
from tfmem.models.multigrid import fold_query


def test_fold_query_is_space_to_depth(rng):
    patch = rng.normal(size=(2, 5, 9, 9, 4))
    folded = fold_query(tf.constant(patch), 3)
    assert folded.shape == (2, 5, 3, 3, 36)
    np.testing.assert_array_equal(folded[1, 2, 2, 0], patch[1, 2, 6:9, 0:3].reshape(-1))
    np.testing.assert_array_equal(fold_query(tf.constant(patch[:, :, :3, :3]), 3), patch[:, :, :3, :3])


TINY = dict(
    writer_levels=(2, 3),
    writer_filters=(2, 3),
    reader_filters=(2, 3),
    decoder_levels=(2, 1),
    decoder_filters=(3, 1),
    writer_residuals=((1, 2),),
    reader_residuals=(),
    decoder_residuals=(),
)


def tiny_inputs(rng, steps=4, sizes=(3, 9)):
    return {
        "observation": rng.normal(size=(2, steps, 3, 3, 4)).astype(np.float32),
        **{f"query_{q}": rng.normal(size=(2, steps, q, q, 4)).astype(np.float32) for q in sizes},
    }


def test_two_readers_share_one_writer_and_both_losses_train_it(rng):
    model = LocalizationModel(query_sizes=(3, 9), **TINY)
    inputs = tiny_inputs(rng)
    logits = model(inputs)
    assert {name: tuple(x.shape) for name, x in logits.items()} == {
        "logits_3": (2, 4, 12, 12),
        "logits_9": (2, 4, 12, 12),
    }
    writer = [v.value for v in model.writer.trainable_variables]
    for size in (3, 9):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(inputs)[f"logits_{size}"] ** 2)
        assert all(g is not None for g in tape.gradient(loss, writer))


def test_state_handed_over_equals_the_whole_sequence(rng):
    model = LocalizationModel(query_sizes=(3,), **TINY)
    inputs = tiny_inputs(rng, sizes=(3,))
    whole, state = model(inputs, return_state=True)
    first, middle = model({k: v[:, :2] for k, v in inputs.items()}, return_state=True)
    second, end = model({k: v[:, 2:] for k, v in inputs.items()}, initial_state=middle, return_state=True)
    assert relative_error(tf.concat([first["logits_3"], second["logits_3"]], 1), whole["logits_3"]) < 1e-5
    for a, b in zip(tf.nest.flatten(end), tf.nest.flatten(state), strict=True):
        assert relative_error(a, b) < 1e-5


FRESH = """
import sys, numpy as np
import keras, tfmem.models
model = keras.models.load_model(sys.argv[1])
inputs = dict(np.load(sys.argv[2]))
outputs = model(inputs)
np.savez(sys.argv[3], **(outputs if isinstance(outputs, dict) else {"logits": outputs}))
"""

WITHOUT_TFMEM = """
import sys, json, numpy as np
sys.modules["tfmem"] = None
import tensorflow as tf
loaded, inputs = tf.saved_model.load(sys.argv[1]), dict(np.load(sys.argv[2]))
spec = json.load(open(sys.argv[1] + "/assets.extra/tfmem.json"))
step = loaded.signatures["step"]
state = loaded.signatures["initial_state"](batch_size=tf.constant(2))
steps = []
for t in range(inputs["observation"].shape[1]):
    out = step(**{k: tf.constant(v[:, t]) for k, v in inputs.items()}, **state)
    state = {k: v for k, v in out.items() if k.startswith("state")}
    steps.append(out["logits_3"].numpy())
sequence = loaded.signatures["sequence"](**{k: tf.constant(v) for k, v in inputs.items()})["logits_3"].numpy()
np.savez(sys.argv[3], steps=np.stack(steps, 1), sequence=sequence)
"""


def in_fresh_process(code, *arguments):
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True, timeout=300)


@pytest.mark.parametrize("kind", first_of(["localization", "recall"]))
def test_saved_models_load_in_a_fresh_process(rng, tmp_path, kind):
    if kind == "localization":
        model, inputs = LocalizationModel(query_sizes=(3, 9), **TINY), tiny_inputs(rng)
    else:
        model = MNISTRecallModel(
            (2, 2), (2, 2), (3, 1), (3, 4), writer_residuals=(), reader_residuals=(), decoder_residuals=()
        )
        images = rng.integers(0, 255, size=(2, 3, 28, 28, 1)).astype(np.float32)
        inputs = {"images": images, "query": images[:, 0]}
    outputs = model(inputs)
    outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "inputs.npz", **inputs)
    in_fresh_process(FRESH, tmp_path / "model.keras", tmp_path / "inputs.npz", tmp_path / "outputs.npz")
    for name, value in np.load(tmp_path / "outputs.npz").items():
        np.testing.assert_allclose(value, outputs[name], rtol=1e-5, atol=1e-6)
    clone = type(model).from_config(json.loads(json.dumps(model.get_config())))
    clone.build()
    model.save_weights(tmp_path / "model.weights.h5")
    clone.load_weights(tmp_path / "model.weights.h5")
    for a, b in zip(model.weights, clone.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.long
def test_export_steps_to_the_same_numbers_without_tfmem(rng, tmp_path):
    from tfmem.export import saved_model

    model = LocalizationModel(query_sizes=(3,), **TINY)
    inputs = tiny_inputs(rng, sizes=(3,))
    expected = model(inputs)["logits_3"]
    saved_model(model, tmp_path / "exported")
    np.savez(tmp_path / "inputs.npz", **inputs)
    in_fresh_process(WITHOUT_TFMEM, tmp_path / "exported", tmp_path / "inputs.npz", tmp_path / "outputs.npz")
    outputs = np.load(tmp_path / "outputs.npz")
    np.testing.assert_allclose(outputs["sequence"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs["steps"], expected, rtol=1e-5, atol=1e-6)


def test_mixed_precision_runs(rng):
    model = LocalizationModel(query_sizes=(3,), dtype="mixed_bfloat16", **TINY)
    plain = LocalizationModel(query_sizes=(3,), **TINY)
    plain.build()
    model.build()
    for a, b in zip(model.weights, plain.weights, strict=True):
        assert a.dtype == "float32"
        a.assign(b)
    inputs = tiny_inputs(rng, sizes=(3,))
    low = model({k: tf.cast(v, tf.bfloat16) for k, v in inputs.items()})["logits_3"]
    assert low.dtype == tf.bfloat16
    assert relative_error(tf.cast(low, tf.float32), plain(inputs)["logits_3"]) < 0.1


def test_published_15x15_setting():
    from reproductions.multigrid.mapping import PRESETS, Experiment

    experiment = Experiment(PRESETS["paper_15x15"])
    cells = sum(int(np.prod(s.cell.shape)) for layer in experiment.model.get_initial_state(1) for s in layer)
    assert (experiment.model.count_params(), cells) == (120_969, 7_983)


@pytest.mark.parametrize("preset", ["paper_15x15", "spiral_9x9_query", "random_walk"])
def test_other_presets_answer_at_full_width(rng, preset):
    from reproductions.multigrid.mapping import PRESETS, Experiment

    config = dataclasses.replace(PRESETS[preset], batch_size=1, window=1)
    model = Experiment(config).model
    logits = model(tiny_inputs(rng, 1, config.query_sizes))
    assert {x.shape[-1] for x in logits.values()} == {3 * 2 ** (config.writer_levels[-1] - 1)}
    assert len(logits) == len(config.query_sizes)


def test_a_residual_from_more_channels_than_there_are():
    model = LocalizationModel(**{**TINY, "writer_filters": (3, 2)})
    with pytest.raises(ValueError, match="residuals: 3 channels of the earlier layer at the level of side 3"):
        model(tiny_inputs(np.random.default_rng(0), 1, (3,)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(query_sizes=(4,)), "query_sizes: .4,., must be multiples or divisors of base_size = 3"),
        (dict(writer_filters=(4, 4)), "writer_levels: .* must have one entry per layer"),
        (dict(writer_residuals=((3, 1),)), "writer_residuals: .* must be pairs"),
        (dict(decoder_filters=(16,) * 7), "decoder_filters: .* must both end with 1"),
        (dict(writer_levels=0), "writer_levels: 0, must be a sequence of positive integers"),
        (dict(decoder_levels=(4, 0)), r"decoder_levels: \(4, 0\), must be a sequence of positive integers"),
        (dict(query_sizes=3), "query_sizes: 3, must be a sequence of positive integers"),
        (dict(writer_residuals=3), "writer_residuals: 3, must be pairs"),
        (dict(reader_residuals=(1, 3)), r"reader_residuals: \(1, 3\), must be pairs"),
        (dict(base_size=0), "base_size: 0, must be a positive integer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LocalizationModel(**arguments)


def test_keras_fit_trains_it(rng):
    model = LocalizationModel(query_sizes=(3,), **TINY)
    inputs = tiny_inputs(rng, sizes=(3,))
    targets = {"logits_3": (rng.random((2, 4, 12, 12)) < 0.1).astype(np.float32)}
    model.compile(keras.optimizers.Adam(1e-2), keras.losses.BinaryCrossentropy(from_logits=True))
    history = model.fit(inputs, targets, epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_one_scale_is_a_stack_of_convlstms_on_enlarged_views(rng):
    """Views and 3x3 queries go to the answer's grid by nearest neighbours; the network is that of enlarged inputs."""
    sizes = dict(writer_levels=(1, 1), reader_filters=(2, 3), writer_filters=(2, 3), decoder_levels=(1, 1))
    sizes |= dict(decoder_filters=(3, 1), writer_residuals=(), reader_residuals=(), decoder_residuals=(), base_size=6)
    model = LocalizationModel(view_size=3, query_sizes=(3,), **sizes)
    inputs = tiny_inputs(rng, sizes=(3,))
    large = {name: np.repeat(np.repeat(x, 2, axis=2), 2, axis=3) for name, x in inputs.items()}
    whole = LocalizationModel(query_sizes=(6,), **sizes)
    logits = model(inputs)["logits_3"]
    whole.build()
    for a, b in zip(whole.weights, model.weights, strict=True):
        a.assign(b)
    expected = whole({"observation": large["observation"], "query_6": large["query_3"]})["logits_6"]
    assert logits.shape == (2, 4, 6, 6)
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    assert len(model.writer.layers[0].cells) == 1
    for arguments, message in (
        (dict(view_size=4), "view_size: 4, must divide base_size = 6"),
        (dict(query_sizes=(4,)), r"query_sizes: \(4,\), must be multiples or divisors of base_size = 6"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            LocalizationModel(**sizes | arguments)
