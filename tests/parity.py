"""`python -m tests.parity [pytest arguments]`: how near the tests come to the reference arrays.

Runs the tests that read reference arrays (without arguments all of them) and prints two tables, of files and folders:
the arrays there, how many of them were compared, how many of those were equal to the bit, and the largest errors. Not
compared are inputs, settings, and what the tests do not cover. Checkpoints and JSON files are not counted.

A comparison is a call of `relative_error`, `assert_allclose` or `assert_array_equal` with an array of a file or a part
of it. Other comparisons, and those of stacked arrays, are not seen. An error is the largest absolute difference over
the largest magnitude of what is expected. An array whose magnitudes are below 1e-6 is zero but for rounding: it has an
absolute difference, in the last column, instead.
"""

import collections
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest

from tests import support

TESTS = Path(__file__).parent
ZERO = 1e-6  # magnitudes below are rounding


class Reference(np.ndarray):
    """An array that knows the file and key that it, or what it is a part of, was read from."""

    def __array_finalize__(self, other):
        self.source = getattr(other, "source", None)

    def __getitem__(self, key):
        part = super().__getitem__(key)
        if isinstance(part, np.floating):  # a number forgets its array
            part = np.asarray(part).view(Reference)
            part.source = self.source
        return part


class Archive(np.lib.npyio.NpzFile):
    """An npz file whose arrays are `Reference`s."""

    def __getitem__(self, key):
        array = np.asarray(super().__getitem__(key)).view(Reference)
        array.source = self.name, key.removesuffix(".npy")
        return array


class Recorder:
    """A pytest plugin that selects the tests with reference arrays and notes their comparisons.

    Attributes:
      errors, zeros: the largest relative error, and absolute difference from zeros, by (file, key).
      folders: of the files that were read.
    """

    def __init__(self):
        self.errors, self.zeros, self.folders = {}, {}, set()

    def note(self, actual, expected):
        source = getattr(expected, "source", None)
        if source is None:
            return
        actual, expected = np.asarray(actual), np.asarray(expected)
        if expected.dtype.kind not in "biuf" or actual.dtype.kind not in "biuf":
            self.put(self.errors, source, 0.0 if np.array_equal(actual, expected) else np.inf)
            return
        actual, expected = np.broadcast_arrays(actual.astype(np.float64), expected.astype(np.float64))
        finite = np.isfinite(expected)
        if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
            self.put(self.errors, source, np.inf)
            return
        actual, expected = actual[finite], expected[finite]
        difference, largest = (np.max(np.abs(x), initial=0.0) for x in (actual - expected, expected))
        if largest < ZERO:
            self.put(self.zeros, source, difference)
        else:
            self.put(self.errors, source, difference / largest)

    @staticmethod
    def put(found, source, error):
        found[source] = max(float(error), found.get(source, 0.0))

    def watched(self, compare):
        """A function of (actual, expected, ...) that notes both and calls `compare`."""

        def watching(actual, expected, *args, **kwargs):
            self.note(*((actual, expected) if hasattr(expected, "source") else (expected, actual)))
            return compare(actual, expected, *args, **kwargs)

        return watching

    def watch(self):
        """Watch what is loaded and compared, before the tests are imported."""
        load = np.load

        def load_named(file, *args, **kwargs):
            archive = load(file, *args, **kwargs)
            roots = [root for root in support.golden_roots() if Path(file).is_relative_to(root)]
            if roots and isinstance(archive, np.lib.npyio.NpzFile):
                archive.__class__, archive.name = Archive, str(Path(file).relative_to(roots[0]))
                self.folders.add(archive.name.split("/")[0])
            return archive

        np.load, support.relative_error = load_named, self.watched(support.relative_error)
        for name in ("assert_allclose", "assert_array_equal"):
            setattr(np.testing, name, self.watched(getattr(np.testing, name)))

    def pytest_collection_modifyitems(self, items):
        def reads(item):
            params = item.callspec.params.values() if hasattr(item, "callspec") else ()
            return "golden" in item.fixturenames or any(isinstance(p, Path) for p in params)

        items[:] = [item for item in items if reads(item)]

    def rows(self, group):
        """A row for each group of the files in the folders that were read; `group` names a file's group."""
        arrays = collections.Counter()
        for folder in self.folders:
            found = support.find_golden(folder)
            for path in found.rglob("*.npz"):
                arrays[group(str(path.relative_to(found.parent)))] += len(np.load(path).files)
        yield ["", "arrays", "compared", "equal to the bit", "outputs, states, variables", "gradients", "from zeros"]
        for name in sorted(arrays):
            errors, zeros = (
                {source: error for source, error in found.items() if group(source[0]) == name}
                for found in (self.errors, self.zeros)
            )
            compared = errors.keys() | zeros.keys()
            equal = [source for source in compared if errors.get(source, 0.0) == zeros.get(source, 0.0) == 0.0]
            kinds = [[e for (_, key), e in errors.items() if ("grad" in key) == kind] for kind in (False, True)]
            largest = (max(found, default=None) for found in (*kinds, zeros.values()))
            yield [name, arrays[name], len(compared), len(equal), *largest]


def main(arguments):
    recorder = Recorder()
    recorder.watch()
    given = [a for a in arguments if not a.startswith("-")]
    code = pytest.main(["-q", "-p", "no:cacheprovider", *arguments, *([] if given else [str(TESTS)])], [recorder])
    for group in (lambda file: file, lambda file: file.split("/")[0]):
        print()
        for number, row in enumerate(recorder.rows(group)):
            cells = ("" if x is None else f"{x:.1e}" if isinstance(x, float) else str(x) for x in row)
            print("|", " | ".join(cells), "|")
            if number == 0:
                print("|---" * len(row) + "|")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
