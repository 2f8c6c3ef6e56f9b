"""Properties that need a process of their own: one process per property for all rows.

A property is `(prepare, check)`. `prepare(row, folder)` writes what the child reads; the child is a script that knows
no table, or runs `check(row, folder)` for every row. It writes results.json, for each row "ok" or what went wrong.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import tfmem
from tests.conformance import load
from tests.conformance.descriptors import BATCH, ROWS, STEPS
from tests.conformance.properties import assert_close, batch_major, build_model
from tfmem.recurrence import unroll

ROOT = Path(__file__).parents[2]


def write_keras_files(row, folder):
    core, cell = row.make()
    model = build_model(row, cell)
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    save_run(row, core, folder)


def read_weights_file(row, folder):
    _, cell = row.make(seed=2)
    model = build_model(row, cell)
    model.load_weights(folder / "model.weights.h5")
    load.check(model, folder)


def write_saved_model(row, folder):
    core, _ = row.make()
    tfmem.export.saved_model(core, folder / "saved_model", input_shape=row.input_shape)
    save_run(row, core, folder)


def save_run(row, core, folder):
    """Inputs, outputs and final state of a sequence, batch-major, in the order of tf.nest."""
    inputs = row.inputs(STEPS, BATCH)
    outputs, state = unroll(core, inputs, core.initial_state(BATCH))
    arrays = {}
    for name, nest in (("input", batch_major(inputs)), ("output", batch_major(outputs)), ("state", state)):
        arrays.update({f"{name}_{i}": x for i, x in enumerate(tf.nest.flatten(nest))})
    np.savez(folder / "run.npz", **arrays)


def sum_over_batch(nest):
    """The sum over elements of a batch of a loss that is the same function of each."""
    loss = 0.0
    for x in tf.nest.flatten(nest):
        if x.dtype.is_floating:
            weights = tf.sin(1.0 + tf.range(tf.size(x[0]), dtype=tf.float32))
            loss += tf.reduce_sum(weights * tf.reshape(x, [tf.shape(x)[0], -1]))
    return loss


def two_replicas_equal_one(row, folder):
    inputs = row.inputs(STEPS, BATCH)
    initial = row.make()[1].get_weights()

    def train(strategy, parts, compiled):
        with strategy.scope():
            core, cell = row.make()
            cell.set_weights(initial)
            optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
            optimizer.build(cell.trainable_variables)

        def loss_and_gradients(inputs):
            size = inputs[0].shape[1]
            inputs = tf.nest.pack_sequence_as(row.inputs(STEPS, size), inputs)
            with tf.GradientTape() as tape:
                outputs, state = unroll(core, inputs, core.initial_state(size))
                loss = sum_over_batch((batch_major(outputs), state)) / BATCH
            gradients = tape.gradient(loss, [w.value for w in cell.trainable_variables])
            optimizer.apply(gradients, cell.trainable_variables)

        def update():
            strategy.run(loss_and_gradients, args=(parts,))

        if compiled:
            update = tf.function(update, autograph=False)
        update()
        update()
        return cell.get_weights()

    one = train(tf.distribute.get_strategy(), tf.nest.flatten(inputs), compiled=False)
    # Collectives, the default, mix up the gradients' shapes on logical CPUs.
    reduction = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=reduction)
    halves = [
        strategy.experimental_distribute_values_from_function(
            lambda context, x=x: tf.split(x, 2, axis=1)[context.replica_id_in_sync_group]
        )
        for x in tf.nest.flatten(inputs)
    ]
    two = train(strategy, halves, compiled=True)
    assert any(np.any(a != b) for a, b in zip(initial, two, strict=True))
    assert_close(two, one)


FRESH = {
    ".keras file, import tfmem alone": (write_keras_files, "load.py"),
    ".weights.h5": (write_keras_files, read_weights_file),
    "SavedModel": (write_saved_model, "serve.py"),
    "two replicas": (None, two_replicas_equal_one),
}


def attempt(call, *args):
    try:
        call(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "ok"


@functools.cache
def prepared(prepare):
    """A temporary folder with one for each row, and `{row name: "ok" or what went wrong}`; two properties share one."""
    folder = tempfile.TemporaryDirectory()
    for i, _ in enumerate(ROWS):
        (Path(folder.name) / str(i)).mkdir()
    return folder, {
        row.name: attempt(prepare, row, Path(folder.name) / str(i)) if prepare else "ok" for i, row in enumerate(ROWS)
    }


@functools.cache
def results(prop):
    """`{row name: "ok" or what went wrong}` of one property, from a new process."""
    prepare, check = FRESH[prop]
    folder, written = prepared(prepare)
    command = [str(Path(__file__).with_name(check))] if isinstance(check, str) else ["-m", __name__, prop]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, *command, folder.name], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-4000:]
    found = json.loads((Path(folder.name) / "results.json").read_text())
    return {row.name: written[row.name] if written[row.name] != "ok" else found[i] for i, row in enumerate(ROWS)}


if __name__ == "__main__":
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    prop, folder = sys.argv[1], Path(sys.argv[2])
    found = [attempt(FRESH[prop][1], row, folder / str(i)) for i, row in enumerate(ROWS)]
    (folder / "results.json").write_text(json.dumps(found))
