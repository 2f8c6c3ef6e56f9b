"""Updates of experiments without a compiled function."""

import tensorflow as tf

from tfmem.training import stacked_batches


def first_update(config, module):
    """The experiment and the loss of its first update, made eagerly: an update takes less time than its tracing."""
    experiment = module.Experiment(config)
    batch = tf.nest.map_structure(lambda x: tf.constant(x[0]), stacked_batches(experiment, 0, 1))
    _, metrics = experiment.train_step(tf.constant(0, tf.int64), batch, experiment.initial_carry())
    return experiment, float(metrics["loss"])
