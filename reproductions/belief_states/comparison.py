"""Figures of several finished runs of random_city, terrain or geco_sweep, as the paper's figures 9, 10 and 12.

Runs that differ only in the seed are one model.

    decoded_maps.png   maps that each model decodes from the same episodes, for the first seed
    map_error.png      the decoded map's error along a trajectory, mean over episodes; mean and confidence over seeds
    map_mse.png        the error during training, mean and confidence over seeds (Appendix E)
    kappa.png          the error after training against GECO's kappa, if generative runs have several
"""

import collections

import numpy as np

from tfmem import plotting
from tfmem.training.run_folder import RunFolderError

from .figures import decoded_maps_figure
from .simcore import DECODED


def describe(config):
    """Name of a model and its setting."""
    if isinstance(config["core"], str):
        raise RunFolderError(f"core: {config['core']!r}, must be a configuration: the run is of an earlier version")
    core = config["core"]["type"].removesuffix("Config")
    if not config["train_core"]:
        return f"{core}, untrained"
    return f"{core}, {config['model']}, $L_o$ = {config['overshoot']}"


def names(configs):
    """Name each configuration by `describe` and, if that is not unique, by the other fields that differ."""
    found = []
    for config in configs:
        alike = [other for other in configs if describe(other) == describe(config)]
        # A field that an older run lacks makes no difference.
        differ = [k for k, value in config.items() if k != "seed" and any(o.get(k, value) != value for o in alike)]
        found.append(", ".join([describe(config), *(f"{k} = {config[k]}" for k in differ)]))
    return found


def compare(folders, out):
    """Draw the figures of runs, `RunFolder`s, into the folder `out`; returns the figures' names.

    Raises:
      RunFolderError: a run lacks its decoded maps or has other episodes than the first.
    """
    configs = [folder.config()["config"] for folder in folders]
    decoded, kappas = {}, collections.defaultdict(list)
    along, training = collections.defaultdict(list), collections.defaultdict(list)
    maps = None
    for folder, config, name in zip(folders, configs, names(configs), strict=True):
        result = folder.result()
        if not (folder.figures / DECODED).exists():
            raise RunFolderError(f"runs: {folder.path}, must have figures/{DECODED}, which `reproduce run` writes")
        with np.load(folder.figures / DECODED) as arrays:
            shown, predicted, errors, mean_map = (arrays[k] for k in ("maps", "decoded", "errors", "mean_map_errors"))
        if maps is not None and not np.array_equal(maps, shown):
            raise RunFolderError(f"runs: {folder.path} has other episodes than {folders[0].path}, must have the same")
        maps = shown
        decoded.setdefault(name, {"": predicted})
        steps = np.arange(len(errors), dtype=float)
        along[name].append((steps, errors))
        rows = [row for row in folder.metrics() if "train/map_mse" in row]
        training[name].append(tuple(np.array([(row["update"], row["train/map_mse"]) for row in rows]).T))
        if config["train_core"] and config["model"] == "generative":
            kappas[config["kappa"]].append(result["ours"]["map_mse"])
    decoded_maps_figure(maps, decoded).savefig(out / "decoded_maps.png", dpi=120)
    along["mean map"] = [(steps, mean_map)]
    for curves, x_label, picture in (
        (along, "step of the trajectory", "map_error.png"),
        (training, "updates", "map_mse.png"),
    ):
        figure = plotting.curves_figure(curves, x_label, "map MSE", window=plotting.window_of("map_mse"))
        figure.savefig(out / picture, dpi=120)
    pictures = ["decoded_maps.png", "map_error.png", "map_mse.png"]
    if len(kappas) > 1:
        points = sorted((kappa, np.mean(errors)) for kappa, errors in kappas.items())
        panel = {("κ", "map MSE"): {"after training": tuple(np.array(points).T)}}
        plotting.cost_figure(panel).savefig(out / "kappa.png", dpi=120)
        pictures.append("kappa.png")
    return pictures
