"""One table per paper from finished runs (the paper's figure beside ours, mean and 90 % confidence over seeds), and
learning curves over seeds by appendix E of Gregor et al. 2019."""

import collections
import dataclasses
import datetime
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from reproductions import load_experiment
from tfmem import plotting
from tfmem.runfolder import RunFolder, RunFolderError, as_json, differences, write_atomically

COLUMNS = ("experiment", "preset", "metric", "paper", "ours", "seeds", "updates", "time per run")


class Run(NamedTuple):
    """A finished run: what it was, its result.json and its rows of metrics.csv."""

    experiment: str
    setting: str  # preset, and what was changed in it
    result: dict
    metrics: list


def finished_runs(paths, modules):
    """The finished runs in and below some folders, as `Run`s; runs of experiments not in `modules` are left out."""
    files = sorted({file for path in paths for file in [path / "result.json", *path.glob("**/result.json")]})
    runs = []
    for folder in (RunFolder(file.parent) for file in files if file.exists()):
        about = folder.config()
        if about["experiment"] in modules:
            presets = load_experiment(about["experiment"], modules).PRESETS
            setting = _setting(about["preset"], about["config"], presets)
            runs.append(Run(about["experiment"], setting, folder.result(), folder.metrics()))
    return runs


def _setting(preset, config, presets):
    original = as_json(dataclasses.asdict(presets[preset])) if preset in presets else {}
    changed = [f"{name}={json.dumps(new)}" for name, _, new in differences(original, config) if name != "seed"]
    return ", ".join([str(preset), *changed])


def rows(runs):
    """`{paper: [row, ...]}` of table rows, texts in the order of COLUMNS; runs that differ in the seed alone share."""
    groups = collections.defaultdict(list)
    for run in runs:
        groups[run.experiment, run.setting].append(run)
    tables = collections.defaultdict(list)
    for (experiment, setting), same in groups.items():
        paper, ours = same[-1].result["paper"], [run.result["ours"] for run in same]
        seeds = [str(seed) for run in same for seed in run.result["seeds"]]
        time = datetime.timedelta(seconds=round(np.mean([run.result["wall_time_seconds"] for run in same])))
        for metric in dict.fromkeys([*paper, *(name for scores in ours for name in scores)]):
            values = [scores[metric] for scores in ours if metric in scores]
            told = paper.get(metric)
            tables[experiment.split("/")[0]].append(
                (
                    experiment,
                    setting,
                    metric,
                    "-" if told is None else f"{_text(told['value'])} ({told['source']})",
                    _mean(values) if values else "-",
                    " ".join(seeds),
                    str(same[-1].result["updates"]),
                    str(time),
                )
            )
    return dict(tables)


def _text(value):
    return "-" if value is None else f"{value:.4g}"


def _mean(values):
    mean, half = plotting.mean_and_confidence(values)
    return f"{mean:.4g}" if len(values) == 1 else f"{mean:.4g} ± {half:.2g}"


def curves(runs):
    """`{(experiment, column): {setting: [(x, y) of each seed]}}` of metrics.csv's columns with two rows or more."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for run in runs:
        for column in dict.fromkeys(name for row in run.metrics for name in row if name != "update"):
            points = [(row["update"], row[column]) for row in run.metrics if column in row]
            if len(points) > 1:
                found[run.experiment, column][run.setting].append(tuple(np.array(points, np.float64).T))
    return found


def write_report(paths, out, modules):
    """Prints the tables and writes them with the curves to `out` (report.md, *.png).

    Raises:
      RunFolderError: there is no finished run in `paths`.
    """
    runs = finished_runs(paths, modules)
    if not runs:
        raise RunFolderError(f"no finished run (result.json) in {', '.join(str(path) for path in paths)}")
    figures = collections.defaultdict(list)
    out.mkdir(parents=True, exist_ok=True)
    for (experiment, column), settings in curves(runs).items():
        file = f"{experiment}-{column}.png".replace("/", "-")
        title = f"{experiment}: {column}"
        plotting.curves_figure(settings, "updates", column.split("/")[-1], title).savefig(out / file, dpi=120)
        figures[experiment.split("/")[0]].append((title, file))

    console, text = Console(width=None if os.isatty(1) else 160), ["# Reproductions", ""]
    text += ["Ours: mean ± half the 90 % confidence interval over seeds (Student's t); -: not known or one seed.", ""]
    for paper, lines in rows(runs).items():
        table = Table(*COLUMNS, title=paper)
        for line in lines:
            table.add_row(*line)
        console.print(table)
        text += [f"## {paper}", "", _markdown(COLUMNS), _markdown(["---"] * len(COLUMNS)), *map(_markdown, lines), ""]
        text += [f"![{title}]({file})" for title, file in figures[paper]] + [""]
    write_atomically(Path(out) / "report.md", lambda file: file.write("\n".join(text).encode()))
    print(f"written: {out / 'report.md'} and {sum(map(len, figures.values()))} figures")


def _markdown(cells):
    return f"| {' | '.join(cells)} |"
