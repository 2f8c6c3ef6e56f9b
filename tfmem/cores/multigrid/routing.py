"""Routing between the levels of pyramids, and the convolution of the routed input.

    x_j = concat( up(g_{j-1}), g_j, down(g_{j+1}) )

with nearest-neighbor x2 `up` and 2x2 max-pool `down`; terms that the previous layer lacks are left out.
"""

import itertools

import tensorflow as tf

from tfmem.validation import is_integer, positive_int

# Side times channels of a grid from which `upsampled_convolution` is faster than a convolution of the upsampled grid
# (measured on a CPU for sides of 3 to 24 and 4 to 32 channels: 0.63 to 1.03 of the time above it, 0.97 to 1.37 below).
LARGE = 96


def downsample(grid):
    """2x2 (1-D: 2) max-pool of stride 2, no padding: [N, s, (s,) C] to [N, s/2, (s/2,) C]."""
    window = [2] * (grid.shape.rank - 2)
    return tf.nn.pool(grid, window, "MAX", strides=window, padding="VALID")


def upsample(grid):
    """Nearest neighbour x2: [N, s, (s,) C] to [N, 2 s, (2 s,) C]."""
    for axis in range(1, grid.shape.rank - 1):
        # Not tf.repeat: XLA cannot compile its gradient inside a loop.
        before, after = grid.shape[1 : axis + 1], grid.shape[axis + 1 :]
        grid = tf.reshape(tf.stack([grid, grid], axis + 1), [-1, *before[:-1], 2 * before[-1], *after])
    return grid


def upsampled_convolution(grid, kernel):
    """W * up(x) of x [N, s, (s,) C], without up(x) itself.

    It is the transposed convolution of stride 2 whose kernel is W spread over the 2x2 cells that share a value: less
    than half of the multiplications.
    """
    rank = grid.shape.rank - 2
    spread = tf.add_n(
        [
            tf.pad(kernel, [*((o, 1 - o) for o in offset), (0, 0), (0, 0)])
            for offset in itertools.product((0, 1), repeat=rank)
        ]
    )
    spread = tf.reverse(tf.linalg.matrix_transpose(spread), list(range(rank)))
    shape = [tf.shape(grid)[0], *(2 * side for side in grid.shape[1:-1]), kernel.shape[-1]]
    return tf.nn.conv_transpose(grid, spread, shape, 2, "SAME")


def sources(input_sizes, size):
    """Indices of the input grids that feed a grid of side `size`: (coarser, same, finer), None where missing."""
    index = {s: i for i, s in enumerate(input_sizes)}
    return index.get(size // 2 if size % 2 == 0 else None), index.get(size), index.get(size * 2)


def routed_convolution(pyramid, size, kernel):
    """W * x_j of the routing above, for the level of side `size`.

    Args:
      pyramid: grids [N, s, (s,) C].
      size: side of the output level.
      kernel: W, [k, (k,) sum of the sources' C, F], channels in the order coarser, same, finer.

    Returns:
      [N, size, (size,) F].
    """
    coarser, same, finer = (
        None if i is None else pyramid[i] for i in sources([grid.shape[1] for grid in pyramid], size)
    )
    found = sum(grid.shape[-1] for grid in (coarser, same, finer) if grid is not None)
    if found != kernel.shape[-2]:
        shapes = [tuple(grid.shape) for grid in pyramid]
        raise ValueError(
            f"inputs: {shapes} with {found} channels for the level of side {size}, must have {kernel.shape[-2]}"
        )
    terms, rest, used = [], [], 0
    if coarser is not None and coarser.shape[1] * coarser.shape[-1] >= LARGE:
        used = coarser.shape[-1]
        terms.append(upsampled_convolution(coarser, kernel[..., :used, :]))
    elif coarser is not None:
        rest.append(upsample(coarser))
    rest += [] if same is None else [same]
    rest += [] if finer is None else [downsample(finer)]
    if rest:
        x = tf.concat(rest, axis=-1) if len(rest) > 1 else rest[0]
        terms.append(tf.nn.convolution(x, kernel[..., used:, :], padding="SAME"))
    return tf.add_n(terms) if len(terms) > 1 else terms[0]


def routed_channels(input_shapes, sizes):
    """Number of channels of each routed input, checked: every output level must have a source.

    Raises:
      ValueError: a side in `sizes` has no input grid of half, the same or twice its side.
    """
    input_sizes = [shape[-2] for shape in input_shapes]
    channels = []
    for size in sizes:
        found = [i for i in sources(input_sizes, size) if i is not None]
        if not found:
            raise ValueError(f"sizes: {size}, must be half, the same or twice the side of an input grid, {input_sizes}")
        channels.append(sum(input_shapes[i][-1] for i in found))
    return channels


def check_sizes(sizes):
    """Return `sizes` as ints; raise a ValueError unless they double from level to level."""
    sizes = tuple(sizes)
    if not sizes or not all(map(is_integer, sizes)) or any(b != 2 * a for a, b in itertools.pairwise(sizes)):
        raise ValueError(f"sizes: {sizes}, must be sides that double from level to level, such as (3, 6, 12)")
    return tuple(map(int, sizes))


def check_odd(name, value):
    """Return `value` as an int; raise a ValueError unless it is positive and odd."""
    value = positive_int(name, value)
    if value % 2 == 0:
        raise ValueError(f"{name}: {value!r}, must be odd: the levels of a pyramid share their centers")
    return value
