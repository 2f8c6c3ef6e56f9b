"""Multigrid cores: routing, the cell against its equations in numpy, the scan against the step, Proposition 1."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmem
from reproductions.multigrid._routing import proposition_1, reach
from tests.references import multigrid as reference
from tests.support import relative_error
from tfmem.cores.multigrid import (
    ConvLSTM,
    ConvLSTMState,
    GridNormalization,
    MultigridConv,
    MultigridConvLSTM,
    downsample,
    routed_convolution,
    upsampled_convolution,
)
from tfmem.recurrence import unroll


def randomised(layer, rng):
    for variable in layer.weights:
        variable.assign(rng.normal(0, 0.4, variable.shape))
    return layer


@pytest.mark.parametrize(("rank", "kernel_size"), [(1, 3), (2, 1), (2, 3), (2, 5)])
def test_convolution_of_the_upsampled_grid(rng, rank, kernel_size):
    x, kernel = rng.normal(size=(2, *[4] * rank, 3)), rng.normal(size=(*[kernel_size] * rank, 3, 5))
    convolved = upsampled_convolution(tf.constant(x), tf.constant(kernel))
    assert relative_error(convolved, reference.convolution(reference.up(x), kernel)) < 1e-12


def test_down_sends_ties_to_the_first_maximum():
    grid = tf.zeros([1, 4, 4, 1])
    with tf.GradientTape() as tape:
        tape.watch(grid)
        loss = tf.reduce_sum(downsample(grid))
    expected = np.zeros((4, 4))
    expected[::2, ::2] = 1
    np.testing.assert_array_equal(tape.gradient(loss, grid)[0, :, :, 0], expected)


@pytest.mark.parametrize("size", [1, 3, 6, 12, 24])
def test_routing_takes_coarser_same_finer_in_this_order(rng, size):
    sides = (2,) if size == 1 else (3, 6, 12)
    pyramid = [rng.normal(size=(2, s, s, c)) for c, s in enumerate(sides, start=1)]
    (expected,) = reference.route(pyramid, [size])
    kernel = rng.normal(size=(3, 3, expected.shape[-1], 2))
    routed = routed_convolution([tf.constant(g) for g in pyramid], size, tf.constant(kernel))
    assert relative_error(routed, reference.convolution(expected, kernel)) < 1e-12


@pytest.mark.parametrize(
    ("rank", "peepholes", "kernel_size"), [(2, False, 3), (2, True, 3), (1, False, 3), (1, True, 5)]
)
def test_conv_lstm_equals_the_equations(rng, rank, peepholes, kernel_size):
    cell = ConvLSTM(3, kernel_size, rank, peepholes, forget_bias=0.7, dtype="float64")
    side, batch, steps = 4, 2, 3
    cell.build((None, *[side] * rank, 2))
    randomised(cell, rng)
    inputs = rng.normal(size=(steps, batch, *[side] * rank, 2))
    state = ConvLSTMState(*rng.normal(size=(2, batch, *[side] * rank, 3)))
    outputs, final = unroll(cell, tf.constant(inputs), ConvLSTMState(*map(tf.constant, state)))
    weights = [w.numpy() for w in cell.weights]
    expected, expected_final = reference.conv_lstm(inputs, state, *weights[:2], 0.7, weights[2:] or None)
    assert relative_error(outputs, expected) < 1e-12
    assert relative_error(final.cell, expected_final[0]) < 1e-12
    assert relative_error(final.hidden, expected_final[1]) < 1e-12


@pytest.mark.parametrize("peepholes", [False, True])
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_the_scan_is_the_loop_of_steps_forward_and_backward(rng, peepholes, mode):
    layer = MultigridConvLSTM((3, 6), 3, peepholes=peepholes, dtype="float64")
    layer.build([(None, 3, 3, 2)])
    randomised(layer, rng)
    inputs = tf.constant(rng.normal(size=(4, 2, 3, 3, 2)))
    state = tf.nest.map_structure(lambda s: tf.constant(rng.normal(size=s.shape)), layer.get_initial_state(2))
    weights = tf.nest.map_structure(lambda s: rng.normal(size=s.shape), layer.get_initial_state(2))

    def run(sequence_length):
        variables = [v.value for v in layer.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch([inputs, state])
            hidden, final = unroll(layer, (inputs,), state, sequence_length)
            loss = tf.add_n([tf.reduce_sum(tf.square(h)) for h in hidden])
            loss += tf.add_n(
                [tf.reduce_sum(a * b) for a, b in zip(tf.nest.flatten(final), tf.nest.flatten(weights), strict=True)]
            )
        return hidden, final, tape.gradient(loss, [inputs, *tf.nest.flatten(state), *variables])

    scan = {"eager": run, "graph": tf.function(run), "xla": tf.function(run, jit_compile=True)}[mode](None)
    steps = run(4)  # a sequence length takes the generic loop
    for a, b in zip(tf.nest.flatten(scan), tf.nest.flatten(steps), strict=True):
        assert relative_error(a, b) < 1e-10


def test_scan_has_second_order_gradients(rng):
    cell = ConvLSTM(2, dtype="float64")
    cell.build((None, 3, 3, 1))
    x = tf.constant(rng.normal(size=(3, 1, 3, 3, 1)))

    def penalty(use_scan):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                hidden, _ = unroll(cell, x, cell.get_initial_state(1), None if use_scan else 3)
                loss = tf.reduce_sum(hidden**2)
            value = tf.reduce_sum(inner.gradient(loss, x) ** 2)
        return outer.gradient(value, x)

    assert relative_error(tf.function(penalty)(True), tf.function(penalty)(False)) < 1e-10


@pytest.mark.parametrize("rank", [1, 2])
def test_multigrid_conv_equals_numpy(rng, rank):
    layer = MultigridConv((3, 6), 4, rank=rank, dtype="float64")
    pyramid = [rng.normal(size=(2, 5, *[s] * rank, c)) for s, c in ((3, 2), (6, 3), (12, 1))]
    layer.build([g.shape for g in pyramid])
    outputs = layer([tf.constant(g) for g in pyramid])
    merged = [g.reshape(-1, *g.shape[2:]) for g in pyramid]
    for y, x, kernel, bias in zip(outputs, reference.route(merged, (3, 6)), layer.kernels, layer.biases, strict=True):
        expected = np.maximum(reference.convolution(x, kernel.numpy()) + bias.numpy(), 0)
        assert relative_error(tf.reshape(y, expected.shape), expected) < 1e-12


def test_initial_values_are_the_public_ones():
    cell, conv = ConvLSTM(16), MultigridConv((6,), 32)
    cell.build((None, 6, 6, 32))
    conv.build([(None, 6, 6, 16)])
    bound = np.sqrt(6 / (9 * (32 + 16) + 9 * 64))  # Glorot over the kernel of concat[x, h]
    assert 0.98 * bound < np.abs(cell.kernel).max() <= bound
    assert not np.any(cell.bias)
    bound = 1 / np.sqrt(9 * 16)
    assert 0.98 * bound < np.abs(conv.kernels[0]).max() <= bound
    assert 0.5 * bound < np.abs(conv.biases[0]).max() <= bound


@pytest.mark.parametrize(("over", "axes"), [("batch", (0, 1, 2, 3)), ("sequence", (0, 2, 3))])
def test_normalisation(rng, over, axes):
    layer = GridNormalization(over, dtype="float64")
    x = rng.normal(2, 3, size=(4, 3, 5, 5, 2))
    layer.build(x.shape)
    layer.gamma.assign([2.0, 0.5])
    layer.beta.assign([1.0, -1.0])
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    expected = (x - mean) / np.sqrt(variance + 1e-3) * [2.0, 0.5] + [1.0, -1.0]
    assert relative_error(layer(x), expected) < 1e-12


@pytest.mark.parametrize("over", ["batch", "sequence"])
def test_normalization_ignores_nan_in_steps_that_are_not_valid(rng, over):
    x, valid = tf.constant(rng.normal(size=(4, 2, 3, 5)), tf.float32), np.array([[1, 1], [1, 1], [1, 0], [0, 0]], bool)
    where, layer = valid[..., np.newaxis, np.newaxis], GridNormalization(over)

    @tf.function
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.where(where, layer(x, valid=tf.constant(valid)), 0.0)
            loss = tf.reduce_sum(y**3)
        return y, tape.gradient(loss, x)

    tf.nest.map_structure(np.testing.assert_array_equal, run(x), run(tf.where(where, x, np.nan)))


def test_proposition_1_by_gradients_by_the_formula_and_by_brute_force():
    sizes, layers = (4, 8, 16, 32), 7
    by_gradient = reach(sizes, layers, 0, (0, 0))
    by_force = reference.reach(sizes, layers, 0, (0, 0))
    for m in range(1, layers + 1):
        for n in range(1, len(sizes) + 1):
            felt = by_gradient[m - 1][n - 1]
            np.testing.assert_array_equal(felt, by_force[m - 1][n - 1])
            if m >= n:
                side = min(proposition_1(m, n), sizes[n - 1])
                expected = np.zeros_like(felt)
                expected[:side, :side] = True
                np.testing.assert_array_equal(felt, expected, err_msg=f"layer {m}, level {n}")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultigridConv((3, 7), 4), r"sizes: was \(3, 7\), must be sides that double"),
        (lambda: MultigridConv((), 4), "sizes: was"),
        (lambda: MultigridConv((3,), 0), "filters: was 0, must be a positive integer"),
        (lambda: MultigridConv((3, 6), 4, kernel_size=4), "kernel_size: was 4, must be odd"),
        (lambda: ConvLSTM(4, rank=3), "rank: was 3, must be 1 or 2"),
        (lambda: GridNormalization("layer"), "over: was 'layer', must be 'batch' or 'sequence'"),
        (lambda: MultigridConv((24,), 4).build([(None, 3, 3, 1)]), "no input grid feeds the level of side 24"),
        (lambda: ConvLSTM(4).build((None, None, 3, 1)), "inputs: shape was"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_as_a_keras_layer_over_sequences(rng):
    inputs = keras.Input((5, 4, 4, 2))
    hidden = tfmem.RNN(ConvLSTM(3), return_sequences=True)(inputs)
    assert hidden.shape == (None, 5, 4, 4, 3)
    model = keras.Model(inputs, hidden)
    model.compile("adam", "mse")
    x = rng.normal(size=(4, 5, 4, 4, 2)).astype(np.float32)
    y = 0.1 * x[..., :1].repeat(3, -1)
    history = model.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]
