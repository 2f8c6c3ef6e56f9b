"""Every core in every experiment that takes one."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from reproductions import load_experiment
from tests.reproductions.eager import first_update
from tests.support import small_cores

CORES = small_cores()
ANY_CORE = [
    *(f"relational/{name}" for name in ("nth_farthest", "program_evaluation", "language_modeling")),
    *(f"metalearned/{name}" for name in ("double_copy", "dictionary_inference", "priority_sort", "babi")),
    *(f"multigrid/{name}" for name in ("priority_sort", "mnist_sort", "associative_recall", "babi")),
]


def pairs():
    """Every experiment with every core; `make test` takes each experiment and each core at least once."""
    for i, name in enumerate(ANY_CORE):
        for j, core in enumerate(CORES):
            yield pytest.param(name, core, marks=pytest.mark.slow if (i - j) % len(CORES) == 0 else pytest.mark.long)


@pytest.mark.parametrize(("name", "core"), list(pairs()))
def test_any_core_trains_in_every_sequence_experiment(name, core, data_folder):
    module = load_experiment(name)
    if core == "MetalearnedMemoryConfig" and name in ("relational/language_modeling", "relational/program_evaluation"):
        with pytest.raises(ValueError, match=r"core: meta_weight 1.0, must be 0"):
            dataclasses.replace(module.PRESETS["smoke"], core=CORES[core])
        config = dataclasses.replace(module.PRESETS["smoke"], core=dataclasses.replace(CORES[core], meta_weight=0.0))
    else:
        config = dataclasses.replace(module.PRESETS["smoke"], core=CORES[core])
    if (name, core) == ("relational/language_modeling", "LookupMemoryConfig"):
        with pytest.raises(ValueError, match="core: LookupMemoryConfig"):
            module.Experiment(config)
        return
    experiment = module.Experiment(config)
    batch = tf.nest.map_structure(tf.constant, experiment.batch(0))
    before = [variable.numpy() for variable in experiment.model.trainable_variables]
    _, metrics = experiment.train_step(tf.constant(0, tf.int64), batch, experiment.initial_carry())
    assert np.isfinite(metrics["loss"])
    assert any(np.any(b != v) for b, v in zip(before, experiment.model.trainable_variables, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
def test_any_core_holds_beliefs(core, data_folder):
    module = load_experiment("belief_states/random_city")
    config = dataclasses.replace(module.PRESETS["smoke"], core=CORES[core], model="deterministic")
    if core in ("MetalearnedMemoryConfig", "LookupMemoryConfig"):  # two outputs; a state that grows
        with pytest.raises(ValueError, match=f"core: {core}.*, must be a core whose"):
            module.Experiment(config)
        return
    _, loss = first_update(config, module)
    assert np.isfinite(loss)
