"""Stateless SavedModels of cores and models with memory: the state is an input and an output, under stable names.

The saved model keeps no session: the client holds the state and passes it with the next input. Each argument and result
of a signature is a nest of tensors. A tensor's name contains its place in the nest; the asset
`assets.extra/tfmem.json` lists the names.
"""

import json
import os
from pathlib import Path

import tensorflow as tf
import tree

from tfmem.backend import keras
from tfmem.interop import as_sonnet_core
from tfmem.recurrence import same_batch, swap_batch_and_time, unroll
from tfmem.rnn import RNN
from tfmem.signatures import memory_signatures, state_specs
from tfmem.stepwise import stepwise_functions
from tfmem.validation import is_integer

ASSET = "assets.extra/tfmem.json"


def saved_model(model_or_core, path, input_shape=None):
    """Write a SavedModel that TensorFlow loads without this package.

    Signatures of a core; batch and time are unknown, the state's tensors are called `state_<place in the nest>`:

        step                 inputs [B, ...], state          -> outputs [B, ...], state   (also `serving_default`)
        sequence             inputs [B, T, ...]              -> outputs [B, T, ...], final state
        sequence_from_state  inputs [B, T, ...], state       -> the same
        initial_state        batch_size, int32 scalar        -> state

    `sequence_from_state` starts from any state, `initial_state` returns the core's own.

    A model with memory defines its own signatures: `model.export_functions()` returns
    `{signature name: (function, arguments)}` with `step` first. `arguments` is `{name: nest of tf.TensorSpec}`; the
    function takes these nests as keyword arguments and returns `{name: nest of tensors}`. An argument and a result
    that are the same state have the same name.

    A Sequential or functional model with `tfmem.RNN` layers has the same signatures as a core. Its state is a dict with
    one dict per such layer: "cell" is the cell's state and, with a mask, "output" is the output that masked steps
    repeat. All other layers must compute the same function at every step (Dense, TimeDistributed, Masking, ...). This
    is checked with random inputs before anything is written. Inputs [B, features] without a time axis are constant
    over time.

    A sequence of no steps gives empty outputs and an unchanged state. An output without a time axis is that of the
    last step, so the sequence must have one.

    Args:
      model_or_core: a Sonnet core, a Keras RNN cell, a `tfmem.RNN` layer (its cell is exported), a Keras model with
        `export_functions`, or a Sequential or functional model with `tfmem.RNN` layers.
      path: folder of the SavedModel; it must not exist, or must be empty.
      input_shape: shape of one step's input without the batch, `(features,)`; a nest of them for nested inputs.
        Needed for cores.

    Raises:
      ValueError: `model_or_core` is none of these or a model that is not built, one of its layers needs more than the
        current step, `input_shape` is missing for a core or given for a model, or `path` is a folder with files.
    """
    path = Path(os.path.expanduser(path))
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"path: {str(path)!r}, must be a folder that does not exist or is empty")
    if isinstance(model_or_core, type):
        raise ValueError(f"model_or_core: {model_or_core!r}, must be an instance of the class")
    of_layers = isinstance(model_or_core, keras.Function | keras.Sequential)
    if of_layers or hasattr(model_or_core, "export_functions"):
        if input_shape is not None:
            raise ValueError(f"input_shape: {input_shape!r}, must be None: the model knows its inputs")
        resource = model_or_core
        if not getattr(resource, "built", True):  # a Sonnet module has no such attribute
            raise ValueError(f"model_or_core: {resource!r}, must be built: give it an input or call it once")
        says_itself = hasattr(resource, "export_functions")
        functions = resource.export_functions() if says_itself else stepwise_functions(resource)
    else:
        resource = _as_core(model_or_core)
        if input_shape is None:
            raise ValueError("input_shape: None, must be the shape of one step's input without the batch")
        functions = _core_functions(resource, _checked_shape(input_shape))

    archive = keras.export.ExportArchive()
    archive.track(resource)
    endpoints = {name: _Endpoint(*function_and_arguments) for name, function_and_arguments in functions.items()}
    for name, endpoint in endpoints.items():
        archive.add_endpoint(name, endpoint.call, input_signature=endpoint.flat_arguments)
    archive.write_out(os.fspath(path), verbose=False)

    signatures = {n: {"inputs": _describe(e.arguments), "outputs": _describe(e.results)} for n, e in endpoints.items()}
    layout = {"class": type(model_or_core).__name__, "signatures": signatures}
    asset = path / ASSET
    asset.parent.mkdir()
    asset.write_text(json.dumps(layout, indent=2) + "\n", "utf-8")


def _as_core(core):
    if isinstance(core, RNN):
        core = core.cell
    if isinstance(core, keras.layers.Layer):
        if not hasattr(core, "get_initial_state"):
            raise ValueError(
                f"model_or_core: {core!r}, must be a core, a cell, a Sequential or functional model with tfmem.RNN "
                "layers, or a model with export_functions; a model without memory has its own `export`"
            )
        core = as_sonnet_core(core)
    if not hasattr(core, "initial_state"):
        raise ValueError(f"model_or_core: {core!r}, must be a core, a cell, or a model with export_functions")
    return core


def _checked_shape(input_shape):
    """The shape, or nest of shapes, with sizes as ints."""
    if isinstance(input_shape, dict):
        return {name: _checked_shape(part) for name, part in input_shape.items()}
    if not isinstance(input_shape, tuple | list | tf.TensorShape):
        raise ValueError(f"input_shape: {input_shape!r}, must be a tuple of sizes, such as (4,)")
    if all(isinstance(part, tuple | list | tf.TensorShape) for part in input_shape) and len(input_shape):
        parts = [_checked_shape(part) for part in input_shape]
        return input_shape._make(parts) if hasattr(input_shape, "_make") else type(input_shape)(parts)
    if not all(map(is_integer, input_shape)):
        raise ValueError(f"input_shape: {input_shape!r}, must be of integers of at least 1, such as (4,)")
    return tuple(map(int, input_shape))


def _core_functions(core, input_shape):
    def inputs_spec(*leading):
        def spec(shape):
            return tf.TensorSpec([*leading, *shape])

        return keras.tree.map_shape_structure(spec, input_shape)

    inputs = tf.nest.map_structure(lambda s: tf.zeros([1, *s.shape[1:]]), inputs_spec(None))
    core(inputs, core.initial_state(1))  # creates the variables of an unbuilt core

    def step(inputs, state):
        outputs, state = core(inputs, state)
        return {"outputs": outputs, "state": state}

    def sequence_from_state(inputs, state):
        outputs, state = unroll(core, swap_batch_and_time(inputs), state)
        return {"outputs": swap_batch_and_time(outputs), "state": state}

    step_inputs, sequence_inputs = {"inputs": inputs_spec(None)}, {"inputs": inputs_spec(None, None)}
    state = state_specs(core, core.initial_state(1))
    return memory_signatures(step, sequence_from_state, core.initial_state, state, step_inputs, sequence_inputs)


class _Endpoint:
    """Wrapper of a function of nests as one of flat, named tensors; stores the structure of its results."""

    def __init__(self, function, arguments):
        self.function = function
        self.arguments = arguments
        self.flat_arguments = [
            tf.TensorSpec(spec.shape, spec.dtype, name) for name, (_, spec) in _flatten(arguments).items()
        ]
        self.results = None

    def call(self, *flat):
        given = dict(zip([spec.name for spec in self.flat_arguments], flat, strict=True))
        batched = {
            spec.name: given[spec.name] for spec in self.flat_arguments if spec.shape.rank and spec.shape[0] is None
        }
        given.update(same_batch(list(batched.values())[:1], batched, "state"))
        nests = {
            argument: tf.nest.pack_sequence_as(nest, [given[name] for name in _flatten({argument: nest})])
            for argument, nest in self.arguments.items()
        }
        results = self.function(**nests)
        self.results = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), results)
        return {name: tf.identity(x) for name, (_, x) in _flatten(results).items()}


def _flatten(nests):
    """`{name: nest}` to `{name_place_in_the_nest: (place, leaf)}`, in the order of tf.nest."""
    flat = {}
    for name, nest in nests.items():
        for place, leaf in tree.flatten_with_path(nest):
            flat["_".join(map(str, (name, *place)))] = ((name, *place), leaf)
    return flat


def _describe(nests):
    return {
        name: {"nest": list(place), "shape": spec.shape.as_list(), "dtype": spec.dtype.name}
        for name, (place, spec) in _flatten(nests).items()
    }
