"""Places of the pages that `reproduce results` fills from the recorded results, in the papers' READMEs and in docs.

    <!-- results EXPERIMENT: METRIC METRIC -->
    (a table: a row for each setting, a column for each metric)
    <!-- end -->

    <!-- grid EXPERIMENT: METRIC by FIELD FIELD -->
    (a table: a column for each value of the configuration's last field, a row for each combination of the others)
    <!-- end -->

    <!-- curves EXPERIMENT: COLUMN against updates|seconds -->
    ![...](picture)
    <!-- end -->

    <!-- claims -->
    (the table of the papers' claims with their verdicts)
    <!-- end -->

`EXPERIMENT@demo*` takes only the presets that match, `EXPERIMENT@=demo*` only these presets without changes to them.
"""

import fnmatch
import re

import numpy as np

from tfmem import plotting
from tfmem.training.run_folder import write_atomically

from . import experiment_modules
from .catalog import entry, number
from .records import ROOT, check_checkout, records
from .report import markdown, mean
from .runs import UsageError
from .verdicts import claims_table

PLACE = r"<!-- (?:(results|grid|curves) (\S+): ([^\n]+?)|claims) -->"
BLOCK = re.compile(PLACE + r"\r?\n((?:(?!<!-- )[\s\S])*?)<!-- end -->")
MARK = re.compile(r"<!-- (?:results|grid|curves|claims|end)\b.*")
FENCED = re.compile(r"^(```+).*?^\1 *$", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")


def results_table(found, metrics):
    """Make the lines of a table: a row for each setting, the paper's numbers first, each source once.

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
        cells, sources = [], []
        for stated in (paper.get(metric) for metric in metrics):
            source = f" ({stated['source']})" if stated and stated["source"] not in sources else ""
            cells.append(number(stated["value"]) + source if stated else "")
            sources += [stated["source"]] if stated else []
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


def grid_table(found, metric, fields):
    """Make the lines of a table of one metric, the mean over seeds: a column for each value of the last field.

    Args:
      found: as from `records`.
      metric: a name in result.json.
      fields: of the configuration, such as "core.num_heads"; the other fields must be the same in all runs.

    Raises:
      UsageError: a run lacks the metric or a field, or two settings have the same values of the fields.
    """
    cells = {}
    for setting, same in found.items():
        values = tuple(_field(same[0], field) for field in fields)
        if values in cells:
            raise UsageError(f"grid: {setting!r}, must not have the {', '.join(fields)} of another setting")
        lacking = [content["seeds"] for content in same if metric not in content["ours"]]
        if lacking:
            raise UsageError(f"grid: {metric!r}, must be a score of {setting!r}, seeds {lacking}")
        cells[values] = mean([content["ours"][metric] for content in same])
    columns, rows = sorted({v[-1] for v in cells}), sorted({v[:-1] for v in cells})
    *names, last = (field.split(".")[-1].replace("_", " ") for field in fields)
    lines = [markdown((*names, *(f"{last}: {column}" for column in columns)))]
    lines.append(markdown(["---"] * (len(names) + len(columns))))
    lines += [markdown((*map(str, row), *(cells.get((*row, column), "-") for column in columns))) for row in rows]
    return lines


def _field(content, field):
    value = content["config"]
    for name in field.split("."):
        if not isinstance(value, dict) or name not in value:
            raise UsageError(f"grid: {field!r}, must be a field of the configuration of {content['setting']!r}")
        value = value[name]
    return value


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
    window = plotting.window_of(column)
    figure = plotting.curves_figure(curves, axis, column.split("/")[-1].replace("_", " "), window=window)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def filled(text, root=ROOT):
    """Fill the tables of a page's text, outside of its code blocks.

    Raises:
      UsageError: a place has no end, names no experiment or no metric of one, or is written otherwise.
    """

    def block(match):
        kind, experiment, wanted, _ = match.groups()
        if kind == "curves":
            return match.group(0)
        lines = _table(kind, experiment, wanted, root) if kind else claims_table(root)
        text = "\n".join([match.group(0).splitlines()[0], "", *lines, "", "<!-- end -->"])
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
            raise UsageError(f"place: {wrong.group(0)!r}, must be as the docstring of reproductions.pages says")
    return parts


def _table(kind, experiment, wanted, root):
    found, (metrics, by, fields) = records(experiment, root), wanted.partition(" by ")
    if kind == "grid" and not by:
        raise UsageError(f"grid: {wanted!r}, must be METRIC by FIELD FIELD")
    if found:
        return grid_table(found, metrics, fields.split()) if by else results_table(found, metrics.split())
    name, _, pattern = experiment.partition("@")
    pattern = pattern.removeprefix("=")
    modules = experiment_modules()
    presets = entry(name, modules[name]).presets if name in modules else ()
    if not any(preset == "…" or fnmatch.fnmatchcase(preset, pattern or "*") for preset in presets):
        raise UsageError(f"results: {experiment!r}, must be an experiment, or one @ a pattern of its presets")
    return [f"No run of {name}, preset `{pattern or '*'}`, is recorded yet."]


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
                draw_curves(records(experiment, root), column, axis, page.parent / picture.group(1))
        new = filled(text, root)
        if new != text:
            write_atomically(page, lambda file, new=new: file.write(new.encode()))
            changed.append(page)
    return changed


def places(text):
    """List the places of a page: `(kind, experiment, wanted, body)`; a table of claims has no kind."""
    return [place for fenced, part in _parts(text) if not fenced for place in BLOCK.findall(part)]


def default_pages():
    """Pages with places for results: the papers' READMEs, README.md and docs.

    Raises:
      UsageError: this is no checkout of the repository.
    """
    check_checkout("results")
    return sorted([*ROOT.glob("*/README.md"), *ROOT.parent.glob("docs/**/*.md"), ROOT.parent / "README.md"])
