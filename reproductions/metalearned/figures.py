"""Figure of Munkhdalai et al. 2019: similarities of reads and writes, from numpy arrays alone."""

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
