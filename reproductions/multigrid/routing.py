"""Proposition 1 and Figure 1 of the supplement: how far information travels through multigrid and standard layers."""

import numpy as np
import tensorflow as tf

from tfmem.cores.multigrid import MultigridConv

from .figures import routing_figure


def reach(sizes, num_layers, source_level, source):
    """Find the reach of one cell of the first layer through `MultigridConv`: the cells that change with it.

    Weights and inputs are positive, so that every ReLU is open and nothing cancels.

    Args:
      sizes: sides of the levels; every layer has all of them. A single side is a standard architecture.
      num_layers: m, the first included.
      source_level: index into `sizes`.
      source: (row, column) in that level, from 0.

    Returns:
      List (layers) of lists (levels) of boolean [s, s].
    """
    generator = np.random.default_rng(0)
    layers = [MultigridConv(sizes, 1, activation="linear", dtype="float64") for _ in range(num_layers - 1)]
    inputs = [np.repeat(generator.uniform(1, 2, [1, size, size, 1]), 2, axis=0) for size in sizes]
    # The largest of its block in both elements of the batch, so that it passes max-pooling.
    inputs[source_level][:, source[0], source[1], 0] = 1e6, 2e6
    stages = [[tf.constant(x) for x in inputs]]
    for layer in layers:
        layer.build([x.shape for x in stages[-1]])
        for kernel, bias in zip(layer.kernels, layer.biases, strict=True):
            kernel.assign(generator.uniform(0.5, 1, kernel.shape) / 9)
            bias.assign(np.zeros(bias.shape))
        stages.append(layer(stages[-1]))
    return [[(grid[0] != grid[1]).numpy()[..., 0] for grid in stage] for stage in stages]


def proposition_1(layer, level):
    """Side of the square, from the corner (1, 1), that the coarsest level's corner reaches at [layer, level] >= 1."""
    return (layer - level + 2) * 2 ** (level - 1) - 1


def figure_1(num_layers=6):
    """Draw the figure: from cell (26, 26) of the finest level, multigrid above, standard below."""
    sizes = (6, 12, 24, 48)
    multigrid = reach(sizes, num_layers, len(sizes) - 1, (25, 25))
    standard = [stage[0] for stage in reach(sizes[-1:], num_layers, 0, (25, 25))]
    return routing_figure(multigrid, standard, "Where the information of one cell can be, layer by layer")
