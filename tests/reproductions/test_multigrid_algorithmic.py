"""Sorting and recall of the Multigrid paper: sizes, scores by their definition, the models' inputs."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from reproductions import load_experiment
from reproductions.multigrid import memories
from reproductions.multigrid.memories import memory
from tfmem.aot.bundle import open_source
from tfmem.cores.config import DNCConfig, LSTMConfig
from tfmem.tasks.base import Batch

NAMES = ("priority_sort", "mnist_sort", "associative_recall")
DNC = DNCConfig(memory_size=4, word_size=3, num_reads=1, hidden_size=5)
CORES = {"multigrid": None, "dnc": DNC, "lstm": LSTMConfig(units=5)}


def smoke(name, core=None, num_bits=None, **changes):
    module = load_experiment(f"multigrid/{name}")
    config = module.PRESETS["smoke"]
    changes |= {} if core is None else {"core": core}
    changes |= {} if num_bits is None else {"task": dataclasses.replace(config.task, num_bits=num_bits)}
    return module.Experiment(dataclasses.replace(config, **changes))


@pytest.mark.parametrize("name", NAMES)
def test_models_of_a_comparison_have_like_sizes(name):
    module, counts = load_experiment(f"multigrid/{name}"), {}
    for preset in ("paper", "paper_dnc", "paper_lstm"):
        model = module.Experiment(module.PRESETS[preset]).model
        counts[preset] = model.count_params()
        if preset == "paper":  # 8 K numbers, as supplement D has; C gives the DNC 500 x 16
            assert 0.9 < model.memory_cells / 8000 < 1.1
    assert max(counts.values()) / min(counts.values()) < 1.02, counts


@pytest.mark.parametrize("name", ["priority_sort", "associative_recall"])
def test_bits_are_scored_by_the_definition(name):
    experiment = smoke(name, batch_size=30)
    task, batch = experiment.config.task, experiment.evaluation_data(0)
    outputs, _ = experiment.forward(batch, (), training=False)
    scores = experiment.scores(batch, outputs)
    p = 1 / (1 + np.exp(-outputs.logits.numpy().astype(np.float64)))
    target = batch["targets"].numpy()[-2:] if task.every_step else batch["targets"].numpy()
    assert p.shape == target.shape == ((2, 30, 9) if name == "priority_sort" else (30, 9))
    assert float(scores["loss"]) == pytest.approx(-np.log(np.where(target > 0, p, 1 - p)).sum(), rel=1e-5)
    assert [float(x) for x in scores["error"]] == [((p > 0.5) != (target > 0)).sum(), target.size]

    shown = batch["inputs"].numpy()[:3, :, :9]
    most = np.array(
        [[np.bincount(shown[:, b, i].astype(int), minlength=2).argmax() for i in range(9)] for b in range(30)]
    )
    expected = np.mean(np.broadcast_to(most, target.shape) != target)
    given = Batch(**{name: array.numpy() for name, array in batch.items()})
    assert task.baselines([given]) == {"majority_error": expected}
    assert 0.1 < expected < 0.5


def test_digits_are_scored_by_the_definition(data_folder):
    experiment = smoke("mnist_sort", batch_size=10)
    arrays = experiment.evaluation_batch(0)
    batch = {name: tf.constant(array) for name, array in arrays.items()}
    outputs, _ = experiment.forward(batch, (), training=False)
    scores, target = experiment.scores(batch, outputs), arrays["targets"][-2:]
    log_p = tf.nn.log_softmax(outputs.logits).numpy()
    assert log_p.shape == (2, 10, 10)
    assert float(scores["loss"]) == pytest.approx(-np.take_along_axis(log_p, target[..., None], -1).sum(), rel=1e-5)
    assert [float(x) for x in scores["error"]] == [(log_p.argmax(-1) != target).sum(), 20]
    expected = [1 - max(np.mean(target[:, b] == digit) for digit in range(10)) for b in range(10)]
    baselines = experiment.config.task.baselines([Batch(**arrays)])
    assert baselines == {"majority_error": pytest.approx(np.mean(expected))}
    assert np.array_equal(arrays["targets"], smoke("mnist_sort", batch_size=10, seed=3).evaluation_batch(0)["targets"])


@pytest.mark.parametrize("name", ["priority_sort", "mnist_sort"])
def test_a_baseline_is_scored_at_the_steps_of_the_answers(name, data_folder):
    experiment = smoke(name, core=DNC, batch_size=4)
    batch = experiment.evaluation_data(0)
    outputs, _ = experiment.forward(batch, (), training=False)
    logits, targets = outputs.logits[-2:], batch["targets"][-2:]
    if name == "mnist_sort":
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
    else:
        losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    assert float(experiment.scores(batch, outputs)["loss"]) == pytest.approx(float(tf.reduce_sum(losses)), rel=1e-5)


def test_inputs_of_the_multigrid_network_are_the_images_of_the_baselines(data_folder):
    experiment = smoke("mnist_sort")
    inputs = tf.constant(experiment.batch(0)["inputs"])
    items = experiment.config.core.items(experiment.config.task, inputs).numpy()
    np.testing.assert_array_equal(items[..., 0].reshape(3, 2, 36), inputs[:3, :, :36])
    np.testing.assert_array_equal(items[..., 1], np.broadcast_to(inputs[:3, :, 36, None, None], items.shape[:-1]))


def one_update(experiment, **how):
    update = tf.function(experiment.train_step, autograph=False, **how) if how else experiment.train_step
    _, metrics = update(tf.constant(0, tf.int64), tf.nest.map_structure(tf.constant, experiment.batch(0)), ())
    return metrics


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", NAMES)
def test_an_update_reaches_every_weight(name, core, data_folder):
    experiment = smoke(name, core=CORES[core], batch_size=8)
    variables = experiment.model.trainable_variables
    before = [variable.numpy() for variable in variables]
    metrics = one_update(experiment)
    assert np.isfinite(metrics["loss"])
    assert [v.path for v, b in zip(variables, before, strict=True) if np.array_equal(v.numpy(), b)] == []


@pytest.mark.long
def test_an_update_under_xla():
    metrics = one_update(smoke("priority_sort"))
    compiled = one_update(smoke("priority_sort"), jit_compile=True)
    for name in ("loss", "error", "gradient_norm"):
        np.testing.assert_allclose(metrics[name], compiled[name], rtol=1e-5)


@pytest.mark.parametrize("name", ["priority_sort", "associative_recall"])
def test_items_of_multigrid_are_3x3(name):
    with pytest.raises(ValueError, match="num_bits: 16, must be 9"):
        smoke(name, num_bits=16)
    assert smoke(name, core=LSTMConfig(units=5), num_bits=16).config.task.num_bits == 16


def test_memories_side_by_side(tmp_path, monkeypatch):
    experiments = {name: smoke("associative_recall", core=CORES[name]) for name in ("multigrid", "dnc")}
    held = {name: memory(experiment) for name, experiment in experiments.items()}
    assert {name: {kind: m.shape for kind, m in rows.items()} for name, rows in held.items()} == {
        "multigrid": {"3×3": (3, 3, 3), "6×6": (3, 6, 6)},
        "dnc": {"4 slots of 3": (3, 4, 3)},
    }
    # The DNC's memory is empty at first; what is shown is the memory of its state after each item.
    experiment = experiments["dnc"]
    cell, state = experiment.model.cell, experiment.model.get_initial_state(1)
    for step, inputs in enumerate(experiment.evaluation_data(0)["inputs"][:3, :1]):
        _, state = cell(inputs, state)
        np.testing.assert_allclose(held["dnc"]["4 slots of 3"][step], state.access_state.memory[0], atol=1e-6)
    assert memory(smoke("associative_recall", core=CORES["lstm"])) == {}
    folders = [SimpleNamespace(path=Path(name)) for name in experiments]
    monkeypatch.setattr(memories, "open_run", lambda path: (None, experiments[path.name], None))
    drawn = []
    figure = memories.plotting.memory_figure
    monkeypatch.setattr(memories.plotting, "memory_figure", lambda held: drawn.append(list(held)) or figure(held))
    assert memories.compare([*folders, folders[1]], tmp_path) == ["memory.png"]
    assert (tmp_path / "memory.png").exists()
    assert drawn == [["RecallNetwork", "DNC", "DNC, /dnc"]]
    monkeypatch.setattr(
        memories, "open_run", lambda path: (None, smoke("associative_recall", core=CORES["lstm"]), None)
    )
    assert memories.compare(folders[:1], tmp_path) == []


def test_digits_come_from_where_a_bundle_gets_them(data_folder):
    experiment = smoke("mnist_sort", seed=4)
    for split, given in (("train", experiment.batch(3)), ("evaluation", experiment.evaluation_batch(3))):
        opened = open_source(experiment.data_source(split)).batch(3)
        assert set(opened) == set(given)
        assert all(np.array_equal(opened[name], array) for name, array in given.items())
