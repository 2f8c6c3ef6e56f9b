"""The goal maze's rules in plain Python, one maze at a time."""

import numpy as np


def make_walls(side):
    walls = np.zeros([side, side], bool)
    for row in range(side):
        for column in range(side):
            border = row in (0, side - 1) or column in (0, side - 1)
            walls[row, column] = border or (row % 2 == 0 and column % 2 == 0)
    walls[side // 2, side // 2] = False
    return walls


class GoalMaze:
    """One episode; cells are (row, column)."""

    def __init__(self, side, goal):
        self.walls, self.goal = make_walls(side), goal
        self.player, self.reward, self.steps = (side // 2, side // 2), 0.0, 0

    def step(self, action, teleport):
        """The reward; `teleport` is the cell that follows the goal."""
        down, right = {0: (-1, 0), 1: (1, 0), 2: (0, -1), 3: (0, 1)}.get(action, (0, 0))
        row, column = self.player[0] + down, self.player[1] + right
        self.reward, self.steps = 0.0, self.steps + 1
        if self.walls[row, column]:
            self.reward -= 0.1
        else:
            self.player = row, column
        if self.player == self.goal:
            self.reward += 10.0
            self.player = teleport
        return self.reward

    def observe(self):
        inputs = np.zeros(17, np.float32)
        row, column = self.player
        inputs[:9] = self.walls[row - 1 : row + 2, column - 1 : column + 2].reshape(-1)
        inputs[14:] = self.reward, self.steps, 1
        return inputs
