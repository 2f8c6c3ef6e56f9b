"""Mini Pacman: a maze with food, power pills and ghosts, and five sets of rewards.

Santoro et al. 2018, §4.2 and Figure 10, train agents in it. Racanière et al. 2017 made the game ("PillEater").
Paper: a view of the 5 x 5 cells around the player, or the whole maze.
Public code: higgsfield's Imagination-Augmented-Agents, `common/deepmind.py`: all rules, including its slips.
Not specified: the mode, the limit, and cells beyond the maze. We use "regular", 3000 steps (public code) and walls.

    actions    0 stay, 1 right, 2 up, 3 left, 4 down; any other number stays as well; a wall blocks the way
    a level    food on every free cell, 2 pills, the player and 1 + (level - 1) // 2 ghosts at random cells, the ghosts
               outside a box around the player. Where a level ends, the next begins in the same step.
    a pill     gives power for 20 steps: ghosts flee at half speed and can be eaten, one per step
    a ghost    moves with probability (0.5 + 0.1 (level - 1)). In a corridor it goes straight on. At a junction it never
               turns back; it takes the way to the player, or a random one with probability 0.05.
    the end    a ghost meets the player without power, or `max_steps` steps have passed

    mode     step  food   pill  ghost  death  a level ends with
    regular     0     1      2      5      0  all food
    avoid     0.1  -0.1     -5    -10    -20  all food, or 128 steps
    hunt        0     0      1     10    -20  all ghosts
    ambush      0  -0.1      0     10    -20  all ghosts
    rush        0  -0.1     10      0      0  all pills

Directions of ghosts: 2 right, 3 up, 4 left, 5 down. A ghost that has not turned yet has a code 0 to 3 of another kind:
0 and 1 never count as straight on, and their ways back are right and up. A ghost on the player at a junction keeps its
code: 0 then moves down, 1 stays, and the ghost meets the player twice in that step. In "avoid", the step that ends a
level by time still shows the old level. Where the last food ends a level, the pills and ghosts of the step are the new
level's.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from tfmem.envs.grid.base import GridWorld, Outcome, pick, select, take
from tfmem.envs.grid.faces import GridEnv, GridVectorEnv
from tfmem.validation import check_bool, check_choice, check_integer

MAZE = (
    "###################",
    "#...#.........#...#",
    "#.#.#.#######.#.#.#",
    "#.................#",
    "#.#.#.#######.#.#.#",
    "#.#.............#.#",
    "#.####.#####.####.#",
    "#......#####......#",
    "#.####.#####.####.#",
    "#.#.............#.#",
    "#.#.#.#######.#.#.#",
    "#.................#",
    "#.#.#.#######.#.#.#",
    "#...#.........#...#",
    "###################",
)
WALLS = np.array([[cell == "#" for cell in row] for row in MAZE])
ROWS, COLUMNS = WALLS.shape
FREE = np.flatnonzero(~WALLS).astype(np.int32)
NUM_PILLS, POWER_STEPS, VIEW, AVOID_STEPS = 2, 20, 5, 128
_BOX = 5  # cells around the player where no ghost begins
_RIGHT, _UP, _LEFT, _DOWN = 1, -COLUMNS, -1, COLUMNS
_WAYS = (_RIGHT, _UP, _LEFT, _DOWN)
_PLAYER_WAYS = (0, *_WAYS)
_GHOST_WAYS = (_DOWN, 0, *_WAYS)  # by code


class Mode(NamedTuple):
    """Rewards in tenths, and what ends a level: "food", "ghosts" or "pills"."""

    step: int
    food: int
    pill: int
    ghost: int
    death: int
    ends: str


MODES = {
    "regular": Mode(0, 10, 20, 50, 0, "food"),
    "avoid": Mode(1, -1, -50, -100, -200, "food"),
    "hunt": Mode(0, 0, 10, 100, -200, "ghosts"),
    "ambush": Mode(0, -1, 0, 100, -200, "ghosts"),
    "rush": Mode(0, -1, 100, 0, 0, "pills"),
}


class Levels(NamedTuple):
    """Layouts, int32: cells (row * 19 + column) of pills [N, 2], player [N] and ghosts [N, G], directions [N, G].

    A level with fewer ghosts takes the first ones.
    """

    pills: np.ndarray
    player: np.ndarray
    ghosts: np.ndarray
    directions: np.ndarray


class State(NamedTuple):
    """B worlds.

    food: int8 [B, 15, 19], 1 where food is; num_food: amount of food, int32 [B].
    pills: cells in order, int32 [B, 2]; player: int32 [B]; ghosts, directions: int32 [B, G]; -1 for those taken.
    power: steps of power left; level: from 1; timer: steps in the level; frame: steps in the episode; int32 [B].
    """

    food: tf.Tensor
    num_food: tf.Tensor
    pills: tf.Tensor
    player: tf.Tensor
    ghosts: tf.Tensor
    directions: tf.Tensor
    power: tf.Tensor
    level: tf.Tensor
    timer: tf.Tensor
    frame: tf.Tensor


class Decisions(NamedTuple):
    """Random decisions of a step, int32.

    level: layout of the next episode [B].
    layout: layout of a level that begins within the episode [B].
    moves: a ghost tries to move if this is less than 20 times its probability [B, G]; 0 ... 19.
    turns: a ghost takes a random exit of a junction if this is 0 [B, G]; 0 ... 19.
    exits: index of that exit, modulo their number [B, G].
    """

    level: tf.Tensor
    layout: tf.Tensor
    moves: tf.Tensor
    turns: tf.Tensor
    exits: tf.Tensor


def _make_ghost_table():
    """Table of cell and code, int32 [285, 6]: the next code in a corridor, or minus the exits of a junction as bits."""
    table = np.zeros([WALLS.size, len(_GHOST_WAYS)], np.int32)
    walls = WALLS.reshape(-1)
    for cell in FREE:
        exits = [way for way, step in enumerate(_WAYS) if not walls[cell + step]]
        for code in range(len(_GHOST_WAYS)):
            onward = [way for way in exits if way != code % 4]  # code % 4 is the way back
            if len(exits) > 2:
                table[cell, code] = -sum(1 << way for way in onward)
            elif len(exits) == 1:
                table[cell, code] = 2 + exits[0]
            else:
                table[cell, code] = code if code - 2 in exits else 2 + onward[0]
    return table


_GHOST_TABLE = _make_ghost_table()


@dataclasses.dataclass(frozen=True)
class MiniPacman(GridWorld):
    """Mini Pacman's settings and rules.

    Args:
      viewport: observe 5 x 5 cells instead of the whole maze; RGB, float32 from 0 to 1. Paper: both.
      mode: one of MODES. Not specified; we use "regular"; its rewards are of the size of the published scores.
      max_steps: of an episode. Public code: 3000.
      max_ghosts: at most, from level 2 max_ghosts + 1 on. Public code: no limit. We use 6, reached at level 11.

    Raises:
      ValueError: an argument out of its range.
    """

    viewport: bool = True
    mode: str = "regular"
    max_steps: int = 3000
    max_ghosts: int = 6

    num_actions: ClassVar[int] = len(_PLAYER_WAYS)
    observation_dtype: ClassVar[tf.DType] = tf.float32
    observation_high: ClassVar[float] = 1

    def __post_init__(self):
        check_bool("viewport", self.viewport)
        check_choice("mode", self.mode, MODES)
        check_integer("max_steps", self.max_steps, 1)
        check_integer("max_ghosts", self.max_ghosts, 1)

    @property
    def num_numbers(self):
        return 2 + self.max_ghosts

    @property
    def observation_shape(self):
        return (VIEW, VIEW, 3) if self.viewport else (ROWS, COLUMNS, 3)

    # ---- layouts -----------------------------------------------------------------------------------------------------

    def levels(self, number, seed):
        """Make a pool of layouts: pills and player on any free cells, ghosts on any outside the box around the player.

        Args:
          number: of layouts.
          seed: of numpy's generator.

        Raises:
          ValueError: an argument out of its range.
        """
        check_integer("number", number, 1)
        check_integer("seed", seed, 0)
        rng = np.random.default_rng(seed)
        pills = rng.choice(FREE, [number, NUM_PILLS])
        player = rng.choice(FREE, number)
        row, column = (x[:, None] for x in np.divmod(player, COLUMNS))
        rows, columns = np.divmod(FREE, COLUMNS)
        near = (rows >= row - _BOX) & (rows < row + _BOX) & (columns >= column - _BOX) & (columns < column + _BOX)
        outside = np.argsort(near, axis=1, kind="stable")  # free cells outside the box first
        index = rng.integers(0, (~near).sum(axis=1)[:, None], [number, self.max_ghosts])
        ghosts = FREE[np.take_along_axis(outside, index, axis=1)]
        directions = rng.integers(0, 4, [number, self.max_ghosts], np.int32)
        return Levels(pills, player, ghosts, directions)

    # ---- rules -------------------------------------------------------------------------------------------------------

    def decide(self, numbers):
        ghosts = numbers[:, 2:]
        return Decisions(numbers[:, 0], numbers[:, 1], ghosts % 20, ghosts // 20 % 20, ghosts // 400)

    def begin(self, level):
        ones = tf.ones_like(tf.cast(level.player, tf.int32))
        return self._lay_out(level, level=ones, frame=ones * 0)

    def advance(self, levels, state, action, decisions):
        mode, shape = MODES[self.mode], state.food.shape
        laid = self._lay_out(take(levels, decisions.layout), state.level + 1, state.frame + 1)
        state = state._replace(
            timer=state.timer + 1, frame=state.frame + 1, power=tf.maximum(state.power - 1, 0), food=_flat(state.food)
        )
        laid = laid._replace(food=_flat(laid.food))

        known = (action >= 0) & (action < self.num_actions)
        target = state.player + tf.gather(_PLAYER_WAYS, tf.where(known, action, 0))
        player = tf.where(tf.gather(WALLS.reshape(-1), target), state.player, target)
        eats = pick(state.food, player[:, None])[:, 0] > 0
        state = state._replace(
            player=player,
            food=tf.where(tf.range(WALLS.size) == player[:, None], tf.constant(0, tf.int8), state.food),
            num_food=state.num_food - tf.cast(eats, tf.int32),
        )
        reward = mode.step + mode.food * tf.cast(eats, tf.int32)
        if mode.ends == "food":
            state = select(eats & (state.num_food == 0), laid, state)

        state, takes = self._take_pill(state)
        reward += mode.pill * tf.cast(takes, tf.int32)
        if mode.ends == "pills":
            state = select(takes & (state.pills[:, 0] < 0), laid, state)

        state, deaths, eaten = self._move_ghosts(state, decisions)
        reward += mode.death * deaths + mode.ghost * tf.cast(eaten, tf.int32)
        if mode.ends == "ghosts":
            state = select(eaten & (state.ghosts[:, 0] < 0), laid, state)

        after = seen = state._replace(food=tf.reshape(state.food, shape))
        if self.mode == "avoid":
            after = select(state.timer == AVOID_STEPS, laid, state)
            after = after._replace(food=tf.reshape(after.food, shape))
        terminated = deaths > 0
        return Outcome(
            state=after,
            seen=seen,
            reward=tf.cast(reward, tf.float32) / 10,
            terminated=terminated,
            truncated=(after.frame >= self.max_steps) & ~terminated,
        )

    def _lay_out(self, layout, level, frame):
        """Return the state at the start of a level."""
        ghosts, zeros = tf.cast(layout.ghosts, tf.int32), tf.zeros_like(level)
        if ghosts.shape[1:] != (self.max_ghosts,):
            raise ValueError(f"levels: {ghosts.shape[1]} ghosts, must be max_ghosts = {self.max_ghosts}")
        present = tf.range(self.max_ghosts) < (1 + (level - 1) // 2)[:, None]
        food = tf.constant(~WALLS, tf.int8)
        return State(
            food=tf.broadcast_to(food, [level.shape[0], ROWS, COLUMNS]),
            num_food=zeros + len(FREE),
            pills=tf.cast(layout.pills, tf.int32),
            player=tf.cast(layout.player, tf.int32),
            ghosts=tf.where(present, ghosts, -1),
            directions=tf.where(present, tf.cast(layout.directions, tf.int32), -1),
            power=zeros,
            level=level,
            timer=zeros,
            frame=frame,
        )

    def _take_pill(self, state):
        """Take the first pill on the player's cell, shift the others: (state, True where one was taken)."""
        first, second = tf.unstack(state.pills == state.player[:, None], axis=1)
        takes = first | second
        left = tf.where(first, state.pills[:, 1], state.pills[:, 0])
        pills = tf.where(takes[:, None], tf.stack([left, tf.zeros_like(left) - 1], axis=1), state.pills)
        return state._replace(pills=pills, power=tf.where(takes, POWER_STEPS, state.power)), takes

    def _move_ghosts(self, state, decisions):
        """Move the ghosts; returns (state, deaths [B], True where a ghost was eaten [B]).

        Ghosts act in turn without affecting each other. All therefore move at once; where one is eaten, the moves of
        those after it are undone.
        """
        powered, number = (state.power > 0)[:, None], tf.range(self.max_ghosts)
        ghosts, player = state.ghosts, state.player[:, None]
        speed = 10 + 2 * (state.level - 1)[:, None]
        moves = (ghosts >= 0) & (decisions.moves < tf.where(powered, speed // 2, speed))
        code = self._turn(state, decisions)
        target = ghosts + tf.gather(_GHOST_WAYS, code)
        target = tf.where(tf.gather(WALLS.reshape(-1), tf.maximum(target, 0)), ghosts, target)
        target, code = tf.where(moves, target, ghosts), tf.where(moves, code, state.directions)
        before, after = ghosts == player, moves & (target == player)

        meetings = tf.reduce_sum(tf.cast(before, tf.int32) + tf.cast(after, tf.int32), axis=1)
        deaths = tf.where(powered[:, 0], 0, meetings)
        caught = powered & (before | after)
        first = tf.reduce_min(tf.where(caught, number, self.max_ghosts), axis=1)[:, None]

        def left(new, old):
            """Remove the first caught ghost from the list."""
            kept = tf.where(number <= first, new, old)
            moved_up = tf.concat([kept[:, 1:], tf.zeros_like(kept[:, :1]) - 1], axis=1)
            return tf.where(number >= first, moved_up, kept)

        state = state._replace(ghosts=left(target, ghosts), directions=left(code, state.directions))
        return state, deaths, first[:, 0] < self.max_ghosts

    def _turn(self, state, decisions):
        """Next directions of the ghosts if they move, [B, G]."""
        ghosts, powered = tf.maximum(state.ghosts, 0), (state.power > 0)[:, None]
        directions = tf.maximum(state.directions, 0)
        found = tf.gather(_GHOST_TABLE.reshape(-1), ghosts * len(_GHOST_WAYS) + directions)
        exits = [(-found // 2**way) % 2 for way in range(4)]
        count = tf.add_n(exits)
        chosen = decisions.exits % tf.maximum(count, 1)
        down = state.player[:, None] // COLUMNS - ghosts // COLUMNS
        right = state.player[:, None] % COLUMNS - ghosts % COLUMNS
        sign = tf.where(powered, -1, 1)
        best, drawn, earlier = tf.zeros_like(found) - 2**20, tf.zeros_like(found), tf.zeros_like(found)
        for way, length in enumerate((right, -down, -right, down)):
            rank = 4 * sign * length + 3 - way  # the first of equals wins
            best = tf.where(exits[way] > 0, tf.maximum(best, rank), best)
            drawn = tf.where((exits[way] > 0) & (earlier == chosen), way, drawn)
            earlier += exits[way]
        way = tf.where(~powered & (decisions.turns == 0), drawn, 3 - best % 4)
        junction = tf.where(state.ghosts == state.player[:, None], directions, 2 + way)
        return tf.where(found < 0, junction, found)

    # ---- pictures ----------------------------------------------------------------------------------------------------

    def observe(self, state):
        if not self.viewport:
            return tf.reshape(_rgb(state), [-1, ROWS, COLUMNS, 3])
        around = np.arange(VIEW) - VIEW // 2
        # The maze's border is wall, so an index beyond the end of a row or of the maze also gives wall.
        window = state.player[:, None] + (around[:, None] * COLUMNS + around).reshape(-1).astype(np.int32)
        return tf.reshape(_rgb(state, tf.clip_by_value(window, 0, WALLS.size - 1)), [-1, VIEW, VIEW, 3])

    def planes(self, state):
        """Six planes as in the public code, float32 [B, 15, 19, 6]: wall, food, player, ghost, edible ghost, pill."""
        wall, food, player, ghost, pill = _things(state)
        edible = tf.where(ghost, _power(state), 0.0)
        planes = [wall, food, player, tf.where(ghost, 1 - _power(state), 0.0), edible, pill]
        planes = [tf.broadcast_to(tf.cast(plane, tf.float32), edible.shape) for plane in planes]
        return tf.reshape(tf.stack(planes, axis=-1), [-1, ROWS, COLUMNS, len(planes)])

    def picture(self, state):
        colors = _rgb(state)
        return tf.reshape(tf.cast(tf.round(255 * colors), tf.uint8), [-1, ROWS, COLUMNS, 3])


def _flat(board):
    return tf.reshape(board, [-1, WALLS.size])


def _power(state):
    return tf.cast(state.power, tf.float32)[:, None] / POWER_STEPS


def _things(state, cells=None):
    """Masks of wall, food, player, ghosts and pills, for cells [B, n] or all."""
    food = _flat(state.food) > 0
    if cells is None:
        cells = tf.range(WALLS.size)[None]
    else:
        food = pick(food, cells)
    ghost, pill = (tf.reduce_any(cells[:, :, None] == x[:, None], axis=2) for x in (state.ghosts, state.pills))
    return tf.gather(WALLS.reshape(-1), cells), food, cells == state.player[:, None], ghost, pill


def _rgb(state, cells=None):
    """Colours of cells or of all, float32 [B, n, 3]: player over ghost over pill over food over wall."""
    wall, food, player, ghost, pill = _things(state, cells)
    red = tf.where(player, 0.0, tf.cast(ghost | (wall & ~pill & ~food), tf.float32))
    green = tf.where(player, 1.0, tf.where(ghost, _power(state), tf.cast(pill | (wall & ~food), tf.float32)))
    blue = tf.where(player | ghost, 0.0, tf.cast(pill | food | wall, tf.float32))
    return tf.stack([red, green, blue], axis=-1)


class MiniPacmanEnv(GridEnv):
    """`MiniPacman` as a `gymnasium.Env`, "tfmem/MiniPacman-v0"; see `GridEnv` for its arguments."""

    world_class = MiniPacman


class MiniPacmanVectorEnv(GridVectorEnv):
    """Mini Pacmans side by side, `gymnasium.make_vec("tfmem/MiniPacman-v0", num_envs)`; see `GridVectorEnv`."""

    world_class = MiniPacman
