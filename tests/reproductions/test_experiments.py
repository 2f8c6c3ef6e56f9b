"""Every experiment's smoke preset from end to end, through the command line; resume of a real experiment."""

import dataclasses
import gzip
import json

import numpy as np
import pytest
import tensorflow as tf

from reproductions import experiment_modules, load_experiment
from reproductions.__main__ import main
from tests.support import small_cores
from tests.text_data import write_babi, write_wikitext
from tfmem.cores.config import (
    DNCConfig,
    EntityMemoryConfig,
    LSTMConfig,
    MetalearnedMemoryConfig,
)
from tfmem.export import ASSET
from tfmem.tasks.language_modeling import EvaluationWindows
from tfmem.training import stacked_batches, train
from tfmem.training.run_folder import RunFolder


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """Noise in the formats of MNIST, bAbI and WikiText-2, so that no data set is needed."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for split, count in (("train", 100), ("t10k", 60)):
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", rng.integers(0, 10, count, np.uint8))
    write_babi(folder.parent, tasks=(1, 8), versions=("en-valid",))
    write_wikitext(folder.parent)
    monkeypatch.setenv("TFMEM_DATA_DIR", str(folder.parent))
    monkeypatch.setenv("TFMEM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", list(experiment_modules()))
def test_smoke_runs_evaluates_and_exports(name, tmp_path, data_folder, capsys):
    run = tmp_path / "run"
    assert main(["run", name, "--preset", "smoke", "--folder", str(run)]) == 0
    folder = RunFolder(run)
    result, rows = json.loads((run / "result.json").read_text()), folder.metrics()
    config = load_experiment(name).PRESETS["smoke"]
    assert result["updates"] == config.num_updates == rows[-1]["update"]
    assert all(np.isfinite(value) for row in rows for value in row.values())
    assert set(load_experiment(name).PAPER) <= set(result["ours"])
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


DNC = DNCConfig(memory_size=4, word_size=4, hidden_size=6)
MIXED = [name for name in experiment_modules() if not name.startswith("belief_states/")]


def first_update(config, module):
    """The experiment and the loss of its first update, made eagerly: an update takes less time than its tracing."""
    experiment = module.Experiment(config)
    batch = tf.nest.map_structure(lambda x: tf.constant(x[0]), stacked_batches(experiment, 0, 1))
    _, metrics = experiment.train_step(tf.constant(0, tf.int64), batch, experiment.initial_carry())
    return experiment, float(metrics["loss"])


@pytest.mark.slow
@pytest.mark.parametrize(  # those whose pictures show what the core holds
    "name", ["metalearned/babi", "multigrid/mapping", "multigrid/associative_recall", "relational/nth_farthest"]
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


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((name, {}) for name in MIXED),
        ("relational/nth_farthest", {"core": LSTMConfig(units=8)}),
        ("relational/program_evaluation", {"core": DNC}),
        ("metalearned/double_copy", {"core": MetalearnedMemoryConfig(units=8, memory_size=4, word_size=4)}),
        ("metalearned/babi", {"core": EntityMemoryConfig(num_cells=4, units=6)}),
        ("metalearned/babi", {"core": DNC}),
        ("multigrid/associative_recall", {"core": DNC}),
        ("multigrid/babi", {"core": DNC}),
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


CORES = small_cores()
ANY_CORE = [
    *(f"relational/{name}" for name in ("nth_farthest", "program_evaluation", "language_modeling")),
    *(f"metalearned/{name}" for name in ("double_copy", "dictionary_inference", "priority_sort", "babi")),
    *(f"multigrid/{name}" for name in ("priority_sort", "mnist_sort", "associative_recall", "babi")),
]


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", ANY_CORE)
def test_any_core_trains_in_every_sequence_experiment(name, core, data_folder):
    module = load_experiment(name)
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


@pytest.mark.parametrize("name", [name for name in experiment_modules() if name not in MIXED])
def test_an_experiment_without_mixed_precision_says_so(name, tmp_path, capsys):
    assert main(["run", name, "--preset", "smoke", "--mixed-precision", "--folder", str(tmp_path / "run")]) == 2
    errors = capsys.readouterr().err
    assert "mixed_precision: True, must be False: this experiment computes in float32 alone" in errors
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


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
    assert (tmp_path / "killed/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()


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
