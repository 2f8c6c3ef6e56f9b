"""Run SavedModels in a process without tfmem: `python serve.py FOLDER` (see fresh.py)."""

import json
import sys
from pathlib import Path

sys.modules["tfmem"] = None
sys.modules["sonnet"] = None
sys.modules["keras"] = None

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402


def check(folder):
    signatures = tf.saved_model.load(str(folder / "saved_model")).signatures
    layout = json.loads((folder / "saved_model/assets.extra/tfmem.json").read_text())["signatures"]
    run = np.load(folder / "run.npz")

    def named(signature, kind, prefix, array):
        """`{flat name in the SavedModel: array}`; the asset lists names in the order of the nest, as run.npz does."""
        names = [name for name, entry in layout[signature][kind].items() if entry["nest"][0] == prefix]
        return {name: run[f"{array}_{i}"] for i, name in enumerate(names)}

    inputs = named("sequence", "inputs", "inputs", "input")
    outputs = named("sequence", "outputs", "outputs", "output")
    final = named("sequence", "outputs", "state", "state")
    batch_size, steps = next(iter(inputs.values())).shape[:2]
    compare(signatures["sequence"](**tensors(inputs)), {**outputs, **final})

    state = signatures["initial_state"](batch_size=tf.constant(batch_size))
    compare(signatures["sequence_from_state"](**tensors(inputs), **state), {**outputs, **final})
    for t in range(steps):
        result = signatures["step"](**tensors({name: x[:, t] for name, x in inputs.items()}), **state)
        state = {name: result[name] for name in final}
        compare({name: result[name] for name in outputs}, {name: x[:, t] for name, x in outputs.items()})
    compare(state, final)

    start = signatures["initial_state"](batch_size=tf.constant(batch_size))
    none = {name: x[:, :0] for name, x in inputs.items()}
    empty = {**{name: x[:, :0] for name, x in outputs.items()}, **{name: x.numpy() for name, x in start.items()}}
    compare(signatures["sequence"](**tensors(none)), empty)
    compare(signatures["sequence_from_state"](**tensors(none), **start), empty)


def tensors(arrays):
    return {name: tf.constant(x) for name, x in arrays.items()}


def compare(actual, expected):
    assert set(actual) == set(expected), f"{sorted(actual)}, expected {sorted(expected)}"
    for name, e in expected.items():
        a = actual[name].numpy()
        assert a.shape == e.shape, f"{name} has the shape {a.shape}, expected {e.shape}"
        error = np.max(np.abs(a.astype(float) - e), initial=0) / max(np.max(np.abs(e), initial=0), 1e-12)
        assert error <= 1e-5, f"{name}: relative error {error:.1e}"


def attempt(folder):
    try:
        check(folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "ok"


if __name__ == "__main__":
    root = Path(sys.argv[1])
    folders = sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: int(p.name))
    (root / "results.json").write_text(json.dumps([attempt(folder) for folder in folders]))
