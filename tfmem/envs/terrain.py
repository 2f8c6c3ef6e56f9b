"""Procedural Terrain (Gregor et al. 2019, Appendix I): hills and water, and 20 yellow blocks to be collected.

From the paper: the world is 64 x 64, procedurally generated, the agent slower than in Random City, 20 randomly placed
yellow blocks give reward, and the ground truth is a top-down view. The rest: not specified. The height map is fractal
noise: octaves of gradient noise (Perlin 1985), each with twice the frequency and half the height of the one before,

    height(x) = sum_o 2^-o noise_o(2^o x) ,   noise(x) = sum over corners c of x's cell of s(x - c) g_c . (x - c) ,

with g random unit vectors and s the product of 1 - 6|d|^5 + 15|d|^4 - 10|d|^3 over both axes. A point of the map is one
unit from the next; two triangles join four of them. Water fills what lies below 0. The agent walks on the surface,
wades through water, and collects a block by coming within REACH of it: reward 1, and the block is gone. With the last
one the episode ends.
"""

import copy

import numpy as np
import trimesh

from tfmem.envs.rendering import FAR, Scene, boxes, mesh, rectangles
from tfmem.envs.worlds import World, WorldEnv, WorldVectorEnv
from tfmem.validation import check_integer, check_range

# Lengths in units of the world.
OCTAVES = 4
LATTICE = 20.0  # side of the first octave's cells
HEIGHT = 7.0  # of the highest summit above the water
WATER_SHARE = 0.25  # of the world
EYE_HEIGHT = 1.2
BORDER = 1.5  # that the agent stays away from the edge
BLOCK_SIDE, REACH = 1.2, 1.2
BLOCK_BORDER, BLOCK_SHORE, BLOCK_START = 3, 0.2, 4.0  # blocks' distance from edge, water (height) and start
VISIBILITY = 45.0
WATER, YELLOW = (52, 96, 150), (255, 214, 0)
# Colours by height above the water, as a share of HEIGHT: sand, meadow, wood, rock, snow; steep faces are rock.
BANDS = (0.04, 0.3, 0.55, 0.8)
GROUNDS = np.array([(206, 186, 132), (112, 158, 66), (58, 112, 56), (128, 116, 104), (240, 242, 246)])
ROCK, STEEP = 3, 0.72  # the normal's z below which a face is steep
GRAIN = 0.08  # of the colours, from face to face


def gradient_noise(rng, size, cell):
    """Gradient noise at the points (i, j), 0 <= i, j < size, of a lattice with cells of this side: [size, size]."""
    place = np.arange(size) / cell
    corner = place.astype(int)
    offset = place - corner
    angle = rng.uniform(0, 2 * np.pi, [corner[-1] + 2] * 2)
    gradients = np.stack([np.cos(angle), np.sin(angle)])

    def fade(d):
        d = np.abs(d)
        return 1 - d**3 * (d * (6 * d - 15) + 10)

    noise = np.zeros([size, size])
    for i, j in np.ndindex(2, 2):
        g = gradients[:, corner[:, None] + i, corner + j]
        u, v = (offset - i)[:, None], offset - j
        noise += fade(u) * fade(v) * (g[0] * u + g[1] * v)
    return noise


def fractal_heights(rng, size):
    """A height map [size, size]: the WATER_SHARE of it is below 0, the highest point at HEIGHT."""
    octaves = [gradient_noise(rng, size, LATTICE / 2**o) / 2**o for o in range(OCTAVES)]
    heights = np.sum(octaves, axis=0)
    heights -= np.quantile(heights, WATER_SHARE)
    return heights * (HEIGHT / heights.max())


class Terrain(World):
    """A terrain, its blocks and its walker.

    Args:
        frame_size: side of the frames, pixels (64: the paper's size of ConvDRAW's images).
        map_size: side of the map, pixels; not specified.
        field_of_view: of the camera, degrees; not specified.
        size: points of a side of the height map (Appendix I: 64), at least 16.
        num_blocks: yellow blocks (Figure 11: 20).
        speed: length of a move; "slower" than in Random City (Figure 11); not specified.
        num_headings: turns that make a full circle; not specified.

    Attributes:
        heights: [size, size], rows from south to north, columns from west to east, from `reset` on.
        placed: places of all blocks at the start, [num_blocks, 2], from `reset` on.
        blocks: places of the blocks that are left, [N, 2], from `reset` on.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self, frame_size=64, map_size=64, field_of_view=80.0, size=64, num_blocks=20, speed=0.4, num_headings=12
    ):
        super().__init__(frame_size, map_size, field_of_view, speed, num_headings)
        check_integer("size", size, 16)
        check_integer("num_blocks", num_blocks, 1, (size - 2 * BLOCK_BORDER) ** 2)
        self.size, self.num_blocks, self.side = size, num_blocks, size - 1
        check_range("speed", speed, 0, self.side)

    def make(self, rng):
        self.heights = fractal_heights(rng, self.size)
        place = np.arange(self.size) - self.side / 2
        x, y = np.meshgrid(place, place)
        points = np.arange(self.size**2).reshape(self.size, self.size)
        sw, se, nw, ne = points[:-1, :-1], points[:-1, 1:], points[1:, :-1], points[1:, 1:]
        faces = np.stack([sw, se, ne, sw, ne, nw], axis=-1).reshape(-1, 3)
        vertices = np.stack([x, y, self.heights], axis=-1).reshape(-1, 3)
        triangles = vertices[faces]
        normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        steep = normals[:, 2] < STEEP * np.linalg.norm(normals, axis=1)
        ground = np.searchsorted(BANDS, triangles[:, :, 2].mean(axis=1) / HEIGHT)
        ground = np.where(steep & (ground > 0), ROCK, ground)
        grain = 1 + GRAIN * rng.uniform(-1, 1, [len(faces), 1])
        colors = np.clip(GROUNDS[ground] * grain, 0, 255).astype(np.uint8)
        water = rectangles([[-FAR, -FAR]], [[FAR, FAR]], 0.0, np.uint8([WATER]))
        self._land = trimesh.util.concatenate([mesh(vertices, faces, colors), water])
        self._place_blocks(rng, np.stack([x, y], axis=-1))
        self._draw()

    def _place_blocks(self, rng, points):
        """Blocks stand on different points of the height map, on land and not at the start where there are enough."""
        inner = slice(BLOCK_BORDER, -BLOCK_BORDER)
        points, heights = points[inner, inner].reshape(-1, 2), self.heights[inner, inner].ravel()
        fit = (heights > BLOCK_SHORE) & (np.hypot(*points.T) > BLOCK_START)
        order = rng.permutation(len(points))
        order = order[np.argsort(~fit[order], kind="stable")][: self.num_blocks]
        self.placed = self.blocks = points[order]

    @property
    def left(self):
        """True for each of `placed` that is left, bool [num_blocks]."""
        return (self.placed[:, np.newaxis] == self.blocks).all(-1).any(-1)

    def with_blocks(self, left):
        """A copy of this terrain in which the blocks of `left`, bool [num_blocks], are left."""
        other = copy.copy(self)
        other.blocks = self.placed[left]
        other._draw()
        return other

    def _draw(self):
        """Scene and map of the land and the blocks that are left."""
        bottom = np.array([self.surface(*place) for place in self.blocks]).reshape(-1, 1)
        lower = np.hstack([self.blocks - BLOCK_SIDE / 2, bottom - BLOCK_SIDE / 4])
        upper = np.hstack([self.blocks + BLOCK_SIDE / 2, bottom + 3 * BLOCK_SIDE / 4])
        yellow = np.tile(np.uint8(YELLOW), [len(lower), 1])
        self.scene = Scene([self._land, boxes(lower, upper, yellow)], VISIBILITY)
        self.map = self.scene.top_down(self.map_size, self.side)

    def surface(self, x, y):
        """Height of what one stands on at (x, y): the triangle there, or the water's surface."""
        column, row = x + self.side / 2, y + self.side / 2
        j, i = (min(int(place), self.size - 2) for place in (column, row))
        u, v = column - j, row - i
        (sw, se), (nw, ne) = self.heights[i : i + 2, j : j + 2]
        height = sw + u * (se - sw) + v * (ne - se) if u > v else sw + v * (nw - sw) + u * (ne - nw)
        return max(height, 0.0)

    def eye(self):
        return self.surface(*self.position) + EYE_HEIGHT

    def free(self, x, y):
        return max(abs(x), abs(y)) <= self.side / 2 - BORDER

    def reached(self):
        left = np.hypot(*(self.blocks - self.position).T) > REACH
        if left.all():
            return 0.0, False
        collected = int((~left).sum())
        self.blocks = self.blocks[left]
        self._draw()
        return float(collected), not len(self.blocks)


class TerrainEnv(WorldEnv):
    """`Terrain` as a `gymnasium.Env`, "tfmem/Terrain-v0": `TerrainEnv(render_mode=None, **arguments of Terrain)`."""

    world_class = Terrain


class TerrainVectorEnv(WorldVectorEnv):
    """Terrains side by side, `gymnasium.make_vec("tfmem/Terrain-v0", num_envs, **arguments of Terrain)`."""

    world_class = Terrain
