"""Results as data: `<paper>/results/<experiment>/<setting>-seed<N>.json` for each recorded run.

`reproduce report RUNS --record` writes them. A setting is a preset with the changes to it.
"""

import collections
import fnmatch
import json
import re
from pathlib import Path

import numpy as np

from tfmem.training.run_folder import (
    RESULT_FIELDS,
    SECONDS,
    RunFolderError,
    read_json,
    with_fields,
    write_atomically,
)

from .report import check_result, finished_runs
from .runs import UsageError, file_name

ROOT = Path(__file__).parent
POINTS = 60  # of a recorded curve, at most
FIELDS = {"experiment": str, "setting": str, **RESULT_FIELDS, "paper": dict, "curves": dict}
KEPT = ("updates", "wall_time_seconds", "cpu_time_seconds", "actors", "hardware", "versions", "git_revision")


def record(paths, modules, root=ROOT):
    """Write the results of finished runs as data; returns the files.

    Args:
      paths: run folders, or folders of them.
      modules: as from `reproductions.experiment_modules`.
      root: folder of the papers' folders.

    Raises:
      RunFolderError: there is no finished run.
    """
    runs = finished_runs(paths, modules)
    if not runs:
        raise RunFolderError(f"no finished run (result.json) in {', '.join(str(path) for path in paths)}")
    written = []
    for run in runs:
        about, seeds = run.folder.config(), "-".join(map(str, run.result["seeds"]))
        content = {
            "experiment": run.experiment,
            "setting": run.setting,
            "seeds": run.result["seeds"],
            "ours": run.result["ours"],
            "paper": {name: {"value": value, "source": source} for name, (value, source) in run.paper.items()},
            **{name: run.result[name] for name in KEPT if name in run.result},
            "config": about["config"],
            "curves": _thinned(run.metrics, {"loss", *run.result["ours"]}),
        }
        written.append(_folder(run.experiment, root) / f"{file_name(run.setting)}-seed{seeds}.json")
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=1, ensure_ascii=False)
        flat = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: f"[{' '.join(m.group(1).split())}]", text)
        write_atomically(written[-1], lambda file, flat=flat: file.write(f"{flat}\n".encode()))
    return written


def check_checkout(name):
    """Check that this is a checkout of the repository, not an installed package.

    Args:
      name: of the command or option that writes into it.

    Raises:
      UsageError: it is none.
    """
    if not (ROOT.parent / "setup.py").exists():
        raise UsageError(f"{name}: {ROOT}, must be in a checkout of the repository")


def _folder(experiment, root):
    paper, _, name = experiment.rpartition("/")
    return root / paper / "results" / name


def _thinned(metrics, names):
    """Curves `{column: [[update, seconds or None, value], ...]}` of some scores, at most POINTS points."""
    curves = {}
    for column in dict.fromkeys(name for row in metrics for name in row if name not in ("update", SECONDS)):
        points = [(row["update"], row.get(SECONDS, np.nan), row[column]) for row in metrics if column in row]
        if len(points) < 2 or column.split("/")[-1] not in names:
            continue
        groups = np.array_split(np.array(points, np.float64), min(POINTS, len(points)))
        thin = [[group[-1, 0], group[-1, 1], group[:, 2].mean()] for group in groups]
        curves[column] = [[int(u), None if np.isnan(s) else round(s, 1), float(f"{v:.5g}")] for u, s, v in thin]
    return curves


def records(experiment, root=ROOT):
    """Read the recorded results, `{setting: [content of each seed]}`.

    Args:
      experiment: EXPERIMENT, EXPERIMENT@PATTERN for the presets that match, or EXPERIMENT@=PATTERN for these presets
        without changes to them.
      root: folder of the papers' folders.

    Raises:
      RunFolderError: a record is damaged.
    """
    name, _, pattern = experiment.partition("@")
    unchanged, pattern = pattern.startswith("="), pattern.removeprefix("=")
    found = collections.defaultdict(list)
    for file in sorted(_folder(name, root).glob("*.json")):
        content = with_fields(file, lambda file=file: read_json(file), FIELDS)
        check_result(file, content)
        preset, *changes = content["setting"].split(",")
        if fnmatch.fnmatchcase(preset, pattern or "*") and not (unchanged and changes):
            found[content["setting"]].append(content)
    return {setting: found[setting] for setting in sorted(found, key=lambda text: ("," in text, text))}
