"""Mini Pacman's rules in plain Python, one world at a time, ghosts one after the other."""

import numpy as np

REWARDS = {  # in tenths: step, food, pill, ghost, death
    "regular": (0, 10, 20, 50, 0),
    "avoid": (1, -1, -50, -100, -200),
    "hunt": (0, 0, 10, 100, -200),
    "ambush": (0, -1, 0, 100, -200),
    "rush": (0, -1, 100, 0, 0),
}
PLAYER_WAYS = [(0, 0), (0, 1), (-1, 0), (0, -1), (1, 0)]
EXITS = [(0, 1), (-1, 0), (0, -1), (1, 0)]  # right, up, left, down: codes 2 to 5


class MiniPacman:
    """One episode; cells are (row, column). A layout is (pills, player, ghosts, directions)."""

    def __init__(self, walls, mode, max_steps, layout):
        self.walls, self.mode, self.max_steps = walls, mode, max_steps
        self.level = self.frame = 0
        self.lay_out(layout)

    def lay_out(self, layout):
        pills, player, ghosts, directions = layout
        self.level += 1
        self.food = (~self.walls).astype(int)
        self.pills, self.player, self.power, self.timer = list(pills), player, 0, 0
        count = 1 + (self.level - 1) // 2
        self.ghosts = [[cell, code] for cell, code in zip(ghosts[:count], directions[:count], strict=True)]

    def step(self, action, layout, decisions):
        """(reward in tenths, terminated, truncated, picture); `decisions` are (moves, turn, exit) of each ghost."""
        step, food, pill, ghost, death = REWARDS[self.mode]
        reward, terminated = step, False
        self.frame, self.timer, self.power = self.frame + 1, self.timer + 1, max(0, self.power - 1)

        down, right = PLAYER_WAYS[action] if action in range(5) else (0, 0)
        target = self.player[0] + down, self.player[1] + right
        if not self.walls[target]:
            self.player = target
        if self.food[self.player]:
            self.food[self.player] = 0
            reward += food
            if not self.food.any() and self.mode in ("regular", "avoid"):
                self.lay_out(layout)

        if self.player in self.pills:
            self.pills.remove(self.player)
            self.power, reward = 20, reward + pill
            if not self.pills and self.mode == "rush":
                self.lay_out(layout)

        for number, mover in enumerate(list(self.ghosts)):
            eaten = False
            for moved in (False, True):
                if moved:
                    chance = (10 + 2 * (self.level - 1)) // (2 if self.power else 1)
                    if decisions[number][0] >= chance:
                        break
                    self._move(mover, *decisions[number][1:])
                if mover[0] == self.player:
                    if self.power:
                        eaten = True
                        break
                    reward, terminated = reward + death, True
            if eaten:
                self.ghosts.remove(mover)
                reward += ghost
                if not self.ghosts and self.mode in ("hunt", "ambush"):
                    self.lay_out(layout)
                break

        picture = self.picture()
        if self.mode == "avoid" and self.timer == 128:
            self.lay_out(layout)
        return reward, terminated, self.frame >= self.max_steps and not terminated, picture

    def _move(self, mover, turn, exit_number):
        cell, code = mover
        ways = [i for i, (down, right) in enumerate(EXITS) if not self.walls[cell[0] + down, cell[1] + right]]
        back = {0: 0, 1: 1, 2: 2, 3: 3, 4: 0, 5: 1}[code]
        if len(ways) == 1:
            code = ways[0] + 2
        elif len(ways) == 2:
            if code - 2 not in ways:
                code = next(way for way in ways if way != back) + 2
        elif cell != self.player:
            ways = [way for way in ways if way != back]
            if not self.power and turn == 0:
                code = ways[exit_number % len(ways)] + 2
            else:
                toward = np.subtract(self.player, cell)
                products = [int(toward @ EXITS[way]) for way in ways]
                code = ways[products.index((min if self.power else max)(products))] + 2
        step = [(1, 0), (0, 0), *EXITS][code]
        target = cell[0] + step[0], cell[1] + step[1]
        mover[:] = (cell if self.walls[target] else target), code

    def picture(self):
        picture = np.zeros([*self.walls.shape, 3], np.float32)
        picture[self.walls] = 1
        picture[self.food > 0] = 0, 0, 1
        for pill in self.pills:
            picture[pill] = 0, 1, 1
        for cell, _ in self.ghosts:
            picture[cell] = 1, self.power / 20, 0
        picture[self.player] = 0, 1, 0
        return picture

    def view(self, picture):
        """The 5 x 5 cells around the player."""
        padded = np.pad(picture, [(1, 1), (1, 1), (0, 0)], constant_values=1)
        return padded[self.player[0] - 1 : self.player[0] + 4, self.player[1] - 1 : self.player[1] + 4]
