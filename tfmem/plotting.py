"""Figures of the experiments, from numpy arrays alone.

Every function returns a matplotlib `Figure` without a window (`figure.savefig("x.png")`), or writes a video. Curves
over seeds follow Gregor et al. 2019, appendix E. The mapping video and the recall strips follow the README of the
public Multigrid code.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from PIL import Image

from tfmem.video import write_video

_INK, _FAINT, _PAPER = "#26323a", "#8a969e", "#ffffff"
_WALL, _UNSEEN = "#4b5a64", "#dde2e6"
_BLUE, _ORANGE, _GREEN, _RED = "#2468b2", "#e07b39", "#2e8b57", "#c0392b"
_SERIES = (_BLUE, _ORANGE, _GREEN, "#8e5ba6", _RED, "#3aa6a6", "#a67c52", _FAINT)
_TITLE, _LABEL, _SMALL = 11, 9, 8
_CELLS = ListedColormap([_PAPER, _WALL, _PAPER, _UNSEEN])  # free, wall, none, unknown: tfmem.tasks.mapping


def _figure(width, height, title=None):
    figure = Figure(figsize=(width, height), facecolor=_PAPER, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.07)
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=_TITLE + 2, color=_INK)
    return figure


def _bare(axes, title="", size=_LABEL):
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(_FAINT)
        spine.set_linewidth(0.6)
    axes.set_title(title, fontsize=size, color=_INK)


def _graph(axes, x_label, y_label):
    axes.set_xlabel(x_label, fontsize=_LABEL, color=_INK)
    axes.set_ylabel(y_label, fontsize=_LABEL, color=_INK)
    axes.tick_params(labelsize=_SMALL, color=_FAINT, labelcolor=_INK)
    axes.grid(color="#e6eaed", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)


def _styles():
    """Infinite iterator of (colour, line style): all colours, then the same colours with the next line style."""
    lines = itertools.cycle(("-", "--", ":", "-."))
    return ((colour, line) for line in lines for colour in _SERIES)


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
        memory: one grid [side, side, channels] per level, coarsest first.
        title: title of the figure.
    """

    world: np.ndarray
    path: np.ndarray
    view: np.ndarray
    query: np.ndarray
    prediction: np.ndarray
    target: np.ndarray
    memory: tuple
    title: str = ""


def _marks(probability):
    """RGBA picture [S, S, 4] of probabilities [S, S]: blue, transparent at 0."""
    rgba = np.empty((*probability.shape, 4))
    rgba[..., :3] = mpl.colors.to_rgb(_BLUE)
    rgba[..., 3] = probability
    return rgba


class _MappingPicture:
    """Matplotlib artists of one picture; `show` updates them to a frame, so a video draws its axes once."""

    def __init__(self, frame):
        levels = len(frame.memory)
        self.figure = _figure(11, 7.4)
        self.title = self.figure.suptitle(frame.title or " ", fontsize=_TITLE, color=_INK)
        top, bottom = self.figure.subfigures(2, 1, height_ratios=[1.15, 1.3])
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
        (self.path,) = world.plot([], [], color=_ORANGE, linewidth=1.4, solid_joinstyle="round")
        (self.agent,) = world.plot([], [], "o", color=_RED, markersize=6, markeredgecolor=_PAPER)
        self.under, self.marks = [], []
        for axes in (prediction, target):
            self.under.append(axes.imshow(frame.world, cmap=_CELLS, vmin=0, vmax=3, alpha=0.22))
            self.marks.append(axes.imshow(np.zeros((side, side, 4))))
        _bare(world, "true map, path and agent")
        _bare(view, "view")
        _bare(query, "query")
        _bare(prediction, "predicted places")
        _bare(target, "true places")

        panels = bottom.subplots(2, levels, squeeze=False)
        self.memory = []
        for level, values in enumerate(frame.memory):
            size = values.shape[0]
            for row, colours in enumerate(("viridis", "magma")):
                axes = panels[row, level]
                self.memory.append((axes.imshow(np.zeros((size, size)), cmap=colours), axes))
                _bare(axes, f"level {level + 1}: {size}×{size}" if row == 0 else "")
        for row, name in enumerate(("mean", "variance")):
            panels[row, 0].set_ylabel(f"memory {name}\nover channels", fontsize=_LABEL, color=_INK)
        self.show(frame)

    def show(self, frame):
        self.title.set_text(frame.title or " ")
        for image, array in ((self.world, frame.world), (self.view, frame.view), (self.query, frame.query)):
            image.set_data(array)
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
                axes.set_xlabel(f"{low:.2g} to {high:.2g}", fontsize=_SMALL, color=_FAINT)


def mapping_figure(frame):
    """Draw a `MappingFrame` as a Figure: map, view, query, predicted and true locations; memory by level below."""
    return _MappingPicture(frame).figure


def _gif_palette():
    """Palette of 256 colours for all frames: this file's, their mixtures with white, the memory's two colour maps."""
    steps = np.linspace(0, 1, 20)[:, None]
    ours = [1 - steps * (1 - np.array(mpl.colors.to_rgb(colour))) for colour in (_INK, _WALL, _BLUE, _ORANGE, _RED)]
    maps = [mpl.colormaps[name](np.linspace(0, 1, 78))[:, :3] for name in ("viridis", "magma")]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.rint(255 * np.concatenate([*ours, *maps])).astype(np.uint8).tobytes())
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
    figure = _figure(0.72 * steps + 1.1, 1.8 * count + (0.45 if title else 0), title)
    for strip, sequence, k, told, true in zip(
        figure.subfigures(count, 1, squeeze=False)[:, 0], images, query_steps, predictions, labels, strict=True
    ):
        above, below = strip.subplots(2, steps)
        for step in range(steps):
            above[step].imshow(sequence[step], cmap="gray")
            _bare(above[step])
            _bare(below[step])
            below[step].set_box_aspect(1)
            below[step].spines[:].set_visible(step in (k, k + 1))
        below[k].imshow(sequence[k], cmap="gray")
        right = int(told) == int(true)
        answer = below[k + 1]
        centred = dict(ha="center", va="center", transform=answer.transAxes)
        answer.text(
            0.5, 0.5 if right else 0.58, f"{int(told)}", fontsize=22, color=_GREEN if right else _RED, **centred
        )
        if not right:
            answer.text(0.5, 0.13, f"is {int(true)}", fontsize=_SMALL, color=_INK, **centred)
        above[0].set_ylabel("sequence", fontsize=_SMALL, color=_INK)
        below[0].set_ylabel("query, answer", fontsize=_SMALL, color=_INK)
    return figure


# ---- memory over time -----------------------------------------------------------------------------------------------


def memory_figure(models, num_steps=6, title=""):
    """Draw the contents of memories over time, side by side (Figure 3 of the supplement of Huynh et al. 2020).

    Args:
        models: {name of a model: {name of a memory: its contents [T, rows, columns]}}.
        num_steps: number of steps shown, evenly from the first to the last.

    Returns:
        Figure: a column per step, a row per memory. All steps of a memory share one scale.
    """
    rows = max(len(memories) for memories in models.values())
    figure = _figure(1.0 * num_steps * len(models) + 0.8, 1.15 * rows + 0.9, title)
    for part, (name, memories) in zip(figure.subfigures(1, len(models), squeeze=False)[0], models.items(), strict=True):
        part.suptitle(name, fontsize=_TITLE, color=_INK)
        panels = part.subplots(len(memories), num_steps, squeeze=False)
        for number, (row, (memory, contents)) in enumerate(zip(panels, memories.items(), strict=True)):
            shown = np.unique(np.linspace(0, len(contents) - 1, num_steps).round().astype(int))
            for axes in row[len(shown) :]:
                axes.set_visible(False)
            for axes, step in zip(row, shown, strict=False):
                axes.imshow(
                    contents[step],
                    cmap="viridis",
                    vmin=contents.min(),
                    vmax=contents.max(),
                    aspect="auto",
                    interpolation="nearest",
                )
                if contents.shape[1] == contents.shape[2]:
                    axes.set_box_aspect(1)
                _bare(axes, f"step {step + 1}" if number == 0 else "")
            row[0].set_ylabel(memory, fontsize=_SMALL, color=_INK)
    return figure


# ---- curves ---------------------------------------------------------------------------------------------------------


def smooth(values, window=10):
    """Exponential moving average of `values` [n], with weight 2 / (window + 1) for the newest; starts at the first."""
    values, weight = np.asarray(values, np.float64), 2 / (window + 1)
    smoothed, average = np.empty_like(values), values[0]
    for i, value in enumerate(values):
        average += weight * (value - average)
        smoothed[i] = average
    return smoothed


_T95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)  # Student's t, 95 %, 1 to 10 degrees


def mean_and_confidence(values):
    """Mean over seeds and half-width of its 90 % confidence region (Student's t), from values [seeds, ...].

    The half-width of a single seed is nan.
    """
    values = np.asarray(values, np.float64)
    degrees = len(values) - 1
    if degrees < 1:
        return values.mean(0), np.full(values.shape[1:], np.nan)
    z = 1.6449
    expansion = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    t = _T95[degrees - 1] if degrees <= len(_T95) else expansion
    return values.mean(0), t * values.std(0, ddof=1) / np.sqrt(len(values))


def resampled_curves(seeds, points=128, window=10):
    """Smooth each (x, y) of `seeds`, then sample it at `points` places evenly over their common range.

    Paper: Gregor et al. 2019, appendix E. Not specified; we do not smooth a curve of fewer than 4 `window` points, as
    its moving average would lag far behind.

    Returns:
        x [points], y [seeds, points].
    """

    def read(seed_x, seed_y):
        return np.interp(x, seed_x, smooth(seed_y, window) if len(seed_y) >= 4 * window else seed_y)

    x = np.linspace(max(np.min(x) for x, _ in seeds), min(np.max(x) for x, _ in seeds), points)
    return x, np.stack([read(*seed) for seed in seeds])


def curves_figure(curves, x_label, y_label, title="", log=False):
    """Draw means and 90 % confidence regions over seeds as in appendix E of Gregor et al. 2019.

    Args:
        curves: {name: [(x, y) of each seed]}.
        log: logarithmic y axis.
    """
    figure = _figure(6.4, 4, title)
    axes = figure.add_subplot()
    _graph(axes, x_label, y_label)
    for (colour, style), (name, seeds) in zip(_styles(), curves.items(), strict=False):
        x, y = resampled_curves(seeds)
        mean, half = mean_and_confidence(y)
        label = f"{name} ({len(seeds)} seed{'s' * (len(seeds) > 1)})"
        axes.plot(x, mean, style, color=colour, linewidth=1.6, label=label)
        if len(seeds) > 1:
            axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
    if log:
        axes.set_yscale("log", nonpositive="clip")
    if curves:
        axes.legend(fontsize=_SMALL, frameon=False, labelcolor=_INK)
    return figure


def loss_figure(steps, loss, x_label="environment steps", y_label="loss", title="", log=True, window=10):
    """Draw a run's loss at `steps`, raw (faint) and smoothed, on a logarithmic axis unless `log` is False."""
    figure = _figure(6.4, 4, title)
    axes = figure.add_subplot()
    _graph(axes, x_label, y_label)
    axes.plot(steps, loss, color=_BLUE, linewidth=0.7, alpha=0.35, label="each update")
    axes.plot(steps, smooth(loss, window), color=_BLUE, linewidth=1.8, label=f"moving average over {window}")
    if log:
        axes.set_yscale("log", nonpositive="clip")
    else:
        axes.set_ylim(bottom=min(0, np.min(loss)))
    axes.legend(fontsize=_SMALL, frameon=False, labelcolor=_INK)
    return figure


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
    figure = _figure(side * len(words) + 2.9, sum(heights) + 0.6, title)
    for axes, (name, matrix, labels) in zip(
        np.atleast_1d(figure.subplots(len(rows), 1, height_ratios=heights)), rows, strict=True
    ):
        image = axes.imshow(matrix, cmap="magma", aspect="equal", vmin=least, vmax=most)
        _bare(axes, name)
        axes.set_xticks(range(len(words)), words, rotation=90, fontsize=_SMALL - 2, color=_INK)
        axes.set_yticks(range(len(labels)), labels, fontsize=_SMALL - 2, color=_INK)
        axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=figure.axes, aspect=40, pad=0.02)
    bar.ax.tick_params(labelsize=_SMALL - 2, labelcolor=_INK)
    return figure


def cost_figure(panels, title="", rows=1):
    """Draw growing costs on logarithmic axes, in `rows` rows of panels; a model keeps its colour and mark.

    Args:
        panels: {(label of x, label of y): {name of the model: (x, y)}}.
    """
    columns = -(-len(panels) // rows)
    names = list(dict.fromkeys(name for models in panels.values() for name in models))
    figure = _figure(3.4 * columns + 1.2, 2.9 * rows + 0.5, title)
    for axes, ((x_label, y_label), models) in zip(
        figure.subplots(rows, columns, squeeze=False).flat, panels.items(), strict=True
    ):
        _graph(axes, x_label, y_label)
        for name, (x, y) in models.items():
            cycle, colour = divmod(names.index(name), len(_SERIES))
            axes.loglog(x, y, "os^"[cycle] + "-", color=_SERIES[colour], linewidth=1.6, markersize=3.5, label=name)
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    labelled = max(figure.axes, key=lambda axes: len(axes.lines))
    figure.legend(handles=labelled.lines, loc="outside right center", fontsize=_SMALL, frameon=False, labelcolor=_INK)
    return figure


# ---- belief states --------------------------------------------------------------------------------------------------


def _strip(images):
    """Join images [n, height, width, 1 or 3] from 0 to 1 (clipped) side by side, white between, [height, ..., 3]."""
    images = np.clip(np.asarray(images, np.float64), 0, 1)
    images = np.broadcast_to(images, (*images.shape[:-1], 3))
    gap = max(1, images.shape[2] // 16)
    padded = np.pad(images, [(0, 0), (0, 0), (0, gap), (0, 0)], constant_values=1)
    return np.concatenate(list(padded), axis=1)[:, :-gap]


def _show_strip(axes, images, label="", heading=""):
    axes.imshow(_strip(images), interpolation="nearest")
    _bare(axes, heading)
    axes.spines[:].set_visible(False)
    if label:
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=_LABEL, color=_INK)


def rollout_figure(frames, samples, per_row=12, title=""):
    """Draw Figures 13 and 14 of Gregor et al. 2019: rows of frames above rows of samples, wrapped below.

    Args:
        frames, samples: [N, T, height, width, 1 or 3] from 0 to 1 of N rollouts.
        per_row: most frames in a row.
    """
    count, steps = frames.shape[:2]
    lines = [slice(start, start + per_row) for start in range(0, steps, per_row)]
    figure = _figure(0.75 * min(per_row, steps) + 1, 1.75 * count * len(lines) + (0.45 if title else 0.1), title)
    for strip, (k, line) in zip(
        figure.subfigures(count * len(lines), 1, squeeze=False)[:, 0],
        [(k, line) for k in range(count) for line in lines],
        strict=True,
    ):
        for axes, (name, images) in zip(strip.subplots(2, 1), (("input", frames), ("sample", samples)), strict=True):
            shown = np.ones((min(per_row, steps), *images.shape[2:]))  # pad the last row with white
            shown[: len(images[k, line])] = images[k, line]
            _show_strip(axes, shown, name)
    return figure


def decoded_maps_figure(maps, decoded, title=""):
    """Draw Figure 10 of Gregor et al. 2019: maps decoded by models from the same trajectories, below the true ones.

    Args:
        maps: the true maps [n, height, width, 1 or 3], from 0 to 1.
        decoded: {name of the model: {name of the setting: maps like these}}; the settings stand side by side.
    """
    settings = list(dict.fromkeys(setting for by_setting in decoded.values() for setting in by_setting))
    figure = _figure(0.6 * len(maps) * len(settings) + 1.4, 0.75 * (len(decoded) + 1) + 0.7, title)
    panels = figure.subplots(len(decoded) + 1, len(settings), squeeze=False)
    for column, setting in enumerate(settings):
        _show_strip(panels[0, column], maps, "true map" if column == 0 else "", setting)
        for axes, (name, by_setting) in zip(panels[1:, column], decoded.items(), strict=True):
            _show_strip(axes, by_setting.get(setting, np.ones_like(maps)), name if column == 0 else "")
    return figure


def map_error_figure(errors, shown, y_label="map MSE", title=""):
    """Draw Figure 12 of Gregor et al. 2019: the error of the decoded map along one trajectory.

    Args:
        errors: {name of the model: error at every step [T]}.
        shown: {step: (true map, decoded map, frame)}, images [height, width, 1 or 3] from 0 to 1. They are drawn from
            top to bottom below the graph, which marks their steps.
    """
    figure = _figure(6.8, 5.6, title)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.1, 1])
    axes = upper.add_subplot()
    _graph(axes, "step of the trajectory", y_label)
    for step in shown:
        axes.axvline(step, color=_FAINT, linewidth=0.8, linestyle=":")
    for (colour, style), (name, error) in zip(_styles(), errors.items(), strict=False):
        axes.plot(np.arange(len(error)), error, style, color=colour, linewidth=1.4, label=name)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=_SMALL, frameon=False, labelcolor=_INK)
    panels = lower.subplots(3, len(shown), squeeze=False)
    for column, (step, images) in enumerate(shown.items()):
        names = ("true map", "decoded", "frame") if column == 0 else ("", "", "")
        for row, (name, image) in enumerate(zip(names, images, strict=True)):
            _show_strip(panels[row, column], image[np.newaxis], name, f"step {step}" if row == 0 else "")
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
    figure = _figure(1.55 * layers + 0.9, 1.75 * (levels + 1) + 1.0, title)
    upper, lower = figure.subfigures(2, 1, height_ratios=[levels + 0.3, 1.24])
    reach = ListedColormap(["#eef1f4", _BLUE])

    def draw(axes, grid, heading):
        if grid is None:
            axes.set_visible(False)
            return
        lines = dict(edgecolors=_PAPER, linewidth=0.6) if len(grid) <= 12 else {}
        axes.pcolormesh(np.asarray(grid, np.float64), cmap=reach, vmin=0, vmax=1, **lines)
        axes.set_aspect("equal")
        axes.invert_yaxis()
        _bare(axes, heading)
        share = 100 * np.mean(grid)
        axes.set_xlabel(
            f"{share:.1g}%" if 0 < share < 1 else f"{share:.0f}%", fontsize=_SMALL, color=_FAINT, labelpad=2
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
        panels[row, first].set_ylabel(f"level {level + 1}: {len(shown)}×{len(shown)}", fontsize=_LABEL, color=_INK)
    upper.suptitle("multigrid", fontsize=_TITLE, color=_INK, x=0.01, ha="left")
    single = lower.subplots(1, layers, squeeze=False)[0]
    for layer in range(layers):
        draw(single[layer], standard[layer] if layer < len(standard) else None, f"layer {layer + 1}")
    single[0].set_ylabel(f"{len(standard[0])}×{len(standard[0])}", fontsize=_LABEL, color=_INK)
    lower.suptitle("standard", fontsize=_TITLE, color=_INK, x=0.01, ha="left")
    return figure
