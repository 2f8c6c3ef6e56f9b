"""Report of finished runs: a table per paper and learning curves.

A table has the paper's numbers and the runs' means with 90 % confidence over seeds. Curves over seeds follow appendix E
of Gregor et al. 2019.
"""

import collections
import datetime
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from tfmem import plotting
from tfmem.training.run_folder import (
    RESULT_FIELDS,
    SECONDS,
    RunFolder,
    RunFolderError,
    as_json,
    differences,
    run_config,
    run_result,
    write_atomically,
)

from . import load_experiment
from .catalog import number
from .runs import make_output_folder

COLUMNS = ("experiment", "preset", "metric", "paper", "tfmem", "seeds", "updates", "time per run")


class Run(NamedTuple):
    """Finished run: experiment, result.json, rows of metrics.csv and the paper's numbers."""

    experiment: str
    parts: tuple  # preset and changes to it, texts
    result: dict
    metrics: list
    paper: dict
    folder: RunFolder

    @property
    def setting(self):
        """Preset and changes to it."""
        return ", ".join(self.parts)

    def curves(self):
        """Curves `{column: (x, y)}` of the columns of metrics.csv with two rows or more."""
        found = {}
        for column in dict.fromkeys(name for row in self.metrics for name in row if name != "update"):
            if column == SECONDS:
                continue
            points = [(row["update"], row[column]) for row in self.metrics if column in row]
            if len(points) > 1:
                found[column] = tuple(np.array(points, np.float64).T)
        return found


def finished_runs(paths, modules):
    """Find the finished runs in and below some folders, as `Run`s, for the experiments in `modules`.

    Of runs with the same setting and seeds, such as copies, the first counts. Lines report the others, and runs that
    cannot be read.
    """
    files = {file.resolve(): file for path in paths for file in [path / "result.json", *path.glob("**/result.json")]}
    runs, counted = [], {}
    for folder in (RunFolder(file.parent) for file in sorted(files.values()) if file.exists()):
        try:
            run = finished_run(folder, modules)
        except RunFolderError as error:
            _say(f"{error}; the run is left out")
            continue
        if run is None:
            continue
        already = [seed for seed in run.result["seeds"] if (run.experiment, run.setting, seed) in counted]
        if already:
            first = counted[run.experiment, run.setting, already[0]]
            _say(f"{folder.path} has the setting and the seed {already[0]} of {first}; it is left out")
            continue
        counted |= {(run.experiment, run.setting, seed): folder.path for seed in run.result["seeds"]}
        runs.append(run)
    return runs


def _say(text):
    print(f"reproduce: {text}", file=sys.stderr)


def finished_run(folder, modules):
    """Read the `Run` in a folder; None if its experiment is not in `modules`.

    Raises:
      RunFolderError: a file of it is damaged.
    """
    about, result = run_config(folder), run_result(folder)
    if about["experiment"] not in modules:
        return None
    module = load_experiment(about["experiment"], modules)
    check_result(folder.result_path, result)
    try:
        metrics = folder.metrics()
        metrics.sort(key=lambda row: row["update"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{folder.metrics_path} is damaged: {error}") from error
    return Run(about["experiment"], _setting(about, module), result, metrics, module.PAPER, folder)


def check_result(path, result):
    """Check that the scores of a result or a record are numbers and its seeds integers.

    Raises:
      RunFolderError: they are not; the message names the file `path`.
    """
    numbers = {**result["ours"], **{name: result[name] for name in RESULT_FIELDS if name not in ("ours", "seeds")}}
    strange = [name for name, value in numbers.items() if isinstance(value, bool) or not isinstance(value, int | float)]
    if strange:
        raise RunFolderError(f"{path} is damaged: {strange[0]}: {numbers[strange[0]]!r}, must be a number")
    if not result["seeds"] or not all(isinstance(seed, int) for seed in result["seeds"]):
        raise RunFolderError(f"{path} is damaged: seeds: {result['seeds']!r}, must be integers")


def _setting(about, module):
    """The preset and changes to it, texts; a field that an older run lacks had its default.

    A bundle that was trained in float32 is a run of its setting like any other.
    """
    from tfmem.training import config_defaults, config_fields  # imports TensorFlow, which the module has loaded

    preset = about.get("preset")
    original = as_json(config_fields(module.PRESETS[preset])) if preset in [*module.PRESETS] else {}
    given, nested = as_json(config_defaults(module.Config)) | about["config"], []
    for name, value in given.items():
        before = original.get(name)
        if isinstance(value, dict) and (not isinstance(before, dict) or before.get("type") != value.get("type")):
            nested.append(f"{name}={_nested(module.Config, name, value)}")
            original = original | {name: value}
    changed = [c for c in differences(original, given) if c[0] != "seed" and c[2] != "absent"]
    if about.get("bundle", {}).get("precision", "float32") != "float32":
        changed.append(("precision", None, about["bundle"]["precision"]))
    if "max_lag" in about:  # of actors
        changed.append(("max_lag", None, about["max_lag"]))
    texts = [f"{name}={'none' if new is None else json.dumps(new)}" for name, _, new in changed]
    return str(preset), *texts, *nested


def _nested(kind, name, value):
    """Write a nested configuration as "DNC(memory_size=64)", without the defaults of its class."""
    from tfmem.training import config_defaults, nested_classes

    classes = nested_classes(kind, name)
    defaults = [as_json(config_defaults(c)) for c in classes if c.__name__ == value.get("type")]
    changed = differences(defaults[0] if defaults else {}, {n: v for n, v in value.items() if n != "type"})
    fields = ", ".join(f"{n}={json.dumps(new)}" for n, _, new in changed if new != "absent")
    return f"{str(value.get('type')).removesuffix('Config')}({fields})"


def shared_changes(runs):
    """Changes to the preset that runs of different settings all have, texts; none for runs of one setting."""
    first, *others = dict.fromkeys(run.parts for run in runs)
    return [part for part in first[1:] if others and all(part in parts for parts in others)]


def short_names(runs):
    """Names of the settings of runs that are compared, without `shared_changes`: `{setting: name}`."""
    shared = shared_changes(runs)
    return {run.setting: ", ".join(part for part in run.parts if part not in shared) for run in runs}


def rows(runs):
    """Table rows `{paper: [row, ...]}`, texts in the order of COLUMNS; runs that differ only in the seed share one."""
    groups = collections.defaultdict(list)
    for run in runs:
        groups[run.experiment, run.setting].append(run)
    tables = collections.defaultdict(list)
    for (experiment, setting), same in groups.items():
        paper, ours = same[-1].paper, [run.result["ours"] for run in same]
        seeds = [str(seed) for run in same for seed in run.result["seeds"]]
        time = datetime.timedelta(seconds=round(np.mean([run.result["wall_time_seconds"] for run in same])))
        for metric in in_papers_order(paper, ours):
            values = [scores[metric] for scores in ours if metric in scores]
            stated = paper.get(metric)
            tables[experiment.split("/")[0]].append(
                (
                    experiment,
                    setting,
                    metric,
                    "-" if stated is None else f"{number(stated[0])} ({stated[1]})",
                    mean(values),
                    " ".join(seeds),
                    str(same[-1].result["updates"]),
                    str(time),
                )
            )
    return dict(tables)


def in_papers_order(paper, scores):
    """Names of the scores of some runs, those of the paper first.

    Args:
      paper: metrics of the paper.
      scores: `{metric: value}` of each run.
    """
    known = dict.fromkeys(name for of_run in scores for name in of_run)
    return list(dict.fromkeys([*(name for name in paper if name in known), *known]))


def mean(values):
    """Format the mean, for several values with half of their 90 % confidence interval."""
    middle, half = plotting.mean_and_confidence(values)
    return number(middle) if len(values) == 1 else f"{number(middle)} ± {number(float(f'{half:.2g}'))}"


def curves(runs):
    """Curves `{(experiment, column): {setting: [(x, y) of each seed]}}` of columns with two rows or more."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for run in runs:
        for column, points in run.curves().items():
            found[run.experiment, column][run.setting].append(points)
    return found


def write_report(paths, out, modules):
    """Print the tables and write them with the curves to `out` (report.md, *.png).

    Raises:
      RunFolderError: there is no finished run in `paths`.
    """
    runs = finished_runs(paths, modules)
    if not runs:
        raise RunFolderError(f"no finished run (result.json) in {', '.join(str(path) for path in paths)}")
    figures = collections.defaultdict(list)
    make_output_folder(out)
    for (experiment, column), settings in curves(runs).items():
        file = f"{experiment}-{column}.png".replace("/", "-")
        title = f"{experiment}: {column}"
        window = plotting.window_of(column)
        figure = plotting.curves_figure(settings, "updates", column.split("/")[-1], title, window=window)
        figure.savefig(out / file, dpi=120)
        figures[experiment.split("/")[0]].append((title, file))

    text = ["# Reproductions", ""]
    text += [
        "tfmem: mean ± half of the 90 % confidence interval over seeds (Student's t). -: the number is not known.",
        "",
    ]
    for paper, lines in rows(runs).items():
        print_table(COLUMNS, lines, paper)
        text += [f"## {paper}", "", markdown(COLUMNS), markdown(["---"] * len(COLUMNS)), *map(markdown, lines), ""]
        text += [f"![{title}]({file})" for title, file in figures[paper]] + [""]
    write_atomically(Path(out) / "report.md", lambda file: file.write("\n".join(text).encode()))
    print(f"written: {out / 'report.md'} and {sum(map(len, figures.values()))} figures")


def print_table(head, rows, title=None):
    """Print rows of texts as a table as wide as the terminal, 160 characters elsewhere."""
    table = Table(*head, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=None if os.isatty(1) else 160).print(table)


def markdown(cells):
    """Format a row of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
