"""Command `reproduce list`: a table of all experiments from the text of their modules, and the details of one."""

import ast
import fnmatch
import importlib.util
import shutil
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

from . import assigned, close, did_you_mean
from .runs import UsageError, load

NARROWEST = 40  # characters of a line of a title; columns that leave less are not shown


class Entry(NamedTuple):
    """Row of the table."""

    name: str
    title: str
    presets: tuple[str, ...]  # "…" for some that are computed
    data: tuple[str, ...]
    status: str


def entry(name, module):
    """Make the `Entry` of an experiment without importing its module, which would import TensorFlow."""
    source = Path(importlib.util.find_spec(module).origin).read_text("utf-8")
    values = assigned(source)
    presets = tuple(dict.fromkeys("…" if key is None else ast.literal_eval(key) for key in values["PRESETS"].keys))
    return Entry(
        name,
        ast.get_docstring(ast.parse(source)).splitlines()[0].partition(" (")[0].rstrip("."),
        presets,
        ast.literal_eval(values["DATASETS"]),
        ast.literal_eval(values["STATUS"]) if "STATUS" in values else "",
    )


def list_experiments(pattern, modules):
    """Print the table of the experiments with matching names, or the details of a single one.

    Raises:
      UsageError: no name matches.
    """
    text = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    names = [pattern] if pattern in modules else [name for name in modules if fnmatch.fnmatchcase(name, text)]
    if not names:
        near = did_you_mean(close(pattern, {part for name in modules for part in (name, *name.split("/"))}))
        raise UsageError(f"FILTER: {pattern!r}, must be a part or a pattern of {', '.join(modules)}{near}")
    if len(names) == 1:
        details(names[0], modules)
        return
    rows = [("experiment", "what is learned", "trained", "presets", "data")]
    for row in (entry(name, modules[name]) for name in names):
        sets = [part.split(" ")[0] for part in row.data]
        data = ", ".join(sets[:2]) + (f" +{len(sets) - 2}" if sets[2:] else "")
        rows.append((row.name, row.title, row.status or "-", _short(row.presets), data or "-"))
    if sys.stdout.isatty():
        rows = fitted(rows, shutil.get_terminal_size().columns)
    print(table(rows[0], rows[1:]))
    print("\n`reproduce list NAME` shows all of one: presets, data, the paper's numbers.")


def fitted(rows, width):
    """Fit rows of texts in a width: the second text is wrapped, and last columns that leave it no room are left out."""
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    shown = next(n for n in range(len(widths), 1, -1) if n == 2 or width - sum(widths[:n]) + widths[1] >= NARROWEST)
    room = max(width - sum(widths[:shown]) + widths[1], 20)
    lines = []
    for name, text, *others in rows:
        first, *rest = textwrap.wrap(text, room) or [""]
        blank = [""] * (shown - 2)
        lines += [(name, first, *others[: shown - 2]), *(("", line, *blank) for line in rest)]
    return lines


def table(head, rows):
    """Format rows of texts in columns."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in (head, *rows))


def _short(presets):
    shown = [name for name in ("paper", "demo", "smoke") if name in presets] or list(presets[:1])
    others = len(presets) - len(shown)
    return ", ".join(shown) + (f" +{'…' if '…' in presets else others}" if others else "")


def details(name, modules):
    """Print an experiment's presets, data sets and the paper's numbers."""
    module = load(name, modules)
    print(f"{name}: {module.__doc__.strip()}\n")
    print(f"presets: {', '.join(module.PRESETS)}")
    print(f"needs: {', '.join(module.DATASETS) or 'no data set'}")
    print(f"trained: {getattr(module, 'STATUS', '-')}")
    for metric, (value, source) in module.PAPER.items():
        print(f"paper's {metric}: {number(value)} ({source})")


def number(value):
    """Format a number for tables, large whole ones with all digits; "-" for None."""
    if value is None:
        return "-"
    value = float(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 and value % 1 == 0 else f"{value:.4g}"
