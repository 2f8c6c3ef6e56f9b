"""The page of the papers' statements: its counts are those of its lines."""

import collections
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "audit.md"
VERDICTS = ("right", "differs", "missing", "trained", "untrained", "unreadable")


def test_counts_are_those_of_the_lines():
    counted, stated, part = collections.defaultdict(collections.Counter), {}, None
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("## "):
            part = line[3:]
        elif part is None and re.fullmatch(r"[\d ]+", " ".join(cells[1:])):
            stated[cells[0]] = [int(cell) for cell in cells[1:]]
        elif part is not None and len(cells) == 5 and cells[2].isdigit():
            assert cells[3] in VERDICTS, line
            counted[part][cells[3]] += int(cells[2])
    rows = {name: [*(n[verdict] for verdict in VERDICTS), sum(n.values())] for name, n in counted.items()}
    assert stated == {**rows, "all": [sum(column) for column in zip(*rows.values(), strict=True)]}
    assert stated["all"][-1] == 240
