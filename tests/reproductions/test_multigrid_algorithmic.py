"""Sorting and recall of the Multigrid paper: sizes, scores by their definition, what each model sees."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from reproductions import load_experiment
from reproductions.multigrid import _memories
from tests.reproductions.test_experiments import data_folder  # noqa: F401
from tfmem.aot.bundle import open_source
from tfmem.training import train
from tfmem.training.run_folder import RunFolderError

NAMES = ("priority_sort", "mnist_sort", "associative_recall")
SMALL = dict(memory_size=4, word_size=3, num_reads=1, units=5)


def smoke(name, **changes):
    module = load_experiment(f"multigrid/{name}")
    return module.Experiment(dataclasses.replace(module.PRESETS["smoke"], **SMALL | changes))


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
    batch = experiment.evaluation_data(0)
    logits, _ = experiment.forward(batch, (), training=False)
    scores = experiment.scores(batch, logits)
    p, target = 1 / (1 + np.exp(-logits.numpy().astype(np.float64))), batch["target"].numpy()
    assert p.shape == target.shape == ((2, 30, 9) if name == "priority_sort" else (30, 9))
    assert float(scores["loss"]) == pytest.approx(-np.log(np.where(target > 0, p, 1 - p)).sum(), rel=1e-5)
    assert [float(x) for x in scores["error"]] == [((p > 0.5) != (target > 0)).sum(), target.size]

    shown = batch["inputs"].numpy()[: experiment.config.num_items, :, :9]
    most = np.array(
        [[np.bincount(shown[:, b, i].astype(int), minlength=2).argmax() for i in range(9)] for b in range(30)]
    )
    expected = np.mean(np.broadcast_to(most, target.shape) != target)
    assert np.mean(experiment.guess(batch) != target) == expected
    assert 0.1 < expected < 0.5


def test_digits_are_scored_by_the_definition(data_folder):  # noqa: F811
    experiment = smoke("mnist_sort", batch_size=10)
    batch = {name: tf.constant(array) for name, array in experiment.evaluation_batch(0).items()}
    logits, _ = experiment.forward(batch, (), training=False)
    scores, target = experiment.scores(batch, logits), batch["target"].numpy()
    log_p = tf.nn.log_softmax(logits).numpy()
    assert log_p.shape == (2, 10, 10)
    assert float(scores["loss"]) == pytest.approx(-np.take_along_axis(log_p, target[..., None], -1).sum(), rel=1e-5)
    assert [float(x) for x in scores["error"]] == [(log_p.argmax(-1) != target).sum(), 20]
    expected = [1 - max(np.mean(target[:, b] == digit) for digit in range(10)) for b in range(10)]
    assert np.mean(experiment.guess(batch) != target) == pytest.approx(np.mean(expected))
    assert np.array_equal(target, smoke("mnist_sort", batch_size=10, seed=3).evaluation_batch(0)["target"])


def test_what_the_models_see_of_digits(data_folder):  # noqa: F811
    experiment = smoke("mnist_sort", model="lstm")
    batch = {name: tf.constant(array) for name, array in experiment.batch(0).items()}
    items, inputs = experiment.items(batch).numpy(), experiment.baseline_inputs(batch).numpy()
    images, priorities = batch["images"].numpy()[..., 0], batch["priorities"].numpy()
    np.testing.assert_allclose(items[..., 0], images / 255, rtol=1e-6)
    np.testing.assert_array_equal(items[..., 1], np.broadcast_to(priorities[..., None, None], images.shape))
    assert inputs.shape == (3 + 1 + 2, 2, 6 * 6 + 2)
    index = np.arange(6) * 28 // 6
    np.testing.assert_allclose(inputs[:3, :, :36], images[:, :, index][..., index].reshape(3, 2, 36) / 255, rtol=1e-6)
    np.testing.assert_array_equal(inputs[:3, :, 36], priorities)
    np.testing.assert_array_equal(inputs[..., 37], [[0, 0]] * 3 + [[1, 1]] + [[0, 0]] * 2)
    assert not inputs[4:].any()
    assert not inputs[3, :, :37].any()


def one_update(experiment, **how):
    update = tf.function(experiment.train_step, autograph=False, **how) if how else experiment.train_step
    _, metrics = update(tf.constant(0, tf.int64), tf.nest.map_structure(tf.constant, experiment.batch(0)), ())
    return metrics


@pytest.mark.parametrize("model", ["multigrid", "dnc", "lstm"])
@pytest.mark.parametrize("name", NAMES)
def test_an_update_reaches_every_weight(name, model, data_folder):  # noqa: F811
    experiment = smoke(name, model=model, batch_size=8)
    variables = experiment.model.trainable_variables
    before = [variable.numpy() for variable in variables]
    metrics = one_update(experiment)
    assert np.isfinite(metrics["loss"])
    assert [v.path for v, b in zip(variables, before, strict=True) if np.array_equal(v.numpy(), b)] == []


def test_an_update_under_xla():
    metrics = one_update(smoke("priority_sort"))
    compiled = one_update(smoke("priority_sort"), jit_compile=True)
    for name in ("loss", "error", "gradient_norm"):
        np.testing.assert_allclose(metrics[name], compiled[name], rtol=1e-5)


@pytest.mark.parametrize("name", ["priority_sort", "associative_recall"])
def test_items_of_multigrid_are_3x3(name):
    with pytest.raises(ValueError, match="num_bits: 16, must be 9"):
        smoke(name, num_bits=16)
    assert smoke(name, model="lstm", num_bits=16).config.num_bits == 16


def test_no_more_items_are_told_than_shown():
    with pytest.raises(ValueError, match="num_outputs: 4, must be from 1 to 3"):
        smoke("priority_sort", num_outputs=4)


def test_memories_side_by_side(tmp_path):
    class Quick(load_experiment("multigrid/associative_recall").Experiment):
        def export(self, folder):
            folder.mkdir()

    runs = []
    for model in ("multigrid", "dnc"):
        experiment = Quick(smoke("associative_recall", model=model).config)
        runs.append(tmp_path / model)
        train(experiment, runs[-1])
        assert (runs[-1] / "figures/memory.png").exists()
    memories = _memories.memories(runs)
    assert {model: {name: m.shape for name, m in rows.items()} for model, rows in memories.items()} == {
        "multigrid": {"3×3": (3, 3, 3), "6×6": (3, 6, 6)},
        "dnc": {"4 slots of 3": (3, 4, 3)},
    }
    # The DNC's memory is empty at first; what is shown is what its state holds after each item.
    cell = experiment.model.cell
    state = experiment.model.get_initial_state(1)
    for step, inputs in enumerate(experiment.evaluation_data(0)["inputs"][:3, :1]):
        _, state = cell(inputs, state)
        np.testing.assert_allclose(memories["dnc"]["4 slots of 3"][step], state.access_state.memory[0], atol=1e-6)
    _memories.main([*map(str, runs), str(tmp_path / "both.png")])
    assert (tmp_path / "both.png").exists()
    with pytest.raises(RunFolderError, match="is of the model dnc as one before it"):
        _memories.memories([runs[1], runs[1]])


def test_digits_come_from_where_a_bundle_gets_them(data_folder):  # noqa: F811
    experiment = smoke("mnist_sort", seed=4)
    for split, given in (("train", experiment.batch(3)), ("evaluation", experiment.evaluation_batch(3))):
        opened = open_source(experiment.data_source(split)).batch(3)
        assert set(opened) == set(given)
        assert all(np.array_equal(opened[name], array) for name, array in given.items())
