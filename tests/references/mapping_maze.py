"""The mapping maze's rules in plain Python, one maze at a time; cells are (row, column)."""

import numpy as np


class MappingMaze:
    """One episode; the start's place in the frame of the targets is (start, start)."""

    def __init__(self, walls, start, target_size):
        self.walls, self.start, self.target_size = walls, start, target_size
        self.middle = len(walls) // 2
        self.player, self.path = (self.middle, self.middle), [(self.middle, self.middle)]
        self.query, self.seen = self.player, set(self.patch_places(self.player))

    @property
    def steps(self):
        return len(self.path) - 1

    @staticmethod
    def patch_places(place):
        return [(place[0] + row, place[1] + column) for row in (-1, 0, 1) for column in (-1, 0, 1)]

    def step(self, action, number):
        """The reward as (cells seen first, whether a wall was in the way); `number` selects the query."""
        down, right = {0: (-1, 0), 1: (1, 0), 2: (0, -1), 3: (0, 1)}.get(action, (0, 0))
        place = self.player[0] + down, self.player[1] + right
        blocked = bool(self.walls[place])
        if not blocked:
            self.player = place
        self.path.append(self.player)
        new = set(self.patch_places(self.player)) - self.seen
        self.seen |= new
        self.query = sorted(self.path)[number % len(self.path)]
        return len(new), blocked

    def patch(self, place):
        """One-hot free and wall, [3, 3, 2]."""
        values = [self.walls[cell] for cell in self.patch_places(place)]
        return np.array([[1 - value, value] for value in values], np.float32).reshape(3, 3, 2)

    def observe(self):
        inputs = np.zeros([3, 3, 4], np.float32)
        inputs[..., :2] = self.patch(self.player)
        inputs[..., 2:] = [self.player[0] - self.middle + self.start, self.player[1] - self.middle + self.start]
        return inputs

    def labels(self):
        query, target = np.zeros([3, 3, 4], np.float32), np.zeros([self.target_size] * 2, np.uint8)
        query[..., :2] = self.patch(self.query)
        for place in self.path:
            if (self.patch(place) == query[..., :2]).all():
                target[place[0] - self.middle + self.start, place[1] - self.middle + self.start] = 1
        return query, target
