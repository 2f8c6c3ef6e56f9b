"""Run folders and experiments for commands: opened, or refused in one line."""

import contextlib
import dataclasses
import hashlib
import re
import sys

from tfmem.data.files import CorruptDataError
from tfmem.training.run_folder import RunFolder, RunFolderError, run_config

from . import experiment_modules, load_experiment

LONGEST_NAME = 80


def file_name(text):
    """Make a name of a file from a text; where characters are replaced, a hash keeps the names of texts apart."""
    name = re.sub(r"[^\w.=-]+", "-", text).strip("-")[:LONGEST_NAME]
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


class UsageError(Exception):
    """Error of a wrong command line; nothing was written."""


def make_output_folder(path):
    """Make a folder that a command writes into, if there is none.

    Raises:
      UsageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"out: {path}, must be a folder that can be made: {error.strerror}") from None


def load(name, modules):
    """Load an experiment's module by `load_experiment`; errors are `UsageError`s."""
    try:
        return load_experiment(name, modules)
    except ValueError as error:
        raise UsageError(error) from None


@contextlib.contextmanager
def refusals():
    """Context that raises errors of devices, data and sizes, unknown to a configuration, as `UsageError`."""
    import tensorflow as tf

    try:
        yield
    except CorruptDataError:
        raise
    except (ValueError, OverflowError, MemoryError, tf.errors.OpError) as error:
        raise UsageError(reason(error)) from error


def reason(error):
    """Format an error in one line; those of TensorFlow's runtime without the list of graph nodes.

    An error of Python code that a graph calls is the first line of the form "<name>Error: ...".
    """
    if isinstance(error, MemoryError):
        return f"out of memory: {error}".removesuffix(": ")
    if hasattr(error, "message"):  # tf.errors.OpError
        lines = error.message.strip().splitlines()
        raised = [line for line in lines if re.match(r"\w+Error: ", line)]
        return f"{type(error).__name__}: {(raised or lines)[0]}"
    return " ".join(str(error).split())


def changed(config, changes, experiment):
    """Replace fields of a configuration.

    Args:
      config: the configuration.
      changes: `{field: value}`.
      experiment: its name, for the error.

    Raises:
      UsageError: there is no such field.
    """
    for name, value in changes.items():
        if not hasattr(config, name):
            raise UsageError(f"{name}: {value}, must not be given: {experiment} has no such setting")
    return dataclasses.replace(config, **changes)


def open_run(path, modules=None, **changes):
    """Open a run with the variables of its newest readable checkpoint.

    Args:
      path: its folder.
      modules: as from `experiment_modules` (the default).
      **changes: fields of its configuration to replace.

    Returns:
      `(module, experiment, checkpoint)`.

    Raises:
      RunFolderError: there is no run or no checkpoint, or the run is of another version.
      UsageError: the experiment cannot be built here, or has no such fields.
    """
    modules = experiment_modules() if modules is None else modules
    folder = RunFolder(path)
    about = run_config(folder)
    module = load(about["experiment"], modules)
    from tfmem.training import config_from_fields, load_checkpoint

    try:
        config = config_from_fields(module.Config, about["config"])
    except (TypeError, ValueError) as error:
        raise RunFolderError(f"{folder.config_path} is not of this version of {about['experiment']}: {error}") from None
    with refusals():
        experiment = module.Experiment(changed(config, changes, about["experiment"]))
    checkpoint, damaged = folder.restore()
    for file, why in damaged:
        print(f"{file.name} is damaged ({why}); an older one is used", file=sys.stderr)
    if checkpoint is None:
        raise RunFolderError(f"{path} has no checkpoint yet")
    load_checkpoint(experiment, checkpoint)
    print(f"{about['experiment']} after update {checkpoint.update} of {experiment.config.num_updates}")
    return module, experiment, checkpoint
