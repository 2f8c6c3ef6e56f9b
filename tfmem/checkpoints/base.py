"""Strict loading of TF 1 (V2 format) checkpoints by explicit name tables."""

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# What TF 1's Saver writes beside the weights: optimiser slots, counters, (never used) moving statistics. Not loaded.
OPTIMISER = re.compile(
    r"(^|/)(Adam(_\d+)?|RMSProp(_\d+)?|Momentum|Adagrad|beta[12]_power(_\d+)?|global_step"
    r"|ExponentialMovingAverage|moving_mean|moving_variance)$"
)

# One module per public code base; imported when the first checkpoint is loaded, for they bring all cores.
CODE_BASES = ("dnc", "kanerva", "multigrid_mem", "sonnet_v1", "tvt")

_TABLES: dict[type, Callable] = {}


class Entry(NamedTuple):
    """One row of a name table.

    `name` is the TF 1 variable's name below the scope, `variable` ours, and `convert` maps the stored array to our
    layout (default: as it is). `names` of several stored variables that make one of ours go in a tuple; `convert`
    then takes that many arrays.
    """

    name: str | tuple[str, ...]
    variable: tf.Variable
    convert: Callable[..., np.ndarray] | None = None


@dataclass
class LoadReport:
    """What `load_tf1` did: (stored name, our variable's name, shape) rows, and what it left out."""

    loaded: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)
    optimiser: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    @property
    def num_parameters(self):
        stored = {name: shape for name, _, shape in self.loaded}  # one stored variable may fill several of ours
        return int(sum(np.prod(shape) for shape in stored.values()))

    def __str__(self):
        lines = [f"loaded {len(self.loaded)} variables, {self.num_parameters:,} numbers"]
        lines += [f"  {theirs} -> {ours} {list(shape)}" for theirs, ours, shape in self.loaded]
        lines += [f"  optimiser slot, not loaded: {name}" for name in self.optimiser]
        lines += [f"  outside the model, not loaded: {name}" for name in self.ignored]
        return "\n".join(lines)


class CheckpointMismatchError(ValueError):
    """A checkpoint does not fit the target. Nothing was assigned.

    Attributes: `missing` (expected, not stored), `unexpected` (stored, no place for it), `mis_shaped`
    ((name, stored shape, expected shape)).
    """

    def __init__(self, prefix, missing, unexpected, mis_shaped):
        self.missing, self.unexpected, self.mis_shaped = missing, unexpected, mis_shaped
        lines = [f"checkpoint {prefix!r} does not fit the target; nothing was loaded."]
        lines += [f"  missing: {name}" for name in missing]
        lines += [f"  unexpected: {name}" for name in unexpected]
        lines += [f"  mis-shaped: {name}: stored {list(s)}, expected {list(e)}" for name, s, e in mis_shaped]
        super().__init__("\n".join(lines))


def name_table(*targets):
    """Registers a function `target -> iterable of Entry` as the name table of one or more classes."""

    def register(table):
        for target in targets:
            _TABLES[target] = table
        return table

    return register


def load_tf1(target, prefix, scope=""):
    """Loads a TF 1 checkpoint of a public implementation into a core or model.

    Every name and shape is checked before anything is assigned.

    Args:
      target: a built core or model whose class has a name table (`tfmem.checkpoints.<code base>`).
      prefix: checkpoint prefix, e.g. "path/to/model.ckpt" (without ".index").
      scope: name scope of the module inside the checkpoint; variables outside it are left alone.

    Returns:
      A `LoadReport`.

    Raises:
      CheckpointMismatchError: variables are missing, unexpected or of another shape.
      FileNotFoundError: there is no checkpoint at `prefix`.
      ValueError: the class of `target` has no name table, or `target` is not built, or the files are damaged.
    """
    for code_base in CODE_BASES:
        importlib.import_module(f"tfmem.checkpoints.{code_base}")
    table = next((_TABLES[c] for c in type(target).__mro__ if c in _TABLES), None)
    if table is None:
        known = ", ".join(sorted(c.__name__ for c in _TABLES))
        raise ValueError(f"target: no TF 1 name table for {type(target).__name__}; there are tables for {known}")
    prefix = os.path.expanduser(prefix)
    if not tf.io.gfile.exists(prefix + ".index"):
        raise FileNotFoundError(f"prefix: no checkpoint at {prefix!r} ({prefix}.index does not exist)")
    entries = [e._replace(name=(e.name,) if isinstance(e.name, str) else e.name) for e in table(target)]
    try:
        reader = tf.train.load_checkpoint(prefix)
        stored = {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise ValueError(f"prefix: {prefix!r} is not a readable TF checkpoint: {error}") from error
    scope = scope.rstrip("/")
    inside = f"{scope}/" if scope else ""

    expected = [inside + name for entry in entries for name in entry.name]
    missing = [name for name in expected if name not in stored]
    left = [name for name in stored if name not in set(expected)]
    optimiser = sorted(name for name in left if OPTIMISER.search(name))
    outside = sorted(name for name in left if not name.startswith(inside) and name not in optimiser)
    unexpected = sorted(set(left) - set(optimiser) - set(outside))

    values, mis_shaped = [], []
    for entry in entries:
        names = [inside + name for name in entry.name]
        if any(name in missing for name in names):
            continue
        expected_shape = tuple(entry.variable.shape)
        if entry.convert is None:
            shape = stored[names[0]]
        else:
            try:
                shape = entry.convert(*(np.zeros(stored[name], np.float32) for name in names)).shape
            except ValueError:
                shape = stored[names[0]]
        if tuple(shape) != expected_shape:
            mis_shaped.append((names[0], tuple(shape), expected_shape))
    if missing or unexpected or mis_shaped:
        raise CheckpointMismatchError(prefix, sorted(missing), unexpected, mis_shaped)

    for entry in entries:
        try:
            arrays = [reader.get_tensor(inside + name) for name in entry.name]
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            raise ValueError(f"prefix: {prefix!r} is damaged at {entry.name}: {error}; nothing was loaded") from error
        values.append(arrays[0] if entry.convert is None else entry.convert(*arrays))

    report = LoadReport(optimiser=optimiser, ignored=outside)
    for entry, value in zip(entries, values, strict=True):
        entry.variable.assign(value)
        ours = getattr(entry.variable, "path", entry.variable.name)
        report.loaded.extend((inside + name, ours, stored[inside + name]) for name in entry.name)
    return report
