"""Acts with a SavedModel where tfmem cannot be imported: `python serve.py FOLDER` (see test_agent.py)."""

import json
import sys
from pathlib import Path

for name in ("tfmem", "sonnet", "keras"):
    sys.modules[name] = None

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

folder = Path(sys.argv[1])
signatures = tf.saved_model.load(str(folder / "agent")).signatures
layout = json.loads((folder / "agent/assets.extra/tfmem.json").read_text())["signatures"]
run = np.load(folder / "run.npz")
assert set(layout["step"]["inputs"]) - set(layout["initial_state"]["outputs"]) == set(run.files) - {"logits", "value"}

state = signatures["initial_state"](batch_size=tf.constant(run["reward"].shape[1]))
for t in range(len(run["reward"])):
    given = {name: tf.constant(run[name][t]) for name in ("observation", "previous_action", "reward", "done")}
    result = signatures["step"](**given, **state)
    state = {name: result[name] for name in state}
    for name in ("logits", "value"):
        np.testing.assert_allclose(result[name], run[name][t], rtol=1e-4, atol=1e-5)
