"""bAbI and language modelling: what their scores are, the best weights, truncated BPTT, replicas, missing data."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from reproductions.__main__ import main
from reproductions.metalearned import babi as metalearned_babi
from reproductions.multigrid import babi as multigrid_babi
from reproductions.relational import language_modeling
from tests.support import relative_error
from tests.text_data import write_babi, write_wikitext
from tfmem.cores.config import DNCConfig, EntityMemoryConfig, LookupMemoryConfig, MetalearnedMemoryConfig
from tfmem.tasks.question_answering import Babi


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    write_babi(tmp_path, tasks=(1, 8), versions=("en-valid",))
    write_wikitext(tmp_path)
    monkeypatch.setenv("TFMEM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TFMEM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


# ---- bAbI -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def babi(data_dir):
    return metalearned_babi.Experiment(metalearned_babi.PRESETS["smoke"])


def test_errors_are_those_of_the_answers(babi):
    task = babi.config.task
    for added, error in ((0, 0.0), (1, 100.0)):
        counts = task.errors(lambda batch, added=added: batch["targets"] + added, "test", 3)
        assert counts.errors == {1: error, 8: error}
        assert counts.asked[[1, 8]].tolist() == [6, 6]  # two questions in each of three stories
    assert 0 < task.baselines([])["blind_mean_error"] <= 50  # task 8 has one answer alone


def test_the_best_weights_on_the_dev_set_are_tested(babi, monkeypatch):
    weights = babi.model.trainable_variables
    kept = []
    for error, value in ((60.0, 1.0), (40.0, 2.0), (50.0, 3.0)):
        for weight in weights:
            weight.assign(tf.fill(weight.shape, value))
        monkeypatch.setattr(Babi, "errors", lambda *_, error=error: Counts(error))
        kept.append(babi.evaluate()["dev_mean_error"])
    assert kept == [60.0, 40.0, 50.0]
    result = babi.result({})
    assert result["best_dev_mean_error"] == 40.0
    assert all(np.all(weight.numpy() == 2.0) for weight in weights)
    assert {f"best/{n:03d}" for n in range(len(weights))} | {"best_score"} <= set(babi.variables())


class Counts:
    def __init__(self, error):
        self.mean, self.failed, self.errors = error, 1, {1: error}


def test_the_papers_tables_agree_with_each_other():
    """Tables 3 and 4 give the means that Table 3's last rows and Table 1 print."""
    errors, runs = np.array(metalearned_babi.BEST_RUNS), np.array(metalearned_babi.MNM_P_RUNS)
    assert errors.shape == (20, len(metalearned_babi.COLUMNS))
    np.testing.assert_allclose(errors.mean(0), [7.38, 0.81, 3.8, 2.9, 2.76, 0.175], atol=0.051)
    assert (errors > 5).sum(0).tolist() == [4, 0, 2, 1, 1, 0]
    paper = {metric: value for metric, (value, _) in metalearned_babi.PAPER.items()}
    assert np.mean([paper[f"error_task_{n}"] for n in range(1, 21)]) == pytest.approx(paper["mean_error"], abs=0.01)
    assert runs.shape == (20, 2)


def test_scores_count_placeholders_alone(babi):
    batch = tf.nest.map_structure(tf.constant, babi.batch(0))
    outputs, _ = babi.forward(batch, (), training=True)
    scores = babi.scores(batch, outputs)
    assert scores["accuracy"][1].numpy() == np.sum(batch["mask"])
    moved = dict(batch, targets=tf.where(batch["mask"] > 0, batch["targets"], 1))
    for name, score in babi.scores(moved, outputs).items():
        np.testing.assert_array_equal(score, scores[name])
    meta = outputs.outputs.meta_loss.numpy()
    read = np.arange(len(meta))[:, np.newaxis] < batch["lengths"].numpy()
    assert scores["meta_loss"].numpy() == pytest.approx(meta[read].mean(), rel=1e-5)
    total = scores["task_loss"][0] / scores["task_loss"][1] + scores["meta_loss"]
    assert scores["loss"].numpy() == pytest.approx(total.numpy(), rel=1e-6)


def test_similarities_are_cosines_of_what_was_read_and_written(babi, monkeypatch):
    cell, seen = babi.model.cell, {"value": [], "key": [], "read": []}
    control, step = cell.control, cell.step

    def spied_control(*arguments):
        result = control(*arguments)
        seen["value"].append(result[2].write_values[0].numpy().mean(0))
        seen["key"].append(result[2].write_keys[0].numpy().mean(0))
        return result

    def spied_step(*arguments):
        monkeypatch.setattr(cell, "control", control)  # a step calls it, too
        result = step(*arguments)
        monkeypatch.setattr(cell, "control", spied_control)
        seen["read"].append(result[1].read_out[0].numpy())
        return result

    monkeypatch.setattr(cell, "control", spied_control)
    monkeypatch.setattr(cell, "step", spied_step)
    monkeypatch.setattr(metalearned_babi, "similarity_figure", lambda rows, words, title: (rows, words))
    rows, words = babi.similarities()
    question = len(words) - len(rows[0][2])
    assert rows[0][2] == words[question:]
    assert "?" in rows[0][2]
    assert words[question - 1] == "."
    assert rows[1][2] == words[max(question - 12, 1) : question]
    for (title, matrix, labels), left, right in zip(
        rows, ("read", "read", "value", "key"), ("value", "value", "value", "key"), strict=True
    ):
        first = question if title == rows[0][0] else max(question - 12, 1)
        for i in range(len(labels)):
            for j, other in enumerate(seen[right]):
                one = seen[left][first + i]
                cosine = one @ other / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-9)
                assert matrix[i, j] == pytest.approx(cosine, abs=1e-4)


@pytest.mark.parametrize(
    "core",
    [
        MetalearnedMemoryConfig(units=6, memory_size=4, word_size=4, write="gradient"),
        LookupMemoryConfig(units=6, word_size=4),
        DNCConfig(memory_size=4, word_size=4, hidden_size=6),
        EntityMemoryConfig(num_cells=4, units=6),
    ],
    ids=lambda core: type(core).__name__,
)
def test_the_other_cores_read_batches_of_any_length(data_dir, core):
    smoke = metalearned_babi.PRESETS["smoke"]
    config = dataclasses.replace(smoke, core=core, task=dataclasses.replace(smoke.task, encoding="question"))
    experiment = metalearned_babi.Experiment(config)
    batch = experiment.batch(0)
    logits = tf.nest.flatten(tf.function(lambda: experiment.forward(batch, (), True)[0], autograph=False)())[0]
    assert logits.shape == (*batch["inputs"].shape, experiment.config.task.output_size)
    assert np.all(np.isfinite(logits))


def test_bad_babi_settings():
    for fields, message in (
        (dict(version="en"), "version: 'en', must be one of .* need a dev set"),
        (dict(tasks=(0,)), "tasks: .* must be numbers from 1 to 20"),
        (dict(dev_questions=-1), "dev_questions: -1"),
    ):
        with pytest.raises(ValueError, match=message):
            Babi(**fields)
    for module in (metalearned_babi, multigrid_babi):
        with pytest.raises(ValueError, match="updates_per_call: 2, must be 1"):
            dataclasses.replace(module.PRESETS["smoke"], updates_per_call=2, eval_every=4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("metalearned/babi", "tasks_1-20_v1-2.tar.gz is not in"),
        ("multigrid/babi", "tasks_1-20_v1-2.tar.gz is not in"),
        ("relational/language_modeling", "train.txt or train.txt.gz or wiki.train.tokens is not in"),
    ],
)
def test_missing_data_are_reported(name, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFMEM_DATA_DIR", str(tmp_path / "nothing"))
    assert main(["run", name, "--preset", "smoke", "--folder", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "curl" in error
    assert not (tmp_path / "run").exists()


def test_missing_tasks_are_reported(data_dir, tmp_path, capsys):
    arguments = [
        "run",
        "metalearned/babi",
        "--preset",
        "smoke",
        "--folder",
        str(tmp_path / "run"),
        "--task.tasks",
        "1",
        "3",
    ]
    assert main(arguments) == 1
    assert "en-valid/qa3_*train.txt is not in" in capsys.readouterr().err


# ---- language modelling ---------------------------------------------------------------------------------------------


@pytest.fixture
def language(data_dir):
    return language_modeling.Experiment(language_modeling.PRESETS["smoke"])


def test_perplexity_is_that_of_all_words(language):
    """Two parts read side by side in windows give what each part gives when it is read at once."""
    ids = language.corpus.test[:24]
    got = language.nats(ids)
    assert got[1].sum() == 23
    total = 0.0
    for part in (ids[:13], ids[12:]):
        logits = language.model.run(tf.constant(part[:-1, np.newaxis])).logits[:, 0]
        total += np.sum(tf.nn.sparse_softmax_cross_entropy_with_logits(part[1:], logits))
    assert got[0].sum() == pytest.approx(total, rel=1e-5)
    buckets = language.buckets.numpy()[ids[1:]]
    assert got[1].tolist() == [np.sum(buckets == n) for n in range(3)]


def test_without_transfer_each_window_starts_anew(language):
    ids = language.corpus.test[:9]
    got, total = language.nats(ids, window=2, transfer=False)[0].sum(), 0.0
    for start in (0, 2, 4, 6):  # two parts of four words
        words = ids[start : start + 3]
        logits = language.model.run(tf.constant(words[:-1, np.newaxis])).logits[:, 0]
        total += np.sum(tf.nn.sparse_softmax_cross_entropy_with_logits(words[1:], logits))
    assert got == pytest.approx(total, rel=1e-5)
    assert got != pytest.approx(language.nats(ids, window=2)[0].sum(), rel=1e-6)


def test_the_state_is_handed_to_the_next_update_and_forgotten_with_the_text(language):
    first, second = (tf.nest.map_structure(tf.constant, language.batch(n)) for n in (0, 1))
    _, carry = language.forward(first, language.initial_carry(), training=False)
    both = tf.concat([first["inputs"], second["inputs"]], 0)
    whole, _ = language.model.read(both)
    features, _ = language.forward(second, carry, training=False)
    assert relative_error(features, whole[len(first["inputs"]) :]) < 1e-5
    again, _ = language.forward(first, carry, training=False)
    assert relative_error(again, whole[: len(first["inputs"])]) < 1e-5


def test_the_softmax_starts_as_the_frequencies(language):
    counts = language.corpus.vocabulary.counts + 1.0
    np.testing.assert_allclose(tf.nn.softmax(language.model.word_bias), counts / counts.sum(), rtol=1e-4)


def test_the_learning_rate_rises_during_the_warm_up(data_dir):
    config = dataclasses.replace(language_modeling.PRESETS["smoke"], learning_rate=0.5, warmup_updates=4)
    experiment = language_modeling.Experiment(config)
    rates = [float(experiment.learning_rate(tf.constant(n, tf.int64))) for n in range(6)]
    np.testing.assert_allclose(rates, [0.125, 0.25, 0.375, 0.5, 0.5, 0.5])
    batch = tf.nest.map_structure(tf.constant, experiment.batch(1))
    _, metrics = experiment.train_step(tf.constant(1, tf.int64), batch, experiment.initial_carry())
    assert float(metrics["learning_rate"]) == float(experiment.optimizer.learning_rate.numpy()) == 0.25


def test_bad_language_settings():
    good = language_modeling.PRESETS["smoke"]
    for fields, message in (
        (dict(replicas=3), "replicas: 3, must divide batch_size"),
        (dict(replicas=2, jit_compile=True), "jit_compile: True, must be False if replicas is above 1"),
        (dict(dropout=1.0), "dropout"),
        (dict(unroll_lengths=(0,)), "unroll_lengths"),
        (dict(vocabulary_size=2), "vocabulary_size: 2"),
        (dict(warmup_updates=-1), "warmup_updates: -1"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(good, **fields)


REPLICAS = """
import dataclasses, sys
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from reproductions.relational.language_modeling import PRESETS, Experiment
from tfmem.training import compiled_updates
results = []
for replicas in (1, 2):
    fields = dict(batch_size=4, dropout=0.0, optimizer="sgd", warmup_updates=2)
    fields |= dict(replicas=replicas, jit_compile=False)
    e = Experiment(dataclasses.replace(PRESETS["smoke"], **fields))
    carry, batches = e.initial_carry(), [e.batch(n) for n in range(3)]
    batches = tf.nest.map_structure(lambda *b: np.stack(b), *batches)
    carry, metrics = compiled_updates(e, 3)(tf.constant(0, tf.int64), batches, carry)
    e.evaluate()
    weights = [v.numpy() for v in e.variables().values()]
    results.append([metrics["loss"].numpy(), metrics["gradient_norm"].numpy(), *tf.nest.flatten(carry), *weights])
for one, two in zip(*results, strict=True):
    np.testing.assert_allclose(one, two, rtol=2e-4, atol=2e-6)
print("same", len(results[0]))
"""


@pytest.mark.slow
def test_two_replicas_do_the_work_of_one(data_dir):
    done = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True)
    assert "same" in done.stdout, done.stderr[-3000:]
