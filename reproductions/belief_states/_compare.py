"""Pictures of several finished runs of random_city, terrain or geco_sweep, as the paper's figures 9, 10 and 12.

    python -m reproductions.belief_states._compare OUT RUN [RUN ...]

Runs that differ in their seed alone are one model. decoded_maps.png: the maps that each model decodes from the same
episodes, a row for each model (of several seeds the first).
map_error.png: the decoded map's error along a trajectory, mean over episodes; mean and confidence over seeds.
map_mse.png: the error while training, mean and confidence over seeds (Appendix E).
kappa.png: the error after training against GECO's kappa, where generative runs have several.
"""

import argparse
import collections
from pathlib import Path

import numpy as np

from reproductions.belief_states._simcore import DECODED
from tfmem import plotting
from tfmem.training.run_folder import RunFolder


def describe(config):
    """Name of a model and its setting."""
    if not config["train_core"]:
        return f"{config['core']}, untrained"
    return f"{config['core']}, {config['model']}, $L_o$ = {config['overshoot']}"


def names(configs):
    """A name of each configuration: `describe` and, where that is the same, what else differs but the seed."""
    told = []
    for config in configs:
        alike = [other for other in configs if describe(other) == describe(config)]
        # A field that an older run does not have makes no difference.
        differ = [k for k, value in config.items() if k != "seed" and any(o.get(k, value) != value for o in alike)]
        told.append(", ".join([describe(config), *(f"{k} = {config[k]}" for k in differ)]))
    return told


def compare(out, runs):
    """Draws the pictures into the folder `out`.

    Raises:
      ValueError: runs whose episodes differ, or that are not finished.
    """
    configs = [RunFolder(run).config()["config"] for run in runs]
    decoded, kappas = {}, collections.defaultdict(list)
    along, training = collections.defaultdict(list), collections.defaultdict(list)
    maps = None
    for run, config, name in zip(runs, configs, names(configs), strict=True):
        folder = RunFolder(run)
        result = folder.result()
        if result is None:
            raise ValueError(f"runs: {run} is not finished")
        with np.load(folder.figures / DECODED) as arrays:
            shown, told, errors, mean_map = (arrays[k] for k in ("maps", "decoded", "errors", "mean_map_errors"))
        if maps is not None and not np.array_equal(maps, shown):
            raise ValueError(f"runs: {run} has other episodes than {runs[0]}, must have the same")
        maps = shown
        decoded.setdefault(name, {"": told})
        steps = np.arange(len(errors), dtype=float)
        along[name].append((steps, errors))
        rows = [row for row in folder.metrics() if "train/map_mse" in row]
        training[name].append(tuple(np.array([(row["update"], row["train/map_mse"]) for row in rows]).T))
        if config["train_core"] and config["model"] == "generative":
            kappas[config["kappa"]].append(result["ours"]["map_mse"])
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    plotting.decoded_maps_figure(maps, decoded).savefig(out / "decoded_maps.png", dpi=120)
    along["mean map"] = [(steps, mean_map)]
    plotting.curves_figure(along, "step of the trajectory", "map MSE").savefig(out / "map_error.png", dpi=120)
    plotting.curves_figure(training, "updates", "map MSE").savefig(out / "map_mse.png", dpi=120)
    if len(kappas) > 1:
        points = sorted((kappa, np.mean(errors)) for kappa, errors in kappas.items())
        panel = {("κ", "map MSE"): {"after training": tuple(np.array(points).T)}}
        plotting.cost_figure(panel).savefig(out / "kappa.png", dpi=120)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of finished runs")
    arguments = parser.parse_args(argv)
    compare(arguments.out, arguments.runs)


if __name__ == "__main__":
    main()
