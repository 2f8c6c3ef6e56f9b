"""`python -m tests.aot [word ...]`: 20 updates of a training step around each core, by the runner and by TensorFlow."""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import numpy as np

from tests.aot.experiments import CoreConfig, CoreStep, tensorflow_losses
from tests.aot.support import losses
from tests.conformance.descriptors import ROWS
from tfmem.aot.bundle import write_bundle
from tfmem.aot.lowering import make_bundle
from tfmem.aot.runner import run_bundle


def main(words):
    wrong = 0
    # Relative to the largest of the losses, which are weighted sums of either sign.
    print("| core | largest relative difference of 20 losses | seconds |\n|---|---|---|")
    for row in ROWS:
        if words and not any(word in row.name for word in words):
            continue
        start = time.monotonic()
        try:
            with tempfile.TemporaryDirectory() as folder:
                path, run = Path(folder, "bundle"), Path(folder, "run")
                experiment = CoreStep(row, CoreConfig(num_updates=20, updates_per_call=5, log_every=1))
                write_bundle(make_bundle(experiment), path)
                run_bundle(path, run)
                expected = tensorflow_losses(experiment, 20)
                difference = np.max(np.abs(np.array(losses(run)) - expected)) / np.max(np.abs(expected))
                found = f"{difference:.1e}"
                wrong += difference > 1e-5
        except Exception as error:
            found, wrong = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}", wrong + 1
        print(f"| {row.name} | {found} | {time.monotonic() - start:.0f} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
