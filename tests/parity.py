"""`python -m tests.parity [pytest arguments]`: the largest error of every reference array that the tests compare with.

Runs the tests that read goldens (all of them with TFMEM_GOLDENS_DIR) and prints a table: largest absolute difference
over the largest magnitude of the array, over all comparisons of its test.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest

TESTS = Path(__file__).parent


class Reference(np.ndarray):
    """An array that knows the file and key that it, or what it is a part of, was read from."""

    def __array_finalize__(self, other):
        self.source = getattr(other, "source", None)


class Recorder:
    """A pytest plugin that notes each comparison of an array with a `Reference`."""

    def __init__(self):
        self.errors = {}

    def note(self, actual, expected):
        source = getattr(expected, "source", None)
        if source is None or not np.issubdtype(np.asarray(expected).dtype, np.floating):
            return
        actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
        if actual.shape != expected.shape or not expected.size or not np.all(np.isfinite(expected)):
            return
        largest = np.max(np.abs(expected))
        if 0 < largest < 1e-6:  # zero but for rounding
            return
        error = np.max(np.abs(actual - expected)) / max(largest, 1e-12)
        self.errors[source] = max(float(error), self.errors.get(source, 0.0))

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if "golden" in item.fixturenames or "goldens" in item.fixturenames]
        load, allclose = np.load, np.testing.assert_allclose
        recorder = self

        def recorded_load(file, *args, **kwargs):
            archive = load(file, *args, **kwargs)
            if isinstance(archive, np.lib.npyio.NpzFile):
                name = "/".join(Path(file).parts[-3:]).split("goldens/")[-1]
                read = archive.__class__.__getitem__

                class Archive(archive.__class__):
                    def __getitem__(self, key):
                        array = np.asarray(read(self, key)).view(Reference)
                        array.source = name, key
                        return array

                archive.__class__ = Archive
            return archive

        def recorded_allclose(actual, desired, *args, **kwargs):
            recorder.note(actual, desired)
            return allclose(actual, desired, *args, **kwargs)

        np.load, np.testing.assert_allclose = recorded_load, recorded_allclose
        for item in items:
            compare = getattr(item.module, "relative_error", None)
            if compare is not None and not hasattr(compare, "recorded"):
                item.module.relative_error = self.recording(compare)

    def recording(self, compare):
        def relative_error(actual, expected):
            self.note(actual, expected)
            return compare(actual, expected)

        relative_error.recorded = True
        return relative_error


def main(arguments):
    recorder = Recorder()
    given = [a for a in arguments if not a.startswith("-")]
    code = pytest.main(["-q", "-p", "no:cacheprovider", *arguments, *([] if given else [str(TESTS)])], [recorder])
    print("| file | array | largest relative error |\n|---|---|---|")
    for (file, key), error in sorted(recorder.errors.items()):
        print(f"| {file} | {key} | {error:.1e} |")
    worst = {}
    for (file, key), error in recorder.errors.items():
        kind = file.split("/")[0], "gradients" if "grad" in key else "outputs, states, variables"
        worst[kind] = max(error, worst.get(kind, 0.0))
    print("\n| goldens | arrays | largest relative error |\n|---|---|---|")
    for (folder, kind), error in sorted(worst.items()):
        print(f"| {folder} | {kind} | {error:.1e} |")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
