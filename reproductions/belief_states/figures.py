"""Figures of Gregor et al. 2019, from numpy arrays alone."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tfmem import plotting


def rollout_figure(frames, samples, per_row=12, title=""):
    """Draw Figures 13 and 14 of Gregor et al. 2019: rows of frames above rows of samples, wrapped below.

    Args:
        frames, samples: [N, T, height, width, 1 or 3] from 0 to 1 of N rollouts.
        per_row: most frames in a row.
    """
    count, steps = frames.shape[:2]
    lines = [slice(start, start + per_row) for start in range(0, steps, per_row)]
    figure = plotting.new_figure(
        0.75 * min(per_row, steps) + 1, 1.75 * count * len(lines) + (0.45 if title else 0.1), title
    )
    for strip, (k, line) in zip(
        figure.subfigures(count * len(lines), 1, squeeze=False)[:, 0],
        [(k, line) for k in range(count) for line in lines],
        strict=True,
    ):
        for axes, (name, images) in zip(strip.subplots(2, 1), (("input", frames), ("sample", samples)), strict=True):
            shown = np.ones((min(per_row, steps), *images.shape[2:]))  # pad the last row with white
            shown[: len(images[k, line])] = images[k, line]
            plotting.show_strip(axes, shown, name)
    return figure


def decoded_maps_figure(maps, decoded, title=""):
    """Draw Figure 10 of Gregor et al. 2019: maps decoded by models from the same trajectories, below the true ones.

    Args:
        maps: the true maps [n, height, width, 1 or 3], from 0 to 1.
        decoded: {name of the model: {name of the setting: maps like these}}; the settings stand side by side.
    """
    settings = list(dict.fromkeys(setting for by_setting in decoded.values() for setting in by_setting))
    figure = plotting.new_figure(0.6 * len(maps) * len(settings) + 1.4, 0.75 * (len(decoded) + 1) + 0.7, title)
    panels = figure.subplots(len(decoded) + 1, len(settings), squeeze=False)
    for column, setting in enumerate(settings):
        plotting.show_strip(panels[0, column], maps, "true map" if column == 0 else "", setting)
        for axes, (name, by_setting) in zip(panels[1:, column], decoded.items(), strict=True):
            plotting.show_strip(axes, by_setting.get(setting, np.ones_like(maps)), name if column == 0 else "")
    return figure


def map_error_figure(errors, shown, y_label="map MSE", title=""):
    """Draw Figure 12 of Gregor et al. 2019: the error of the decoded map along one trajectory, smoothed (appendix E).

    Args:
        errors: {name of the model: error at every step [T]}.
        shown: {step: (true map, decoded map, frame)}, images [height, width, 1 or 3] from 0 to 1. They are drawn from
            top to bottom below the graph, which marks their steps.
    """
    figure = plotting.new_figure(6.8, 5.6, title)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.1, 1])
    axes = upper.add_subplot()
    plotting.graph_axes(axes, "step of the trajectory", y_label)
    for step in shown:
        axes.axvline(step, color=plotting.FAINT, linewidth=0.8, linestyle=":")
    for (colour, style), (name, error) in zip(plotting.line_styles(), errors.items(), strict=False):
        axes.plot(np.arange(len(error)), plotting.smooth(error), style, color=colour, linewidth=1.4, label=name)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=plotting.SMALL, frameon=False, labelcolor=plotting.INK)
    panels = lower.subplots(3, len(shown), squeeze=False)
    for column, (step, images) in enumerate(shown.items()):
        names = ("true map", "decoded", "frame") if column == 0 else ("", "", "")
        for row, (name, image) in enumerate(zip(names, images, strict=True)):
            plotting.show_strip(panels[row, column], image[np.newaxis], name, f"step {step}" if row == 0 else "")
    return figure


def geco_figure(rows, kappa, title=""):
    """Draw GECO's course: error and kappa, the multiplier, the KL, against updates on a logarithmic axis.

    Args:
      rows: of metrics.csv, with train/error_per_pixel, train/multiplier and train/kl_nats.
      kappa: the allowed error.
    """
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    updates = [row["update"] for row in rows]
    names = {"error_per_pixel": "squared error per pixel", "multiplier": "λ", "kl_nats": "KL, nats"}
    for axes, (name, label) in zip(figure.subplots(1, 3), names.items(), strict=True):
        axes.semilogy(updates, [row[f"train/{name}"] for row in rows], linewidth=1.2, color="#2468b2")
        axes.set_xlabel("updates")
        axes.set_ylabel(label)
        axes.grid(color="#e6eaed", linewidth=0.6)
        if name == "error_per_pixel":
            axes.axhline(kappa, color="#c0392b", linewidth=1, label="κ")
            axes.legend(frameon=False)
    return figure


def episode_figure(rows, steps, title=""):
    """Draw Figure 11 of Gregor et al. 2019: what an agent sees along an episode, the map, and what its beliefs hold.

    Args:
        rows: {name: images [n, height, width, 1 or 3] from 0 to 1}, from top to bottom.
        steps: of the n columns.
    """
    figure = plotting.new_figure(0.75 * len(steps) + 1, 0.85 * len(rows) + (0.6 if title else 0.3), title)
    for axes, (name, images) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        heading = f"steps {', '.join(map(str, steps))}" if name == next(iter(rows)) else ""
        plotting.show_strip(axes, images, name, heading)
    return figure
