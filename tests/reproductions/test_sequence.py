"""The base of the sequence experiments: seeds, averages, carry, optimisers; what Relational-RNN experiments set."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from reproductions import load_experiment
from tfmem.cores.config import DNCConfig, EntityMemoryConfig, LSTMConfig
from tfmem.optimizers import TF1RMSprop
from tfmem.tasks.learning_to_execute import LearningToExecute
from tfmem.training.sequence import EVALUATION_SEED, SequenceConfig, SequenceExperiment

CONFIG = SequenceConfig(batch_size=2, learning_rate=0.5, optimizer="sgd", num_updates=4, eval_batches=3)


class Line(keras.Model):
    def build(self, input_shape=None):
        self.slope = self.add_weight(shape=(), initializer="ones", name="slope")
        self.built = True


class Fit(SequenceExperiment):
    """y = slope x: the loss is the mean of slope x, so that its gradient is the mean of x."""

    name = "toy/fit"

    def make_model(self):
        model = Line()
        model.build()
        return model

    def initial_carry(self):
        return tf.zeros([])

    def draw(self, seed):
        return {"x": tf.cast(tf.random.stateless_uniform([2], seed, 1, 100, tf.int32, alg="philox"), tf.float32)}

    def forward(self, batch, carry, training):
        return self.model.slope * batch["x"], carry + 1

    def scores(self, batch, outputs):
        return {"loss": tf.reduce_mean(outputs), "mean": (tf.reduce_sum(batch["x"] ** 2), tf.reduce_sum(batch["x"]))}

    def learning_rate(self, update):
        return self.config.learning_rate / tf.cast(update + 1, tf.float32)


class FitGiven(Fit):
    def batch(self, update):
        return self._drawn_at(self.config.seed, update)

    def evaluation_batch(self, number):
        return self._drawn_at(2**32 + EVALUATION_SEED, number)

    def _drawn_at(self, *seed):
        return {"x": np.random.default_rng(seed).normal(size=2).astype(np.float32)}


@pytest.mark.parametrize("kind", [Fit, FitGiven])
def test_data_are_functions_of_seed_and_number(kind):
    experiments = {seed: kind(dataclasses.replace(CONFIG, seed=seed)) for seed in (0, 1)}

    def training(seed, update):
        _, metrics = experiments[seed].train_step(tf.constant(update, tf.int64), experiments[seed].batch(update), 0.0)
        return float(metrics["mean"])

    assert training(0, 3) == training(0, 3)
    assert len({training(seed, update) for seed in (0, 1) for update in range(4)}) == 8
    for experiment in experiments.values():
        experiment.model.slope.assign(1.0)
    assert experiments[0].evaluate() == experiments[1].evaluate()  # every run meets the same evaluation


def test_an_update_and_an_evaluation():
    experiment = Fit(dataclasses.replace(CONFIG, gradient_norm_clip=2.0))
    x = [experiment.draw(tf.constant([0, 1]))["x"].numpy()]
    carry, metrics = experiment.train_step(tf.constant(1, tf.int64), {}, tf.constant(5.0))
    assert carry == 6
    assert float(metrics["gradient_norm"]) == pytest.approx(x[0].mean())
    assert float(metrics["learning_rate"]) == 0.25
    assert float(experiment.model.slope) == pytest.approx(1 - 0.25 * 2.0)  # the gradient clipped to 2

    carries = []
    forward = experiment.forward
    experiment.forward = lambda batch, carry, training: (carries.append(training), forward(batch, carry, training))[1]
    scores = experiment.evaluate()
    assert carries == [False] * 2  # traced for the names of the scores, and once for all batches
    x = np.array([experiment.draw(tf.constant([-1, number]))["x"].numpy() for number in range(3)])
    assert scores["loss"] == pytest.approx(0.5 * x.mean(), rel=1e-5)
    assert scores["mean"] == pytest.approx((x**2).sum() / x.sum(), rel=1e-5)  # over all batches, not a mean of ratios


def test_the_optimizer_is_that_of_the_configuration():
    fields = dict(optimizer="tf1_rmsprop", momentum=0.5, rms_decay=0.75, epsilon=0.1)
    optimizer = Fit(dataclasses.replace(CONFIG, **fields)).optimizer
    assert type(optimizer) is TF1RMSprop
    assert (optimizer.rho, optimizer.momentum, optimizer.epsilon) == (0.75, 0.5, 0.1)


def test_bad_configurations():
    for wrong in (
        dict(batch_size=0),
        dict(learning_rate=0.0),
        dict(momentum=1.0),
        dict(rms_decay=1.0),
        dict(epsilon=-1.0),
        dict(gradient_norm_clip=0.0),
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            dataclasses.replace(CONFIG, **wrong)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("nth_farthest", dict(mlp_sizes=(256, 0))),
        ("program_evaluation", dict(mlp_sizes=(0,))),
    ],
)
def test_relational_configurations_that_cannot_be(name, wrong):
    config = load_experiment(f"relational/{name}").PRESETS["paper"]
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(config, **wrong)


def test_what_the_writing_core_sees_in_training_and_evaluation():
    module = load_experiment("relational/program_evaluation")
    for decoding in ("non_autoregressive", "teacher_forcing", "own_predictions"):
        experiment = module.Experiment(dataclasses.replace(module.PRESETS["smoke"], decoding=decoding))
        batch = tf.nest.map_structure(tf.constant, experiment.batch(0))
        trained = experiment.scores(batch, experiment.forward(batch, (), training=True)[0])
        evaluated = experiment.scores(batch, experiment.forward(batch, (), training=False)[0])
        assert set(trained) == {"loss", "accuracy", "solved"}
        assert ("forced_accuracy" in evaluated) == (decoding == "teacher_forcing")
        assert float(trained["accuracy"][1]) == batch["mask"].numpy().sum()
        if decoding == "teacher_forcing":
            assert float(evaluated["forced_accuracy"][0]) == float(trained["accuracy"][0])


def test_program_evaluation_is_evaluated_on_the_hardest_programs():
    module = load_experiment("relational/program_evaluation")
    paper = module.PRESETS["paper"]
    assert paper.batch_size * paper.eval_batches == 12_800  # appendix A.2
    task = LearningToExecute("double", 2, 1)
    experiment = module.Experiment(dataclasses.replace(module.PRESETS["smoke"], task=task, batch_size=64))
    assert set(experiment.evaluation_batch(0)["lengths"]) == {2}
    assert set(experiment.batch(0)["lengths"]) == {1, 2}
    majority = experiment.result({})["majority_accuracy"]
    assert 1 / 9 <= majority < 0.25  # first digits are never 0


CORES = {
    "lstm": LSTMConfig(units=3, num_layers=2),
    "entnet": EntityMemoryConfig(num_cells=2, units=2),
    "dnc": DNCConfig(memory_size=2, word_size=2, num_reads=1, controller="feedforward", hidden_size=3, num_layers=2),
}


@pytest.mark.parametrize(("core", "separate"), [*((core, False) for core in CORES), ("lstm", True)])
def test_an_update_reaches_every_weight_of_every_core(core, separate):
    module = load_experiment("relational/program_evaluation")
    task = LearningToExecute("copy" if core == "dnc" else "addition", max_length=1, max_nesting=1)
    config = dataclasses.replace(module.PRESETS["smoke"], core=CORES[core], task=task, decoding="non_autoregressive")
    if separate:  # a decoder that sees zeros does not use the weights of its input
        config = dataclasses.replace(config, separate_decoder=True, decoding="teacher_forcing")
    experiment = module.Experiment(config)
    before = [variable.numpy() for variable in experiment.model.trainable_variables]
    update = tf.function(experiment.train_step, autograph=False)
    _, metrics = update(tf.constant(0, tf.int64), tf.nest.map_structure(tf.constant, experiment.batch(0)), ())
    assert np.isfinite(metrics["loss"])
    after = [variable.numpy() for variable in experiment.model.trainable_variables]
    same = [
        v.path for v, a, b in zip(experiment.model.trainable_variables, after, before, strict=True) if (a == b).all()
    ]
    assert same == []
    assert (experiment.model.writing_cell is experiment.model.cell) != separate
