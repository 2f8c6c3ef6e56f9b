"""TF 1's RMSProp against a transcription of its formula and the numbers of the public IMPALA learner."""

import keras
import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

from tests.support import relative_error
from tfmem.optimizers import SonnetAdam, TF1RMSprop, linear_decay, make_optimizer


def transcription(variable, gradients, learning_rates, rho, mu, epsilon):
    rms, momentum, path = np.ones_like(variable), np.zeros_like(variable), []
    for g, lr in zip(gradients, learning_rates, strict=True):
        rms = rho * rms + (1 - rho) * g * g
        momentum = mu * momentum + lr * g / np.sqrt(rms + epsilon)
        variable = variable - momentum
        path.append(variable)
    return np.stack(path), rms


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kind", [tf.Variable, keras.Variable])
def test_equals_the_formula(rng, mode, momentum, kind):
    start, gradients = rng.normal(size=(5, 3)), rng.normal(size=(6, 5, 3)) * 3
    learning_rates = np.linspace(0.1, 0.01, 6)
    variable = kind(start.astype(np.float32))
    optimizer = TF1RMSprop(0.1, rho=0.9, momentum=momentum, epsilon=0.1)
    optimizer.build([variable])

    def apply(gradient, learning_rate):
        optimizer.learning_rate.assign(learning_rate)
        optimizer.apply([gradient], [variable])

    if mode != "eager":
        apply = tf.function(apply, jit_compile=mode == "xla")
    path = []
    for gradient, learning_rate in zip(gradients, learning_rates, strict=True):
        apply(tf.constant(gradient, tf.float32), tf.constant(learning_rate, tf.float32))
        path.append(variable.numpy())
    expected, _ = transcription(start, gradients, learning_rates, 0.9, momentum, 0.1)
    assert relative_error(path, expected) < 1e-6


SPARSE_STEPS = [([0, 1, 0], [1.0, 1.0, 1.0]), ([3, 3, 3, 1], [0.5, -2.0, 1.0, 4.0]), ([], []), ([2, 0], [3.0, -1.0])]


def tf1_path(start, steps, dtype, **kwargs):
    """The variable after each step of `tf.compat.v1.train.RMSPropOptimizer` with sparse gradients."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variable = tf.compat.v1.get_variable("v", initializer=start, use_resource=True)
        optimizer = tf.compat.v1.train.RMSPropOptimizer(0.1, **kwargs)
        values, indices = tf.compat.v1.placeholder(start.dtype, [None, start.shape[1]]), tf.compat.v1.placeholder(dtype)
        gradient = tf.IndexedSlices(values, tf.reshape(indices, [-1]), tf.constant(start.shape, dtype))
        apply = optimizer.apply_gradients([(gradient, variable)])
        session.run(tf.compat.v1.global_variables_initializer())
        path = []
        for rows, numbers in steps:
            session.run(apply, {indices: np.array(rows, dtype.as_numpy_dtype), values: numbers})
            path.append(session.run(variable))
    return np.stack(path)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize(
    ("momentum", "centered", "dtype", "index_dtype"),
    [(0.0, False, np.float32, tf.int32), (0.9, False, np.float32, tf.int64), (0.9, True, np.float64, tf.int32)],
)
def test_sparse_gradients_change_their_rows_as_in_tf1(rng, mode, momentum, centered, dtype, index_dtype):
    start = rng.normal(size=[5, 2]).astype(dtype)
    steps = [(rows, np.outer(numbers, [1.0, -2.0]).astype(dtype)) for rows, numbers in SPARSE_STEPS]
    kwargs = dict(momentum=momentum, epsilon=0.1, centered=centered)
    expected = tf1_path(start, steps, index_dtype, decay=0.9, **kwargs)
    variable = keras.Variable(start, dtype=start.dtype.name)
    optimizer = TF1RMSprop(0.1, rho=0.9, **kwargs)
    optimizer.build([variable])

    def apply(rows, values):
        optimizer.apply([tf.IndexedSlices(values, rows, tf.constant([5, 2], index_dtype))], [variable])

    if mode != "eager":
        apply = tf.function(apply, jit_compile=mode == "xla")
    path = []
    for rows, values in steps:
        apply(tf.constant(rows, index_dtype), tf.constant(values))
        path.append(variable.numpy())
    assert relative_error(path, expected) < 1e-6
    np.testing.assert_array_equal(path[-1][4], start[4])


def test_a_row_without_gradient_stays_and_duplicates_are_summed():
    variable = tf.Variable([[1.0], [1.0], [1.0]])
    optimizer = TF1RMSprop(0.1, rho=0.9, momentum=0.9, epsilon=0.1)
    for row in (0, 1, 0):
        optimizer.apply([tf.IndexedSlices(tf.ones([1, 1]), tf.constant([row]), tf.constant([3, 1]))], [variable])
    np.testing.assert_allclose(variable[:, 0], [0.7235, 0.9047, 1.0], atol=5e-5)


@pytest.mark.parametrize("centered", [False, True])
def test_dense_gradients_equal_tf1(rng, centered):
    start, gradients = rng.normal(size=[4, 3]).astype(np.float32), rng.normal(size=[5, 4, 3]).astype(np.float32)
    kwargs = dict(momentum=0.7, epsilon=1e-3, centered=centered)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        v = tf.compat.v1.get_variable("v", initializer=start, use_resource=True)
        fed = tf.compat.v1.placeholder(tf.float32, start.shape)
        apply = tf.compat.v1.train.RMSPropOptimizer(0.1, decay=0.8, **kwargs).apply_gradients([(fed, v)])
        session.run(tf.compat.v1.global_variables_initializer())
        for gradient in gradients:
            session.run(apply, {fed: gradient})
        expected = session.run(v)
    variable, optimizer = tf.Variable(start), TF1RMSprop(0.1, rho=0.8, **kwargs)
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient)], [variable])
    assert relative_error(variable, expected) < 1e-6


@pytest.mark.parametrize("jit_compile", [False, True])
def test_an_embedding_trains_as_in_tf1(rng, jit_compile):
    table = rng.normal(size=[6, 2]).astype(np.float32)
    words = np.array([[1, 4, 1], [1, 0, 0]])
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        v = tf.compat.v1.get_variable("v", initializer=table, use_resource=True)
        fed = tf.compat.v1.placeholder(tf.int32, [None])
        loss = tf.reduce_mean(tf.square(tf.reduce_sum(tf.compat.v1.nn.embedding_lookup(v, fed), 0)))
        train = tf.compat.v1.train.RMSPropOptimizer(0.1, momentum=0.9, epsilon=0.1).minimize(loss)
        session.run(tf.compat.v1.global_variables_initializer())
        for ids in words:
            session.run(train, {fed: ids})
        expected = session.run(v)
    model = keras.Sequential([keras.layers.Embedding(6, 2, weights=[table]), keras.layers.Lambda(lambda x: sum_of(x))])
    model.compile(TF1RMSprop(0.1, momentum=0.9, epsilon=0.1), loss="mse", jit_compile=jit_compile)
    for ids in words:
        model.train_on_batch(ids[np.newaxis], np.zeros([1, 2]))
    trained = model.layers[0].embeddings.numpy()
    assert relative_error(trained, expected) < 1e-6
    np.testing.assert_array_equal(trained[[2, 3, 5]], table[[2, 3, 5]])


def sum_of(embedded):
    return tf.reduce_sum(embedded, 1)


@pytest.mark.parametrize("clip", [0.5, 1e4])
def test_sparse_gradients_are_clipped_as_in_tf1(clip):
    slices = tf.IndexedSlices(tf.constant([[1.0, 2.0], [3.0, -1.0]]), tf.constant([2, 2]), tf.constant([3, 2]))
    gradients, moved = [slices, tf.constant([4.0])], []
    for kwargs, given in (
        ({"global_clipnorm": clip}, gradients),
        ({}, tf.clip_by_global_norm(gradients, clip)[0]),
    ):
        variables = [tf.Variable(tf.zeros([3, 2])), tf.Variable(tf.zeros([1]))]
        TF1RMSprop(0.1, epsilon=0.1, **kwargs).apply(given, variables)
        moved.append(np.concatenate([v.numpy().ravel() for v in variables]))
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-6)


def test_equals_the_public_learner(golden):
    data = np.load(golden("vtrace/rmsprop.npz"))
    variable = tf.Variable(data["var0"])
    optimizer = TF1RMSprop(0.1, rho=0.99, momentum=0.0, epsilon=0.1)
    optimizer.build([variable])
    for update, gradient in enumerate(data["grads"]):
        learning_rate = linear_decay(800 * update, 0.00048, 0.0, 1_000_000_000)
        np.testing.assert_allclose(learning_rate, data["learning_rate"][update], rtol=1e-6)
        optimizer.learning_rate.assign(learning_rate)
        optimizer.apply([tf.constant(gradient)], [variable])
        assert relative_error(variable, data["vars_after"][update]) < 1e-6
    slots = {v.name.rsplit("_", 1)[-1]: v for v in optimizer.variables}
    assert relative_error(slots["rms"].numpy(), data["ms_after"]) < 1e-6


@pytest.mark.parametrize("clip", [0.5, 1e4])
def test_global_clipnorm_is_clip_by_global_norm(rng, clip):
    gradients = [tf.constant(rng.normal(size=shape), tf.float32) for shape in ((4, 3), (7,))]
    moved = []
    for kwargs, given in (
        ({"global_clipnorm": clip}, gradients),
        ({}, tf.clip_by_global_norm(gradients, clip)[0]),
    ):
        variables = [tf.Variable(tf.zeros_like(g)) for g in gradients]
        TF1RMSprop(0.1, epsilon=0.1, **kwargs).apply(given, variables)
        moved.append(np.concatenate([v.numpy().ravel() for v in variables]))
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-6)


def test_linear_decay(golden):
    data = np.load(golden("vtrace/rmsprop.npz"))
    computed = linear_decay(tf.constant(data["decay_frames"]), 0.00048, 0.0, 1_000_000_000)
    np.testing.assert_allclose(computed, data["decay_learning_rate"], rtol=1e-6, atol=1e-12)
    multigrid = tf.function(lambda step: linear_decay(step, 1e-3, 1e-4, 1e6), jit_compile=True)
    for step, expected in ((0, 1e-3), (500_000, 5.5e-4), (1_000_000, 1e-4), (3_000_000_000, 1e-4)):
        np.testing.assert_allclose(multigrid(tf.constant(step, tf.int64)), expected, rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("kind", [tf.Variable, keras.Variable])
def test_adam_equals_sonnets(rng, kind, jit_compile):
    start, gradients = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(6, 5, 3)).astype(np.float32)
    settings = {"beta1": 0.8, "beta2": 0.99, "epsilon": 0.05}
    variable, expected, sonnet = kind(start), tf.Variable(start), snt.optimizers.Adam(0.1, **settings)
    optimizer = SonnetAdam(0.1, *settings.values())
    optimizer.build([variable])
    apply = tf.function(lambda gradient: optimizer.apply([gradient], [variable]), jit_compile=jit_compile)
    for gradient in gradients:
        apply(tf.constant(gradient))
        sonnet.apply([tf.constant(gradient)], [expected])
        assert relative_error(tf.convert_to_tensor(variable), expected) < 1e-6
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    for argument, value in (("beta_1", 1.0), ("beta_2", -0.1), ("epsilon", float("nan"))):
        with pytest.raises(ValueError, match=f"{argument}: {value}, must be"):
            SonnetAdam(**{argument: value})


def test_config_round_trip():
    optimizer = TF1RMSprop(0.2, rho=0.8, momentum=0.5, epsilon=0.3, centered=True, global_clipnorm=7.0)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(again, TF1RMSprop)
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize(("argument", "value"), [("rho", 1.0), ("momentum", -0.1), ("epsilon", -1.0)])
def test_bad_arguments(argument, value):
    with pytest.raises(ValueError, match=argument):
        TF1RMSprop(**{argument: value})


def test_sonnets_adam_takes_sparse_gradients_as_dense_ones():
    variables = [keras.Variable(tf.ones([3, 2])) for _ in range(2)]
    dense = tf.constant([[2.0, 2.0], [1.0, 1.0], [0.0, 0.0]])
    gradients = [tf.IndexedSlices(tf.ones([3, 2]), [0, 1, 0], [3, 2]), dense]
    for variable, gradient in zip(variables, gradients, strict=True):
        optimizer = SonnetAdam(0.1)
        for _ in range(2):
            optimizer.apply([gradient], [variable])
    np.testing.assert_allclose(variables[0], variables[1], rtol=1e-6)


def test_optimizers_by_name():
    kinds = {
        "adam": (keras.optimizers.Adam, 1e-8),
        "sonnet_adam": (SonnetAdam, 1e-8),
        "rmsprop": (keras.optimizers.RMSprop, 1e-7),
        "tf1_rmsprop": (TF1RMSprop, 1e-10),
        "sgd": (keras.optimizers.SGD, None),
    }
    for name, (kind, epsilon) in kinds.items():
        optimizer = make_optimizer(name, 0.5, momentum=0.25, rms_decay=0.75)
        assert type(optimizer) is kind
        assert float(optimizer.learning_rate) == 0.5
        assert optimizer.global_clipnorm is None
        assert make_optimizer(name, 0.5, global_clipnorm=0.1).global_clipnorm == 0.1
        if not name.endswith("adam"):
            assert optimizer.momentum == 0.25
        if epsilon:
            assert optimizer.epsilon == epsilon
            assert make_optimizer(name, 0.5, epsilon=0.1).epsilon == 0.1
        if name.endswith("rmsprop"):
            assert optimizer.rho == 0.75
    with pytest.raises(ValueError, match="name: 'RMSProp', must be one of 'adam'"):
        make_optimizer("RMSProp", 0.5)
