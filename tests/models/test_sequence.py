"""SequenceModel: the public Nth-farthest model's logits, gradients and Adam steps, and other cores in its place."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import relative_error
from tfmem.checkpoints import load_tf1, sonnet_v1
from tfmem.cores.base import RNNCore
from tfmem.cores.relational import RelationalMemory
from tfmem.models.sequence import SequenceModel


@pytest.mark.parametrize("case", ["shipped_test_config", "blocks4", "objects8"])
def test_nth_farthest_equals_public_code(case, golden):
    config = json.loads(golden(f"nth_farthest/{case}/config.json").read_text())
    arrays = np.load(golden(f"nth_farthest/{case}/io.npz"))
    model = SequenceModel(RelationalMemory(**config["config"]), config["num_objects"], config["mlp"])
    inputs, labels = tf.constant(arrays["inputs"]), tf.constant(arrays["labels"].astype(np.int32))
    model(inputs)
    report = load_tf1(model, golden(f"nth_farthest/{case}/model_step0.ckpt"))
    assert len(report.loaded) == len(model.trainable_variables)
    assert report.optimiser == ["global_step"]
    table = {entry.name: entry.variable for entry in sonnet_v1.nth_farthest(model)}
    # The TF 1 form: epsilon outside the root and outside the bias correction.
    optimizer = keras.optimizers.Adam(1e-4, beta_1=0.9, beta_2=0.999, epsilon=1e-8)
    optimizer.build(list(table.values()))

    @tf.function
    def evaluate(train):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            logits = model(inputs)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        gradients = tape.gradient(loss, [inputs, *table.values()])
        if train:
            optimizer.apply(gradients[1:], list(table.values()))
        return logits, loss, gradients

    logits, loss, gradients = evaluate(False)
    accuracy = np.mean(np.argmax(logits, -1) == labels.numpy())
    assert accuracy == pytest.approx(arrays["accuracy"])
    errors = {"logits": relative_error(logits, arrays["logits"]), "loss": relative_error(loss, arrays["loss"])}
    assert max(errors.values()) <= 1e-5, errors
    keys = ["grad_inputs", *(f"grad/{name}" for name in table)]
    errors |= {key: relative_error(g, arrays[key]) for key, g in zip(keys, gradients, strict=True)}
    assert max(errors.values()) <= 1e-4, errors

    start = {name: variable.numpy() for name, variable in table.items()}
    losses = []
    for count in (1, 2, 3):
        losses.append(evaluate(True)[1])
        if f"after{count}/{next(iter(table))}" not in arrays:
            continue
        for name, variable in table.items():
            expected, gradient = arrays[f"after{count}/{name}"], np.abs(arrays[f"grad/{name}"])
            # The softmax does not see the keys' beta: its gradient is rounding, which Adam scales up to any step.
            defined = (gradient == 0) | (gradient > 1e-5 * np.max(gradient))
            values, moved = variable.numpy()[defined], (variable.numpy() - start[name])[defined]
            errors[f"after{count}/{name}"] = relative_error(values, expected[defined])
            # The change, not only the value: an element moves by about the learning rate in a step.
            expected_move = expected[defined] - start[name][defined]
            assert np.mean(np.abs(moved - expected_move)) <= 1e-2 * np.mean(np.abs(expected_move)), name
            assert np.max(np.abs(variable.numpy() - start[name])) <= 1.01e-4 * count
    errors["loss_per_step"] = relative_error([*losses, evaluate(False)[1]], arrays["loss_per_step"])
    assert max(e for key, e in errors.items() if key.startswith(("after", "loss"))) <= 1e-5, errors
    for kind in ("logits", "loss", "grad", "after"):
        print(f"\n{case} {kind}: {max(e for key, e in errors.items() if key.startswith(kind)):.1e}", end="")


@pytest.mark.parametrize("case", ["shipped_test_config", "blocks4"])
def test_a_trained_checkpoint_loads_without_its_optimiser(case, golden):
    config = json.loads(golden(f"nth_farthest/{case}/config.json").read_text())
    arrays = np.load(golden(f"nth_farthest/{case}/io.npz"))
    model = SequenceModel(RelationalMemory(**config["config"]), config["num_objects"], config["mlp"])
    model(arrays["inputs"])
    report = load_tf1(model, golden(f"nth_farthest/{case}/model_step3_with_adam.ckpt"))
    assert len(report.optimiser) == 2 * len(report.loaded) + 3
    for entry in sonnet_v1.nth_farthest(model):
        np.testing.assert_array_equal(entry.variable, arrays[f"after3/{entry.name}"])


class RunningSum(RNNCore):
    """Outputs the sum of its inputs [B, 2, 3] so far."""

    output_size = state_size = tf.TensorShape([2, 3])

    def initial_state(self, batch_size, dtype=tf.float32):
        return tf.zeros([batch_size, 2, 3], dtype)

    def project_inputs(self, inputs):
        return inputs

    def step(self, projected, state):
        return state + projected, state + projected


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_head_reads_the_flattened_last_output_of_any_core(dtype, rng):
    model = SequenceModel(RunningSum(), 3, mlp_sizes=[5])
    inputs = rng.normal(size=[2, 4, 2, 3])
    logits = model(tf.constant(inputs, dtype))
    (layer,) = model.mlp
    hidden = np.maximum(inputs.sum(1).reshape(2, 6) @ layer.w.numpy() + layer.b.numpy(), 0)
    expected = hidden @ model.output.w.numpy() + model.output.b.numpy()
    assert logits.dtype == dtype
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_the_public_table_is_for_the_relational_core():
    model = SequenceModel(RunningSum(), 3)
    model(tf.zeros([1, 2, 2, 3]))
    with pytest.raises(ValueError, match=r"target: .*not RunningSum"):
        sonnet_v1.nth_farthest(model)
