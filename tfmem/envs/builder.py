"""A scripted builder for `tfmem.envs.building`: it plans a staircase, fetches blocks, places them and climbs.

It reads the voxels, which a learning agent does not see. Not specified; we use it to show that levels can be solved,
and for trajectories in which stairs are built.

The cheapest stairs to a piece of food are found from the food down to the ground. With g_i the height of the column of
cell i, a path from the food's cell 0 to a cell of need 0 that can be walked to needs the heights

    n_0 = g_0 ,   n_i = max(n_{i-1}, g_{i-1}) - 1 ,

and sum_i max(n_i - g_i, 0) blocks. What lies above a need may be taken away. Of the cells that need blocks the highest
comes first for which the builder can stand where the rules let it place one.
"""

import dataclasses
import heapq

import numpy as np

from tfmem.envs.building import DIRECTIONS, EMPTY, FOOD, LOOSE, PICK_UP, PLACE
from tfmem.envs.worlds import BACKWARD, FORWARD, TURN_LEFT, TURN_RIGHT
from tfmem.validation import check_range


def _neighbours(cell, size):
    for turns, (east, north) in enumerate(DIRECTIONS.tolist()):
        x, y = cell[0] + east, cell[1] + north
        if 0 <= x < size and 0 <= y < size:
            yield turns, (x, y)


def _walks(heights, cell, drop=True):
    """Shortest ways from a cell, {cell: directions of the moves}; with `drop` also down from more than one block."""
    ways, queue = {cell: ()}, [cell]
    for here in queue:
        for turns, there in _neighbours(here, len(heights)):
            rise = heights[there] - heights[here]
            if there not in ways and rise <= 1 and (drop or rise >= -1):
                ways[there] = (*ways[here], turns)
                queue.append(there)
    return ways


def _stand(heights, ways, cell, layer):
    """The shortest (moves, direction) to where a voxel of a cell can be handled; None if there is no way."""
    stands = [
        (ways[stand], (side + 2) % 4)
        for side, stand in _neighbours(cell, len(heights))
        if stand in ways and abs(layer - heights[stand]) <= 1
    ]
    return min(stands, key=lambda stand: (len(stand[0]), stand), default=None)


def _stairs(heights, foods, loose, ways):
    """The cheapest stairs, {cell: height that it needs}, from the highest to the foot; {} if there are none.

    Stairs that would cut off a loose block count only where there are no others.
    """
    queue = [(0, 0, food, int(heights[food]), ()) for food in sorted(foods)]
    seen, cheapest = set(), {}
    while queue:
        cost, steps, cell, needed, path = heapq.heappop(queue)
        if (cell, needed) in seen:
            continue
        seen.add((cell, needed))
        path = (*path, (cell, needed))
        if needed == 0 and cell in ways:
            stairs, built = dict(path), heights.copy()
            for stair, need in path:
                built[stair] = max(built[stair], need)
            after = _walks(built, cell, drop=False)
            if all(block in stairs or _stand(heights, after, block, heights[block] - 1) for block in loose):
                return stairs
            cheapest = cheapest or stairs
        height = max(needed, int(heights[cell]))
        for _, there in _neighbours(cell, len(heights)):
            blocks = max(height - 1 - int(heights[there]), 0)
            if not (blocks and there in foods) and there not in dict(path):
                heapq.heappush(queue, (cost + blocks, steps + 1, there, max(height - 1, 0), path))
    return cheapest


def _turn(before, after):
    """Actions that turn the agent."""
    return [[], [TURN_LEFT], [TURN_LEFT, TURN_LEFT], [TURN_RIGHT]][(after - before) % 4]


def _walk(turns, moves):
    """Actions that make moves in these directions, and the direction after them."""
    actions = []
    for move in moves:
        actions += [*_turn(turns, move), FORWARD]
        turns = move
    return actions, turns


def plan(voxels, cell, turns, carries):
    """Actions up to the builder's next piece of food, block that it picks up, or block that it places.

    Args:
        voxels: as `Building.voxels`.
        cell: the agent's, (x, y).
        turns: left turns from north.
        carries: True if it has a block in hand.

    Returns:
        A list of actions; [] if there is nothing to eat, or no way to it.
    """
    heights = ((voxels != EMPTY) & (voxels != FOOD)).sum(axis=2)
    foods = set(map(tuple, np.argwhere((voxels == FOOD).any(axis=2)).tolist()))
    ways = _walks(heights, cell)
    near = [ways[food] for food in foods if food in ways]
    if near:
        return _walk(turns, min(near, key=lambda way: (len(way), way)))[0]
    loose = list(map(tuple, np.argwhere((voxels == LOOSE).any(axis=2)).tolist()))
    stairs = _stairs(heights, foods, loose, ways)
    if carries:
        stands = [_stand(heights, ways, goal, heights[goal]) for goal, need in stairs.items() if heights[goal] < need]
        found = next(filter(None, stands), None)
    else:
        surplus = [goal for goal in loose if heights[goal] > stairs.get(goal, 0)] if stairs else []
        stands = [_stand(heights, ways, goal, heights[goal] - 1) for goal in surplus]
        found = min(filter(None, stands), key=lambda stand: (len(stand[0]), stand), default=None)
    if not found:
        return []
    actions, turns = _walk(turns, found[0])
    return [*actions, *_turn(turns, found[1]), PLACE if carries else PICK_UP]


@dataclasses.dataclass(frozen=True)
class BuildingPolicy:
    """A policy of `tfmem.envs.exploration.collect`: the scripted builder, with random steps between.

    Args:
        random: probability of a random action at each step, from 0 to 1. Where the builder has nothing to do, all are.
        last_food: eat the last piece of food, which ends the episode. With False a trajectory stays in one level.

    Raises:
        ValueError: an argument out of its range.
    """

    random: float = 0.1
    last_food: bool = True

    def __post_init__(self):
        check_range("random", self.random, 0, 1)

    def start(self, rngs, world):
        """Return `walker(infos, resets)`; `rngs`, `world`: see `collect`."""
        plans, finished = [[] for _ in rngs], np.zeros(len(rngs), bool)
        wander = np.array([0.4, 0.1, 0.2, 0.2, 0.05, 0.05])  # probabilities of the actions

        def choose(i, voxels, cell, turns, carries):
            rng = rngs[i]
            if rng.random() < self.random:
                plans[i] = []
                action = rng.choice(len(wander), p=wander)
            else:
                if not plans[i] and not finished[i]:
                    plans[i] = plan(voxels, cell, turns, carries)
                action = plans[i].pop(0) if plans[i] else rng.choice(len(wander), p=wander)
            if action in (FORWARD, BACKWARD) and not self.last_food and (voxels == FOOD).sum() == 1:
                ahead = np.add(cell, DIRECTIONS[turns] * (1 if action == FORWARD else -1))
                if (ahead >= 0).all() and (ahead < len(voxels)).all() and FOOD in voxels[tuple(ahead)]:
                    plans[i], finished[i] = [], True
                    return TURN_LEFT
            return action

        def walker(infos, resets):
            finished[resets] = False
            cells = np.floor(infos["position"] + world.side / 2).astype(int).tolist()
            turns = np.rint((infos["heading"] / (np.pi / 2) - 1) % 4).astype(int) % 4
            actions = []
            for i in range(len(rngs)):
                if resets[i]:
                    plans[i] = []
                actions.append(choose(i, infos["voxels"][i], tuple(cells[i]), int(turns[i]), bool(infos["carries"][i])))
            return np.array(actions, np.int32)

        return walker
