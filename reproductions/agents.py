"""Learning curves of several finished runs of agents."""

import collections

import numpy as np

from tfmem import plotting


def draw_learning_curves(folders, out, score, y_label):
    """Draw a score of training against episodes, steps of the worlds and seconds; returns the names of the figures.

    Runs of one preset are one curve, with the mean and confidence over seeds (Gregor et al. 2019, appendix E). Seconds
    are those of the whole run, by its updates.

    Args:
      folders: `RunFolder`s of finished runs.
      out: folder of <score>_by_episodes.png, <score>_by_steps.png and <score>_by_seconds.png.
      score: name in metrics.csv without "train/".
      y_label: its name in the pictures.
    """
    pictures = []
    for name, column in (("episodes", "train/episodes"), ("steps", "train/frames"), ("seconds", "update")):
        curves = collections.defaultdict(list)
        for folder in folders:
            rows = [row for row in folder.metrics() if row.get("train/episodes", 0) > 0]
            result = folder.result()
            factor = result["wall_time_seconds"] / result["updates"] if name == "seconds" else 1.0
            x, y = np.array([(factor * row[column], row[f"train/{score}"]) for row in rows]).T
            curves[folder.config()["preset"]].append((x, y))
        pictures.append(f"{score}_by_{name}.png")
        plotting.curves_figure(curves, name, y_label).savefig(out / pictures[-1], dpi=120)
    return pictures
