"""Scripts of benchmarks import each other by their names, as the folder of a script is on its path."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
