"""Probes: maps and positions decoded from beliefs, without a gradient into them (Gregor et al. 2019, Appendix E, I)."""

import math

import sonnet as snt
import tensorflow as tf

from tfmem.axes import merge_leading, split_leading
from tfmem.cores.base import Linear
from tfmem.models.belief.agent import HE
from tfmem.validation import check_positive, check_sizes


class MapDecoder(snt.Module):
    """Top-down maps decoded from beliefs, without a gradient into the beliefs (Appendix I).

    The layers are not specified; we use a linear map to a grid of an eighth of the sides, then three 4x4 transposed
    convolutions of stride 2, with ReLU between. A value is 1/2 + 1/4 of the output. Weights start with a variance of
    2 / fan-in (He et al. 2015). With Sonnet's start, maps stayed at their mean for a thousand updates, even with a
    gradient into the beliefs.

    A model of maps to sample from: `ConvDRAW(map_shape, belief_size)`, given `tf.stop_gradient` of the beliefs.

    Args:
      belief_size: C.
      map_shape: (height, width, channels) of the maps.
      channels: of the grid and of the two hidden layers.
    """

    def __init__(self, belief_size, map_shape, channels=(64, 32, 16), name="MapDecoder"):
        super().__init__(name=name)
        check_positive(belief_size=belief_size)
        check_sizes(map_shape=map_shape, channels=channels)
        for argument, value in {"map_shape": map_shape, "channels": channels}.items():
            if len(value) != 3:
                raise ValueError(f"{argument}: {value!r}, must be three integers")
        height, width, map_channels = map_shape
        # From the map back to the grid; sides that are odd are halved upwards.
        sides = [(-(-height // n), -(-width // n)) for n in (1, 2, 4, 8)]
        self.grid = (*sides[3], channels[0])
        self.linear = Linear(math.prod(self.grid), w_init=HE)
        starts = [snt.initializers.TruncatedNormal(stddev=(2 / (4 * n)) ** 0.5) for n in channels]  # a cell sees four
        self.layers = [
            snt.Conv2DTranspose(n, 4, output_shape=shape, stride=2, w_init=start)
            for n, shape, start in zip([*channels[1:], map_channels], sides[2::-1], starts, strict=True)
        ]
        self(tf.zeros([1, belief_size]))  # makes the variables

    def __call__(self, beliefs):
        """Maps [..., height, width, channels] of beliefs [..., C]."""
        x = self.linear(tf.stop_gradient(merge_leading(beliefs, beliefs.shape.rank - 1)))
        x = tf.reshape(x, [-1, *self.grid])
        for layer in self.layers:
            x = layer(tf.nn.relu(x))
        return split_leading(0.5 + 0.25 * x, beliefs, 1)


def map_mse(decoded, maps):
    """Mean squared error over the pixels of a map, along trajectories (Figure 12).

    Args:
      decoded: [T, B, height, width, channels].
      maps: the same, or [B, height, width, channels] where they do not change.

    Returns:
      [T, B].
    """
    return tf.reduce_mean(tf.square(decoded - maps), [-3, -2, -1])


class PositionDecoder(snt.Module):
    """The agent's cell of a grid decoded from beliefs, without a gradient into the beliefs.

    Paper: the position's accuracy (Appendix E). The layers are not specified; we use one hidden layer with ReLU, then a
    softmax over cells.

        logits, cells = decoder(beliefs), position_cells(positions, side, cells_per_side)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(cells, logits)

    Args:
      belief_size: C.
      num_cells: cells of the grid.
      hidden_size: units.
    """

    def __init__(self, belief_size, num_cells, hidden_size=256, name="PositionDecoder"):
        super().__init__(name=name)
        check_positive(belief_size=belief_size, num_cells=num_cells, hidden_size=hidden_size)
        self.hidden, self.logits = Linear(hidden_size, w_init=HE), Linear(num_cells)
        self(tf.zeros([1, belief_size]))  # makes the variables

    def __call__(self, beliefs):
        """Logits [..., num_cells] of beliefs [..., C]."""
        return self.logits(tf.nn.relu(self.hidden(tf.stop_gradient(beliefs))))


def position_cells(positions, side, cells_per_side):
    """The cell of each position, int32 [...], for a `PositionDecoder` of `cells_per_side ** 2` cells.

    Args:
      positions: [..., 2], from the middle of a square; positions outside belong to the nearest cell.
      side: of the square, in the same unit.
      cells_per_side: cells along each side.
    """
    cells = tf.cast(tf.floor((positions / side + 0.5) * cells_per_side), tf.int32)
    first, second = tf.unstack(tf.clip_by_value(cells, 0, cells_per_side - 1), axis=-1)
    return first * cells_per_side + second
