"""Figures of Munkhdalai et al. 2019, from numpy arrays alone: similarities of memories, an episode in the maze."""

import numpy as np

from tfmem import plotting


def similarity_figure(rows, words, title=""):
    """Draw Figure 5 of Munkhdalai et al. 2019: similarity of reads or writes at one word to those at earlier words.

    Args:
        rows: list of (name, matrix [n, T], words of its n rows); column t is the word to compare with.
        words: the T words of the columns.

    Returns:
        Figure: the matrices below each other, on one scale; bright is similar.
    """
    side = 0.17
    heights = [side * len(matrix) + 0.9 for _, matrix, _ in rows]
    least, most = (extreme([extreme(matrix) for _, matrix, _ in rows]) for extreme in (np.min, np.max))
    figure = plotting.new_figure(side * len(words) + 2.9, sum(heights) + 0.6, title)
    for axes, (name, matrix, labels) in zip(
        np.atleast_1d(figure.subplots(len(rows), 1, height_ratios=heights)), rows, strict=True
    ):
        image = axes.imshow(matrix, cmap="magma", aspect="equal", vmin=least, vmax=most)
        plotting.bare_axes(axes, name)
        axes.set_xticks(range(len(words)), words, rotation=90, fontsize=plotting.SMALL - 2, color=plotting.INK)
        axes.set_yticks(range(len(labels)), labels, fontsize=plotting.SMALL - 2, color=plotting.INK)
        axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=figure.axes, aspect=40, pad=0.02)
    bar.ax.tick_params(labelsize=plotting.SMALL - 2, labelcolor=plotting.INK)
    return figure


def maze_episode_figure(play, world):
    """Draw an episode of the maze, after Figure 7: the way to the first goal, the ways from then on, and the reward.

    Args:
        play: `tfmem.rl.play.Play` in a `GoalMaze`.
        world: the `GoalMaze`.

    Returns:
        Figure: goal yellow, start green; a line for each way between two moves by the goal.
    """
    row, column = np.divmod(play.states.player, world.side)
    arrivals = np.flatnonzero(play.rewards > 1)
    goal = divmod(int(play.states.goal[0]), world.side)
    # A step that reaches the goal ends there; its state is already the cell to which the goal moved the agent.
    starts, ends = [0, *(arrivals + 1)], [*arrivals, len(play.rewards)]
    ways = []
    for start, end in zip(starts, ends, strict=True):
        way = list(zip(column[start : end + 1], row[start : end + 1], strict=True))
        ways.append([*way, goal[::-1]] if end < len(play.rewards) else way)
    figure = plotting.new_figure(9, 3.6, f"reward {play.rewards.sum():.1f}")
    first, later, total = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
    for axes, title, shown in (
        (first, f"until the first goal: {len(ways[0]) - 1} steps" if len(arrivals) else "goal not reached", ways[:1]),
        (later, f"afterwards: goal reached {max(len(arrivals) - 1, 0)} times", ways[1:]),
    ):
        axes.imshow(world.walls(), cmap="Greys", vmin=0, vmax=1.4)
        plotting.bare_axes(axes, title)
        for way in shown:
            x, y = np.array(way).T
            axes.plot(x, y, color=plotting.BLUE, linewidth=1, alpha=0.5)
            axes.plot(x[0], y[0], "o", color=plotting.GREEN, markersize=5)
        axes.plot(goal[1], goal[0], "s", color="#e3b505", markersize=9)
    plotting.graph_axes(total, "step", "reward so far")
    total.plot(np.arange(1, len(play.rewards) + 1), np.cumsum(play.rewards), color=plotting.BLUE)
    return figure
