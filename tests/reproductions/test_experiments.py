"""Every experiment's smoke preset from end to end, through the command line; resume of a real experiment."""

import dataclasses
import json
import re

import numpy as np
import pytest
import tensorflow as tf

from reproductions import experiment_modules, load_experiment
from reproductions.__main__ import main
from tests.text_data import write_wikitext
from tests.training.test_trainer import metrics_of
from tfmem.export import ASSET
from tfmem.tasks.language_modeling import EvaluationWindows
from tfmem.training import train
from tfmem.training.run_folder import RunFolder


@pytest.mark.parametrize("name", list(experiment_modules()))
def test_smoke_runs_evaluates_and_exports(name, tmp_path, data_folder, capsys):
    run = tmp_path / "run"
    assert main(["run", name, "--preset", "smoke", "--folder", str(run)]) == 0
    folder = RunFolder(run)
    result, rows = json.loads((run / "result.json").read_text()), folder.metrics()
    config = load_experiment(name).PRESETS["smoke"]
    assert result["updates"] == config.num_updates == rows[-1]["update"]
    assert all(np.isfinite(value) for row in rows for value in row.values())
    # A number in a metric's name is a size (a task, a length) that a smoke preset may lack.
    assert {metric for metric in load_experiment(name).PAPER if not re.search(r"\d", metric)} <= set(result["ours"])
    assert {"loss.png"} < {path.name for path in (run / "figures").iterdir()}
    signatures = getattr(load_experiment(name), "SIGNATURES", {"step", "sequence"})
    assert signatures <= set(json.loads((run / "saved_model" / ASSET).read_text())["signatures"])
    printed = capsys.readouterr().out
    for metric in load_experiment(name).PAPER:
        assert metric in printed


# One of each way to evaluate: the sequence experiments', that of beliefs, one with batches from a file.
@pytest.mark.parametrize("name", ["metalearned/double_copy", "belief_states/kanerva", "multigrid/mapping"])
def test_a_run_is_evaluated_and_exported_again(name, tmp_path, data_folder, capsys):
    run = tmp_path / "run"
    assert main(["run", name, "--preset", "smoke", "--folder", str(run)]) == 0
    found = json.loads((run / "result.json").read_text())["ours"]
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    printed = capsys.readouterr().out
    for metric in load_experiment(name).PAPER:
        assert f"{found[metric]:.4g}" in printed
    assert main(["export", str(run), str(tmp_path / "exported")]) == 0
    signatures = getattr(load_experiment(name), "SIGNATURES", {"step", "sequence"})
    assert signatures <= set(tf.saved_model.load(str(tmp_path / "exported")).signatures)


def test_smoke_of_language_modeling_reads_a_part_of_a_long_text(tmp_path, monkeypatch):
    texts = write_wikitext(tmp_path)
    for split in ("valid", "test"):
        (tmp_path / "wikitext-2" / f"{split}.txt").write_text(texts[split] * 200)
    monkeypatch.setenv("TFMEM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TFMEM_CACHE_DIR", str(tmp_path / "cache"))
    module = load_experiment("relational/language_modeling")
    experiment = module.Experiment(module.PRESETS["smoke"])
    read = []
    monkeypatch.setattr(module, "EvaluationWindows", lambda ids, *rest: read.append(len(ids)) or windows(ids, *rest))
    windows = EvaluationWindows
    assert len(experiment.validation) * experiment.config.window * experiment.config.eval_streams <= 510
    experiment.result(experiment.evaluate())
    assert max(read) <= 501
    whole = dataclasses.replace(experiment.config, result_words=0)
    assert (
        len(experiment._first_words(experiment.corpus.test, whole.result_words)) == len(experiment.corpus.test) > 5_000
    )


def test_every_experiment_has_the_three_presets():
    for name in experiment_modules():
        presets = load_experiment(name).PRESETS
        assert {"paper", "demo", "smoke"} <= set(presets), name
        assert presets["smoke"].num_updates < presets["demo"].num_updates < presets["paper"].num_updates, name


def test_mapping_resumes_to_the_same_numbers(tmp_path, monkeypatch):
    module = load_experiment("multigrid/mapping")
    config = module.PRESETS["smoke"]

    class Plain(module.Experiment):
        def figures(self, folder):
            pass

        def export(self, folder):
            folder.mkdir()

    class Crash(RuntimeError):
        pass

    class Crashing(Plain):
        def batch(self, update):
            if update == 6:
                raise Crash
            return super().batch(update)

    with pytest.raises(Crash):
        train(Crashing(config), tmp_path / "killed")
    resumed = train(Plain(config), tmp_path / "killed")
    whole = train(Plain(config), tmp_path / "whole")
    assert resumed["ours"] == whole["ours"]
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")


def test_import_of_the_public_checkpoint_and_of_a_wrong_one(tmp_path, golden, capsys):
    prefix = str(golden("multigrid/mapping/checkpoint-0"))
    out = tmp_path / "imported.weights.h5"
    assert main(["import", "multigrid/mapping", prefix, str(out)]) == 0
    assert "650,225" in capsys.readouterr().out
    model = load_experiment("multigrid/mapping").Experiment(load_experiment("multigrid/mapping").PRESETS["paper"]).model
    model.load_weights(out)
    reader = tf.train.load_checkpoint(prefix)
    stored = reader.get_tensor("net_-1/lstm_1_0/conv_2d_lstm_cell/kernel")
    np.testing.assert_array_equal(model.writer.layers[0].cells[0].kernel, stored)

    wrong = tmp_path / "wrong.keras"
    assert main(["import", "multigrid/mapping", prefix, str(wrong), "--preset", "paper_15x15"]) == 1
    assert not wrong.exists()
    assert "mis-shaped" in capsys.readouterr().err


def test_parts_of_a_batch_add_up_to_the_batch():
    module = load_experiment("multigrid/mapping")
    config = dataclasses.replace(module.PRESETS["smoke"], batch_size=4)
    experiment = module.Experiment(config)
    for variable in experiment.model.trainable_variables:  # gradients of zeros show nothing
        variable.assign(np.random.default_rng(len(variable.shape)).normal(size=variable.shape, scale=0.3))
    batch = tf.nest.map_structure(tf.constant, experiment.batch(1))
    carry = tf.nest.map_structure(lambda s: s + 0.1, experiment.initial_carry())
    whole = tf.function(experiment.gradients)(batch, carry)
    experiment.config = dataclasses.replace(config, batch_parts=2)
    parts = tf.function(experiment.gradients)(batch, carry)
    tf.nest.assert_same_structure(whole, parts)
    for a, b in zip(tf.nest.flatten(whole), tf.nest.flatten(parts), strict=True):
        assert np.abs(a).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max())
    with pytest.raises(ValueError, match="batch_parts: 3, must be 'auto' or divide batch_size, here 4"):
        dataclasses.replace(config, batch_parts=3)
