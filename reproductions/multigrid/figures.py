"""Figures of Huynh et al. 2020: mapping, recall and the reach of information, from numpy arrays alone.

The mapping video and the recall strips follow the README of the public code.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from PIL import Image

from tfmem import plotting
from tfmem.video import write_video

_WALL, _UNSEEN = "#4b5a64", "#dde2e6"
_CELLS = ListedColormap(
    [plotting.PAPER, _WALL, plotting.PAPER, _UNSEEN]
)  # free, wall, none, unknown: tfmem.tasks.mapping


# ---- mapping --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MappingFrame:
    """One step of one agent for `mapping_figure`. Cells have the values of tfmem.tasks.mapping.

    Args:
        world: the true map in the frame of the targets, [S, S], 3 outside it (`recentre(maps, S, UNKNOWN)`).
        path: rows and columns that the agent visited in that frame, [n, 2]; the last is its position.
        view: cells the agent sees, [3, 3].
        query: cells of the queried patch, [s, s]; 3 where it is blank.
        prediction: probability of every location, [S, S].
        target: 0/1 mask of the query's locations, [S, S].
        memory: one grid [side, side, channels] per level, coarsest first; () for a memory without grids.
        title: title of the figure.
        seen: cells that the agent has seen so far, bool [S, S]; the others are pale. None: all cells alike.
    """

    world: np.ndarray
    path: np.ndarray
    view: np.ndarray
    query: np.ndarray
    prediction: np.ndarray
    target: np.ndarray
    memory: tuple
    title: str = ""
    seen: np.ndarray | None = None


def _marks(probability):
    """RGBA picture [S, S, 4] of probabilities [S, S]: blue, transparent at 0."""
    rgba = np.empty((*probability.shape, 4))
    rgba[..., :3] = mpl.colors.to_rgb(plotting.BLUE)
    rgba[..., 3] = probability
    return rgba


def _veil(seen):
    """RGBA picture that makes cells pale where `seen` [S, S] is False."""
    rgba = np.empty((*seen.shape, 4))
    rgba[..., :3] = mpl.colors.to_rgb(_UNSEEN)
    rgba[..., 3] = np.where(seen, 0.0, 0.78)
    return rgba


class _MappingPicture:
    """Matplotlib artists of one picture; `show` updates them to a frame, so a video draws its axes once."""

    def __init__(self, frame):
        levels = len(frame.memory)
        self.figure = plotting.new_figure(11, 7.4 if levels else 3.7)
        self.title = self.figure.suptitle(frame.title or " ", fontsize=plotting.TITLE, color=plotting.INK)
        heights = [1.15, 1.3] if levels else [1]
        top, *bottom = self.figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        grid = top.add_gridspec(2, 4, width_ratios=[2.1, 1, 2.1, 2.1])
        side = len(frame.world)

        def cells(axes, array):
            return axes.imshow(array, cmap=_CELLS, vmin=0, vmax=3)

        world, view, query, prediction, target = (
            top.add_subplot(grid[place]) for place in (np.s_[:, 0], np.s_[0, 1], np.s_[1, 1], np.s_[:, 2], np.s_[:, 3])
        )
        self.world, self.view, self.query = (
            cells(world, frame.world),
            cells(view, frame.view),
            cells(query, frame.query),
        )
        self.pale = None if frame.seen is None else world.imshow(np.zeros((side, side, 4)))
        (self.path,) = world.plot([], [], color=plotting.ORANGE, linewidth=1.4, solid_joinstyle="round")
        (self.agent,) = world.plot([], [], "o", color=plotting.RED, markersize=6, markeredgecolor=plotting.PAPER)
        self.under, self.marks = [], []
        for axes in (prediction, target):
            self.under.append(axes.imshow(frame.world, cmap=_CELLS, vmin=0, vmax=3, alpha=0.22))
            self.marks.append(axes.imshow(np.zeros((side, side, 4))))
        plotting.bare_axes(world, "true map, path and agent")
        plotting.bare_axes(view, "view")
        plotting.bare_axes(query, "query")
        plotting.bare_axes(prediction, "predicted places")
        plotting.bare_axes(target, "true places")

        self.memory = []
        panels = bottom[0].subplots(2, levels, squeeze=False) if levels else ()
        for level, values in enumerate(frame.memory):
            size = values.shape[0]
            for row, colours in enumerate(("viridis", "magma")):
                axes = panels[row, level]
                self.memory.append((axes.imshow(np.zeros((size, size)), cmap=colours), axes))
                plotting.bare_axes(axes, f"level {level + 1}: {size}×{size}" if row == 0 else "")
        for name, row in zip(("mean", "variance"), panels, strict=False):
            row[0].set_ylabel(f"memory {name}\nover channels", fontsize=plotting.LABEL, color=plotting.INK)
        self.show(frame)

    def show(self, frame):
        self.title.set_text(frame.title or " ")
        for image, array in ((self.world, frame.world), (self.view, frame.view), (self.query, frame.query)):
            image.set_data(array)
        if self.pale is not None:
            self.pale.set_data(_veil(frame.seen))
        rows, columns = np.asarray(frame.path).T
        self.path.set_data(columns, rows)
        self.agent.set_data(columns[-1:], rows[-1:])
        for under in self.under:
            under.set_data(frame.world)
        for image, probability in zip(self.marks, (frame.prediction, frame.target), strict=True):
            image.set_data(_marks(np.asarray(probability, np.float64)))
        panels = iter(self.memory)
        for values in frame.memory:
            values = np.asarray(values, np.float64)
            for summary in (values.mean(-1), values.var(-1)):
                image, axes = next(panels)
                low, high = summary.min(), summary.max()
                image.set_data(summary)
                image.set_clim(low, max(high, low + 1e-9))
                axes.set_xlabel(f"{low:.2g} to {high:.2g}", fontsize=plotting.SMALL, color=plotting.FAINT)


def mapping_figure(frame):
    """Draw a `MappingFrame` as a Figure: map, view, query, predicted and true locations; memory by level below."""
    return _MappingPicture(frame).figure


def _gif_palette():
    """Palette of 256 colours for all frames: this file's, their mixtures with white, the memory's two colour maps."""
    steps = np.linspace(0, 1, 20)[:, None]
    colours = [
        1 - steps * (1 - np.array(mpl.colors.to_rgb(colour)))
        for colour in (plotting.INK, _WALL, plotting.BLUE, plotting.ORANGE, plotting.RED)
    ]
    maps = [mpl.colormaps[name](np.linspace(0, 1, 78))[:, :3] for name in ("viridis", "magma")]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.rint(255 * np.concatenate([*colours, *maps])).astype(np.uint8).tobytes())
    return palette


def save_mapping_gif(path, frames, frames_per_second=6, dpi=70):
    """Write `MappingFrame`s of equal shapes (any iterable; at least one) as a looping GIF and an .mp4 of its name.

    Raises:
        ValueError: no frames.
    """
    picture, images = None, []
    for frame in frames:
        if picture is None:
            picture = _MappingPicture(frame)
            picture.figure.set_dpi(dpi)
            picture.figure.canvas.draw()
            picture.figure.set_layout_engine("none")  # keep the axes where the first frame put them
        picture.show(frame)
        picture.figure.canvas.draw()
        images.append(np.array(picture.figure.canvas.buffer_rgba())[..., :3])
    if not images:
        raise ValueError("frames: none, must be at least one")
    palette = _gif_palette()
    pictures = [Image.fromarray(rgb).quantize(palette=palette, dither=Image.Dither.NONE) for rgb in images]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=round(1000 / frames_per_second), loop=0)
    write_video(images, Path(path).with_suffix(".mp4"), frames_per_second)


# ---- exploration ----------------------------------------------------------------------------------------------------


def exploration_figure(curves, title=""):
    """Draw shares of cells seen against steps, `{name: [T]}`."""
    figure = plotting.new_figure(6.4, 4, title)
    axes = figure.add_subplot()
    plotting.graph_axes(axes, "steps", "share of the visible cells seen")
    for (colour, style), (name, share) in zip(plotting.line_styles(), curves.items(), strict=False):
        axes.plot(np.arange(1, len(share) + 1), share, style, color=colour, linewidth=1.6, label=name)
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=plotting.SMALL, frameon=False, labelcolor=plotting.INK)
    return figure


# ---- recall ---------------------------------------------------------------------------------------------------------


def recall_figure(images, query_steps, predictions, labels, title=""):
    """Draw recall strips: the sequence above; below, in their places, the query and the predicted next digit.

    Args:
        images: [N, T, rows, columns].
        query_steps: step k of each query, [N]; 0 to T - 2.
        predictions, labels: predicted and true digit of image k + 1, [N].

    Returns:
        Figure; right predictions are green, wrong ones red with the true digit.
    """
    count, steps = images.shape[:2]
    figure = plotting.new_figure(0.72 * steps + 1.1, 1.8 * count + (0.45 if title else 0), title)
    for strip, sequence, k, predicted, true in zip(
        figure.subfigures(count, 1, squeeze=False)[:, 0], images, query_steps, predictions, labels, strict=True
    ):
        above, below = strip.subplots(2, steps)
        for step in range(steps):
            above[step].imshow(sequence[step], cmap="gray")
            plotting.bare_axes(above[step])
            plotting.bare_axes(below[step])
            below[step].set_box_aspect(1)
            below[step].spines[:].set_visible(step in (k, k + 1))
        below[k].imshow(sequence[k], cmap="gray")
        right = int(predicted) == int(true)
        answer = below[k + 1]
        centred = dict(ha="center", va="center", transform=answer.transAxes)
        answer.text(
            0.5,
            0.5 if right else 0.58,
            f"{int(predicted)}",
            fontsize=22,
            color=plotting.GREEN if right else plotting.RED,
            **centred,
        )
        if not right:
            answer.text(0.5, 0.13, f"is {int(true)}", fontsize=plotting.SMALL, color=plotting.INK, **centred)
        above[0].set_ylabel("sequence", fontsize=plotting.SMALL, color=plotting.INK)
        below[0].set_ylabel("query, answer", fontsize=plotting.SMALL, color=plotting.INK)
    return figure


# ---- routing --------------------------------------------------------------------------------------------------------


def routing_figure(multigrid, standard, title=""):
    """Draw Figure 1 of the supplement of Huynh et al. 2020: reach of one location's information, layer by layer.

    Args:
        multigrid: [layer][level] boolean grids [side, side], coarsest level first: True where information of the
            source can arrive. The first layer marks the source.
        standard: [layer] boolean grids of a network with the finest level alone.
    """
    layers, levels = max(len(multigrid), len(standard)), max(len(grids) for grids in multigrid)
    figure = plotting.new_figure(1.55 * layers + 0.9, 1.75 * (levels + 1) + 1.0, title)
    upper, lower = figure.subfigures(2, 1, height_ratios=[levels + 0.3, 1.24])
    reach = ListedColormap(["#eef1f4", plotting.BLUE])

    def draw(axes, grid, heading):
        if grid is None:
            axes.set_visible(False)
            return
        lines = dict(edgecolors=plotting.PAPER, linewidth=0.6) if len(grid) <= 12 else {}
        axes.pcolormesh(np.asarray(grid, np.float64), cmap=reach, vmin=0, vmax=1, **lines)
        axes.set_aspect("equal")
        axes.invert_yaxis()
        plotting.bare_axes(axes, heading)
        share = 100 * np.mean(grid)
        axes.set_xlabel(
            f"{share:.1g}%" if 0 < share < 1 else f"{share:.0f}%",
            fontsize=plotting.SMALL,
            color=plotting.FAINT,
            labelpad=2,
        )

    panels = upper.subplots(levels, layers, squeeze=False)
    for row in range(levels):
        level = levels - 1 - row
        for layer in range(layers):
            grids = multigrid[layer] if layer < len(multigrid) else ()
            grid = grids[level] if level < len(grids) else None
            draw(panels[row, layer], grid, f"layer {layer + 1}" if row == 0 else "")
        shown = next(grids[level] for grids in multigrid if level < len(grids))
        first = next(layer for layer, grids in enumerate(multigrid) if level < len(grids))
        panels[row, first].set_ylabel(
            f"level {level + 1}: {len(shown)}×{len(shown)}", fontsize=plotting.LABEL, color=plotting.INK
        )
    upper.suptitle("multigrid", fontsize=plotting.TITLE, color=plotting.INK, x=0.01, ha="left")
    single = lower.subplots(1, layers, squeeze=False)[0]
    for layer in range(layers):
        draw(single[layer], standard[layer] if layer < len(standard) else None, f"layer {layer + 1}")
    single[0].set_ylabel(f"{len(standard[0])}×{len(standard[0])}", fontsize=plotting.LABEL, color=plotting.INK)
    lower.suptitle("standard", fontsize=plotting.TITLE, color=plotting.INK, x=0.01, ha="left")
    return figure
