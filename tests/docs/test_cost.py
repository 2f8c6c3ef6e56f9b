"""The page of measured cost: its table of XLA has what the demos set."""

import re
from pathlib import Path

from reproductions import experiment_modules, load_experiment

PAGE = Path(__file__).parents[2] / "docs" / "cores" / "cost.md"


def test_the_table_of_xla_has_what_the_demos_set():
    text = PAGE.read_text(encoding="utf-8")
    section = text.partition("## XLA or the plain graph on a CPU\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if re.match(r"\| \w+/", line)]
    stated = {row[0]: row[-1] for row in rows}
    demos = {name: str(load_experiment(name).PRESETS["demo"].jit_compile) for name in experiment_modules()}
    assert {name: demos[name] for name in stated} == stated
    assert "True" not in {demo for name, demo in demos.items() if name not in stated}  # a demo's XLA was measured
