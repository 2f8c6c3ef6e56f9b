"""BoxWorld's rules in plain Python, one world at a time, and a search for the way to the gem."""

import collections

import numpy as np

MOVES = [(-1, 0), (1, 0), (0, -1), (0, 1)]


def is_lock(code):
    return code >= 24


def lock_color(code):
    return code - 24 if code < 44 else code - 44


class BoxWorld:
    """One episode; codes as in tfmem.envs.grid.box_world."""

    def __init__(self, board, player, max_steps):
        self.board, self.player = board.copy(), divmod(int(player), board.shape[1])
        self.max_steps, self.held, self.steps = max_steps, -1, 0

    def step(self, action):
        """(reward, terminated, truncated)."""
        if action not in range(4):
            return 0.0, False, False
        self.steps += 1
        reward, terminated = self._move(action)
        return reward, terminated, self.steps >= self.max_steps and not terminated

    def _move(self, action):
        row, column = self.player[0] + MOVES[action][0], self.player[1] + MOVES[action][1]
        code = self.board[row, column]
        if code == 1:
            return 0.0, False
        if code == 0:
            self.player = row, column
            return 0.0, False
        if is_lock(code):
            if self.held != lock_color(code):
                return 0.0, False
            self.player, self.held, self.board[row, column] = (row, column), -1, 0
            return (1.0, False) if code < 44 else (-1.0, True)
        if is_lock(self.board[row, column + 1]):
            return 0.0, False
        self.player = row, column
        if code == 3:
            return 10.0, True
        self.held, self.board[row, column] = code - 4, 0
        return 0.0, False

    def codes(self):
        codes = self.board.copy()
        codes[self.player] = 2
        if self.held >= 0:
            codes[0, 0] = 4 + self.held
        return codes

    def observe(self, palette, viewport):
        if not viewport:
            return palette[self.codes()]
        padded = np.pad(self.board, 2, constant_values=1)
        padded[self.player[0] + 2, self.player[1] + 2] = 2
        window = padded[self.player[0] : self.player[0] + 5, self.player[1] : self.player[1] + 5]
        frame = np.full([5, 5], 4 + self.held if self.held >= 0 else 1)
        return np.concatenate([palette[window], palette[frame]], axis=-1)


def _reachable(board, player):
    """Actions to every cell that can be bumped into by way of free cells: {(row, column): actions}."""
    ways, waiting = {player: []}, collections.deque([player])
    while waiting:
        cell = waiting.popleft()
        if cell != player and board[cell] != 0:
            continue
        for action, (down, right) in enumerate(MOVES):
            target = cell[0] + down, cell[1] + right
            if target not in ways and board[target] != 1:
                ways[target] = [*ways[cell], action]
                waiting.append(target)
    return ways


def solve(board, player):
    """Actions that take the gem without a distractor, or None; by trying all orders of keys and locks."""
    seen = set()

    def search(board, player, held):
        if (board.tobytes(), held) in seen:
            return None
        seen.add((board.tobytes(), held))
        for cell, actions in _reachable(board, player).items():
            world = BoxWorld(board, 0, 10**6)
            world.player, world.held, reward = player, held, 0.0
            for action in actions:
                reward, _, _ = world.step(action)
            if world.player != cell or reward < 0 or board[cell] == 0:
                continue
            rest = [] if reward == 10 else search(world.board, world.player, world.held)
            if rest is not None:
                return actions + rest
        return None

    return search(board, divmod(int(player), board.shape[1]), -1)
