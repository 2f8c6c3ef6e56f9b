"""A core and a task from outside the package: the guide docs/guides/extend.md is this test."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

from reproductions import load_experiment
from reproductions.__main__ import main
from tests.support import first_of, small_cores
from tfmem.cores import LSTMStack
from tfmem.cores.config import DNCConfig, LSTMConfig, MetalearnedMemoryConfig, RelationalMemoryConfig
from tfmem.tasks.base import Batch, Task
from tfmem.tasks.double_copy import DoubleCopy
from tfmem.tasks.nth_farthest import NthFarthest
from tfmem.tasks.priority_sort import PrioritySort
from tfmem.training import SupervisedConfig, SupervisedExperiment, config_fields, config_from_fields, train
from tfmem.training.run_folder import RunFolder, RunFolderError


class LeakyCore(snt.RNNCore):
    """h_t = a h_{t-1} + (1 - a) tanh(W x_t): a core of five lines."""

    def __init__(self, units, keep=0.9, name="leaky"):
        super().__init__(name=name)
        self.units, self.keep, self.linear = units, keep, snt.Linear(units)

    def __call__(self, inputs, state):
        state = self.keep * state + (1 - self.keep) * tf.tanh(self.linear(inputs))
        return state, state

    def initial_state(self, batch_size, dtype=tf.float32):
        return tf.zeros([batch_size, self.units], dtype)

    @property
    def state_size(self):
        return tf.TensorShape([self.units])

    output_size = state_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeakyConfig:
    units: int = 16
    """Units of the state."""

    def make(self, num_steps=None, policy="float32"):
        return LeakyCore(self.units)


@dataclasses.dataclass(frozen=True)
class Parity(Task):
    """The parity of `num_steps` bits."""

    num_steps: int = 3
    input_size, output_size, every_step = 1, 2, False

    def __call__(self, seed, batch_size):
        shape = [self.num_steps, batch_size, 1]
        bits = tf.random.stateless_uniform(shape, seed, 0, 2, tf.int32, alg="philox")
        return Batch(tf.cast(bits, tf.float32), tf.reduce_sum(bits[..., 0], 0) % 2)

    def baselines(self, batches):
        return {"guess_error": 0.5}


def run(task, core, folder, **changes):
    settings = dict(batch_size=16, learning_rate=1e-2, num_updates=10, updates_per_call=5, eval_batches=2) | changes
    return train(SupervisedExperiment(SupervisedConfig(task=task, core=core, **settings)), folder)


@pytest.mark.parametrize("task", first_of([DoubleCopy(length=2), PrioritySort(3, 2, 2), NthFarthest(3, 2)]))
def test_own_core_trains_on_every_task(task, tmp_path):
    result = run(task, LeakyConfig(), tmp_path / "run")
    assert np.isfinite(result["ours"]["loss"])
    assert set(tf.saved_model.load(str(tmp_path / "run/saved_model")).signatures) >= {"step", "sequence"}
    assert RunFolder(tmp_path / "run").config()["config"]["core"] == {"type": "LeakyConfig", "units": 16}


@pytest.mark.parametrize(
    "core", first_of([LSTMConfig(units=16), LeakyConfig(), DNCConfig(memory_size=4, hidden_size=16)], 2)
)
def test_own_task_trains_with_every_core(core, tmp_path):
    result = run(Parity(), core, tmp_path / "run")
    assert np.isfinite(result["ours"]["loss"])
    assert result["ours"]["guess_error"] == 0.5


@dataclasses.dataclass(frozen=True)
class PaddedParity(Parity):
    """The parity of the first bits of each sequence; the bits behind them are padding."""

    def __call__(self, seed, batch_size):
        whole = super().__call__(seed, batch_size)
        lengths = 1 + tf.range(batch_size) % self.num_steps
        bits = tf.cast(whole.inputs[..., 0], tf.int32) * tf.transpose(
            tf.sequence_mask(lengths, self.num_steps, tf.int32)
        )
        return Batch(whole.inputs, tf.reduce_sum(bits, 0) % 2, lengths=lengths)


def test_one_answer_is_read_at_the_end_of_each_sequence():
    config = SupervisedConfig(
        task=PaddedParity(), core=LSTMConfig(units=4), batch_size=6, learning_rate=1e-2, num_updates=1
    )
    experiment = SupervisedExperiment(config)
    batch = experiment.draw(tf.constant([0, 1], tf.int64))
    logits = experiment.forward(batch, experiment.initial_carry(), training=True)[0].logits
    for row, length in enumerate(batch["lengths"].numpy()):
        alone = experiment.model.run(batch["inputs"][:length, row : row + 1]).logits
        np.testing.assert_allclose(logits[row], alone[0], atol=1e-6)


def test_an_lstm_learns_own_task(tmp_path):
    result = run(Parity(), LSTMConfig(units=16), tmp_path / "run", num_updates=300, batch_size=32, updates_per_call=50)
    assert result["ours"]["error"] == 0


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    run(Parity(), LeakyConfig(), tmp_path / "whole", num_updates=20)
    run(Parity(), LeakyConfig(), tmp_path / "longer")
    config = SupervisedConfig(
        task=Parity(),
        core=LeakyConfig(),
        batch_size=16,
        learning_rate=1e-2,
        num_updates=20,
        updates_per_call=5,
        eval_batches=2,
    )
    train(SupervisedExperiment(config), tmp_path / "longer", extend=True)
    whole, longer = (RunFolder(tmp_path / name).metrics()[-1] for name in ("whole", "longer"))
    assert [whole[name] for name in ("update", "train/loss")] == [longer[name] for name in ("update", "train/loss")]


def test_an_older_run_lacks_a_field_of_its_core(tmp_path):
    run(Parity(), LSTMConfig(units=4), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    described = folder.config()
    assert described["config"]["core"].pop("skip_connections") is True
    folder.config_path.write_text(json.dumps(described))
    run(Parity(), LSTMConfig(units=4), tmp_path / "run")
    with pytest.raises(RunFolderError, match="skip_connections"):
        run(Parity(), LSTMConfig(units=4, skip_connections=False), tmp_path / "run")


def test_an_own_loss_of_the_core_is_weighted():
    core = MetalearnedMemoryConfig(units=4, memory_layers=1, memory_size=4, word_size=4, meta_weight=2.0)
    config = SupervisedConfig(task=Parity(), core=core, batch_size=4, learning_rate=1e-2, num_updates=1)
    experiment = SupervisedExperiment(config)
    batch = experiment.draw(tf.constant([1, 2]))
    scores = experiment.scores(batch, experiment.forward(batch, (), training=False)[0])
    loss, count = scores["task_loss"]
    assert float(scores["loss"]) == pytest.approx(float(loss / count + 2.0 * scores["meta_loss"]))


CONFIG = SupervisedConfig(
    task=Parity(),
    core=RelationalMemoryConfig(mem_slots=2),
    mlp_sizes=(3, 2),
    batch_size=4,
    learning_rate=1.0,
    num_updates=1,
)


def test_configurations_come_back_from_their_fields():
    config = load_experiment("metalearned/double_copy").PRESETS["paper"]
    fields = config_fields(config)
    assert fields["core"]["type"] == "MetalearnedMemoryConfig"
    assert config_from_fields(type(config), fields) == config
    with pytest.raises(ValueError, match=r"core: 'Own', must be one of LSTMConfig, "):
        config_from_fields(type(config), fields | {"core": {"type": "Own"}})
    with pytest.raises(TypeError, match="word"):
        config_from_fields(type(config), fields | {"core": {"type": "LSTMConfig", "word": 1}})


def test_select_by_must_be_a_score():
    with pytest.raises(ValueError, match=r"select_by: 'acuracy', must be one of .*loss"):
        SupervisedExperiment(dataclasses.replace(CONFIG, select_by="acuracy"))


class WholeModel:
    def make_model(self, task, policy):
        raise AssertionError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp_sizes": (3, 0)}, r"mlp_sizes: \(3, 0\), must be a sequence of positive integers"),
        ({"decay_updates": 1.5}, "decay_updates: 1.5, must be an integer"),
        ({"batch_size": 1.5}, "batch_size: 1.5, must be an integer"),
        ({"embedding_size": 0}, "embedding_size: 0, must be at least 1"),
        ({"task": Parity(num_steps=None)}, "task: Parity, must define evaluate"),
        ({"core": WholeModel()}, r"mlp_sizes: \(3, 2\), must be \(\) for a core that is a whole model"),
        ({"core": LSTMStack(3)}, r"core: .*, must be a configuration of a core, such as LSTMConfig\(\)"),
        ({"core": LSTMConfig}, r"core: .*, must be a configuration of a core, such as LSTMConfig\(\)"),
        ({"task": Parity}, r"task: .*, must be a task, such as DoubleCopy\(length=8\)"),
        ({"batch_size": 2**31}, "must make arrays of at most"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize("core", small_cores().values(), ids=lambda core: type(core).__name__)
def test_every_core_of_the_union_trains_on_a_task(core):
    experiment = SupervisedExperiment(dataclasses.replace(CONFIG, core=core))
    _, metrics = experiment.train_step(tf.constant(0, tf.int64), {}, ())
    assert np.isfinite(float(metrics["loss"]))
    assert isinstance(experiment.model, keras.Model)


def test_another_core_from_the_command_line(tmp_path, capsys):
    command = ["run", "metalearned/double_copy", "--preset", "smoke", "--folder", str(tmp_path / "run")]
    assert main([*command, "core:rmc", "--core.mem-slots", "2", "--core.head-size", "4"]) == 0
    fields = RunFolder(tmp_path / "run").config()["config"]["core"]
    assert (fields["type"], fields["mem_slots"], fields["head_size"]) == ("RelationalMemoryConfig", 2, 4)
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert main([*command, "core:rcm"]) == 2
    assert "core: 'rcm', must be one of lstm, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["core:dnc", "--core.num-reads", "abc"], "num-reads"),
        (["core:dnc", "--core.num-reads", "2", "--num-updates", "5"], "--num-updates"),
        (["--core.num-reads", "2"], "--core.num-reads: without core:NAME before it, must follow core:dnc or core:rma"),
        (["--task.lenght", "2"], "must be one of --task.length"),
    ],
)
def test_wrong_options_are_named(options, message, capsys):
    assert main(["run", "metalearned/double_copy", "--preset", "smoke", *options]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert ("no such hyper-parameter" in errors) == (options[0] == "--task.lenght")
    assert errors.count("\n") == 1
