"""Loading of TF 1 checkpoints: all is checked before anything is assigned; slots, averages, scopes, wrapped cores."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmem
from tfmem.checkpoints import CheckpointMismatchError, Entry, load_tf1, name_table
from tfmem.cores.dnc import DNC
from tfmem.cores.lstm import LSTM
from tfmem.cores.relational import RelationalMemory
from tfmem.cores.rma import RMACore, RMAReader
from tfmem.cores.tvt import TVTCore
from tfmem.models.multigrid import LocalizationModel
from tfmem.models.sequence import EncoderDecoder, SequenceModel

v1 = tf.compat.v1


def write(prefix, arrays, num_shards=1):
    """A TF 1 checkpoint of arrays by name; with two shards the last variable is in the second."""
    names, parts = list(arrays), []
    for shard in range(num_shards):
        chosen = names if num_shards == 1 else (names[:-1], names[-1:])[shard]
        part = str(prefix) if num_shards == 1 else f"{prefix}_part{shard}"
        tf.raw_ops.SaveV2(
            prefix=part,
            tensor_names=chosen,
            shape_and_slices=[""] * len(chosen),
            tensors=[tf.convert_to_tensor(arrays[name]) for name in chosen],
        )
        parts.append(part)
    if num_shards > 1:
        tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(prefix))
    return str(prefix)


def lstm(seed=0):
    """A built LSTM of 2 inputs and 3 units, with weights of its own."""
    core = LSTM(3)
    core.project_inputs(tf.zeros([1, 2]))
    rng = np.random.default_rng(seed)
    for v in core.variables:
        v.assign(rng.normal(size=v.shape))
    return core


@pytest.fixture
def weights(rng):
    """Contents of its checkpoint below its scope."""
    return {"w_gates": rng.normal(size=[5, 12]).astype(np.float32), "b_gates": rng.normal(size=[12]).astype(np.float32)}


def scoped(arrays, scope):
    return {f"{scope}/{name}": array for name, array in arrays.items()}


def check_loaded(core, weights):
    np.testing.assert_array_equal(np.concatenate([core.gates.w_i, core.gates.w_s]), weights["w_gates"])
    np.testing.assert_array_equal(core.gates.b, weights["b_gates"])


def refuses(core, error, message, *arguments, **options):
    """`load_tf1` raises and leaves every variable as it was; returns the error."""
    before = [v.numpy() for v in core.variables]
    with pytest.raises(error, match=message) as info:
        load_tf1(core, *arguments, **options)
    for variable, value in zip(core.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    return info.value


# ---- dtypes ----------------------------------------------------------------------------------------------------------

BAD_BIASES = {
    "string": np.full([12], "x"),
    "bool": np.ones([12], bool),
    "complex64": np.ones([12], np.complex64),
    "complex128": np.ones([12], np.complex128),
    "int64": np.full([12], 2**24 + 1),
    "int32": np.full([12], -(2**24) - 1, np.int32),
    "uint64": np.full([12], 2**63 + 1, np.uint64),
    "float64": np.full([12], 1e39),
}


@pytest.mark.parametrize("kind", BAD_BIASES)
def test_a_dtype_that_cannot_be_taken_over_is_refused_before_anything_is_assigned(tmp_path, weights, kind):
    prefix = write(tmp_path / "model.ckpt", scoped({**weights, "b_gates": BAD_BIASES[kind]}, "lstm"))
    error = refuses(lstm(), CheckpointMismatchError, f"mis-typed: lstm/b_gates: stored {kind}", prefix, "lstm")
    assert [name for name, _, _ in error.mis_typed] == ["lstm/b_gates"]


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int64", "int8", "uint16"])
def test_floats_are_rounded_and_integers_taken_over_exactly(tmp_path, weights, dtype):
    bias = tf.cast(np.linspace(0, 100, 12), dtype)
    prefix = write(tmp_path / "model.ckpt", {**weights, "b_gates": bias})
    core = lstm()
    load_tf1(core, prefix)
    check_loaded(core, {**weights, "b_gates": tf.cast(bias, tf.float32).numpy()})


def test_numbers_that_are_not_finite_are_taken_over_as_they_are(tmp_path, weights):
    weights["b_gates"][:3] = [np.nan, np.inf, -np.inf]
    core = lstm()
    load_tf1(core, write(tmp_path / "model.ckpt", {**weights, "b_gates": weights["b_gates"].astype(np.float64)}))
    check_loaded(core, weights)


# ---- damaged files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_data_cut_short_is_refused(tmp_path, weights, kept):
    prefix = write(tmp_path / "model.ckpt", weights)
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    refuses(lstm(), ValueError, "prefix: .*model.ckpt', must be undamaged at .*_gates: .*nothing was loaded", prefix)


def test_altered_data_is_refused(tmp_path, weights):
    prefix = write(tmp_path / "model.ckpt", weights)
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    whole = bytearray(data.read_bytes())
    whole[-3] ^= 255
    data.write_bytes(whole)
    refuses(lstm(), ValueError, "must be undamaged at", prefix)


@pytest.mark.parametrize("shard", [0, 1])
def test_a_missing_shard_is_refused(tmp_path, weights, shard):
    prefix = write(tmp_path / "model.ckpt", weights, num_shards=2)
    load_tf1(lstm(), prefix)
    (tmp_path / f"model.ckpt.data-0000{shard}-of-00002").unlink()
    refuses(lstm(), ValueError, rf"must be undamaged at .*data-0000{shard}-of-00002", prefix)


@pytest.mark.parametrize("kept", [0, 10, 60, -1])
def test_an_index_cut_short_is_refused(tmp_path, weights, kept):
    prefix = write(tmp_path / "model.ckpt", weights)
    index = tmp_path / "model.ckpt.index"
    index.write_bytes(index.read_bytes()[:kept])
    refuses(lstm(), ValueError, "prefix: .* must be a readable TF checkpoint", prefix)


@pytest.mark.parametrize("wrong", ["model.ckpt.index", "model.ckpt.data-00000-of-00001", "", "model"])
def test_a_wrong_prefix_names_the_checkpoints_that_there_are(tmp_path, weights, wrong):
    prefix = write(tmp_path / "model.ckpt", weights)
    message = rf"prefix: no checkpoint at .*its folder has '{re.escape(prefix)}'"
    refuses(lstm(), FileNotFoundError, message, tmp_path / wrong)
    refuses(lstm(), FileNotFoundError, "its folder has none", tmp_path / "elsewhere" / "model.ckpt")


def test_a_prefix_may_start_at_home(tmp_path, weights, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "model.ckpt", weights)
    load_tf1(lstm(), "~/model.ckpt")


# ---- targets ---------------------------------------------------------------------------------------------------------

UNBUILT = {
    "LSTM": (lambda: LSTM(3), "project_inputs"),
    "DNC": (lambda: DNC({}, {"hidden_size": 4}, 2), "project_inputs"),
    "RelationalMemory": (lambda: RelationalMemory(2, 3), "project_inputs"),
    "RMAReader": (lambda: RMAReader(1, 2), "project_inputs"),
    "RMACore": (lambda: RMACore(3, order="code"), "project_inputs"),
    "TVTCore": (lambda: TVTCore(3), "project_inputs"),
    "SequenceModel": (lambda: SequenceModel(RelationalMemory(2, 3), 2), "build"),
    "SonnetCell": (lambda: tfmem.as_keras_cell(LSTM(3)), "project_inputs"),
}


@pytest.mark.parametrize("target", UNBUILT)
def test_a_target_that_is_not_built_is_refused_with_how_to_build_it(tmp_path, weights, target):
    make, how = UNBUILT[target]
    with pytest.raises(ValueError, match=rf"target: \w+, must be built: call {how} with .*of the right size first"):
        load_tf1(make(), write(tmp_path / "model.ckpt", weights))


def test_a_model_whose_sizes_are_known_is_built(golden):
    model, built = LocalizationModel(), LocalizationModel()
    built.build()
    for m in (model, built):
        load_tf1(m, golden("multigrid/mapping/checkpoint-0"))
    for ours, theirs in zip(model.get_weights(), built.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_encoder_decoder_that_is_not_built_is_built(golden):
    config = json.loads(golden("learn_to_execute/seq2seq_shipped_test_config/config.json").read_text())
    model = EncoderDecoder(RelationalMemory(**config["config"]), 45, mlp_sizes=config["mlp"])
    report = load_tf1(model, golden("learn_to_execute/seq2seq_shipped_test_config/model.ckpt"))
    assert len(report.loaded) == len(model.trainable_variables)


def rnn_model(*cores):
    layers = [tfmem.RNN(tfmem.as_keras_cell(core), return_sequences=True) for core in cores]
    return keras.Sequential([keras.Input([None, 2]), *layers, keras.layers.Dense(1)])


WRAPPED = {
    "cell": lambda core: tfmem.as_keras_cell(core),
    "tfmem.RNN": lambda core: tfmem.RNN(tfmem.as_keras_cell(core)),
    "keras.layers.RNN": lambda core: keras.layers.RNN(tfmem.as_keras_cell(core)),
    "stacked cells": lambda core: tfmem.RNN([keras.layers.LSTMCell(2), tfmem.as_keras_cell(core)]),
    "model": rnn_model,
    "model in a model": lambda core: keras.Sequential([rnn_model(core), keras.layers.Dense(2)]),
    "time-distributed": lambda core: keras.Sequential([keras.layers.TimeDistributed(rnn_model(core))]),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_what_holds_one_core_is_a_target(tmp_path, weights, wrapped):
    core, prefix = lstm(), write(tmp_path / "model.ckpt", scoped(weights, "lstm"))
    load_tf1(WRAPPED[wrapped](core), prefix, "lstm")
    check_loaded(core, weights)


def test_a_loaded_model_computes_with_the_stored_weights(tmp_path, weights, rng):
    model, core = rnn_model(LSTM(3)), lstm()
    prefix = write(tmp_path / "model.ckpt", weights)
    for target in (model, core):
        load_tf1(target, prefix)
    x = tf.constant(rng.normal(size=[1, 4, 2]), tf.float32)
    outputs, _ = tfmem.unroll(core, tf.transpose(x, [1, 0, 2]), core.initial_state(1))
    np.testing.assert_allclose(model.layers[0](x)[0], outputs[:, 0], atol=1e-6)


def test_a_model_of_two_cores_or_none_is_refused(tmp_path, weights):
    prefix = write(tmp_path / "model.ckpt", weights)
    with pytest.raises(ValueError, match="target: Sequential with LSTM, LSTM, must be or hold only one of them"):
        load_tf1(rnn_model(lstm(), LSTM(3)), prefix)
    with pytest.raises(ValueError, match="target: Sequential, must have a TF 1 name table, as DNC"):
        load_tf1(keras.Sequential([keras.Input([2]), keras.layers.Dense(2)]), prefix)


# ---- slots, extra variables, averages --------------------------------------------------------------------------------


def lazy_adam():
    """tf.contrib's LazyAdam is Adam with slots of its own name."""
    return v1.train.AdamOptimizer(0.1, name="LazyAdam")


OPTIMIZERS = {
    "Adadelta": lambda: v1.train.AdadeltaOptimizer(0.1),
    "Adagrad": lambda: v1.train.AdagradOptimizer(0.1),
    "Ftrl": lambda: v1.train.FtrlOptimizer(0.1),
    "LazyAdam": lazy_adam,
    "ProximalAdagrad": lambda: v1.train.ProximalAdagradOptimizer(0.1),
    "RMSProp named": lambda: v1.train.RMSPropOptimizer(0.1, centered=True, name="mine"),
    "Momentum named": lambda: v1.train.MomentumOptimizer(0.1, 0.9, name="a/b"),
    "Adam": lambda: v1.train.AdamOptimizer(0.1),
}


def trained(prefix, weights, scope, make_optimizer=None, average=None):
    """A checkpoint of TF 1's Saver after one step, with the averages' decay where it is given; values by name."""
    with tf.Graph().as_default(), v1.Session() as session:
        with v1.variable_scope(scope or v1.get_variable_scope()):
            variables = [v1.get_variable(name, initializer=array) for name, array in weights.items()]
        loss = tf.add_n([tf.reduce_sum(tf.square(v)) for v in variables])
        steps = [make_optimizer().minimize(loss, v1.train.get_or_create_global_step())] if make_optimizer else []
        if average is not None:
            with tf.control_dependencies(steps):
                steps = [tf.train.ExponentialMovingAverage(average, zero_debias=True).apply([*variables, loss])]
        session.run(v1.global_variables_initializer())
        session.run(steps)
        v1.train.Saver().save(session, str(prefix))
        return {v.op.name: session.run(v) for v in v1.global_variables()}


@pytest.mark.parametrize("scope", ["", "lstm"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_slots_of_any_optimizer_are_left_alone(tmp_path, weights, optimizer, scope):
    stored = trained(tmp_path / "model.ckpt", weights, scope, OPTIMIZERS[optimizer])
    core = lstm()
    report = load_tf1(core, tmp_path / "model.ckpt", scope)
    check_loaded(core, {name: stored[f"{scope}/{name}".lstrip("/")] for name in weights})
    assert report.ignored == []
    assert len(report.optimiser) == len(stored) - 2


@pytest.mark.parametrize("extra", ["peephole", "w_gates_2", "w_gates/other_shape", "more/w_gates", "w", "b_gates_"])
def test_a_real_extra_variable_is_refused(tmp_path, weights, extra):
    prefix = write(tmp_path / "model.ckpt", scoped({**weights, extra: np.zeros([7], np.float32)}, "lstm"))
    error = refuses(lstm(), CheckpointMismatchError, f"unexpected: lstm/{extra}", prefix, "lstm")
    assert error.unexpected == [f"lstm/{extra}"]


@pytest.mark.parametrize("optimizer", [None, "Adam"])
def test_moving_averages_in_place_of_weights(tmp_path, weights, optimizer):
    stored = trained(tmp_path / "model.ckpt", weights, "lstm", OPTIMIZERS.get(optimizer), average=0.5)
    core = lstm()
    report = load_tf1(core, tmp_path / "model.ckpt", "lstm", moving_averages=True)
    check_loaded(core, {name: stored[f"lstm/{name}/ExponentialMovingAverage"] for name in weights})
    assert report.averaged == ["lstm/b_gates", "lstm/w_gates"]
    assert "lstm/b_gates/ExponentialMovingAverage" in {name for name, _, _ in report.loaded}
    load_tf1(core, tmp_path / "model.ckpt", "lstm")
    check_loaded(core, {name: stored[f"lstm/{name}"] for name in weights})


def test_averages_alone_are_enough_and_missing_ones_are_named(tmp_path, weights):
    averages = {f"{name}/ExponentialMovingAverage": array for name, array in weights.items()}
    core = lstm()
    load_tf1(core, write(tmp_path / "averages.ckpt", averages), moving_averages=True)
    check_loaded(core, weights)
    prefix = write(tmp_path / "raw.ckpt", weights)
    message = "missing: b_gates/ExponentialMovingAverage"
    refuses(core, CheckpointMismatchError, message, prefix, moving_averages=True)


# ---- scopes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", [None, "", "/"])
def test_no_scope(tmp_path, weights, scope):
    core = lstm()
    load_tf1(core, write(tmp_path / "model.ckpt", weights), scope)
    check_loaded(core, weights)


def test_a_scope_that_is_no_string_is_refused(tmp_path, weights):
    refuses(lstm(), ValueError, "scope: 3, must be a string or None", write(tmp_path / "model.ckpt", weights), 3)


@pytest.mark.parametrize("scope", ["", "a", "a/b", "agent/core/lstm"])
def test_auto_finds_the_scope_that_fits(tmp_path, weights, scope):
    arrays = scoped(weights, scope) if scope else dict(weights)
    arrays |= scoped({"w_gates": np.zeros([6, 12], np.float32), "b_gates": np.zeros([12], np.float32)}, "other/lstm")
    if not scope:
        arrays = dict(weights)
    core = lstm()
    report = load_tf1(core, write(tmp_path / "model.ckpt", arrays), "auto")
    check_loaded(core, weights)
    assert len(report.ignored) == (2 if scope else 0)


@pytest.mark.parametrize(
    ("case", "scope"), [("dnc/case4_random_state/model.ckpt", "dnc"), ("dnc/case1_reads4_writes1/model.ckpt", None)]
)
def test_auto_on_the_public_dnc(golden, case, scope):
    config = json.loads((golden(case).parent / "config.json").read_text())
    core = DNC(config["access_config"], config["controller_config"], config["output_size"], config["clip_value"])
    core.project_inputs(tf.zeros([1, config["input_size"]]))
    assert len(load_tf1(core, golden(case), "auto").loaded) == 2 + 1 + 20 + 2
    if scope is None:
        refuses(core, CheckpointMismatchError, "scope: the target fits 'dnc'", golden(case))


def test_auto_where_several_scopes_fit_names_them(tmp_path, weights):
    prefix = write(tmp_path / "model.ckpt", {**scoped(weights, "a/lstm"), **scoped(weights, "b")})
    refuses(
        lstm(), ValueError, "scope: 'auto', must be one of those that fit checkpoint .*: 'a/lstm', 'b'", prefix, "auto"
    )
    load_tf1(lstm(), prefix, "b")
    auto = write(tmp_path / "auto.ckpt", {**scoped(weights, "auto"), **scoped(weights, "b")})
    load_tf1(lstm(), auto, "auto/")


@pytest.mark.parametrize("scope", ["auto", "", "nowhere"])
def test_where_no_scope_fits_the_checkpoints_own_are_named(tmp_path, weights, scope):
    weights = {**weights, "w_gates": np.zeros([6, 12], np.float32)}
    prefix = write(tmp_path / "model.ckpt", {**scoped(weights, "agent/lstm"), "decoder/b": np.zeros(2, np.float32)})
    message = "scope: the target fits none; the checkpoint has 'agent', 'agent/lstm', 'decoder'"
    error = refuses(lstm(), CheckpointMismatchError, message, prefix, scope)
    if scope == "auto":  # the closest
        assert error.mis_shaped == [("agent/lstm/w_gates", (6, 12), (5, 12))]


def test_a_scope_that_does_not_fit_names_one_that_does(tmp_path, weights):
    prefix = write(tmp_path / "model.ckpt", scoped(weights, "agent/lstm"))
    refuses(lstm(), CheckpointMismatchError, "scope: the target fits 'agent/lstm'$", prefix, "lstm")


# ---- what a mismatch says --------------------------------------------------------------------------------------------


def test_a_mismatch_of_fused_layers_names_them_as_they_are_stored(golden):
    config = json.loads(golden("dnc/case4_random_state/config.json").read_text())
    access = {**config["access_config"], "word_size": config["access_config"]["word_size"] + 1}
    core = DNC(access, config["controller_config"], config["output_size"])
    core.project_inputs(tf.zeros([1, config["input_size"]]))
    error = refuses(core, CheckpointMismatchError, "mis-shaped", golden("dnc/case4_random_state/model.ckpt"), "dnc")
    stored = tf.train.load_checkpoint(str(golden("dnc/case4_random_state/model.ckpt"))).get_variable_to_shape_map()
    shapes = {name: (old, new) for name, old, new in error.mis_shaped}
    for name, (old, _) in shapes.items():
        assert list(old) == stored[name]
    hidden, reads, word = config["controller_config"]["hidden_size"], access["num_reads"], access["word_size"]
    assert shapes["dnc/memory_access/read_keys/w"][1] == (hidden, reads * word)
    assert shapes["dnc/memory_access/read_keys/b"][1] == (reads * word,)
    assert "dnc/memory_access/read_mode/w" not in shapes
    assert shapes["dnc/lstm/w_gates"][1] == (config["input_size"] + reads * word + hidden, 4 * hidden)


def test_a_converted_entry_without_shapes_is_refused(tmp_path, weights):
    class Thing(tf.Module):
        def __init__(self):
            super().__init__()
            self.v = tf.Variable(tf.zeros([12]))

    name_table(Thing)(lambda thing: [Entry("b_gates", thing.v, lambda b: b)])
    refuses(Thing(), ValueError, "shapes: None in the entry of", write(tmp_path / "model.ckpt", weights))
