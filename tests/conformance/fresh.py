"""Properties that need a process of their own: one process per property for all rows.

`prepare` writes what the child reads, `python -m tests.conformance.fresh PROPERTY FOLDER` (the SavedModels: serve.py,
which cannot import tfmem) writes results.json, `{row: "ok" or what went wrong}`.
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
from tests.conformance.descriptors import BATCH, ROWS, STEPS
from tests.conformance.properties import assert_close, batch_major, build_model, loss_of
from tfmem.unroll import unroll

ROOT = Path(__file__).parents[2]


def write_keras_files(row, folder):
    core, cell = row.make()
    model = build_model(row, cell)
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    save_run(row, core, folder)


def read_keras_file(row, folder):
    check_model(row, keras.models.load_model(folder / "model.keras"), folder)


def read_weights_file(row, folder):
    _, cell = row.make(seed=2)
    model = build_model(row, cell)
    model.load_weights(folder / "model.weights.h5")
    check_model(row, model, folder)


def check_model(row, model, folder):
    run = np.load(folder / "run.npz")
    results = tf.nest.flatten(model(batch_major(row.inputs(STEPS, BATCH))))
    num_outputs = sum(name.startswith("output_") for name in run)
    outputs = [batch_major(x) for x in results[:num_outputs]]
    assert_close(outputs + results[num_outputs:], [run[f"output_{i}"] for i in range(num_outputs)] + states(run))


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


def two_replicas_equal_one(row, folder):
    inputs = row.inputs(STEPS, BATCH)

    def train(strategy, parts):
        with strategy.scope():
            core, cell = row.make()
            optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
            optimizer.build(cell.trainable_variables)

        def loss_and_gradients(inputs):
            size = inputs[0].shape[1]
            inputs = tf.nest.pack_sequence_as(row.inputs(STEPS, size), inputs)
            with tf.GradientTape() as tape:
                # The mean over the global batch of a loss that is the same function of every element.
                results = unroll(core, inputs, core.initial_state(size))
                loss = sum(
                    loss_of(tf.nest.map_structure(lambda x, b=b: x[:, b], results[0]))
                    + loss_of(tf.nest.map_structure(lambda x, b=b: x[b], results[1]))
                    for b in range(size)
                )
            gradients = tape.gradient(loss / BATCH, [w.value for w in cell.trainable_variables])
            optimizer.apply(gradients, cell.trainable_variables)

        @tf.function
        def update():
            strategy.run(loss_and_gradients, args=(parts,))

        update()
        update()
        return [w.numpy() for w in cell.trainable_variables]

    one = train(tf.distribute.get_strategy(), tf.nest.flatten(inputs))
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    halves = [
        strategy.experimental_distribute_values_from_function(
            lambda context, x=x: tf.split(x, 2, axis=1)[context.replica_id_in_sync_group]
        )
        for x in tf.nest.flatten(inputs)
    ]
    before = [w.numpy() for w in row.make()[1].trainable_variables]
    two = train(strategy, halves)
    assert any(np.any(a != b) for a, b in zip(before, two, strict=True))
    assert_close(two, one, 1e-5)


FRESH = {
    ".keras file": (write_keras_files, read_keras_file),
    ".weights.h5": (write_keras_files, read_weights_file),
    "SavedModel": (write_saved_model, None),
    "two replicas": (None, two_replicas_equal_one),
}


def attempt(call, *args):
    try:
        call(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "ok"


@functools.cache
def results(prop):
    """`{row name: "ok" or what went wrong}` of one property, from a new process."""
    prepare, check = FRESH[prop]
    with tempfile.TemporaryDirectory() as folder:
        prepared = {row.name: "ok" for row in ROWS}
        for i, row in enumerate(ROWS):
            (Path(folder) / str(i)).mkdir()
            if prepare is not None:
                prepared[row.name] = attempt(prepare, row, Path(folder) / str(i))
        serve = [str(Path(__file__).with_name("serve.py"))]
        command = ["-m", "tests.conformance.fresh", prop] if check else serve
        process = subprocess.run(
            [sys.executable, *command, folder], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stderr[-4000:]
        found = json.loads((Path(folder) / "results.json").read_text())
    return {row.name: prepared[row.name] if prepared[row.name] != "ok" else found[i] for i, row in enumerate(ROWS)}


def states(run):
    return [run[f"state_{i}"] for i in range(sum(name.startswith("state_") for name in run))]


if __name__ == "__main__":
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    prop, folder = sys.argv[1], Path(sys.argv[2])
    found = [attempt(FRESH[prop][1], row, folder / str(i)) for i, row in enumerate(ROWS)]
    (folder / "results.json").write_text(json.dumps(found))
