"""Random City (Gregor et al. 2019, §4, Appendix H): a plane with boxes of random size and colour, seen by a walker.

The generator and the agent: not specified; we use the numbers below. Boxes stand parallel to the axes on a square of
pavement, with gaps that the agent fits through. Around it is grass, which the agent does not enter. The agent starts in
the middle, which is kept free. There is no reward and no end.
"""

import colorsys

import numpy as np

from tfmem.envs.rendering import FAR, Scene, boxes, rectangles
from tfmem.envs.worlds import World, WorldEnv, WorldVectorEnv
from tfmem.validation import check_integer, check_range

# Lengths in units of the world.
BOX_SIDE = (0.8, 2.2)
BOX_HEIGHT = (0.6, 3.0)
GAP = 0.7  # between boxes, and between them and the edge
RADIUS = 0.25  # of the agent: it keeps this distance from boxes and the edge
START_RADIUS = 1.0  # kept free in the middle
EYE_HEIGHT = 0.7
VISIBILITY = 30.0
DRAWS = 100  # of a place for each box
PAVEMENT, TILE_CONTRAST, GRASS = (150, 146, 140), 7, (96, 128, 72)


class City(World):
    """A city and its walker.

    Args:
        frame_size: side of the frames, pixels (64: the paper's size of ConvDRAW's images).
        map_size: side of the map, pixels; not specified.
        field_of_view: of the camera, degrees; not specified.
        num_boxes: most boxes of a city: one that finds no place in DRAWS draws is left out (of 14, 9 to 14 stay);
            not specified.
        side: of the square, whole units, an int; not specified.
        speed: length of a move, at most BOX_SIDE[0]; not specified.
        num_headings: turns that make a full circle; not specified.

    Attributes:
        lower, upper: corners of the boxes, [N, 3], from `reset` on.
        colors: of the boxes, uint8 [N, 3], from `reset` on.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self, frame_size=64, map_size=32, field_of_view=80.0, num_boxes=14, side=12, speed=0.5, num_headings=12
    ):
        super().__init__(frame_size, map_size, field_of_view, speed, num_headings)
        check_integer("num_boxes", num_boxes, 0)
        check_integer("side", side, 6)
        check_range("speed", speed, 0, BOX_SIDE[0])  # else it might jump over a box
        self.num_boxes, self.side = num_boxes, side

    def make(self, rng):
        low, high = [], []
        limit = self.side / 2 - GAP
        for _ in range(self.num_boxes):
            size = rng.uniform(BOX_SIDE[0], BOX_SIDE[1], 2)
            centers = rng.uniform(-1, 1, [DRAWS, 2]) * (limit - size / 2)
            lower, upper = centers - size / 2, centers + size / 2
            outside = np.clip(0, lower, upper)  # the point of the box that is nearest to the middle
            fits = np.hypot(*outside.T) > START_RADIUS
            for other_lower, other_upper in zip(low, high, strict=True):
                fits &= ((lower > other_upper + GAP) | (upper < other_lower - GAP)).any(axis=1)
            if fits.any():
                first = np.argmax(fits)
                low.append(lower[first])
                high.append(upper[first])
        count = len(low)
        heights, hues = rng.uniform(*BOX_HEIGHT, count), rng.uniform(size=count)
        saturations, values = rng.uniform(0.55, 1, count), rng.uniform(0.65, 1, count)
        colors = [colorsys.hsv_to_rgb(*hsv) for hsv in zip(hues, saturations, values, strict=True)]
        self.colors = np.rint(255 * np.reshape(colors, [-1, 3])).astype(np.uint8)
        self.lower = np.column_stack([np.reshape(low, [-1, 2]), np.zeros(count)])
        self.upper = np.column_stack([np.reshape(high, [-1, 2]), heights])
        self.scene = Scene([*self._ground(), boxes(self.lower, self.upper, self.colors)], VISIBILITY)
        self.map = self.scene.top_down(self.map_size, self.side)

    def _ground(self):
        """Pavement of tiles, one unit each, and grass a little lower."""
        corner = np.arange(self.side) - self.side / 2
        corners = np.stack(np.meshgrid(corner, corner), axis=-1).reshape(-1, 2)
        odd = (corners + self.side / 2).sum(axis=1) % 2
        tiles = np.array(PAVEMENT) + TILE_CONTRAST * (2 * odd[:, None] - 1)
        yield rectangles(corners, corners + 1, 0.0, tiles.astype(np.uint8))
        yield rectangles([[-FAR, -FAR]], [[FAR, FAR]], -0.02, np.uint8([GRASS]))

    def eye(self):
        return EYE_HEIGHT

    def free(self, x, y):
        if max(abs(x), abs(y)) > self.side / 2 - RADIUS:
            return False
        place = np.array([x, y])
        inside = (place > self.lower[:, :2] - RADIUS) & (place < self.upper[:, :2] + RADIUS)
        return not inside.all(axis=1).any()


class RandomCityEnv(WorldEnv):
    """`City` as a `gymnasium.Env`, "tfmem/RandomCity-v0": `RandomCityEnv(render_mode=None, **arguments of City)`."""

    world_class = City


class RandomCityVectorEnv(WorldVectorEnv):
    """Cities side by side, `gymnasium.make_vec("tfmem/RandomCity-v0", num_envs, **arguments of City)`."""

    world_class = City
