"""Load .keras files in a process that imported only `tfmem`: `python load.py FOLDER` (see fresh.py)."""

import importlib
import json
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np

import tfmem  # noqa: F401
from tests.support import relative_error


def check(model, folder):
    """The model's outputs and final state are those of run.npz."""
    run = np.load(folder / "run.npz")
    inputs = [run[name] for name in run if name.startswith("input")]
    expected = [run[name] for name in run if not name.startswith("input")]
    results = model(inputs if len(inputs) > 1 or isinstance(model.input, list | tuple) else inputs[0])
    for actual, e in zip(results, expected, strict=True):
        error = relative_error(actual, e)
        assert error <= 1e-5, f"relative error {error:.1e}"


def attempt(folder):
    try:
        check(keras.models.load_model(folder / "model.keras"), folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "ok"


def has_toy(folder):
    """Return whether the file has a cell outside of tfmem; its class must be known."""
    with zipfile.ZipFile(folder / "model.keras") as archive:
        return b"tests.conformance.toys" in archive.read("config.json")


if __name__ == "__main__":
    root = Path(sys.argv[1])
    folders = sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: int(p.name))
    found = {folder: attempt(folder) for folder in folders if not has_toy(folder)}
    importlib.import_module("tests.conformance.toys")
    found.update({folder: attempt(folder) for folder in folders if has_toy(folder)})
    (root / "results.json").write_text(json.dumps([found[folder] for folder in folders]))
