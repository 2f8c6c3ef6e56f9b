"""Style, curves, image grids and pictures of memories, from numpy arrays alone.

Every figure is a matplotlib `Figure` without a window (`figure.savefig("x.png")`). Curves over seeds follow Gregor et
al. 2019, appendix E. Figures of one paper are in `reproductions/<paper>/figures.py`.
"""

import itertools
import math
import textwrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from PIL import Image

INK, FAINT, PAPER = "#26323a", "#8a969e", "#ffffff"
BLUE, ORANGE, GREEN, RED = "#2468b2", "#e07b39", "#2e8b57", "#c0392b"
SERIES = (BLUE, ORANGE, GREEN, "#8e5ba6", RED, "#3aa6a6", "#a67c52", FAINT)
TITLE, LABEL, SMALL = 11, 9, 8
FEW = 4  # curves whose legend has room among them
LABEL_WIDTH = 70  # characters of a line of a legend
HALF_WIDTH = 40  # of one in two columns


def new_figure(width, height, title=None):
    """Make a `Figure` of this style, width and height in inches."""
    figure = Figure(figsize=(width, height), facecolor=PAPER, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.07)
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=TITLE + 2, color=INK)
    return figure


def bare_axes(axes, title="", size=LABEL):
    """Style axes of a picture: no ticks, a faint frame, a title."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FAINT)
        spine.set_linewidth(0.6)
    axes.set_title(title, fontsize=size, color=INK)


def graph_axes(axes, x_label, y_label):
    """Style axes of a graph: labels, a faint grid, two spines."""
    axes.set_xlabel(x_label, fontsize=LABEL, color=INK)
    axes.set_ylabel(y_label, fontsize=LABEL, color=INK)
    axes.tick_params(labelsize=SMALL, color=FAINT, labelcolor=INK)
    axes.grid(color="#e6eaed", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)


def line_styles():
    """Infinite iterator of (colour, line style): all colours, then the same colours with the next line style."""
    lines = itertools.cycle(("-", "--", ":", "-."))
    return ((colour, line) for line in lines for colour in SERIES)


# ---- memories -------------------------------------------------------------------------------------------------------


def memory_figure(models, num_steps=6, title=""):
    """Draw the contents of memories over time, side by side (Figure 3 of the supplement of Huynh et al. 2020).

    Args:
        models: {name of a model: {name of a memory: its contents [T, rows, columns]}}.
        num_steps: number of steps shown, evenly from the first to the last.

    Returns:
        Figure: a column per step, a row per memory. All steps of a memory share one scale.
    """
    rows = max(len(memories) for memories in models.values())
    figure = new_figure(1.0 * num_steps * len(models) + 0.8, 1.15 * rows + 0.9, title)
    for part, (name, memories) in zip(figure.subfigures(1, len(models), squeeze=False)[0], models.items(), strict=True):
        part.suptitle(name, fontsize=TITLE, color=INK)
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
                bare_axes(axes, f"step {step + 1}" if number == 0 else "")
            row[0].set_ylabel(memory, fontsize=SMALL, color=INK)
    return figure


# ---- curves ---------------------------------------------------------------------------------------------------------


def smooth(values, window=10):
    """Exponential moving average of `values` [n].

    Each value weighs 1 - 2 / (window + 1) times as much as the next. Not specified by Gregor et al. 2019; we use this
    weight, and divide by the sum of the weights so far, so that the first values do not outweigh the others.
    """
    values, keep = np.asarray(values, np.float64), 1 - 2 / (window + 1)
    smoothed, total, weight = np.empty_like(values), 0.0, 0.0
    for i, value in enumerate(values):
        total, weight = keep * total + value, keep * weight + 1
        smoothed[i] = total / weight
    return smoothed


def window_of(score):
    """Window of the moving average of a score's curve, as `resampled_curves` takes it.

    Paper: Gregor et al. 2019, appendix E: 10 for RL scores, position accuracy and map MSE. Not specified for other
    scores; we use None.
    """
    stated = ("episode_return", "solved", "position_accuracy", "map_mse")
    return 10 if score.split("/")[-1].startswith(stated) else None


_T95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)  # Student's t, 95 %, 1 to 10 degrees


def mean_and_confidence(values):
    """Mean over seeds and half-width of its 90 % confidence region (Student's t), from values [seeds, ...].

    The half-width of a single seed is nan.
    """
    values = np.asarray(values, np.float64)
    degrees = len(values) - 1
    if degrees < 1:
        return values[0], np.full(values.shape[1:], np.nan)
    z = 1.6449
    expansion = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    t = _T95[degrees - 1] if degrees <= len(_T95) else expansion
    with np.errstate(invalid="ignore"):  # of infinite values
        apart = values - values[0]  # so that equal values have their exact mean and no width
        middle = np.where(np.isfinite(values).all(0), values[0] + apart.mean(0), values.mean(0))[()]
        return middle, t * apart.std(0, ddof=1) / np.sqrt(len(values))


def resampled_curves(seeds, points=128, window=None):
    """Smooth each (x, y) of `seeds`, then sample it at `points` places evenly over their common range.

    Paper: Gregor et al. 2019, appendix E.

    Args:
        window: of the moving average; 1: none. None (the default): 10 for curves of at least 40 points and none for
            shorter ones, whose moving average would lag far behind. `window_of` gives the paper's.

    Returns:
        x [points], y [seeds, points].
    """

    def read(seed_x, seed_y):
        automatic = 10 if len(seed_y) >= 40 else 1
        return np.interp(x, seed_x, smooth(seed_y, automatic if window is None else window))

    x = np.linspace(max(np.min(x) for x, _ in seeds), min(np.max(x) for x, _ in seeds), points)
    return x, np.stack([read(*seed) for seed in seeds])


def curves_figure(curves, x_label, y_label, title="", log=False, window=None):
    """Draw means and 90 % confidence regions over seeds as in appendix E of Gregor et al. 2019.

    The y axis leaves out what of a region is further from all seeds than half of their range: the region of two seeds
    that differ is many times as high.

    Args:
        curves: {name: [(x, y) of each seed]}.
        log: logarithmic y axis.
        window: as in `resampled_curves`.
    """
    figure = new_figure(6.4, 4, title)
    axes = figure.add_subplot()
    graph_axes(axes, x_label, y_label)
    drawn = [np.zeros(0)]
    for (colour, style), (name, seeds) in zip(line_styles(), curves.items(), strict=False):
        x, y = resampled_curves(seeds, window=window)
        drawn.append(np.ravel(y))
        mean, half = mean_and_confidence(y)
        label = textwrap.fill(f"{name} ({len(seeds)} seed{'s' * (len(seeds) > 1)})", LABEL_WIDTH)
        axes.plot(x, mean, style, color=colour, linewidth=1.6, label=label)
        if len(seeds) > 1:
            axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
    if log:
        axes.set_yscale("log", nonpositive="clip")
    drawn = np.concatenate(drawn)
    drawn = drawn[np.isfinite(drawn)]
    if not log and drawn.size and np.ptp(drawn):
        bottom, top = axes.get_ylim()
        margin = np.ptp(drawn) / 2
        axes.set_ylim(max(bottom, drawn.min() - margin), min(top, drawn.max() + margin))
    if len(curves) > FEW:
        lines = [line for label in axes.get_legend_handles_labels()[1] for line in label.splitlines()]
        columns = 2 if max(map(len, lines)) <= HALF_WIDTH else 1
        figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(lines) / columns))
        figure.legend(loc="outside lower center", ncols=columns, fontsize=SMALL, frameon=False, labelcolor=INK)
    elif curves:
        axes.legend(fontsize=SMALL, frameon=False, labelcolor=INK)
    return figure


def loss_figure(steps, loss, x_label="environment steps", y_label="loss", title="", log=True, window=10):
    """Draw a run's loss at `steps`, raw (faint) and smoothed, on a logarithmic axis unless `log` is False."""
    figure = new_figure(6.4, 4, title)
    axes = figure.add_subplot()
    graph_axes(axes, x_label, y_label)
    axes.plot(steps, loss, color=BLUE, linewidth=0.7, alpha=0.35, label="each update")
    axes.plot(steps, smooth(loss, window), color=BLUE, linewidth=1.8, label=f"moving average over {window}")
    if log:
        axes.set_yscale("log", nonpositive="clip")
    else:
        axes.set_ylim(bottom=min(0, np.min(loss)))
    axes.legend(fontsize=SMALL, frameon=False, labelcolor=INK)
    return figure


def sweep_figure(lines, x_label, y_label, title=""):
    """Draw means of a score over the values of an option, with 90 % confidence over seeds.

    Args:
        lines: {label: {value, a text: scores of the seeds}}; a single line may have the label "".
    """
    values = list(dict.fromkeys(value for line in lines.values() for value in line))
    figure = new_figure(6.4, 4, title)
    axes = figure.add_subplot()
    graph_axes(axes, x_label, y_label)
    for (colour, style), (label, line) in zip(line_styles(), lines.items(), strict=False):
        x = [values.index(value) for value in line]
        mean, half = np.array([mean_and_confidence(scores) for scores in line.values()]).T
        half = np.nan_to_num(half)
        axes.errorbar(x, mean, half, fmt=style, marker="o", markersize=4, color=colour, capsize=3, label=label)
    axes.set_xticks(range(len(values)), values)
    if any(lines):
        axes.legend(fontsize=SMALL, frameon=False, labelcolor=INK)
    return figure


def cost_figure(panels, title="", rows=1):
    """Draw growing costs on logarithmic axes, in `rows` rows of panels; a model keeps its colour and mark.

    Args:
        panels: {(label of x, label of y): {name of the model: (x, y)}}.
    """
    columns = -(-len(panels) // rows)
    names = list(dict.fromkeys(name for models in panels.values() for name in models))
    figure = new_figure(3.4 * columns + 1.2, 2.9 * rows + 0.5, title)
    for axes, ((x_label, y_label), models) in zip(
        figure.subplots(rows, columns, squeeze=False).flat, panels.items(), strict=True
    ):
        graph_axes(axes, x_label, y_label)
        for name, (x, y) in models.items():
            cycle, colour = divmod(names.index(name), len(SERIES))
            axes.loglog(x, y, "os^"[cycle] + "-", color=SERIES[colour], linewidth=1.6, markersize=3.5, label=name)
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    labelled = max(figure.axes, key=lambda axes: len(axes.lines))
    figure.legend(handles=labelled.lines, loc="outside right center", fontsize=SMALL, frameon=False, labelcolor=INK)
    return figure


# ---- images ---------------------------------------------------------------------------------------------------------


def image_strip(images):
    """Join images [n, height, width, 1 or 3] from 0 to 1 (clipped) side by side, white between, [height, ..., 3]."""
    images = np.clip(np.asarray(images, np.float64), 0, 1)
    images = np.broadcast_to(images, (*images.shape[:-1], 3))
    gap = max(1, images.shape[2] // 16)
    padded = np.pad(images, [(0, 0), (0, 0), (0, gap), (0, 0)], constant_values=1)
    return np.concatenate(list(padded), axis=1)[:, :-gap]


def show_strip(axes, images, label="", heading=""):
    """Show images side by side in axes, with a label at the left and a heading above."""
    axes.imshow(image_strip(images), interpolation="nearest")
    bare_axes(axes, heading)
    axes.spines[:].set_visible(False)
    if label:
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=LABEL, color=INK)


def image_grid(images, scale=3, gap=2):
    """Join images into a PIL picture.

    Args:
      images: [rows, columns, height, width, channels] from 0 to 1 (clipped), with 1 or 3 channels.
      scale: pixels of the picture per pixel of an image.
      gap: white pixels between images.
    """
    cells = np.clip(np.asarray(images, np.float32), 0, 1).repeat(scale, 2).repeat(scale, 3)
    cells = np.pad(cells, [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)], constant_values=1)
    rows, columns, height, width, channels = cells.shape
    picture = cells.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    picture = np.round(255 * picture[:-gap, :-gap]).astype(np.uint8)
    return Image.fromarray(picture[..., 0] if channels == 1 else picture)
