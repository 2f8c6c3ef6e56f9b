"""Data parallel training on several machines: a process on each, with tf.distribute.MultiWorkerMirroredStrategy.

    export TF_CONFIG='{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}'
    reproduce run EXPERIMENT --replicas 2 --multi-worker

The first worker has the run folder: it resumes, evaluates and saves as a run of one process does. The others get its
state at the start and make the same updates, so that they need no files. If a worker stops, the others stop with an
error, and the same commands resume from the first worker's last checkpoint.
"""

import contextlib
import json
import os
import re

import tensorflow as tf

from tfmem.training.experiment import compiled_updates, stacked_batches
from tfmem.training.loop import WorkerError, calls_of
from tfmem.validation import is_integer


def worker_strategy():
    """Make the strategy of the workers in TF_CONFIG, before any other operation of TensorFlow.

    Raises:
      ValueError: TF_CONFIG does not name two workers or more, and this process as one of them.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        named = _names_workers(json.loads(text))
    except (ValueError, KeyError, TypeError):
        named = False
    if not named:
        raise ValueError(f"TF_CONFIG: {text!r}, must be JSON with two workers or more, and this task's index")
    return tf.distribute.MultiWorkerMirroredStrategy()


def _names_workers(about):
    """True if TF_CONFIG has workers alone, two or more at different HOST:PORT, and this process is one of them."""
    workers, task = about["cluster"]["worker"], about["task"]
    addresses = isinstance(workers, list) and all(re.fullmatch(r"\S+:\d+", worker) for worker in workers)
    return (
        addresses
        and len(set(workers)) == len(workers) > 1
        and list(about["cluster"]) == ["worker"]
        and task["type"] == "worker"
        and is_integer(task["index"], 0)
        and task["index"] < len(workers)
    )


def strategy_of(experiment):
    """Return an experiment's strategy over several workers; None without."""
    strategy = getattr(experiment, "strategy", None)
    return strategy if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) else None


def is_first(experiment):
    """True in the process of the first worker, which has the run folder."""
    return strategy_of(experiment).cluster_resolver.task_id == 0


def shared_start(experiment, update, carry):
    """Give all workers the first one's update, variables and carry; returns `(update, carry)`.

    Without several workers the arguments are returned.
    """
    strategy = strategy_of(experiment)
    if strategy is None:
        return update, carry
    variables = list(experiment.variables().values())
    values = [tf.constant(update, tf.int64), *map(tf.convert_to_tensor, variables), *tf.nest.flatten(carry)]

    @tf.function(autograph=False)
    def share(values):
        def first():
            context = tf.distribute.get_replica_context()
            own = tf.convert_to_tensor(context.replica_id_in_sync_group) == 0
            kept = [tf.where(own, value, tf.zeros_like(value)) for value in values]
            return [context.all_reduce(tf.distribute.ReduceOp.SUM, value) for value in kept]  # their types differ

        shared = strategy.run(first)
        return [strategy.experimental_local_results(value)[0] for value in shared]

    with failures(experiment):
        update, *values = share(values)
    for variable, value in zip(variables, values, strict=False):
        variable.assign(value)
    return int(update), tf.nest.pack_sequence_as(carry, values[len(variables) :])


@contextlib.contextmanager
def failures(experiment):
    """Context of calls that all workers make: an error of the connection is a `WorkerError`."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError) as e:
        if strategy_of(experiment) is None:
            raise
        lines = e.message.strip().splitlines()
        why = next((line for line in lines if "aborted by" in line), lines[0])
        raise WorkerError(f"another worker has stopped ({why}); start all again to resume") from e


def follow(experiment):
    """Make the updates of a worker that is not the first, from the first one's state to the end; returns their number.

    Raises:
      WorkerError: another worker has stopped.
    """
    update, carry = shared_start(experiment, 0, experiment.initial_carry())
    config, functions = experiment.config, {}
    calls = calls_of(update, config.num_updates, config.updates_per_call)
    for first, size in calls:
        if size not in functions:
            functions[size] = compiled_updates(experiment, size)
        with failures(experiment):
            carry, metrics = functions[size](
                tf.constant(first, tf.int64), stacked_batches(experiment, first, size), carry
            )
            tf.nest.map_structure(lambda values: values.numpy(), metrics)
    return config.num_updates - update
