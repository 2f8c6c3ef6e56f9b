"""Sequence models: the public examples' logits, gradients and Adam steps; other cores; saving and export."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import first_of, golden_cases, golden_files, relative_error
from tfmem.checkpoints import load_tf1, sonnet_v1
from tfmem.cores.base import RNNCore
from tfmem.cores.config import LSTMConfig
from tfmem.cores.lstm import LSTMStack
from tfmem.cores.metalearned import MetalearnedMemory
from tfmem.cores.relational import RelationalMemory
from tfmem.export import saved_model
from tfmem.losses.sequence import accuracy, cross_entropy
from tfmem.models.sequence import EncoderDecoder, SequenceModel


@pytest.mark.parametrize("case", first_of(golden_cases("nth_farthest/*/")))
def test_nth_farthest_equals_public_code(case, golden):
    config = json.loads(golden(f"nth_farthest/{case}/config.json").read_text())
    arrays = np.load(golden(f"nth_farthest/{case}/io.npz"))
    model = SequenceModel(RelationalMemory(**config["config"]), config["num_objects"], config["mlp"])
    inputs, labels = tf.constant(arrays["inputs"]), tf.constant(arrays["labels"].astype(np.int32))
    model.build(inputs.shape)
    report = load_tf1(model, golden(f"nth_farthest/{case}/model_step0.ckpt"))
    assert len(report.loaded) == len(model.trainable_variables)
    assert report.optimiser == ["global_step"]
    table = {entry.name: entry.variable for entry in sonnet_v1.relational_model(model)}
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
    for count in range(1, len(arrays["loss_per_step"])):
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


WITH_ADAM = [path.parent.name for path in golden_files("nth_farthest/*/model_step3_with_adam.ckpt.index")]


@pytest.mark.parametrize("case", WITH_ADAM)
def test_a_trained_checkpoint_loads_without_its_optimiser(case, golden):
    config = json.loads(golden(f"nth_farthest/{case}/config.json").read_text())
    arrays = np.load(golden(f"nth_farthest/{case}/io.npz"))
    model = SequenceModel(RelationalMemory(**config["config"]), config["num_objects"], config["mlp"])
    model.build(arrays["inputs"].shape)
    report = load_tf1(model, golden(f"nth_farthest/{case}/model_step3_with_adam.ckpt"))
    assert len(report.optimiser) == 2 * len(report.loaded) + 3
    for entry in sonnet_v1.relational_model(model):
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


def test_head_reads_the_flattened_last_output_of_any_core(rng):
    model = SequenceModel(RunningSum(), 3, mlp_sizes=[5])
    inputs = rng.normal(size=[2, 4, 2, 3]).astype(np.float32)
    logits = model(inputs)
    hidden = np.maximum(inputs.sum(1).reshape(2, 6) @ model.head.kernels[0] + model.head.biases[0], 0)
    expected = hidden @ model.head.kernels[1] + model.head.biases[1]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_the_public_table_is_for_the_relational_core():
    model = SequenceModel(RunningSum(), 3)
    model.build([1, 2, 2, 3])
    with pytest.raises(ValueError, match=r"target: core RunningSum, must be RelationalMemory"):
        sonnet_v1.relational_model(model)


CORES = {
    "Sonnet": lambda: RelationalMemory(mem_slots=2, head_size=3, num_heads=2),
    "Keras": lambda: LSTMStack(4, num_layers=2),
    "nested output": lambda: MetalearnedMemory(4, word_size=3, memory_size=3, memory_layers=2, return_meta_loss=True),
}


def steps_with_the_signature(signature, inputs, state, name):
    outputs = []
    for x in inputs:
        result = signature(**{name: tf.constant(x)}, **state)
        outputs.append(result["logits"].numpy())
        state = {key: result[key] for key in state}
    return outputs


@pytest.mark.parametrize(
    ("core", "return_sequences", "embedding_size"),
    first_of([("nested output", True, 2), ("Keras", False, None), ("Sonnet", False, None), ("Keras", True, None)], 2),
)
def test_sequence_model_is_saved_and_exported(core, return_sequences, embedding_size, rng, tmp_path):
    model = SequenceModel(CORES[core](), 3, [5], return_sequences, embedding_size)
    inputs = rng.normal(size=[2, 4, 6]).astype(np.float32)
    logits, state = model(inputs, return_state=True)
    assert logits.shape == ([2, 4, 3] if return_sequences else [2, 3])
    _, half = model(inputs[:, :2], return_state=True)
    rest, end = model(inputs[:, 2:], initial_state=half, return_state=True)
    np.testing.assert_allclose(rest, logits[:, 2:] if return_sequences else logits, atol=1e-5)
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), end, state)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(inputs), logits, atol=1e-6)

    saved_model(model, tmp_path / "exported")
    signatures = tf.saved_model.load(str(tmp_path / "exported")).signatures
    np.testing.assert_allclose(signatures["sequence"](inputs=tf.constant(inputs))["logits"], logits, atol=1e-5)
    state = signatures["initial_state"](batch_size=tf.constant(2))
    steps = steps_with_the_signature(signatures["step"], inputs.swapaxes(0, 1), state, "inputs")
    np.testing.assert_allclose(steps[-1], logits[:, -1] if return_sequences else logits, atol=1e-5)


def test_embedding_is_a_linear_map_before_the_core(rng):
    model = SequenceModel(CORES["Keras"](), 3, [], return_sequences=True, embedding_size=2)
    inputs = rng.normal(size=[2, 4, 6]).astype(np.float32)
    logits = model(inputs)
    plain = SequenceModel(model.cell, 3, [], return_sequences=True)
    plain.build([None, None, 2])
    plain.head.set_weights(model.head.get_weights())
    np.testing.assert_allclose(plain(inputs @ model.embedding.numpy()), logits, atol=1e-6)


def test_outputs_beside_the_first_are_given_to_the_loss(rng):
    model = SequenceModel(CORES["nested output"](), 3, return_sequences=True)
    model.build([None, None, 6])
    inputs = tf.constant(rng.normal(size=[4, 2, 6]), tf.float32)
    with tf.GradientTape() as tape:
        result = model.run(inputs)
        loss = tf.reduce_mean(result.outputs.meta_loss)
    assert result.outputs.meta_loss.shape == [4, 2]
    gradients = tape.gradient(loss, [v.value for v in model.cell.trainable_variables])
    assert any(g is not None and np.any(g) for g in gradients)


def test_learn_to_execute_equals_public_code(golden):
    for case in golden_cases("learn_to_execute/seq2seq_*/"):
        config = json.loads(golden(f"learn_to_execute/{case}/config.json").read_text())
        arrays = np.load(golden(f"learn_to_execute/{case}/io.npz"))
        model = EncoderDecoder(RelationalMemory(**config["config"]), config["vocab_size"], mlp_sizes=config["mlp"])
        model.build()
        report = load_tf1(model, golden(f"learn_to_execute/{case}/model.ckpt"))
        table = {entry.name: entry.variable for entry in sonnet_v1.relational_model(model)}
        assert {name for name, _, _ in report.loaded} == set(table)
        inputs, targets = tf.constant(arrays["inputs"]), tf.constant(arrays["targets"])
        mask = np.arange(len(targets))[:, None] < arrays["sizes_out"]
        # The public loss divides by all steps, valid or not.
        with tf.GradientTape() as tape:
            logits = model.run(inputs, arrays["sizes_in"], num_steps=len(targets))
            total, count = cross_entropy(logits, targets, mask)
            loss = total / mask.size
        gradients = tape.gradient(loss, list(table.values()))
        errors = {"logits": relative_error(logits[mask], arrays["logits"][mask])}
        errors["loss"] = relative_error(loss, arrays["loss"])
        assert count == arrays["sizes_out"].sum()
        right, count = accuracy(logits, targets, mask)
        assert float(right / count) == pytest.approx(float(arrays["token_accuracy"]))
        assert max(errors.values()) <= 1e-5, errors
        errors |= {n: relative_error(g, arrays[f"grad/{n}"]) for n, g in zip(table, gradients, strict=True)}
        print(case, max(errors, key=errors.get), max(errors.values()))
        assert max(errors.values()) <= 1e-4, errors


@pytest.fixture
def writer(rng):
    model = EncoderDecoder(CORES["Sonnet"](), 7, start_token=2, mlp_sizes=[5])
    model.build()
    tokens = rng.integers(0, 7, [6, 3]).astype(np.int32)
    return model, tokens, np.array([6, 4, 1], np.int32)


@pytest.mark.parametrize("start_token", first_of([2, None]))
def test_a_decoder_writes_with_weights_of_its_own(start_token, rng, tmp_path):
    model = EncoderDecoder(CORES["Sonnet"](), 7, start_token=start_token, mlp_sizes=[5], decoder=CORES["Sonnet"]())
    model.build()
    tokens, lengths = rng.integers(0, 7, [6, 3]).astype(np.int32), np.array([6, 4, 1], np.int32)
    with tf.GradientTape() as tape:
        logits = model.run(tokens, lengths, num_steps=3)
        loss = tf.reduce_sum(logits[1:] ** 2)
    assert all(g is not None for g in tape.gradient(loss, [v.value for v in model.trainable_variables]))

    # The public code's model with the decoder's weights writes the same from the encoder's state.
    state = model.encode(tokens, lengths)
    shared = EncoderDecoder(model.decoder, 7, start_token=start_token, mlp_sizes=[5])
    shared.build()
    shared.head.set_weights(model.head.get_weights())
    if start_token is None:
        written, _ = shared.decode(state, tf.fill([3, 3], -1))
    else:
        written, _ = shared.generate(state, 3)
    np.testing.assert_allclose(written, logits, atol=1e-6)
    assert relative_error(shared.run(tokens, lengths, num_steps=3), logits) > 1e-3

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.run(tokens, lengths, num_steps=3), logits, atol=1e-6)
    saved_model(model, tmp_path / "exported")
    step = tf.saved_model.load(str(tmp_path / "exported")).signatures["writing_step"]
    names = [name for name in step.structured_input_signature[1] if name != "token"]
    first = step(
        token=tf.fill([3], -1 if start_token is None else start_token),
        **dict(zip(sorted(names), tf.nest.flatten(state), strict=True)),
    )
    np.testing.assert_allclose(first["logits"], logits[0], atol=1e-5)


@pytest.mark.parametrize("case", golden_cases("learn_to_execute/seq2seq_*/"))
def test_logits_behind_an_answers_end_equal_the_public_code(case, golden):
    config = json.loads(golden(f"learn_to_execute/{case}/config.json").read_text())
    arrays = np.load(golden(f"learn_to_execute/{case}/io.npz"))
    model = EncoderDecoder(RelationalMemory(**config["config"]), config["vocab_size"], mlp_sizes=config["mlp"])
    load_tf1(model, golden(f"learn_to_execute/{case}/model.ckpt"))
    lengths, answer_lengths = (tf.constant(arrays[f"sizes_{end}"]) for end in ("in", "out"))
    assert lengths.dtype == tf.int64
    steps = len(arrays["targets"])
    logits = model.run(tf.constant(arrays["inputs"]), lengths, steps, answer_lengths=answer_lengths)
    assert relative_error(logits, arrays["logits"]) <= 1e-5
    called = model(arrays["inputs"].T, lengths=lengths, num_steps=steps, answer_lengths=answer_lengths)
    np.testing.assert_array_equal(called, np.swapaxes(logits, 0, 1))


@pytest.mark.parametrize("forced", [False, True])
def test_behind_its_end_an_answer_has_the_logits_of_zeros(writer, forced):
    model, tokens, lengths = writer
    ends = np.array([4, 2, 0])
    given = dict(targets=tf.ones([4, 3], tf.int64)) if forced else dict(num_steps=4)
    whole = model.run(tokens, lengths, **given).numpy()
    cut = model.run(tokens, lengths, **given, answer_lengths=ends).numpy()
    zeros = model.head(tf.zeros([1, *model.head.kernels[0].shape[:1]]))[0]
    for element, end in enumerate(ends):
        np.testing.assert_allclose(cut[:end, element], whole[:end, element], atol=1e-6)
        np.testing.assert_allclose(cut[end:, element], np.tile(zeros, [4 - end, 1]), atol=1e-6)


@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize("dtype", first_of([tf.uint8, tf.int32, tf.int64]))
def test_lengths_and_tokens_are_of_any_integer_type(writer, dtype, jit_compile):
    model, tokens, lengths = writer
    expected = model.run(tokens, lengths, num_steps=4, answer_lengths=[4, 2, 1])
    steps = np.int64(4) if jit_compile else tf.constant(4, dtype)

    def run(tokens, lengths, ends):
        return model.run(tokens, lengths, num_steps=steps, answer_lengths=ends)

    run = run if jit_compile is None else tf.function(run, jit_compile=jit_compile)
    logits = run(*(tf.constant(x, dtype) for x in (tokens, lengths, [4, 2, 1])))
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_number_of_answer_steps_must_be_given(writer):
    model, tokens, lengths = writer
    with pytest.raises(ValueError, match="num_steps: None"):
        model.run(tokens, lengths)


def test_what_is_behind_the_length_is_not_read(writer):
    model, tokens, lengths = writer
    logits = model.run(tokens, lengths, num_steps=4)
    for element, length in enumerate(lengths):
        alone = model.run(tokens[:length, element : element + 1], num_steps=4)
        np.testing.assert_allclose(alone[:, 0], logits[:, element], atol=1e-5)


def test_teacher_forcing_with_the_models_own_answer_is_generation(writer):
    model, tokens, lengths = writer
    logits = model.run(tokens, lengths, num_steps=4)
    told = tf.argmax(logits, -1, tf.int32)
    np.testing.assert_allclose(model.run(tokens, lengths, targets=told), logits, atol=1e-5)
    other = tf.concat([(told[:1] + 1) % 7, told[1:]], 0)
    forced = model.run(tokens, lengths, targets=other)
    np.testing.assert_allclose(forced[0], logits[0], atol=1e-5)  # the first target is not seen before its step
    assert relative_error(forced[1], logits[1]) > 1e-4
    compiled = tf.function(lambda: model.run(tf.constant(tokens), lengths, num_steps=4), jit_compile=True)()
    np.testing.assert_allclose(compiled, logits, atol=1e-5)


def test_encoder_decoder_is_saved_and_exported(writer, tmp_path):
    model, tokens, lengths = writer
    logits = model(tokens.T, lengths=lengths, num_steps=4)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(tokens.T, lengths=lengths, num_steps=4), logits, atol=1e-6)
    saved_model(model, tmp_path / "exported")
    signatures = tf.saved_model.load(str(tmp_path / "exported")).signatures
    whole = signatures["sequence"](tokens=tf.constant(tokens.T), lengths=tf.constant(lengths), num_steps=tf.constant(4))
    np.testing.assert_allclose(whole["logits"], logits, atol=1e-5)
    state = signatures["initial_state"](batch_size=tf.constant(1))
    fed = [*tokens[:, :1], np.array([2], np.int32)]
    steps = steps_with_the_signature(signatures["step"], fed, state, "token")
    np.testing.assert_allclose(steps[-1][0], logits[0, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("core", "arguments", "message"),
    [
        (LSTMConfig(), {}, r"core: LSTMConfig\(.*\), must be a Sonnet core or a Keras RNN cell: give what its `make"),
        (LSTMStack, {}, "core: .*, must be .*: give an instance"),
        (keras.layers.LSTM(3), {}, "core: .*, must be .*: give the layer's `cell`"),
        ("lstm", {}, "core: 'lstm', must be a Sonnet core or a Keras RNN cell"),
        (None, dict(output_size=0), "output_size: 0, must be a positive integer"),
        (None, dict(mlp_sizes=32), "mlp_sizes: 32, must be a sequence of positive integers"),
        (None, dict(mlp_sizes=(8, 0)), r"mlp_sizes: \(8, 0\), must be a sequence of positive integers"),
        (None, dict(embedding_size=0), "embedding_size: 0, must be a positive integer"),
    ],
)
def test_bad_arguments(core, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        SequenceModel(LSTMStack(3) if core is None else core, **{"output_size": 2, **arguments})


def test_bad_arguments_of_an_encoder_and_decoder():
    for arguments, message in [
        (dict(vocabulary_size=0), "vocabulary_size: 0, must be a positive integer"),
        (dict(decoder=LSTMConfig()), "decoder: LSTMConfig.*, must be"),
    ]:
        with pytest.raises(ValueError, match=f"^{message}"):
            EncoderDecoder(LSTMStack(3), **{"vocabulary_size": 5, **arguments})


def test_inputs_of_another_shape():
    model = SequenceModel(LSTMStack(3), 2, ())
    for shape, message in [
        ((4, 5), r"inputs: shape \(4, 5\), must be \[B, T, features\]"),
        ((4, 0, 5), r"inputs: shape \(4, 0, 5\), must be \[B, T, features\] with at least one time step"),
        ((1, 4, 2, 5), r"inputs: shape \(1, 4, 2, 5\), must be \[B, T, features\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(tf.zeros(shape))
    model(tf.zeros([4, 2, 5]))
    with pytest.raises(ValueError, match=r"inputs: shape \(4, 5\), must be \[B, T, features\]"):
        model(tf.zeros([4, 5]))
