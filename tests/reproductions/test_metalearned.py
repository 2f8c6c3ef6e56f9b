"""The metalearned memory's experiments: sizes of Table 2, Eq. 6, scores of what is asked for alone."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from reproductions.metalearned import dictionary_inference, priority_sort
from tfmem.cores.config import LookupMemoryConfig, LSTMConfig
from tfmem.tasks.dictionary_inference import DictionaryInference

EMBEDDING, HEAD = 30 * 100, 101 * 26
LSTM = (100 + 100 + 1) * 400  # of d_i = 100 inputs and d_h = 100
CONTROLLER = LSTM + 100 * 400 + (200 + 1) * 100  # it also sees the read-out, and gives d_o = 100
INTERACTIONS = 101 * 100  # of each kind
PARAMETERS = {
    "lstm": LSTM,
    "lstm_salu": CONTROLLER + 3 * INTERACTIONS,
    "mnm_g": CONTROLLER + 4 * INTERACTIONS + 101,
    "mnm_p": CONTROLLER + 4 * INTERACTIONS + 3 * 101 + 3 * INTERACTIONS,  # a rate and targets for each of 3 layers
}


CORES = {
    "lstm": LSTMConfig(units=100),
    "lstm_salu": LookupMemoryConfig(units=100, word_size=100),
    "mnm_p": dictionary_inference.PRESETS["paper"].core,
    "mnm_g": dataclasses.replace(dictionary_inference.PRESETS["paper"].core, write="gradient"),
}


@pytest.mark.parametrize("model", PARAMETERS)
def test_paper_sizes(model):
    config = dataclasses.replace(dictionary_inference.PRESETS["paper"], core=CORES[model])
    experiment = dictionary_inference.Experiment(config)
    variables = experiment.model.trainable_variables
    assert sum(v.value.shape.num_elements() for v in variables) == EMBEDDING + PARAMETERS[model] + HEAD
    if model.startswith("mnm"):
        assert [v.shape for v in experiment.model.cell.initial_memory] == [(100, 100)] * 3
    assert experiment.inputs(experiment.draw(tf.constant([0, 0]))).shape == (441, 32, 30)


def scores_of(module, task=None, **changes):
    smoke = module.PRESETS["smoke"]
    core = dataclasses.replace(smoke.core, **changes)
    config = dataclasses.replace(smoke, task=task or smoke.task, core=core, batch_size=20)
    experiment = module.Experiment(config)
    batch = experiment.draw(tf.constant([1, 2]))
    outputs, _ = experiment.forward(batch, (), training=False)
    return experiment, batch, outputs, experiment.scores(batch, outputs)


def test_the_loss_is_that_of_the_task_and_of_the_memory():
    for weight in (0.0, 3.0):
        _, batch, outputs, scores = scores_of(
            dictionary_inference, DictionaryInference(support_size=2, length=2), meta_weight=weight
        )
        asked = batch["mask"].numpy() > 0
        log_p = tf.nn.log_softmax(outputs.logits).numpy()[asked]
        target = batch["targets"].numpy()[asked]
        task_loss = -np.mean(log_p[np.arange(len(target)), target])
        meta_loss = np.mean(outputs.outputs.meta_loss)
        assert meta_loss > 1e-4
        assert float(scores["meta_loss"]) == pytest.approx(meta_loss)
        assert float(scores["loss"]) == pytest.approx(task_loss + weight * meta_loss, rel=1e-5)

        wrong = (log_p.argmax(-1) != target).reshape(2, 20)
        total, count = scores["error"]
        assert (total, count) == (wrong.sum(), 40)
        total, count = scores["unsolved"]
        assert (total, count) == (wrong.any(0).sum(), 20)


def test_bits_count_where_they_are_asked_for():
    _, batch, outputs, scores = scores_of(priority_sort, meta_weight=0.0)
    logits, target = outputs.logits.numpy()[-2:], batch["targets"].numpy()[-2:]
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -np.mean(np.where(target > 0, np.log(p), np.log(1 - p)))
    assert float(scores["loss"]) == pytest.approx(expected, rel=1e-5)
    total, count = scores["error"]
    assert (total, count) == (((p > 0.5) != (target > 0)).sum(), target.size)


def test_recall_delay_reaches_the_memory():
    experiment, _, _, _ = scores_of(dictionary_inference, recall_delay=2, recall_weights=(1.0, 0.5, 0.25))
    cell = experiment.model.cell
    assert (cell.recall_delay, cell.recall_weights) == (2, (1.0, 0.5, 0.25))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("meta_weight", {"meta_weight": -1.0}),
        ("recall_weights", {"recall_delay": 1}),
    ],
)
def test_bad_settings(field, changes):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(dictionary_inference.PRESETS["smoke"].core, **changes)
