"""Shared fixtures: where the reference arrays are, quiet, deterministic TensorFlow; how far properties are searched.

Property tests take no settings of their own: the profile "tests" tries the same few examples in every run, the profile
"fuzz" (`make fuzz`) searches with a new random seed each time.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import hypothesis
import keras
import numpy as np
import pytest

from tests.support import find_golden

hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.register_profile("fuzz", derandomize=False, deadline=None, max_examples=5_000)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True)
def seeded():
    """Weights that a test does not draw from a seed of its own are the same in every run and order."""
    keras.utils.set_random_seed(20200611)


@pytest.fixture(scope="session")
def golden():
    """`golden("rmc/case_i_unit/io.npz")`: its path; skips where only the full set (TFMEM_GOLDENS_DIR) has it."""

    def path(relative):
        found = find_golden(relative)
        if found is None:
            pytest.skip(f"{relative} is not among the small goldens; set TFMEM_GOLDENS_DIR to the full set")
        return found

    return path


@pytest.fixture
def rng():
    return np.random.default_rng(20200611)
