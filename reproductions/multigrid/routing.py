"""Proposition 1 and Figure 1 of the supplement: how far information travels through multigrid and standard layers."""

import numpy as np
import tensorflow as tf

from tfmem import plotting
from tfmem.cores.multigrid import MultigridConv


def reach(sizes, num_layers, source_level, source):
    """Where one cell of the first layer can be felt, from gradients through a stack of `MultigridConv`.

    Weights and inputs are positive, so that no ReLU is closed and nothing cancels. The derivatives of all outputs by
    the one input come from two backward passes: that of a layer's cotangent is linear in it.

    Args:
      sizes: sides of the levels; every layer has them all. One side alone is a standard architecture.
      num_layers: m, the first included.
      source_level: index into `sizes`.
      source: (row, column) in that level, from 0.

    Returns:
      List (layers) of lists (levels) of boolean [s, s].
    """
    generator = np.random.default_rng(0)
    layers = [MultigridConv(sizes, 1, activation="linear", dtype="float64") for _ in range(num_layers - 1)]
    inputs = [generator.uniform(1, 2, [1, size, size, 1]) for size in sizes]
    inputs[source_level][0, source[0], source[1], 0] = 1e6  # the largest of its block, so that max-pooling hands it on
    spot = np.zeros([1, sizes[source_level], sizes[source_level], 1])
    spot[0, source[0], source[1], 0] = 1
    for layer in layers:
        layer.build([x.shape for x in inputs])
        for kernel, bias in zip(layer.kernels, layer.biases, strict=True):
            kernel.assign(generator.uniform(0.5, 1, kernel.shape) / 9)
            bias.assign(np.zeros(bias.shape))

    @tf.function
    def derivatives():
        amount = tf.constant(0.0, tf.float64)
        with tf.GradientTape(persistent=True) as outer:
            cotangents = [[tf.ones_like(x) for x in inputs] for _ in range(num_layers)]
            outer.watch(cotangents)
            with tf.GradientTape(persistent=True) as inner:
                inner.watch(amount)
                stages = [[x + amount * spot if i == source_level else x + 0 * amount for i, x in enumerate(inputs)]]
                for layer in layers:
                    stages.append(layer(stages[-1]))
            products = [
                [inner.gradient(grid, amount, u) for grid, u in zip(stage, us, strict=True)]
                for stage, us in zip(stages, cotangents, strict=True)
            ]
        return [
            [outer.gradient(p, u, unconnected_gradients="zero") for p, u in zip(ps, us, strict=True)]
            for ps, us in zip(products, cotangents, strict=True)
        ]

    return [[grid.numpy()[0, :, :, 0] != 0 for grid in stage] for stage in derivatives()]


def proposition_1(layer, level):
    """Side of the square, from the corner (1, 1), that the coarsest level's corner reaches at [layer, level] >= 1."""
    return (layer - level + 2) * 2 ** (level - 1) - 1


def figure_1(num_layers=6):
    """The figure: from cell (26, 26) of the finest level, multigrid above, standard below."""
    sizes = (6, 12, 24, 48)
    multigrid = reach(sizes, num_layers, len(sizes) - 1, (25, 25))
    standard = [stage[0] for stage in reach(sizes[-1:], num_layers, 0, (25, 25))]
    return plotting.routing_figure(multigrid, standard, "Where the information of one cell can be, layer by layer")
