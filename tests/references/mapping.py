"""The mapping task step by step: the known maze grows view by view, patches are compared as tuples."""

import numpy as np

UNKNOWN = 3


def patches(cells, places, size):
    """The patch around each of the places, as a tuple of its cells."""
    padded = np.pad(cells, size // 2, constant_values=UNKNOWN)
    return [tuple(padded[row : row + size, column : column + size].ravel().tolist()) for row, column in places]


def replay(maze, walk, query_index, size, target_size, label_after_move=True):
    """Queries [T, size, size, 4], targets [T, S, S] and the steps that may be a query, of one agent's episode."""
    side = len(maze)
    corner = side - side // 2
    queries, targets, askable = [], [], []
    for t in range(len(walk)):
        known = np.full_like(maze, UNKNOWN)
        for row, column in walk[: t + 1]:
            known[row - 1 : row + 2, column - 1 : column + 2] = maze[row - 1 : row + 2, column - 1 : column + 2]
        later = known.copy()  # with the view after the move, which the label may use
        visited = [tuple(place) for place in walk[: t + 1]]
        if label_after_move and t + 1 < len(walk):
            row, column = walk[t + 1]
            later[row - 1 : row + 2, column - 1 : column + 2] = maze[row - 1 : row + 2, column - 1 : column + 2]
            visited.append((row, column))
        met = patches(known, walk[: t + 1], size)
        askable.append([j for j in range(t + 1) if UNKNOWN not in met[j]])
        query, target = np.zeros((size, size, 4), np.float32), np.zeros((target_size, target_size), np.uint8)
        if query_index[t] >= 0:
            wanted = met[query_index[t]]
            cells = np.reshape(wanted, (size, size))
            query[..., 0], query[..., 1] = cells == 0, cells == 1
            for (row, column), shown in zip(visited, patches(later, visited, size), strict=True):
                if shown == wanted and UNKNOWN not in shown:
                    target[row + corner, column + corner] = 1
        queries.append(query)
        targets.append(target)
    return np.stack(queries), np.stack(targets), askable
