"""Names of variables beside the arrays of a checkpoint."""

import dataclasses

import keras
import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

from tests.reproductions import toy
from tfmem.training import RunConfig, checkpoint_arrays, load_checkpoint, numbered, variable_names
from tfmem.training.experiment import Experiment
from tfmem.training.loop import pack_checkpoint
from tfmem.training.run_folder import RunFolderError


class Two(snt.Module):
    """Two weights of one shape; Sonnet sorts them by the names of the attributes."""

    def __init__(self, first, second):
        super().__init__()
        setattr(self, first, snt.Linear(3, with_bias=False))
        setattr(self, second, [snt.Linear(3, with_bias=False)])
        self.order = (first, second)

    def __call__(self, x):
        return getattr(self, self.order[1])[0](getattr(self, self.order[0])(x))


class Pair(Experiment):
    name = "toy/pair"

    def __init__(self, first="a", second="b"):
        super().__init__(RunConfig(num_updates=1))
        self.model = Two(first, second)
        self.model(tf.ones([1, 3]))
        self.optimizer = keras.optimizers.SGD(0.1)
        self.optimizer.build([])

    def variables(self):
        return numbered("model", self.model.variables)

    def batch(self, update):
        return {}

    def train_step(self, update, batch, carry):
        return carry, {"loss": tf.zeros([])}

    def evaluate(self):
        return {}

    def figures(self, folder):
        pass


def saved(experiment, names):
    return pack_checkpoint(1, checkpoint_arrays(experiment, ()), {}, 0.0, names=names)


def test_names_are_paths_of_attributes():
    assert variable_names(Pair()) == {"model/000": "model.a.w", "model/001": "model.b.0.w"}
    names = variable_names(toy.Experiment(toy.PRESETS["smoke"]))
    assert names["model/000"] == "model._layers.1.kernel"
    assert names == variable_names(toy.Experiment(toy.PRESETS["smoke"]))  # however often it is built
    assert set(names) == set(toy.Experiment(toy.PRESETS["smoke"]).variables())


def test_a_renamed_attribute_is_refused_and_nothing_is_assigned():
    experiment, renamed = Pair(), Pair("z", "b")  # now b comes before z
    before = [v.numpy() for v in renamed.variables().values()]
    with pytest.raises(RunFolderError, match=r"model/000 was model\.a\.w, is model\.b\.0\.w\n"):
        load_checkpoint(renamed, saved(experiment, variable_names(experiment)))
    for variable, value in zip(renamed.variables().values(), before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("older", [True, False])
def test_the_same_names_load_and_so_do_checkpoints_without_names(older):
    experiment, other = Pair(), Pair()
    checkpoint = saved(experiment, None if older else variable_names(experiment))
    if older:
        checkpoint = checkpoint._replace(metadata={"wall_time": 0.0})
    load_checkpoint(other, checkpoint)
    for a, b in zip(experiment.variables().values(), other.variables().values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_variable_of_an_experiment_has_a_name():
    config = dataclasses.replace(toy.PRESETS["smoke"], seed=3)
    experiment = toy.Experiment(config)
    assert len(set(variable_names(experiment).values())) == len(experiment.variables())
