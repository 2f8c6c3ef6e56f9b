"""Trained weights: built models as their runs left them, each with its configuration and a model card.

    agent = tfmem.pretrained.load("relational/box_world/demo").model

The package has small ones. `TFMEM_WEIGHTS_DIR` names a folder with others, which come first. `reproduce publish RUN`
writes a finished run to that folder. A model is a folder `<paper>/<experiment>/<setting>` of

    model.json        the Keras configuration of the model
    model.weights.h5  its weights
    run.json          experiment, preset, command, configuration and result of the run
    README.md         the model card
    checksums.txt     SHA-256 of the others, as `sha256sum --check` reads them

A model of Sonnet modules has no Keras configuration. Its folder has `variables.h5`, arrays by name, in place of the
first two files. No file holds pickled objects.
"""

import difflib
import hashlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from tfmem.atomic import PARTIAL, replacing_folder
from tfmem.data.files import CorruptDataError

WEIGHTS_DIR = "TFMEM_WEIGHTS_DIR"
PACKAGED = Path(__file__).parent / "weights"
CHECKSUMS = "checksums.txt"
CHECKSUM = re.compile(r"([0-9a-f]{64})  ([\w.-]+)")
CONFIGURATION, WEIGHTS, VARIABLES = "model.json", "model.weights.h5", "variables.h5"
RUN, CARD = "run.json", "README.md"


class Pretrained(NamedTuple):
    """Trained model."""

    model: Any
    """Built Keras model with the trained weights; the arrays by name of a model of Sonnet modules.

    `reproductions.publish.open_published` assigns such arrays to the experiment's modules.
    """
    run: dict
    """"experiment", "preset", "command", "config" (the run's configuration) and "result" (its result.json)."""
    card: str
    """Model card, Markdown."""


def list():
    """List the names that `load` takes; needs no TensorFlow.

    Raises:
      ValueError: `TFMEM_WEIGHTS_DIR` is not a folder.
    """
    return sorted(_found())


def load(name):
    """Load a trained model.

    Args:
      name: "<paper>/<experiment>/<setting>", one of `list()`.

    Returns:
      `Pretrained`: model, run and card.

    Raises:
      ValueError: there is no model of that name, or `TFMEM_WEIGHTS_DIR` is not a folder.
      CorruptDataError: a file is missing, is not the one that was published, or does not fit the others.
    """
    found = _found()
    if not isinstance(name, str) or name not in found:
        start = str(name).removesuffix("…").strip()
        near = [full for full in found if start and full.startswith(start)]
        near = near or difflib.get_close_matches(str(name), found, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"name: {name!r}, must be one of {', '.join(sorted(found)) or 'none: there are none'}{hint}")
    folder = found[name]
    contents = _checked(folder)
    try:
        model = _arrays(contents[VARIABLES]) if VARIABLES in contents else _keras_model(folder, contents)
        return Pretrained(model, json.loads(contents[RUN]), contents[CARD].decode("utf-8"))
    except (ValueError, TypeError, KeyError, OSError) as error:
        why = " ".join(str(error).split())
        raise CorruptDataError(f"{folder} is damaged, or of another version of tfmem: {why}") from error


def weights_folder():
    """Return the folder that `TFMEM_WEIGHTS_DIR` names, or None.

    Raises:
      ValueError: it is not a folder.
    """
    given = os.environ.get(WEIGHTS_DIR)
    if given and not Path(os.path.expanduser(given)).is_dir():
        raise ValueError(f"{WEIGHTS_DIR}: {given!r}, must be a folder")
    return Path(os.path.expanduser(given)) if given else None


def save(root, name, model, run, card):
    """Write a trained model, whole or not at all; one of the same name is replaced.

    Args:
      root: folder of models, such as `weights_folder()`.
      name: "<paper>/<experiment>/<setting>".
      model: built Keras model of classes that Keras loads after `import tfmem`; or variables by name.
      run: as in `Pretrained`.
      card: as in `Pretrained`.

    Returns:
      The model's folder.
    """
    folder = Path(root, name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder) as partial:
        texts = {RUN: json.dumps(run, indent=1), CARD: card.rstrip("\n")}
        if isinstance(model, dict):
            with h5py.File(partial / VARIABLES, "w") as file:
                for variable, value in model.items():
                    file[variable] = value.numpy()
        else:
            from tfmem.backend import keras

            model.save_weights(partial / WEIGHTS)
            texts[CONFIGURATION] = json.dumps(keras.saving.serialize_keras_object(model), indent=1)
        for file, content in texts.items():
            (partial / file).write_text(f"{content}\n", "utf-8")
        lines = [f"{_sha256(file.read_bytes())}  {file.name}\n" for file in sorted(partial.iterdir())]
        (partial / CHECKSUMS).write_text("".join(lines), "utf-8")
    return folder


def _found():
    """Folders of all models by name."""
    found = {}
    for root in filter(None, [PACKAGED, weights_folder()]):  # the later one counts
        for folder, folders, files in os.walk(root):  # skips folders that are gone meanwhile
            folders[:] = [name for name in folders if not name.endswith(PARTIAL)]
            if CHECKSUMS in files and folder != str(root):
                found[Path(folder).relative_to(root).as_posix()] = Path(folder)
    return found


def _checked(folder):
    """Contents of a model's files by name."""
    contents = {}
    for line in (folder / CHECKSUMS).read_bytes().decode("utf-8", "replace").splitlines():
        match = CHECKSUM.fullmatch(line)
        if match is None:
            raise CorruptDataError(f"{folder / CHECKSUMS} is damaged: {line!r}, must be a SHA-256 and a file's name")
        expected, file = match.groups()
        if not (folder / file).is_file():
            raise CorruptDataError(f"{folder / file} is missing; install tfmem again, or publish the run again")
        contents[file] = (folder / file).read_bytes()
        if _sha256(contents[file]) != expected:
            raise CorruptDataError(
                f"{folder / file} is damaged: its SHA-256 is {_sha256(contents[file])}, must be {expected}; "
                "install tfmem again, or publish the run again"
            )
    model = {VARIABLES} if VARIABLES in contents else {CONFIGURATION, WEIGHTS}
    missing = {*model, RUN, CARD} - set(contents)
    if missing:
        raise CorruptDataError(f"{folder / CHECKSUMS} is damaged: it lacks {', '.join(sorted(missing))}")
    return contents


def _keras_model(folder, contents):
    from tfmem.backend import keras

    model = keras.saving.deserialize_keras_object(json.loads(contents[CONFIGURATION]))
    model.load_weights(folder / WEIGHTS)
    return model


def _arrays(content):
    """All arrays of an HDF5 file's content by name, in the order of their names."""
    arrays = {}
    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(lambda name, item: arrays.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return dict(sorted(arrays.items()))


def _sha256(content):
    return hashlib.sha256(content).hexdigest()
