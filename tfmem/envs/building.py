"""Building levels (after Gregor et al. 2019, Appendix J): food on a cliff that needs a staircase of loose blocks.

Paper: harder levels of a closed voxel world: a higher cliff, for which the agent builds a longer staircase, and food at
greater heights, for which it builds stairs and towers. Nothing else is specified; we use a small world
designed for tfmem.

The world is a grid of columns of voxels (unit cubes) on a square of ground:

    STONE   the cliff, a plateau along one side of the square, and pillars; cannot be moved
    LOOSE   blocks that the agent picks up and places
    WALL    columns as high as the grid; cannot be climbed
    FOOD    lies on a column; the agent eats it by stepping there: reward 1. With the last piece the episode ends

A column has no gaps. The agent stands on the column of its cell, of height h. With g the height of the next cell's
column in the agent's direction, its actions are

    forward, backward   one cell, if g <= h + 1 there: it climbs one block and drops from any height
    turn left, right    90 degrees
    pick up             the top block of the column ahead, if it is loose and |g - 1 - h| <= 1; the hand holds one block
    place               the block in hand on the column ahead, if no food lies there and |g - h| <= 1; no column gets
                        higher than the highest one of stone by more than one block

What is out of the rules has no effect. A cliff of height H needs stairs of heights 1 to H - 1, so H (H - 1) / 2 blocks;
a pillar alike. Every level can be solved: there are at least so many blocks for each of them, the ground is connected,
and H cells in a line before each of them are free of walls. An agent can spoil a level by leaving blocks on the cliff.
"""

import numpy as np

from tfmem.envs.rendering import FAR, Scene, boxes, rectangles, voxels
from tfmem.envs.worlds import ACTIONS, BACKWARD, FORWARD, World, WorldEnv, WorldVectorEnv
from tfmem.validation import check_integer

PICK_UP, PLACE = len(ACTIONS), len(ACTIONS) + 1
EMPTY, STONE, LOOSE, WALL, FOOD = range(5)
DIRECTIONS = np.array([(0, 1), (-1, 0), (0, -1), (1, 0)])  # by the agent's turns: north, west, south, east
HEADROOM = 3  # layers above cliff and pillars; walls fill them, the agent may build in the first
DRAWS = 200  # of a level until everything has a place
# Lengths in units of the world.
EYE_HEIGHT = 1.2
VISIBILITY = 30.0
FOOD_SIDE = 0.5
COLORS = np.array([(0, 0, 0), (132, 130, 134), (176, 92, 44), (84, 72, 110), (255, 214, 0)])  # by kind
CONTRAST = 12  # between neighbouring voxels or tiles of one kind
LAYER_LIGHT = 14  # by which a layer is brighter than the one below, so that maps show heights
MEADOW, WATER = (104, 146, 70), (52, 96, 150)
HAND = [[0.55, -0.42, -0.52], [0.85, -0.12, -0.22]]  # the block in hand: its corners ahead, to the left, up of the eye


class Building(World):
    """A building level and its agent; see the top of this file. No value is specified.

    Args:
        frame_size: side of the frames, pixels.
        map_size: side of the map, pixels.
        field_of_view: of the camera, degrees.
        size: cells of a side, odd, at least 5. A fifth of the world is the cliff; the agent starts in the middle.
        cliff: H, height of the cliff; 0: there is none.
        num_food: pieces of food on the cliff, or without one on the ground.
        pillars: heights of pillars with a piece of food on each.
        num_blocks: loose blocks; None: as many as the stairs need.
        num_walls: columns of wall.

    Attributes:
        voxels: uint8 [size, size, layers], from west to east, from south to north, upwards; from `reset` on.
        heights: of the columns without food, int [size, size]; from `reset` on.
        carries: True if a block is in the hand.

    Raises:
        ValueError: an argument out of its range; also by `reset`, where the level has no room for all.
    """

    actions = (*ACTIONS, "pick up", "place")

    def __init__(
        self,
        frame_size=64,
        map_size=36,
        field_of_view=100.0,
        size=9,
        cliff=2,
        num_food=1,
        pillars=(),
        num_blocks=None,
        num_walls=0,
    ):
        super().__init__(frame_size, map_size, field_of_view, speed=1.0, num_headings=len(DIRECTIONS))
        if not isinstance(pillars, tuple | list):
            raise ValueError(f"pillars: {pillars!r}, must be a tuple or list of positive integers")
        pillars = tuple(pillars)
        check_integer("size", size, 5)
        if size % 2 != 1:
            raise ValueError(f"size: {size}, must be odd")
        check_integer("cliff", cliff, 0, size - round(size / 5))
        check_integer("num_food", num_food, 0 if pillars else 1, size)
        check_integer("num_walls", num_walls, 0)
        for height in pillars:
            check_integer("pillars", height, 1, size - 1)
        needed = sum(height * (height - 1) // 2 for height in (cliff, *pillars))
        num_blocks = needed if num_blocks is None else num_blocks
        check_integer("num_blocks", num_blocks, needed, size**2)
        self.size, self.side, self.cliff, self.num_food, self.pillars = size, size, cliff, num_food, pillars
        self.num_blocks, self.num_walls = num_blocks, num_walls
        self.carries = False
        self._hand = self._hand_picture()

    # The level

    def make(self, rng):
        self.carries = False
        for _ in range(DRAWS):
            level = self._draw_level(rng)
            if level is not None:
                self.voxels = np.rot90(level, rng.integers(4)).copy()
                break
        else:
            raise ValueError(f"size: {self.size}, must be larger: {DRAWS} drawn levels had no room for all")
        tiles = np.indices([self.size] * 2).reshape(2, -1).T
        colors = np.array(MEADOW) + CONTRAST * (2 * (tiles.sum(axis=1, keepdims=True) % 2) - 1)
        corners = tiles - self.side / 2
        water = rectangles([[-FAR, -FAR]], [[FAR, FAR]], -0.05, np.uint8([WATER]))
        ground = rectangles(corners, corners + 1, 0.0, colors.astype(np.uint8))
        self._ground = [ground, water]
        self._draw()

    def _draw_level(self, rng):
        """Draw a level's voxels, with the cliff in the north; None if something found no place."""
        size, depth = self.size, round(self.size / 5) if self.cliff else 0
        level = np.zeros([size, size, max(self.cliff, *self.pillars, 0) + HEADROOM], np.uint8)
        plateau = np.tile(np.arange(size) >= size - depth, [size, 1])
        level[plateau, : self.cliff] = STONE
        ground, line, stairs = ~plateau, np.zeros_like(plateau), np.zeros_like(plateau)
        start = size // 2, size // 2

        def place(mask, number):
            """Draw different cells of a mask, [number, 2]; None if it has fewer."""
            cells = rng.permutation(np.argwhere(mask))
            return cells[:number] if len(cells) >= number else None

        def keep(cells):
            """Keep cells, [N, 2], for stairs and for the foot, the last one."""
            line[tuple(cells.T)] = True
            stairs[tuple(cells[:-1].T)] = True

        if self.cliff:
            keep((rng.integers(size), size - depth - 1) - np.arange(self.cliff)[:, None] * (0, 1))
        for height in self.pillars:
            found = self._pillar(rng, ground & ~line, start, height)
            if found is None:
                return None
            (x, y), cells = found
            level[x, y, :height], level[x, y, height] = STONE, FOOD
            ground[x, y] = False
            keep(cells)
        walls = 0
        for x, y in rng.permutation(np.argwhere(ground & ~line)):
            if walls == self.num_walls:
                break
            ground[x, y] = False
            if (x, y) == start or not _connected(ground & ~stairs):
                ground[x, y] = True
            else:
                level[x, y], walls = WALL, walls + 1
        if walls < self.num_walls or not _connected(ground & ~stairs):
            return None
        room = ground & ~line
        room[start] = False
        food = place(plateau if self.cliff else room, self.num_food)
        if food is None:
            return None
        level[food[:, 0], food[:, 1], self.cliff] = FOOD
        high = np.pad(level[:, :, 1] == STONE, 1)  # blocks do not lie where they are stairs already
        room &= ~(high[2:, 1:-1] | high[:-2, 1:-1] | high[1:-1, 2:] | high[1:-1, :-2])
        blocks = place(room & (level[:, :, 0] == EMPTY), self.num_blocks)
        if blocks is None:
            return None
        level[blocks[:, 0], blocks[:, 1], 0] = LOOSE
        return level

    def _pillar(self, rng, free, start, height):
        """Draw a pillar's cell and the cells in a line before it, of which there are `height`; None: no room."""
        for x, y in rng.permutation(np.argwhere(free)):
            for direction in rng.permutation(DIRECTIONS):
                cells = (x, y) + np.arange(1, height + 1)[:, None] * direction
                inside = (cells >= 0).all() and (cells < self.size).all()
                if (x, y) != start and inside and free[tuple(cells.T)].all():
                    return (x, y), cells
        return None

    def _draw(self):
        """Heights, scene and map of the present voxels."""
        solid = (self.voxels != EMPTY) & (self.voxels != FOOD)
        self.heights = solid.sum(axis=2)
        x, y, layer = np.indices(self.voxels.shape)
        light = CONTRAST * (2 * ((x + y + layer) % 2) - 1) + LAYER_LIGHT * layer
        colors = np.clip(COLORS[self.voxels] + light[..., None], 0, 255).astype(np.uint8)
        parts = [*self._ground, voxels(solid, colors, [-self.side / 2, -self.side / 2, 0.0])]
        food = np.argwhere(self.voxels == FOOD)
        if len(food):
            lower = food - [self.side / 2, self.side / 2, 0.0] + [(1 - FOOD_SIDE) / 2, (1 - FOOD_SIDE) / 2, 0.0]
            parts.append(boxes(lower, lower + FOOD_SIDE, np.tile(np.uint8(COLORS[FOOD]), [len(food), 1])))
        self.scene = Scene(parts, VISIBILITY)
        self.map = self.scene.top_down(self.map_size, self.side)

    # The agent

    @property
    def cell(self):
        """The agent's cell, (x, y) from the south-west."""
        x, y = np.floor(self.position + self.side / 2).astype(int)
        return int(x), int(y)

    def eye(self):
        return self.heights[self.cell] + EYE_HEIGHT

    def free(self, x, y):
        """True where the agent may step from its cell."""
        cell = tuple(np.floor(np.array([x, y]) + self.side / 2).astype(int))
        return min(cell) >= 0 and max(cell) < self.size and self.heights[cell] <= self.heights[self.cell] + 1

    def step(self, action):
        if action in (PICK_UP, PLACE):
            self._use_hand(place=action == PLACE)
            return 0.0, False
        if action not in (FORWARD, BACKWARD):
            return super().step(action)
        way = DIRECTIONS[self.turns] * (1 if action == FORWARD else -1)
        if self.free(*(self.position + way)):
            self.position = self.position + way
        return self.reached()

    def reached(self):
        place = *self.cell, self.heights[self.cell]
        if self.voxels[place] != FOOD:
            return 0.0, False
        self.voxels[place] = EMPTY
        self._draw()
        return 1.0, not (self.voxels == FOOD).any()

    def _use_hand(self, place):
        ahead = tuple(np.add(self.cell, DIRECTIONS[self.turns]))
        if self.carries != place or min(ahead) < 0 or max(ahead) >= self.size:
            return
        layer = self.heights[ahead] - (not place)  # of the block that is moved
        if not 0 <= layer <= self.voxels.shape[2] - HEADROOM or abs(layer - self.heights[self.cell]) > 1:
            return
        if self.voxels[*ahead, layer] == (EMPTY if place else LOOSE) and FOOD not in self.voxels[ahead]:
            self.voxels[*ahead, layer] = LOOSE if place else EMPTY
            self.carries = not place
            self._draw()

    def frame(self):
        frame = super().frame()
        if self.carries:
            seen, picture = self._hand
            frame[seen] = picture[seen]
        return frame

    def _hand_picture(self):
        """Return the pixels that show the block in the hand, bool [S, S], and the picture: the same from everywhere."""
        lower, upper = HAND
        scene = Scene([boxes([lower], [upper], np.uint8(COLORS[LOOSE : LOOSE + 1]))], VISIBILITY)
        directions, size = self.camera.directions([0.0])[0], self.camera.size
        faces, _ = scene.cast(np.zeros_like(directions), directions)
        return (faces >= 0).reshape(size, size), scene.render(self.camera, np.zeros([1, 3]), [0.0])[0]

    def truth(self):
        return {**super().truth(), "voxels": self.voxels.copy(), "carries": self.carries}


def _connected(mask):
    """True if the cells of a mask, bool [X, Y], are one region."""
    grown = np.zeros_like(mask)
    grown[tuple(np.argwhere(mask)[:1].T)] = True
    region = None
    while not np.array_equal(region, grown):
        region = grown
        around = np.pad(region, 1)
        grown = mask & (region | around[2:, 1:-1] | around[:-2, 1:-1] | around[1:-1, 2:] | around[1:-1, :-2])
    return np.array_equal(region, mask)


class BuildingEnv(WorldEnv):
    """`Building` as a `gymnasium.Env`, "tfmem/Building-v0": `BuildingEnv(render_mode=None, **arguments of Building)`.

    `info` also has "voxels", uint8 as `Building.voxels`, and "carries", bool.
    """

    world_class = Building


class BuildingVectorEnv(WorldVectorEnv):
    """Building levels side by side, `gymnasium.make_vec("tfmem/Building-v0", num_envs, **arguments of Building)`."""

    world_class = Building
