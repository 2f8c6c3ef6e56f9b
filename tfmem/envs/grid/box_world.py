"""BoxWorld: keys, locked boxes and a gem (Santoro et al. 2018, appendix A.3; Zambaldi et al. 2018).

A box is a pair of cells: its content on the left, its lock on the right. The key of a lock's colour opens it and is
used up; then the content, the next key or the gem, can be taken. A new key replaces the held one. Boxes off the path to
the gem are distractors: opening one ends the episode.

Paper: a grid of 14 x 14, 20 colours, path lengths 1 to 5, 0 to 5 distractors of length 1; a view of 5 x 5 and a frame
with the colour of the held key; gem +10, box of the path +1, distractor -1; gem and distractor end the episode.
Public code: pycolab's box_world.py; rules and generator are from there, `PYCOLAB` has its settings.
A path's length is its number of locks, as in pycolab. Not specified: the limit, colours, and cells beyond the wall. We
use pycolab's 120 actions and colours; beyond the wall is wall, and the frame without a key has the wall's colour.

    code     0 background, 1 wall, 2 player (pictures only), 3 gem,
             4 + c key, 24 + c lock of the path, 44 + c lock of a distractor, of colour c = 0 ... 19
    actions  0 up, 1 down, 2 left, 3 right; any other number waits: it changes nothing and no time passes
"""

import dataclasses
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tfmem.envs.grid.base import GridWorld, Outcome, pick
from tfmem.envs.grid.faces import GridEnv, GridVectorEnv
from tfmem.validation import check_bool, check_integer

NUM_COLORS = 20
BACKGROUND, WALL, PLAYER, GEM, KEY, LOCK, DISTRACTOR = 0, 1, 2, 3, 4, 24, 44
VIEW = 5
GEM_REWARD, LOCK_REWARD, DISTRACTOR_REWARD = 10.0, 1.0, -1.0
_MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
_HUES = (
    "700350350 700454350 700559350 700664350 629700350 524700350 420700350 350700384 350700490 350700595 "
    "350700700 350594700 350490700 350384700 419350700 524350700 630350700 700350665 700350559 700350455"
)
_FAILURES, _PROBLEMS = 200, 200  # most failed placements of a level; most discarded levels


def _palette():
    hues = [[int(hue[i : i + 3]) for i in (0, 3, 6)] for hue in _HUES.split()]
    colors = np.array([[800] * 3, [0] * 3, [500] * 3, [999] * 3, *hues, *hues, *hues])
    return np.rint(colors * 255 / 999).astype(np.uint8)


PALETTE = _palette()  # RGB of the codes, uint8 [64, 3]; public code: 0 to 999


class Levels(NamedTuple):
    """Levels of BoxWorld: boards int8 [N, side, side] without the player, player cells row * side + column int32 [N].

    `path_length` and `num_distractors`, int8 [N], describe the levels for evaluation; no rule reads them.
    """

    board: np.ndarray
    player: np.ndarray
    path_length: np.ndarray
    num_distractors: np.ndarray


class State(NamedTuple):
    """B worlds: board int8 [B, side, side] without the player; player's cell, held colour or -1, actions taken [B]."""

    board: tf.Tensor
    player: tf.Tensor
    held: tf.Tensor
    steps: tf.Tensor


class Decisions(NamedTuple):
    """The level that begins where an episode ends, int32 [B]."""

    level: tf.Tensor


@dataclasses.dataclass(frozen=True)
class BoxWorld(GridWorld):
    """BoxWorld's settings and rules.

    Args:
      viewport: observe 5 x 5 cells and the held key's colour, uint8 [5, 5, 6], instead of the whole grid with the held
        key in its corner, uint8 [side, side, 3]. Paper: yes.
      side: of the grid, with its wall. Paper: 14.
      path_lengths: numbers of locks on the way to the gem, equally likely. Paper: 1 to 5.
      num_distractors: numbers of distractors with a lock of the path's colours, equally likely. Paper: 0 to 5.
      num_backward: numbers of distractors with content of the path's colours. Public code: 0.
      branch_length: boxes of each distractor. Paper: 1.
      max_steps: actions until an episode is truncated. Public code: 121, as its limit of 120 allows one more action. We
        use 120, the number in its README.

    Raises:
      ValueError: an argument out of its range.
    """

    viewport: bool = True
    side: int = 14
    path_lengths: tuple[int, ...] = (1, 2, 3, 4, 5)
    num_distractors: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    num_backward: tuple[int, ...] = (0,)
    branch_length: int = 1
    max_steps: int = 120

    reports_solved: ClassVar[bool] = True
    num_actions: ClassVar[int] = 4
    num_numbers: ClassVar[int] = 1
    observation_dtype: ClassVar[tf.DType] = tf.uint8
    observation_high: ClassVar[float] = 255

    def __post_init__(self):
        check_bool("viewport", self.viewport)
        check_integer("side", self.side, 6, 64)
        check_integer("branch_length", self.branch_length, 1)
        check_integer("max_steps", self.max_steps, 1)
        for name, low, high in (
            ("path_lengths", 1, NUM_COLORS - (2 if self.branch_length == 1 else 3)),
            ("num_distractors", 0, float("inf")),
            ("num_backward", 0, float("inf")),
        ):
            values = getattr(self, name)
            if not isinstance(values, list | tuple) or not values:
                raise ValueError(f"{name}: {values!r}, must be a tuple of integers")
            for value in values:
                check_integer(name, value, low, high)
            object.__setattr__(self, name, tuple(int(value) for value in values))

    @property
    def observation_shape(self):
        return (VIEW, VIEW, 6) if self.viewport else (self.side, self.side, 3)

    # ---- levels ------------------------------------------------------------------------------------------------------

    def levels(self, number, seed):
        """Make a pool of levels; see `make_level`.

        Args:
          number: of levels.
          seed: of numpy's generator.

        Raises:
          ValueError: an argument out of its range; or the boxes do not fit on the grid.
        """
        check_integer("number", number, 1)
        check_integer("seed", seed, 0)
        rng = np.random.default_rng(seed)
        made = [self.make_level(rng) for _ in range(number)]
        board, player, path_length, num_distractors = zip(*made, strict=True)
        return Levels(
            np.stack(board), np.array(player, np.int32), np.int8(path_length), np.array(num_distractors, np.int8)
        )

    def make_level(self, rng):
        """Make a level by pycolab's algorithm and in its order of draws.

        The boxes are drawn first, then their places one by one. After too many failed places, everything is redrawn.

        Args:
          rng: numpy's `Generator`.

        Returns:
          One entry of `Levels`.
        """
        for _ in range(_PROBLEMS):
            boxes, path_length, distractors = self._draw_boxes(rng)
            colors = np.arange(NUM_COLORS)
            rng.shuffle(colors)
            placed = self._place(rng, boxes, path_length, colors)
            if placed is not None:
                return *placed, path_length, distractors
        raise ValueError(
            f"side: {self.side}, must be larger for path_lengths {self.path_lengths}, num_distractors "
            f"{self.num_distractors}, num_backward {self.num_backward} and branch_length {self.branch_length}"
        )

    def _draw_boxes(self, rng):
        """Draw the level's graph: pairs (lock, content) of colour numbers from 1; lock 0: none, content -1: the gem."""
        length, forward, backward = (
            int(rng.choice(values)) for values in (self.path_lengths, self.num_distractors, self.num_backward)
        )
        path, rest = np.arange(1, length + 1), np.arange(length + 1, NUM_COLORS)
        boxes = [(i, i + 1 if i < length else -1) for i in range(length + 1)]
        for _ in range(forward):
            lock = int(rng.choice(path))
            for _ in range(self.branch_length):
                content = int(rng.choice(rest))
                while content == lock:
                    content = int(rng.choice(rest))
                boxes.append((lock, content))
                lock = content
        for _ in range(backward):
            content = int(rng.choice(path))
            boxes.append((int(rng.choice(rest)), content))
        return boxes, length, forward + backward

    def _place(self, rng, boxes, path_length, colors):
        """Place the boxes: (board, player), or None after too many collisions."""
        side, failures = self.side, 0
        inner = side - 2
        board = np.full([side, side], WALL, np.int8)
        board[1:-1, 1:-1] = BACKGROUND
        for number, (lock, content) in enumerate(boxes):
            while True:
                column = 1 + int(rng.integers(0, inner - 3))
                row = 1 + int(rng.integers(1, inner - 1))
                if not board[row - 1 : row + 2, column - 1 : column + 3].any():
                    break
                failures += 1
                if failures > _FAILURES:
                    return None
            board[row, column] = GEM if content < 0 else KEY + colors[content - 1]
            if lock:
                board[row, column + 1] = (LOCK if number <= path_length else DISTRACTOR) + colors[lock - 1]
        while True:
            column = 1 + int(rng.integers(0, inner - 1))
            row = 1 + int(rng.integers(1, inner - 1))
            if board[row, column] == BACKGROUND:
                return board, row * side + column
            failures += 1
            if failures > _FAILURES:
                return None

    # ---- rules -------------------------------------------------------------------------------------------------------

    def decide(self, numbers):
        return Decisions(level=numbers[:, 0])

    def begin(self, level):
        if tuple(level.board.shape[1:]) != (self.side, self.side):
            raise ValueError(f"levels: boards {level.board.shape[1:]}, must be [{self.side}, {self.side}]")
        player = tf.cast(level.player, tf.int32)
        return State(tf.cast(level.board, tf.int8), player, tf.zeros_like(player) - 1, tf.zeros_like(player))

    def advance(self, levels, state, action, decisions):
        cells = self._cells(state)
        acts = (action >= 0) & (action < self.num_actions)
        ways = tf.constant([row * self.side + column for row, column in _MOVES])
        target = tf.where(acts, state.player + tf.gather(ways, tf.clip_by_value(action, 0, 3)), state.player)
        thing, right = (tf.cast(pick(cells, cell), tf.int32) for cell in (target, target + 1))
        on_path, is_lock = (thing >= LOCK) & (thing < DISTRACTOR), thing >= LOCK
        opens = is_lock & (state.held == tf.where(on_path, thing - LOCK, thing - DISTRACTOR))
        unlocked = right < LOCK  # of any box
        takes_gem = acts & unlocked & (thing == GEM)
        takes_key = acts & unlocked & (thing >= KEY) & ~is_lock
        moves = (thing == BACKGROUND) | takes_gem | takes_key | opens
        cleared = (takes_key | opens)[:, None] & (tf.range(self.side**2) == target[:, None])
        steps = state.steps + tf.cast(acts, tf.int32)
        after = State(
            board=tf.reshape(tf.where(cleared, tf.constant(BACKGROUND, tf.int8), cells), state.board.shape),
            player=tf.where(moves, target, state.player),
            held=tf.where(takes_key, thing - KEY, tf.where(opens, -1, state.held)),
            steps=steps,
        )
        reward = tf.where(opens, tf.where(on_path, LOCK_REWARD, DISTRACTOR_REWARD), 0.0)
        terminated = takes_gem | (opens & ~on_path)
        return Outcome(
            state=after,
            seen=after,
            reward=tf.where(takes_gem, GEM_REWARD, reward),
            terminated=terminated,
            truncated=(steps >= self.max_steps) & ~terminated,
        )

    def observe(self, state):
        if not self.viewport:
            return self.picture(state)
        around = np.arange(VIEW) - VIEW // 2
        # The grid's border is wall, so an index beyond the end of a row or of the grid also gives wall.
        window = state.player[:, None] + (around[:, None] * self.side + around).reshape(-1).astype(np.int32)
        seen = pick(self._cells(state), tf.clip_by_value(window, 0, self.side**2 - 1))
        codes = tf.where(np.arange(VIEW**2) == VIEW**2 // 2, tf.constant(PLAYER, tf.int8), seen)
        codes = tf.stack([codes, tf.repeat(self._held_code(state)[:, None], VIEW**2, axis=1)], axis=-1)
        return tf.reshape(_colors(codes), [-1, VIEW, VIEW, 6])

    def picture(self, state):
        index = tf.range(self.side**2)
        codes = tf.where(index == state.player[:, None], tf.constant(PLAYER, tf.int8), self._cells(state))
        codes = tf.where(index == 0, self._held_code(state)[:, None], codes)
        return tf.reshape(_colors(codes), [-1, self.side, self.side, 3])

    def _cells(self, state):
        return tf.reshape(state.board, [-1, self.side**2])

    def _held_code(self, state):
        return tf.cast(tf.where(state.held < 0, WALL, state.held + KEY), tf.int8)


PYCOLAB = BoxWorld(viewport=False, path_lengths=(1, 2, 3, 4), num_distractors=(0, 1, 2, 3, 4), max_steps=121)


def _colors(codes):
    return tf.gather(PALETTE, tf.cast(codes, tf.int32))


class BoxWorldEnv(GridEnv):
    """`BoxWorld` as a `gymnasium.Env`, "tfmem/BoxWorld-v0"; see `GridEnv` for its arguments."""

    world_class = BoxWorld


class BoxWorldVectorEnv(GridVectorEnv):
    """BoxWorlds side by side, `gymnasium.make_vec("tfmem/BoxWorld-v0", num_envs)`; see `GridVectorEnv`."""

    world_class = BoxWorld


# ---- Figure 9 --------------------------------------------------------------------------------------------------------


def level_graph(board):
    """Convert a board [side, side] to the level's boxes as edges.

    Returns:
      List of (lock, content, of_the_path) by rows; lock is a colour or None for a loose key, content a colour or "gem".
    """
    edges = []
    for row, column in np.argwhere((board >= GEM) & (board < LOCK)):
        content, lock = int(board[row, column]), int(board[row, column + 1])
        edges.append(
            (
                (lock - LOCK) % NUM_COLORS if lock >= LOCK else None,
                "gem" if content == GEM else content - KEY,
                lock < DISTRACTOR,
            )
        )
    return edges


def level_figure(levels, number):
    """Draw a level and its graph, as in the paper's Figure 9.

    Left: the grid, with the view of 5 x 5 cells lighter. Right: an arrow for each box, from the key that opens it to
    its content. Arrows of the path are black, those of distractors gray.

    Args:
      levels: `Levels`.
      number: of the level.

    Returns:
      A matplotlib `Figure`.
    """
    check_integer("number", number, 0, len(levels.board) - 1)
    board, side = np.asarray(levels.board[number]), levels.board.shape[1]
    row, column = divmod(int(levels.player[number]), side)
    shown = PALETTE[board].astype(float) / 255
    near = np.abs(np.indices(board.shape) - np.array([row, column])[:, None, None]).max(axis=0) <= VIEW // 2
    shown[near & (board == BACKGROUND)] = 0.92
    shown[row, column] = PALETTE[PLAYER] / 255

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.imshow(shown)
    left.axis("off")
    places, edges = _graph_places(level_graph(board))
    for start, end, of_the_path in edges:
        style = {"arrowstyle": "->", "color": "black" if of_the_path else "0.5", "shrinkA": 9, "shrinkB": 9}
        right.annotate("", places[end][1], places[start][1], arrowprops=style)
    for content, (x, y) in places.values():
        color = PALETTE[GEM if content == "gem" else KEY + content] / 255
        right.add_patch(Rectangle((x - 0.2, y - 0.2), 0.4, 0.4, facecolor=color, edgecolor="black"))
    across, down = np.array([place for _, place in places.values()]).T
    right.set(xlim=(-0.5, across.max() + 0.5), ylim=(down.min() - 0.5, 0.5), aspect="equal")
    right.axis("off")
    return figure


def _graph_places(boxes):
    """Lay out the graph: (content, (x, y)) of every item by number, and (from, to, of_the_path) of every arrow.

    A box is to the right of the key that opens it. The first such box shares the key's row, each other has a new row.
    Boxes without a key begin rows like loose keys.
    """
    places, edges, rows = {}, [], 0
    roots = sorted(range(len(boxes)), key=lambda n: boxes[n][0] is not None)
    for root in roots:
        if root in places:
            continue
        places[root], rows, waiting = (boxes[root][1], (0, -rows)), rows + 1, [root]
        while waiting:
            key = waiting.pop(0)
            content, (x, y) = places[key]
            opened = [n for n, box in enumerate(boxes) if box[0] == content]
            for rank, number in enumerate(sorted(opened, key=lambda n: not boxes[n][2])):
                edges.append((key, number, boxes[number][2]))
                if number not in places:
                    if rank:
                        y, rows = -rows, rows + 1
                    places[number] = (boxes[number][1], (x + 1, y))
                    waiting.append(number)
    return places, edges
