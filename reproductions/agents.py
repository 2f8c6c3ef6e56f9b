"""Figures of several finished runs of agents: a score against episodes, steps of the worlds, and seconds."""

import collections

import numpy as np

from tfmem import plotting


def compare_returns(folders, out, y_label="reward of an episode"):
    """Draw `episode_return` of training against episodes, steps and seconds into the folder `out`.

    Runs of one preset are one curve with the mean and confidence over seeds (Gregor et al. 2019, appendix E).

    Args:
      folders: `RunFolder`s of finished runs.
      out: folder of episode_return_by_{episodes,steps,seconds}.png.
    """
    for column, x_label in (("episodes", "episodes"), ("frames", "steps of the worlds"), (None, "seconds")):
        curves = collections.defaultdict(list)
        for folder in folders:
            rows = [row for row in folder.metrics() if row.get("train/episodes", 0) > 0]
            result = folder.result()
            if column is None:
                x = [row["update"] * result["wall_time_seconds"] / result["updates"] for row in rows]
            else:
                x = [row[f"train/{column}"] for row in rows]
            curves[folder.config()["preset"]].append((np.array(x), np.array([r["train/episode_return"] for r in rows])))
        name = x_label.split()[0]
        plotting.curves_figure(curves, x_label, y_label).savefig(out / f"episode_return_by_{name}.png", dpi=120)
