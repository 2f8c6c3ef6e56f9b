"""Strict loading of TF 1 (V2 format) checkpoints by explicit name tables."""

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfmem.backend import keras
from tfmem.interop import SonnetCell

# Not loaded: TF 1's optimiser slots, counters and (unused) moving statistics. Slots of other names are recognized by
# the variable that they belong to.
OPTIMISER = re.compile(
    r"(^|/)(Adam(_\d+)?|RMSProp(_\d+)?|Momentum|Adagrad|beta[12]_power(_\d+)?|global_step"
    r"|ExponentialMovingAverage(/biased|/local_step)?|moving_mean|moving_variance)$"
)
AVERAGE = "/ExponentialMovingAverage"  # suffix of the name of a variable's moving average
LISTED = 20  # most scopes listed in a message

# One module per public code base, imported with the first checkpoint because they import all cores.
CODE_BASES = ("dnc", "kanerva", "multigrid_mem", "sonnet_v1", "tvt")

_TABLES: dict[type, Callable] = {}


class Entry(NamedTuple):
    """One row of a name table.

    `name` is the TF 1 variable's name below the scope, `variable` the target's variable. `convert` maps the stored
    array to the target's layout (default: unchanged). A tuple of names joins several stored variables into one;
    `convert` then takes as many arrays. `shapes` are those of the stored variables; required with `convert`.
    """

    name: str | tuple[str, ...]
    variable: tf.Variable
    convert: Callable[..., np.ndarray] | None = None
    shapes: tuple[tuple[int, ...], ...] | None = None


@dataclass
class LoadReport:
    """Result of `load_tf1`: rows (stored name, target variable's name, shape), and the names left out."""

    loaded: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)
    optimiser: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    averaged: list[str] = field(default_factory=list)

    @property
    def num_parameters(self):
        stored = {name: shape for name, _, shape in self.loaded}  # one stored variable may fill several variables
        return int(sum(np.prod(shape) for shape in stored.values()))

    def __str__(self):
        lines = [f"loaded {len(self.loaded)} variables, {self.num_parameters:,} numbers"]
        lines += [f"  {theirs} -> {ours} {list(shape)}" for theirs, ours, shape in self.loaded]
        lines += [f"  optimiser slot, not loaded: {name}" for name in self.optimiser]
        lines += [f"  outside the model, not loaded: {name}" for name in self.ignored]
        lines += [f"  its moving average is loaded instead: {name}" for name in self.averaged]
        return "\n".join(lines)


class CheckpointMismatchError(ValueError):
    """Error of a checkpoint that does not fit the target. Nothing was assigned.

    Attributes: `missing` (expected, not stored), `unexpected` (stored, not expected), `mis_shaped`
    ((name, stored shape, expected shape)), `mis_typed` ((name, stored type, required type)). All names and shapes are
    those in the checkpoint.
    """

    def __init__(self, prefix, missing, unexpected, mis_shaped, mis_typed=(), scopes=""):
        self.missing, self.unexpected, self.mis_shaped, self.mis_typed = missing, unexpected, mis_shaped, mis_typed
        lines = [f"checkpoint {prefix!r} does not fit the target; nothing was loaded."]
        lines += [f"  missing: {name}" for name in missing]
        lines += [f"  unexpected: {name}" for name in unexpected]
        lines += [f"  mis-shaped: {name}: stored {list(s)}, expected {list(e)}" for name, s, e in mis_shaped]
        lines += [f"  mis-typed: {name}: stored {s}, must be {e}" for name, s, e in mis_typed]
        lines += [f"  scope: {scopes}"] * bool(scopes)
        super().__init__("\n".join(lines))


def name_table(*targets):
    """Register a function `target -> iterable of Entry` as the name table of one or more classes."""

    def register(table):
        for target in targets:
            _TABLES[target] = table
        return table

    return register


def require_built(target, is_built):
    """Raise a ValueError unless the weights of a name table's target exist."""
    if not is_built:
        how = "build with an input shape" if isinstance(target, keras.Model) else "project_inputs with inputs"
        raise ValueError(f"target: {type(target).__name__}, must be built: call {how} of the right size first")


def split(name, first, rest):
    """Entries of a stored matrix with the rows of two variables: those of the inputs, then those of the state."""
    size = first.shape[0]
    shapes = ((size + rest.shape[0], first.shape[1]),)
    return [Entry(name, first, lambda w: w[:size], shapes), Entry(name, rest, lambda w: w[size:], shapes)]


def load_tf1(target, prefix, scope="", moving_averages=False):
    """Load a TF 1 checkpoint of a public implementation into a core or model.

    All names, shapes, dtypes and values are checked before anything is assigned. Floats of another precision are
    rounded; integers must fit exactly. Optimiser slots are ignored: counters, and `<name of a weight>/<more>` if it is
    a scalar or has the weight's shape.

    Args:
      target: a built core or model whose class has a name table (`tfmem.checkpoints.<code base>`), or an object with
        exactly one such part: `tfmem.as_keras_cell(core)`, a layer of it, a Keras model with such a layer.
      prefix: checkpoint prefix, e.g. "path/to/model.ckpt" (without ".index").
      scope: name scope of the module inside the checkpoint; variables outside it are ignored. "" or None: the names are
        those of the table. "auto": the only scope that fits ("auto/" is a scope of that name).
      moving_averages: load `<name>/ExponentialMovingAverage` in place of each weight. Default False.

    Returns:
      A `LoadReport`.

    Raises:
      CheckpointMismatchError: variables are missing, unexpected, of another shape, or do not fit the target's dtype.
      FileNotFoundError: there is no checkpoint at `prefix`.
      ValueError: `target` has no name table or is not built, the files are damaged, or several scopes fit.
    """
    if not isinstance(scope, str | None):
        raise ValueError(f"scope: {scope!r}, must be a string or None")
    for code_base in CODE_BASES:
        importlib.import_module(f"tfmem.checkpoints.{code_base}")
    target = _with_table(target)
    table = next(_TABLES[c] for c in type(target).__mro__ if c in _TABLES)
    prefix = os.path.expanduser(prefix)
    if not tf.io.gfile.exists(prefix + ".index"):
        folder = prefix if tf.io.gfile.isdir(prefix) else os.path.dirname(prefix)
        found = sorted(path.removesuffix(".index") for path in tf.io.gfile.glob(os.path.join(folder, "*.index")))
        there = f"its folder has {', '.join(map(repr, found))}" if found else "its folder has none"
        raise FileNotFoundError(f"prefix: no checkpoint at {prefix!r} ({prefix}.index does not exist); {there}")
    entries = [e._replace(name=(e.name,) if isinstance(e.name, str) else tuple(e.name)) for e in table(target)]
    expected = {name: shape for e in entries for name, shape in zip(e.name, _stored_shapes(e), strict=True)}
    try:
        reader = tf.train.load_checkpoint(prefix)
    except _UNREADABLE as error:
        raise ValueError(f"prefix: {prefix!r}, must be a readable TF checkpoint: {error}") from error
    dtypes = reader.get_variable_to_dtype_map()
    stored = {name: (tuple(shape), dtypes[name]) for name, shape in reader.get_variable_to_shape_map().items()}

    if scope == "auto":
        inside, match = _only_fit(expected, stored, moving_averages, prefix)
    else:
        inside = f"{scope.rstrip('/')}/" if scope and scope.rstrip("/") else ""
        match = _match(expected, stored, inside, moving_averages)
    if match.problems:
        raise CheckpointMismatchError(prefix, *match[:4], _scopes_message(expected, stored, moving_averages))

    arrays = {}
    for name, source in match.sources.items():
        try:
            arrays[name] = reader.get_tensor(source)
        except _UNREADABLE as error:
            raise ValueError(
                f"prefix: {prefix!r}, must be undamaged at {source}: {error}; nothing was loaded"
            ) from error
    values, mis_typed = [], []
    for entry in entries:
        parts = [arrays[name] for name in entry.name]
        stored_value = parts[0] if entry.convert is None else entry.convert(*parts)
        dtype = tf.as_dtype(entry.variable.dtype)
        with np.errstate(over="ignore"):  # checked below
            value = stored_value.astype(dtype.as_numpy_dtype)
        if not _taken_over(stored_value, value, dtype):
            sources = ", ".join(match.sources[name] for name in entry.name)
            mis_typed.append((sources, f"{stored_value.dtype} numbers", f"within what {dtype.name} can hold"))
        values.append(value)
    if mis_typed:
        raise CheckpointMismatchError(prefix, [], [], [], mis_typed)

    report = LoadReport(optimiser=match.optimiser, ignored=match.outside, averaged=match.averaged)
    for entry, value in zip(entries, values, strict=True):
        entry.variable.assign(value)
        ours = getattr(entry.variable, "path", entry.variable.name)
        sources = [match.sources[name] for name in entry.name]
        report.loaded.extend((source, ours, stored[source][0]) for source in sources)
    return report


# TensorFlow's errors for files that are missing, cut short or altered.
_UNREADABLE = (tf.errors.OpError, ValueError, RuntimeError, LookupError)


def _with_table(target):
    """Find the only object with a name table: the target, or an object that it wraps or holds."""
    found, left = {}, [target]
    while left:
        part = left.pop()
        if any(c in _TABLES for c in type(part).__mro__):
            found[id(part)] = part
        elif isinstance(part, SonnetCell):
            left.append(part.core)
        elif isinstance(part, keras.layers.RNN):
            left.append(part.cell)
        elif isinstance(part, keras.layers.StackedRNNCells):
            left.extend(part.cells)
        elif isinstance(part, keras.layers.Wrapper):
            left.append(part.layer)
        elif isinstance(part, keras.Model):
            left.extend(part.layers)
    if not found:
        known = ", ".join(sorted(c.__name__ for c in _TABLES))
        raise ValueError(f"target: {type(target).__name__}, must have a TF 1 name table, as {known} have")
    if len(found) > 1:
        names = ", ".join(sorted(type(part).__name__ for part in found.values()))
        raise ValueError(f"target: {type(target).__name__} with {names}, must be or hold only one of them")
    return next(iter(found.values()))


def _stored_shapes(entry):
    if entry.shapes is not None:
        return [tuple(shape) for shape in entry.shapes]
    if entry.convert is not None:
        raise ValueError(f"shapes: None in the entry of {entry.name}, must be given with convert")
    return [tuple(entry.variable.shape)]


def _taken_over(stored, value, dtype):
    """Return whether an array survived a cast: floats within the range, all other types exactly."""
    if dtype.is_floating and tf.as_dtype(stored.dtype).is_floating:
        return np.array_equal(np.isfinite(stored), np.isfinite(value))
    return np.array_equal(value.astype(stored.dtype), stored)


class _Match(NamedTuple):
    """Comparison of a table and a checkpoint in one scope; names are the stored ones."""

    missing: list
    unexpected: list
    mis_shaped: list
    mis_typed: list
    optimiser: list
    outside: list
    averaged: list
    sources: dict  # keyed by the table's names

    @property
    def problems(self):
        return sum(map(len, self[:4]))


def _match(expected, stored, inside, moving_averages):
    weights = {name: inside + name for name in expected}
    sources = {name: weight + AVERAGE * moving_averages for name, weight in weights.items()}
    found = {name: stored[source] for name, source in sources.items() if source in stored}
    averaged = sorted(w for w in weights.values() if w in stored) if moving_averages else []
    left = sorted(set(stored) - set(sources.values()) - set(averaged))
    shapes = {weight: expected[name] for name, weight in weights.items()}
    optimiser = [name for name in left if OPTIMISER.search(name) or _is_slot(name, stored[name][0], shapes)]
    outside = [name for name in left if not name.startswith(inside) and name not in set(optimiser)]
    return _Match(
        missing=sorted(set(sources.values()) - set(stored)),
        unexpected=sorted(set(left) - set(optimiser) - set(outside)),
        mis_shaped=[(sources[n], shape, expected[n]) for n, (shape, _) in found.items() if shape != expected[n]],
        mis_typed=[
            (sources[n], dtype.name, "a float or integer type")
            for n, (_, dtype) in found.items()
            if not (dtype.is_floating or dtype.is_integer)
        ],
        optimiser=optimiser,
        outside=outside,
        averaged=averaged,
        sources=sources,
    )


def _is_slot(name, shape, weights):
    """Return whether a stored variable is `<weight>/<more>`, and a scalar or of the weight's shape."""
    owners = (name[: slash.start()] for slash in re.finditer("/", name))
    return any(shape in ((), weights[owner]) for owner in owners if owner in weights)


def _scopes(stored):
    """All scopes of a checkpoint as prefixes of its names: "", "dnc/", "dnc/lstm/", ..."""
    return sorted({"", *(name[: slash.end()] for name in stored for slash in re.finditer("/", name))})


def _only_fit(expected, stored, moving_averages, prefix):
    """Return the scope that fits and its match, or else those with the fewest problems."""
    matches = {inside: _match(expected, stored, inside, moving_averages) for inside in _scopes(stored)}
    fits = [inside for inside, match in matches.items() if not match.problems]
    if len(fits) > 1:
        names = ", ".join(repr(inside.rstrip("/")) for inside in fits)
        raise ValueError(f"scope: 'auto', must be one of those that fit checkpoint {prefix!r}: {names}")
    best = fits[0] if fits else min(matches, key=lambda inside: matches[inside].problems)
    return best, matches[best]


def _scopes_message(expected, stored, moving_averages):
    """List of the scopes that would fit, or else of all scopes."""
    scopes = _scopes(stored)
    fits = [inside for inside in scopes if not _match(expected, stored, inside, moving_averages).problems]
    if fits:
        return f"the target fits {', '.join(repr(inside.rstrip('/')) for inside in fits)}"
    names = [repr(inside.rstrip("/")) for inside in scopes if inside and inside.rstrip("/") not in stored]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"the target fits none; the checkpoint has {', '.join(names[:LISTED]) or 'none'}{more}"
