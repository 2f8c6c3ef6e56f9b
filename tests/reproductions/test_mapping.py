"""Mapping's baselines: any core of vectors, and ConvLSTMs at one scale, with the multigrid's data, loss and scores."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from reproductions.multigrid import mapping
from tfmem.cores.config import DNCConfig, LSTMConfig

SMOKE = mapping.PRESETS["smoke"]
DNC = DNCConfig(memory_size=6, word_size=3, num_reads=2, hidden_size=5)
ONE_SCALE = mapping.one_scale(6, (2, 3), (3, 2), (2, 1))
BASELINES = {"dnc": dict(core=DNC), "lstm": dict(core=LSTMConfig(units=5)), "conv_lstm": ONE_SCALE}


def parameters(preset):
    config = mapping.PRESETS[preset]
    model = mapping.Experiment(dataclasses.replace(config, batch_size=1)).model
    state = model.get_initial_state(1)
    cells = sum(int(tf.size(grid.cell)) for layer in state for grid in layer) if config.core is None else None
    return model.count_params(), cells


@pytest.fixture
def eager():
    """An evaluation of a few steps takes less time than its tracing."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("size", ["demo", "paper"])
def test_baselines_have_as_many_parameters_and_cells(size):
    multigrid, cells = parameters("demo" if size == "demo" else "paper_15x15")
    convolutional, its_cells = parameters(f"{size}_conv_lstm")
    np.testing.assert_allclose(convolutional, multigrid, rtol=0.02)
    np.testing.assert_allclose(its_cells, cells, rtol=0.02)
    np.testing.assert_allclose(parameters(f"{size}_lstm")[0], multigrid, rtol=0.02)
    # The paper's DNC is larger: 0.75 M parameters (P-App D).
    np.testing.assert_allclose(parameters(f"{size}_dnc")[0], multigrid if size == "demo" else 0.75e6, rtol=0.02)
    core = mapping.PRESETS[f"{size}_dnc"].core
    np.testing.assert_allclose(core.memory_size * core.word_size, cells, rtol=0.02)


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_baseline_learns_one_window(name):
    config = dataclasses.replace(SMOKE, **BASELINES[name], optimizer="adam", learning_rate=1e-2, decay_steps=10**6)
    experiment = mapping.Experiment(config)
    batch = tf.nest.map_structure(tf.constant, experiment.batch(0))
    first, carry = tf.constant(0, tf.int64), experiment.initial_carry()
    losses = [float(experiment.train_step(first, batch, carry)[1]["loss"]) for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]


def test_a_core_sees_view_and_query_and_starts_anew_in_an_episode():
    experiment = mapping.Experiment(dataclasses.replace(SMOKE, core=DNC))
    batch = tf.nest.map_structure(tf.constant, experiment.batch(0))
    assert bool(batch["first"])
    state = tf.nest.map_structure(lambda s: s + 0.5, experiment.initial_carry())
    (a, _), (b, _) = (experiment.forward(batch, carry, False) for carry in (state, experiment.initial_carry()))
    np.testing.assert_array_equal(a["logits_3"], b["logits_3"])
    later = {**batch, "first": tf.constant(False)}
    assert np.abs(experiment.forward(later, state, False)[0]["logits_3"] - a["logits_3"]).max() > 1e-6
    _, before = experiment.forward(batch, state, False)
    _, after = experiment.forward({**batch, "query_3": batch["query_3"] + 1.0}, state, False)
    memory = [s.access_state.memory for s in (before, after)]
    assert np.abs(memory[0] - memory[1]).max() > 1e-6


def test_figures_of_a_dnc_hold_its_memory(eager):
    """Figure 3 of the supplement: all slots at every step of the walk, from an empty memory on."""
    experiment = mapping.Experiment(dataclasses.replace(SMOKE, core=DNC))
    ((name, held),) = experiment.memory().items()
    assert name == "6 slots of 3"
    assert held.shape == (25, 6, 3)
    window = experiment.unseen.episode(0).window(0, 25)
    inputs = {"observation": tf.constant(window["writer"][:, :1]), "query_3": tf.constant(window["query_3"][:, :1])}
    _, state = experiment.model.run(inputs, experiment.model.get_initial_state(1))
    np.testing.assert_allclose(held[-1], state.access_state.memory[0], atol=1e-6)
    assert [frame.memory for frame in experiment.frames(every=24)] == [(), ()]
    lstm = mapping.Experiment(dataclasses.replace(SMOKE, core=LSTMConfig(units=4)))
    assert lstm.memory() == {} == mapping.Experiment(SMOKE).memory()


def test_frames_of_both_readers(eager):
    demo = mapping.PRESETS["demo_9x9_query"]
    config = dataclasses.replace(
        demo, batch_size=1, writer_filters=(1, 1, 2), reader_filters=(1, 1, 2), decoder_filters=(2, 2, 1)
    )
    experiment = mapping.Experiment(config)
    small, large = ([*experiment.frames(every=80, size=size)][-1] for size in (3, 9))
    assert (small.query.shape, large.query.shape) == ((3, 3), (9, 9))
    assert small.target.sum() > 0 < large.target.sum()
    np.testing.assert_array_equal(small.path, large.path)
    assert np.abs(small.prediction - large.prediction).max() > 0


def test_wrong_settings():
    with pytest.raises(ValueError, match=r"^query_sizes: \(3, 9\), must be \(3,\) with a core"):
        dataclasses.replace(mapping.PRESETS["spiral_9x9_query"], core=DNC)
