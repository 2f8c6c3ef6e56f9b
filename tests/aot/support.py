"""Running bundles as on a machine without TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

from tfmem.training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
ALONE = """
import sys
for name in ("tensorflow", "keras", "sonnet", "tensorflow_probability", "tensorflow_datasets", "tree", "rich"):
    sys.modules[name] = None  # importing it is an error
from tfmem.aot.__main__ import main
sys.exit(main())
"""


def aot(*arguments, **environment):
    """`python -m tfmem.aot` in a process that cannot import TensorFlow and its kin; a finished `subprocess`."""
    given = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, arguments)],
        env={**os.environ, **given, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def losses(folder):
    """The losses of a run's rows."""
    return [row["train/loss"] for row in RunFolder(folder).metrics()]
