"""Experiments in mixed precision: they train, and differ by rounding alone."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from reproductions import experiment_modules, load_experiment
from reproductions.__main__ import main
from tests.reproductions.eager import first_update
from tests.support import first_of
from tfmem.cores.config import DNCConfig, EntityMemoryConfig, LSTMConfig, MetalearnedMemoryConfig
from tfmem.training.run_folder import RunFolder

DNC = DNCConfig(memory_size=4, word_size=4, hidden_size=6)
AGENTS = ("metalearned/maze", "multigrid/exploration", "relational/box_world", "relational/mini_pacman")
MIXED = [name for name in experiment_modules() if not name.startswith("belief_states/") and name not in AGENTS]


@pytest.mark.slow
@pytest.mark.parametrize(  # those whose pictures show what the core holds
    "name",
    first_of(["multigrid/associative_recall", "relational/nth_farthest", "metalearned/babi", "multigrid/mapping"]),
)
def test_mixed_precision_trains_and_finishes(name, tmp_path, data_folder):
    run = tmp_path / "run"
    assert main(["run", name, "--preset", "smoke", "--mixed-precision", "--folder", str(run)]) == 0
    folder = RunFolder(run)
    assert folder.config()["config"]["mixed_precision"] is True
    checkpoint, _ = folder.restore()
    weights = {n: array.dtype.name for n, array in checkpoint.arrays.items() if n.startswith("variables/model/")}
    assert set(weights.values()) <= {"float32", "int32", "int64"}
    rows = folder.metrics()
    assert all(np.isfinite(value) for row in rows for value in row.values())


OTHER_CORES = [
    ("relational/nth_farthest", {"core": LSTMConfig(units=8)}),
    ("relational/program_evaluation", {"core": DNC}),
    ("metalearned/double_copy", {"core": MetalearnedMemoryConfig(units=8, memory_size=4, word_size=4)}),
    ("metalearned/babi", {"core": EntityMemoryConfig(num_cells=4, units=6)}),
    ("metalearned/babi", {"core": DNC}),
    ("multigrid/associative_recall", {"core": DNC}),
    ("multigrid/babi", {"core": DNC}),
]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((name, {}) for name in MIXED),
        *(pytest.param(*case, marks=pytest.mark.long) for case in OTHER_CORES),
    ],
)
@pytest.mark.slow
def test_mixed_precision_differs_by_rounding_alone(name, change, data_folder):
    module = load_experiment(name)
    config = dataclasses.replace(module.PRESETS["smoke"], **change)
    _, exact = first_update(config, module)
    experiment, rounded = first_update(dataclasses.replace(config, mixed_precision=True), module)
    assert rounded == pytest.approx(exact, rel=0.05)
    assert tf.bfloat16 in {tensor.dtype for tensor in tf.nest.flatten(experiment.model.get_initial_state(2))}
    assert experiment.model.compute_dtype == "bfloat16"
    assert all(v.dtype in ("float32", "int32") for v in experiment.model.variables)


@pytest.mark.parametrize("name", [name for name in experiment_modules() if name not in MIXED])
def test_an_experiment_without_mixed_precision_says_so(name, tmp_path, capsys):
    assert main(["run", name, "--preset", "smoke", "--mixed-precision", "--folder", str(tmp_path / "run")]) == 2
    errors = capsys.readouterr().err
    assert "mixed_precision: True, must be False: this experiment computes in float32 alone" in errors
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())
