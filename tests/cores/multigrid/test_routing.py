"""Routing against numpy."""

import numpy as np
import pytest
import tensorflow as tf

from tests.references import multigrid as reference
from tests.support import relative_error
from tfmem.cores.multigrid import MultigridConv, downsample, routed_convolution, upsampled_convolution


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
    pyramid = [rng.normal(size=(2, s, s, c)) for c, s in zip((1, 2, 8), sides, strict=False)]  # 12 x 8: `LARGE`
    (expected,) = reference.route(pyramid, [size])
    kernel = rng.normal(size=(3, 3, expected.shape[-1], 2))
    routed = routed_convolution([tf.constant(g) for g in pyramid], size, tf.constant(kernel))
    assert relative_error(routed, reference.convolution(expected, kernel)) < 1e-12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultigridConv((3, 7), 4), r"sizes: \(3, 7\), must be sides that double"),
        (lambda: MultigridConv((), 4), "sizes: .*must be sides"),
        (
            lambda: MultigridConv((24,), 4).build([(None, 3, 3, 1)]),
            "sizes: 24, must be half, the same or twice the side",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
