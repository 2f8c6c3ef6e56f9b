"""Learning curves of several finished runs of agents."""

import collections

import numpy as np

from tfmem import plotting
from tfmem.training.run_folder import RunFolderError

from . import experiment_modules
from .report import finished_runs, short_names

# Fields of the presets "smoke": seconds, for tests.
SMOKE = dict(
    num_worlds=2, num_updates=8, updates_per_call=2, log_every=2, eval_every=0, checkpoint_every=4, eval_episodes=4
)


def by_setting(folders):
    """Group the `RunFolder`s of finished runs in one world as `{setting: [of each seed]}`.

    Raises:
      RunFolderError: a run has another world than the first.
    """
    found, worlds = collections.defaultdict(list), [folder.config()["config"]["world"] for folder in folders]
    for folder, world in zip(folders, worlds, strict=True):
        if world != worlds[0]:
            raise RunFolderError(f"runs: {folder.path} has another world than {folders[0].path}, must have the same")
        found[finished_runs([folder.path], experiment_modules())[0].setting].append(folder)
    return dict(found)


def draw_learning_curves(folders, out, score, y_label):
    """Draw a score of training against episodes, steps of the worlds and CPU seconds; returns the figures' names.

    Runs of one setting are one curve, with the mean and confidence over seeds (Gregor et al. 2019, appendix E). Seconds
    are those of all threads over the whole run, by its updates; other work on the machine lengthens them little.

    Args:
      folders: `RunFolder`s of finished runs.
      out: folder of <score>_by_episodes.png, <score>_by_steps.png and <score>_by_seconds.png.
      score: name in metrics.csv without "train/".
      y_label: its name in the pictures.
    """
    runs = [finished_runs([folder.path], experiment_modules())[0] for folder in folders]
    names = short_names(runs)
    pictures = []
    for name, column in (("episodes", "train/episodes"), ("steps", "train/frames"), ("seconds", "update")):
        curves = collections.defaultdict(list)
        for run, folder in zip(runs, folders, strict=True):
            rows = [row for row in folder.metrics() if row.get("train/episodes", 0) > 0]
            result = folder.result()
            # Without an ended episode there is nothing to draw; earlier versions did not measure CPU seconds, and those
            # of actors in processes of their own are not measured.
            if not rows or (name == "seconds" and ("cpu_time_seconds" not in result or result.get("actors"))):
                continue
            factor = result["cpu_time_seconds"] / result["updates"] if name == "seconds" else 1.0
            x, y = np.array([(factor * row[column], row[f"train/{score}"]) for row in rows]).T
            curves[names[run.setting]].append((x, y))
        pictures.append(f"{score}_by_{name}.png")
        x_label = "CPU seconds" if name == "seconds" else name
        figure = plotting.curves_figure(curves, x_label, y_label, window=plotting.window_of(score))
        figure.savefig(out / pictures[-1], dpi=120)
    return pictures
