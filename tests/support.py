"""Helpers that tests import: finding goldens and the goldens' measure of error."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

SMALL_GOLDENS = Path(__file__).parent / "goldens"


def find_golden(relative):
    """Path of a reference file or checkpoint prefix: in TFMEM_GOLDENS_DIR if set, else in tests/goldens."""
    for root in (os.environ.get("TFMEM_GOLDENS_DIR"), SMALL_GOLDENS):
        if root:
            path = Path(root) / relative
            if path.exists() or Path(f"{path}.index").exists():
                return path
    return None


def relative_error(actual, expected):
    """Largest absolute difference over the largest magnitude of the expected array."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    if expected.size == 0:
        return 0.0
    return float(np.max(np.abs(actual - expected)) / max(np.max(np.abs(expected)), 1e-12))


def at_once(*calls):
    """Results of calls without arguments, or their exceptions, when threads start them together."""
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait(60)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(run, call) for call in calls]
        return [future.exception() or future.result() for future in futures]
