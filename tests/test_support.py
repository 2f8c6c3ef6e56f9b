"""The search for reference arrays, and the counts of `python -m tests.parity`."""

import numpy as np
import pytest

from tests import support
from tests.parity import Recorder, Reference


def test_what_the_full_set_lacks_is_taken_from_the_small_one_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("TFMEM_GOLDENS_DIR", str(tmp_path))
    support.warn_of_small_goldens.cache_clear()
    with pytest.warns(UserWarning, match="TFMEM_GOLDENS_DIR: .* lacks files of rmc"):
        found = support.find_golden("rmc/initial_states.npz")
    assert found == support.SMALL_GOLDENS / "rmc" / "initial_states.npz"
    assert support.golden_cases("rmc/case*")  # one warning for a folder
    assert support.find_golden("nowhere") is None
    (tmp_path / "rmc").mkdir()
    assert support.golden_cases("rmc/case*") == []
    support.warn_of_small_goldens.cache_clear()


def test_a_path_that_is_no_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TFMEM_GOLDENS_DIR", str(tmp_path / "missing"))
    with pytest.raises(ValueError, match=r"^TFMEM_GOLDENS_DIR: .*missing', must be a folder"):
        support.find_golden("rmc")


def reference(array, key):
    array = np.asarray(array).view(Reference)
    array.source = "folder/file.npz", key
    return array


def test_comparisons_are_counted():
    recorder = Recorder()
    outputs = reference([2.0, -4.0], "outputs")
    recorder.note([2.0, -4.0], outputs)
    recorder.note(2.5, outputs[0])  # a number is a part of its array
    recorder.note([3, 4], reference([3, 4], "actions"))
    recorder.note([1e-9, 0.0], reference([0.0, 0.0], "grad_of_nothing"))
    recorder.note([np.inf, 1.0], reference([np.inf, 1.0], "ends"))
    recorder.note([0.0, 1.0], reference([np.inf, 1.0], "wrong_ends"))
    recorder.note(["a"], reference(["a"], "names"))
    recorder.note([2.0], np.array([3.0]))  # no reference array
    errors = {key: error for (_, key), error in recorder.errors.items()}
    assert errors == {"outputs": 0.25, "actions": 0, "ends": 0, "wrong_ends": np.inf, "names": 0}
    assert recorder.zeros == {("folder/file.npz", "grad_of_nothing"): 1e-9}
