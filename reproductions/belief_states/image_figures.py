"""Figures of the belief-states experiments, from numpy arrays alone."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image


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
