"""Command `reproduce compare`: finished runs side by side, in a table, curves and the experiments' own figures."""

import collections

from tfmem import plotting
from tfmem.training.run_folder import RunFolderError, write_atomically

from . import load_experiment
from .catalog import number
from .report import finished_runs, in_papers_order, markdown, mean, print_table, shared_changes, short_names
from .runs import make_output_folder


def named_runs(paths, modules):
    """Group run folders as `{name: [Run of each seed]}`; a name has what is not common to all settings.

    Raises:
      RunFolderError: a folder is not a finished run, or repeats the setting and the seed of another.
    """
    runs = []
    for path in paths:
        found = finished_runs([path], modules)
        if len(found) != 1 or found[0].folder.path.resolve() != path.resolve():
            raise RunFolderError(f"runs: {path}, must be the folder of a finished run")
        runs.append(found[0])
    several, short = len({run.experiment for run in runs}) > 1, short_names(runs)
    named, seeds = collections.defaultdict(list), {}
    for run in runs:
        name = f"{run.experiment} {run.setting}" if several else short[run.setting]
        for seed in run.result["seeds"]:
            first = seeds.setdefault((name, seed), run.folder.path)
            if first is not run.folder.path:
                raise RunFolderError(
                    f"runs: {run.folder.path}, must have another setting than {first}, which has seed {seed} of it"
                )
        named[name].append(run)
    return dict(named)


def _stated(papers, metric):
    """The paper's number of a metric; of several experiments the known numbers with the experiments' names."""
    values = {experiment: paper[metric][0] for experiment, paper in papers.items() if metric in paper}
    if len(papers) == 1:
        return number(next(iter(values.values()), None))
    return ", ".join(f"{number(v)} ({experiment})" for experiment, v in values.items() if v is not None) or "-"


def compare(paths, out, modules):
    """Write and print the comparison of runs; seeds of one setting share a column.

    Args:
      paths: folders of finished runs.
      out: folder for compare.md, a figure of each metric, and those of the experiments' `compare`.
      modules: as from `reproductions.experiment_modules`.

    Raises:
      RunFolderError: as `named_runs`, or as an experiment's `compare`.
    """
    named = named_runs(paths, modules)
    all_runs = [run for runs in named.values() for run in runs]
    make_output_folder(out)
    head, rows = ("metric", "paper", *named), []
    shared = shared_changes(all_runs)
    if shared:
        print("all with", ", ".join(shared))
    papers = {run.experiment: run.paper for run in all_runs}
    stated = dict.fromkeys(name for paper in papers.values() for name in paper)
    for metric in in_papers_order(stated, [run.result["ours"] for run in all_runs]):
        cells = []
        for runs in named.values():
            values = [run.result["ours"][metric] for run in runs if metric in run.result["ours"]]
            cells.append(mean(values) if values else "-")
        rows.append((metric, _stated(papers, metric), *cells))
    print_table(head, rows)

    curves = collections.defaultdict(lambda: collections.defaultdict(list))
    for name, runs in named.items():
        for run in runs:
            for column, points in run.curves().items():
                curves[column][name].append(points)
    pictures = []
    for column, by_name in curves.items():
        pictures.append(column.replace("/", "-") + ".png")
        window = plotting.window_of(column)
        figure = plotting.curves_figure(by_name, "updates", column.split("/")[-1], column, window=window)
        figure.savefig(out / pictures[-1], dpi=120)
    for experiment in dict.fromkeys(run.experiment for run in all_runs):
        module = load_experiment(experiment, modules)
        if hasattr(module, "compare"):
            pictures += module.compare([run.folder for run in all_runs if run.experiment == experiment], out)
    text = ["# Comparison", "", *([f"All with {', '.join(shared)}.", ""] if shared else [])]
    text += [markdown(head), markdown(["---"] * len(head)), *map(markdown, rows), ""]
    text += [f"![{picture}]({picture})" for picture in pictures]
    write_atomically(out / "compare.md", lambda file: file.write("\n".join([*text, ""]).encode()))
    print(f"written: {out / 'compare.md'} and {len(pictures)} figures")
