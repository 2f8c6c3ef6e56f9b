"""Results as data, and the tables and curves of the pages that are made from them.

`reproduce report RUNS --record` writes `<paper>/results/<experiment>/<setting>-seed<N>.json` for each finished run.
`reproduce results` fills these places in the READMEs of the papers and in docs:

    <!-- results EXPERIMENT: METRIC METRIC -->
    (a table: a row for each setting, a column for each metric)
    <!-- end -->

    <!-- curves EXPERIMENT: COLUMN against updates|seconds -->
    ![...](picture)
    <!-- end -->

A setting is a preset with the changes to it. `EXPERIMENT@demo*` takes only the presets that match.
"""

import collections
import fnmatch
import json
import re
from pathlib import Path

import numpy as np

from tfmem import plotting
from tfmem.training.run_folder import SECONDS, RunFolderError, write_atomically

from .catalog import number
from .report import finished_runs, markdown, mean
from .runs import UsageError, file_name

ROOT = Path(__file__).parent
POINTS = 60  # of a recorded curve, at most
KEPT = ("updates", "wall_time_seconds", "cpu_time_seconds", "actors", "hardware", "versions", "git_revision")
BLOCK = re.compile(r"<!-- (results|curves) (\S+): ([^\n]+?) -->\r?\n((?:(?!<!-- )[\s\S])*?)<!-- end -->")
MARK = re.compile(r"<!-- (?:results|curves|end)\b.*")
FENCED = re.compile(r"^(```+).*?^\1 *$", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")


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
    """Read the recorded results of an experiment, or of EXPERIMENT@PATTERN, `{setting: [content of each seed]}`."""
    name, _, pattern = experiment.partition("@")
    found = collections.defaultdict(list)
    for file in sorted(_folder(name, root).glob("*.json")):
        content = json.loads(file.read_text("utf-8"))
        if fnmatch.fnmatchcase(content["setting"].split(",")[0], pattern or "*"):
            found[content["setting"]].append(content)
    return {setting: found[setting] for setting in sorted(found, key=lambda text: ("," in text, text))}


def results_table(found, metrics):
    """Make the lines of a table: a row for each setting, the paper's numbers first.

    Raises:
      UsageError: no record has a metric.
    """
    contents = [content for same in found.values() for content in same]
    known = {name for content in contents for part in ("ours", "paper") for name in content[part]}
    for metric in metrics:
        if metric not in known:
            raise UsageError(f"results: {metric!r}, must be one of {', '.join(sorted(known))}")
    lines = [markdown(("setting", *(f"`{metric}`" for metric in metrics), "seeds", "updates", "minutes"))]
    lines.append(markdown(["---"] * (len(metrics) + 4)))
    paper = {name: value for content in contents for name, value in content["paper"].items()}
    if any(metric in paper for metric in metrics):
        cells = [f"{number(paper[m]['value'])} ({paper[m]['source']})" if m in paper else "" for m in metrics]
        lines.append(markdown(("paper", *cells, "", "", "")))
    for setting, same in found.items():
        values = [[content["ours"][m] for content in same if m in content["ours"]] for m in metrics]
        seeds = sorted({seed for content in same for seed in content["seeds"]})
        updates = sorted({content["updates"] for content in same})
        minutes = np.mean([content["wall_time_seconds"] for content in same]) / 60
        cells = [mean(v) if v else "-" for v in values]
        lines.append(
            markdown(
                (
                    f"`{setting}`",
                    *cells,
                    ", ".join(map(str, seeds)),
                    " to ".join(f"{n:,}" for n in dict.fromkeys((updates[0], updates[-1]))),
                    f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.1f}",
                )
            )
        )
    return lines


def draw_curves(found, column, axis, path):
    """Draw a recorded column of all settings against "updates" or "seconds"."""
    index, curves = ("updates", "seconds").index(axis), {}
    for setting, same in found.items():
        points = [np.array(content["curves"][column], np.float64) for content in same if column in content["curves"]]
        points = [p[np.isfinite(p[:, index])] for p in points]  # runs of before have rows without seconds
        points = [(p[:, index], p[:, 2]) for p in points if len(p) > 1]
        if points:
            curves[setting] = points
    if not curves:
        raise UsageError(f"curves: {column}, must be a recorded column with {axis}")
    figure = plotting.curves_figure(curves, axis, column.split("/")[-1].replace("_", " "))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def filled(text, root=ROOT):
    """Fill the tables of a page's text, outside of its code blocks.

    Raises:
      UsageError: a place has no end, names no recorded results, or is written otherwise.
    """

    def block(match):
        kind, experiment, wanted, _ = match.groups()
        if kind == "curves":
            return match.group(0)
        lines = results_table(_recorded(experiment, root), wanted.split())
        text = "\n".join([f"<!-- results {experiment}: {wanted} -->", "", *lines, "", "<!-- end -->"])
        return text.replace("\n", "\r\n") if "\r\n" in match.group(0) else text

    return "".join(part if fenced else BLOCK.sub(block, part) for fenced, part in _parts(text))


def _parts(text):
    """Split a page at its code blocks: pairs `(is code, text)`; other text is checked for marks outside of places."""
    position, parts = 0, []
    for match in FENCED.finditer(text):
        parts += [(False, text[position : match.start()]), (True, match.group(0))]
        position = match.end()
    parts.append((False, text[position:]))
    for fenced, part in parts:
        wrong = None if fenced else MARK.search(BLOCK.sub("", part))
        if wrong:
            raise UsageError(f"place: {wrong.group(0)!r}, must be as the docstring of reproductions.records says")
    return parts


def _recorded(experiment, root):
    found = records(experiment, root)
    if not found:
        raise UsageError(f"results: {experiment!r}, must be an experiment with recorded results")
    return found


def write_results(pages=None, root=ROOT):
    """Fill tables and draw curves of the pages; returns the pages that changed.

    Args:
      pages: paths; default: the READMEs of the papers and docs.
      root: folder of the papers' folders.
    """
    changed = []
    for page in default_pages() if pages is None else pages:
        text = page.read_bytes().decode("utf-8")
        for kind, experiment, wanted, body in places(text):
            if kind == "curves":
                column, _, axis = wanted.partition(" against ")
                picture = PICTURE.search(body)
                if picture is None or axis not in ("updates", "seconds"):
                    raise UsageError(
                        f"curves: {wanted!r} in {page}, must be COLUMN against updates or seconds, a picture"
                    )
                draw_curves(_recorded(experiment, root), column, axis, page.parent / picture.group(1))
        new = filled(text, root)
        if new != text:
            write_atomically(page, lambda file, new=new: file.write(new.encode()))
            changed.append(page)
    return changed


def places(text):
    """List the places of a page: `(kind, experiment, wanted, body)`."""
    return [place for fenced, part in _parts(text) if not fenced for place in BLOCK.findall(part)]


def default_pages():
    """Pages with places for results: the papers' READMEs, README.md and docs.

    Raises:
      UsageError: this is no checkout of the repository.
    """
    if not (ROOT.parent / "setup.py").exists():
        raise UsageError(f"results: {ROOT}, must be in a checkout of the repository")
    return sorted([*ROOT.glob("*/README.md"), *ROOT.parent.glob("docs/**/*.md"), ROOT.parent / "README.md"])
