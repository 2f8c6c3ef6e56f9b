"""Multigrid layers: the convolution against numpy, the memory layer's scan, normalization, Proposition 1."""

import numpy as np
import pytest
import tensorflow as tf

from reproductions.multigrid.routing import proposition_1, reach
from tests.cores.multigrid.support import randomized
from tests.references import multigrid as reference
from tests.support import relative_error
from tfmem.cores.multigrid import ConvLSTM, GridNormalization, MultigridConv, MultigridConvLSTM
from tfmem.recurrence import unroll


@pytest.mark.parametrize("peepholes", [False, True])
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_the_scan_is_the_loop_of_steps_forward_and_backward(rng, peepholes, mode):
    layer = MultigridConvLSTM((3, 6), 3, peepholes=peepholes, dtype="float64")
    layer.build([(None, 3, 3, 2)])
    randomized(layer, rng)
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
def test_normalization(rng, over, axes):
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


def test_proposition_1_by_the_layers_by_the_formula_and_by_brute_force():
    sizes, layers = (4, 8, 16, 32), 7
    by_layers = reach(sizes, layers, 0, (0, 0))
    by_force = reference.reach(sizes, layers, 0, (0, 0))
    for m in range(1, layers + 1):
        for n in range(1, len(sizes) + 1):
            felt = by_layers[m - 1][n - 1]
            np.testing.assert_array_equal(felt, by_force[m - 1][n - 1])
            if m >= n:
                side = min(proposition_1(m, n), sizes[n - 1])
                expected = np.zeros_like(felt)
                expected[:side, :side] = True
                np.testing.assert_array_equal(felt, expected, err_msg=f"layer {m}, level {n}")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultigridConv((3,), 0), "filters: 0, must be a positive integer"),
        (lambda: MultigridConv((3, 6), 4, kernel_size=4), "kernel_size: 4, must be odd"),
        (lambda: GridNormalization("layer"), "over: 'layer', must be one of 'batch', 'sequence'"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
