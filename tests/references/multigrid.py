"""Multigrid layers in numpy, in the order of the equations; slow loops, any float dtype."""

import itertools

import numpy as np


def up(grid):
    for axis in range(1, grid.ndim - 1):
        grid = np.repeat(grid, 2, axis)
    return grid


def blocks(grid):
    """The 2 (x 2) cells of every block: list of arrays of half the side."""
    rank = grid.ndim - 2
    offsets = itertools.product(*[(0, 1)] * rank)
    return [grid[(slice(None), *(slice(o, None, 2) for o in offset))] for offset in offsets]


def down(grid):
    return np.maximum.reduce(blocks(grid))


def route(pyramid, sizes):
    by_size = {g.shape[1]: g for g in pyramid}
    routed = []
    for size in sizes:
        parts = []
        if size % 2 == 0 and size // 2 in by_size:
            parts.append(up(by_size[size // 2]))
        if size in by_size:
            parts.append(by_size[size])
        if 2 * size in by_size:
            parts.append(down(by_size[2 * size]))
        routed.append(np.concatenate(parts, -1))
    return routed


def convolution(x, kernel):
    """Zero-padded SAME cross-correlation of [N, s, (s,) C] with [k, (k,) C, F]."""
    rank, half = x.ndim - 2, kernel.shape[0] // 2
    padded = np.pad(x, [(0, 0), *[(half, half)] * rank, (0, 0)])
    out = np.zeros((*x.shape[:-1], kernel.shape[-1]), x.dtype)
    for offset in itertools.product(*[range(kernel.shape[0])] * rank):
        window = tuple(slice(o, o + s) for o, s in zip(offset, x.shape[1:-1], strict=True))
        out += padded[(slice(None), *window)] @ kernel[offset]
    return out


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def conv_lstm(inputs, state, kernel, bias, forget_bias, peepholes=None):
    """Inputs [T, B, s, (s,) C] and state (c, h): hidden grids and the final state."""
    c, h = state
    w_ci, w_cf, w_co = peepholes if peepholes else (0, 0, 0)
    outputs = []
    for x in inputs:
        i, g, f, o = np.split(convolution(np.concatenate([x, h], -1), kernel) + bias, 4, -1)
        i, f = sigmoid(i + w_ci * c), sigmoid(f + w_cf * c + forget_bias)
        c = f * c + i * np.tanh(g)
        h = sigmoid(o + w_co * c) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs), (c, h)


def reach(sizes, num_layers, source_level, source):
    """Proposition 1 by brute force: booleans carried through up, down and 3x3 neighbourhoods."""
    pyramid = [np.zeros((1, s, s, 1), bool) for s in sizes]
    pyramid[source_level][0, source[0], source[1], 0] = True
    stages = [pyramid]
    for _ in range(num_layers - 1):
        routed = [r.any(-1, keepdims=True).astype(float) for r in route(stages[-1], sizes)]
        stages.append([convolution(r, np.ones((3, 3, 1, 1))) > 0 for r in routed])
    return [[g[0, :, :, 0] for g in stage] for stage in stages]
