"""Every experiment's own update, compiled by XLA and in the plain graph."""

import numpy as np
import pytest
import tensorflow as tf

from reproductions import experiment_modules, load_experiment

STEPPED_IN_PYTHON = ("belief_states/terrain_agent",)  # XLA cannot compile its world


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in experiment_modules() if name not in STEPPED_IN_PYTHON])
def test_xla_makes_the_updates_of_the_plain_graph(name, data_folder):
    """Two updates each, since the second one sees the weights that the first has changed."""
    module = load_experiment(name)
    experiment = module.Experiment(module.PRESETS["smoke"])
    batch, carry = tf.nest.map_structure(tf.constant, experiment.batch(0)), experiment.initial_carry()
    start = {key: variable.numpy() for key, variable in experiment.variables().items()}
    plain = tf.function(experiment.train_step, autograph=False).get_concrete_function(
        tf.TensorSpec([], tf.int64), batch, carry
    )
    compiled = tf.function(lambda *arguments: plain(*arguments), jit_compile=True, autograph=False)
    found = []
    for update in (plain, compiled):
        for key, variable in experiment.variables().items():
            variable.assign(start[key])
        state, rows = carry, []
        for number in range(2):
            state, metrics = update(tf.constant(number, tf.int64), batch, state)
            rows.append({key: float(value) for key, value in metrics.items()})
        found.append(rows)
    for one, other in zip(*found, strict=True):
        assert set(one) == set(other)
        for key, value in one.items():
            np.testing.assert_allclose(other[key], value, rtol=1e-4, atol=1e-6, err_msg=key)
