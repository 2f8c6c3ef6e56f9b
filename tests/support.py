"""Helpers that tests import: reference arrays, the measure of their errors, small cores."""

import dataclasses
import functools
import os
import threading
import typing
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

SMALL_GOLDENS = Path(__file__).parent / "goldens"


def first_of(parameters, count=1):
    """Parameters of a test: the first `count` of them for `make test`, the others for `make long`."""
    later = [pytest.param(*p if isinstance(p, tuple) else (p,), marks=pytest.mark.long) for p in parameters[count:]]
    return [*parameters[:count], *later]


def golden_roots():
    """Folders of reference arrays, in the order in which they are searched.

    Raises:
      ValueError: TFMEM_GOLDENS_DIR is not a folder.
    """
    full = os.environ.get("TFMEM_GOLDENS_DIR")
    if full and not Path(full).is_dir():
        raise ValueError(f"TFMEM_GOLDENS_DIR: {full!r}, must be a folder")
    return [Path(full), SMALL_GOLDENS] if full else [SMALL_GOLDENS]


@functools.cache
def warn_of_small_goldens(folder):
    full, small = golden_roots()
    warnings.warn(f"TFMEM_GOLDENS_DIR: {full} lacks files of {folder}; those of {small} are used", stacklevel=3)


def find_golden(relative):
    """The path of a reference file, a folder or a checkpoint's prefix; None where no set has it.

    The set that TFMEM_GOLDENS_DIR names comes first. What it lacks is taken from tests/goldens, with one warning for
    each of their folders.
    """
    roots = golden_roots()
    for root in roots:
        path = root / relative
        if path.exists() or Path(f"{path}.index").exists():
            if root != roots[0]:
                warn_of_small_goldens(Path(relative).parts[0])
            return path
    return None


def golden_files(pattern, key=None):
    """The reference files or folders of a pattern such as "rma/core_*.npz"; with `key`, those with such an array."""
    folder, _, pattern = pattern.partition("/")
    found = find_golden(folder)
    paths = sorted(found.glob(pattern)) if found else []
    return [path for path in paths if key is None or key in np.load(path).files]


def golden_cases(pattern, key=None):
    """The names of `golden_files`, by which tests are parametrized."""
    return [path.stem for path in golden_files(pattern, key)]


def small_cores():
    """`{name of the configuration: a small one}` of every core of `tfmem.cores.config`."""
    from tfmem.cores.config import AnyCoreConfig

    sizes = ("units", "hidden_size", "memory_size", "word_size", "num_cells", "mem_slots", "head_size")
    kinds = [typing.get_args(option)[0] for option in typing.get_args(AnyCoreConfig)]
    return {
        kind.__name__: kind(**{field.name: 4 for field in dataclasses.fields(kind) if field.name in sizes})
        for kind in kinds
    }


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
