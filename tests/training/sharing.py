"""Updates of several devices against those of one, in a process of its own.

python -m tests.training.sharing replicas        two logical devices: JSON with the errors of each case
"""

import dataclasses
import json

import numpy as np
import tensorflow as tf

from tfmem.cores.config import LSTMConfig, MetalearnedMemoryConfig
from tfmem.tasks.double_copy import DoubleCopy
from tfmem.tasks.nth_farthest import NthFarthest
from tfmem.tasks.priority_sort import PrioritySort
from tfmem.training import SupervisedConfig, SupervisedExperiment, checkpoint_arrays, compiled_updates, stacked_batches

UPDATES = 4


def _supervised(task, core, **fields):
    fields = {"learning_rate": 1e-2, "gradient_norm_clip": 0.5, **fields}
    config = SupervisedConfig(task=task, core=core, batch_size=6, num_updates=UPDATES, eval_batches=1, **fields)
    return SupervisedExperiment, config


def _smoke(name, **fields):
    from reproductions import load_experiment

    module = load_experiment(name)
    return module.Experiment, dataclasses.replace(module.PRESETS["smoke"], batch_size=4, jit_compile=False, **fields)


CASES = {
    "adam": lambda: _supervised(PrioritySort(num_inputs=4, num_outputs=3, num_bits=2), LSTMConfig(units=5)),
    "sum": lambda: _supervised(
        NthFarthest(num_objects=3, num_features=2), LSTMConfig(units=5), loss_reduction="sum", optimizer="tf1_rmsprop",
        epsilon=0.1, momentum=0.5,
    ),
    "loss of the core": lambda: _supervised(
        DoubleCopy(length=3, num_characters=3), MetalearnedMemoryConfig(units=4, memory_size=4, word_size=4),
        optimizer="sonnet_adam",
    ),
    # The memory's shift of keys has a gradient of 0, since a softmax ignores it. Adam's first steps enlarge its
    # rounding: with its own epsilon of 1e-7 this one variable has an error of 0.08.
    "lengths": lambda: _smoke("relational/program_evaluation", optimizer="adam", epsilon=1e-3),
    "carry": lambda: _smoke("multigrid/mapping"),
}  # fmt: skip


def updated(case, replicas):
    """Run a case's updates: arrays of variables, carry and metrics, by name."""
    kind, config = CASES[case]()
    experiment = kind(dataclasses.replace(config, replicas=replicas))
    batches = tf.nest.map_structure(tf.constant, stacked_batches(experiment, 0, UPDATES))
    carry, metrics = compiled_updates(experiment, UPDATES)(
        tf.constant(0, tf.int64), batches, experiment.initial_carry()
    )
    return {**checkpoint_arrays(experiment, carry), **{name: values.numpy() for name, values in metrics.items()}}


def error(found, expected):
    """Largest difference of the arrays, each relative to the largest magnitude in it (of at least 1e-3)."""
    assert found.keys() == expected.keys()
    scales = {name: max(1e-3, np.abs(array).max(initial=0.0)) for name, array in expected.items()}
    return max(float(np.abs(found[name] - expected[name]).max(initial=0.0) / scales[name]) for name in expected)


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    print(json.dumps({case: error(updated(case, 2), updated(case, 1)) for case in CASES}))


if __name__ == "__main__":
    main()
