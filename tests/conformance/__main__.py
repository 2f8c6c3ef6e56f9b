"""`python -m tests.conformance [row ...]`: the table core x property, for all rows or those whose name has a word."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from tests.conformance.descriptors import ROWS
from tests.conformance.fresh import FRESH, attempt, results
from tests.conformance.properties import PROPERTIES


def main(words):
    rows = [row for row in ROWS if not words or any(word in row.name for word in words)]
    columns = [*PROPERTIES, *FRESH]
    wrong = []
    print("| core | native | " + " | ".join(columns) + " | compared with |")
    print("|---" * (len(columns) + 3) + "|")
    for row in rows:
        found = {name: attempt(check, row) for name, check in PROPERTIES.items()}
        found.update({name: results(name)[row.name] for name in FRESH})
        wrong += [f"{row.name}, {name}: {what}" for name, what in found.items() if what != "ok"]
        marks = ["✓" if found[name] == "ok" else "✗" for name in columns]
        print(f"| {row.name} | {row.framework} | " + " | ".join(marks) + f" | {row.proof or ''} |", flush=True)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
