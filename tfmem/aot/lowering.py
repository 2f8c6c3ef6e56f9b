"""Lowering of experiments to bundles: StableHLO of update and evaluation, with named arguments and results.

The parameters of XLA's function are the arguments, then the captured variables. Its results are the function's, then
the changed variables, which the module's attribute `mhlo.input_output_alias` lists.
"""

import json
import re

import numpy as np
import tensorflow as tf
import tree

from tfmem.aot.bundle import Bundle, BundleError, Leaf, Program, open_source
from tfmem.training import checkpoint_arrays, compiled_updates, config_fields, stacked_batches
from tfmem.training.experiment import variable_names
from tfmem.training.machine import describe_machine
from tfmem.training.run_folder import as_json

_STRING = r'"(?:[^"\\]|\\.)*"'
_LOCATION = re.compile(rf"\s+loc\((?:[^()\"]|{_STRING}|\((?:[^()\"]|{_STRING})*\))*\)")
_LOCATION_LINE = re.compile(r"^#loc\d* = .*\n", re.MULTILINE)
_ALIAS = re.compile(r"parameter_number = (\d+) : i64\}, output_index = array<i64: (\d+)>")
_MAIN = re.compile(r"func\.func (?:public )?@main\((.*?)\) -> (.*) \{\n")
_TYPE = re.compile(r"tensor<((?:\d+x)*)(\w+)>")
_DTYPES = {"i1": "bool", "ui8": "uint8", "bf16": "bfloat16", "f16": "float16", "f32": "float32", "f64": "float64"}
_DTYPES |= {f"i{n}": f"int{n}" for n in (8, 16, 32, 64)} | {f"ui{n}": f"uint{n}" for n in (16, 32, 64)}
_DYNAMIC = re.compile(r"tensor<[^>]*\?|#stablehlo\.bounds|stablehlo\.(?:real_)?dynamic_(?!slice|update_slice)\w+")
_BOOLEANS = re.compile(r'dense<"0x([0-9A-Fa-f]+)"> : tensor<((?:\d+x)+)i1>')
_COPY = re.compile(r"= mhlo\.copy (%\S+) : (tensor<[^>]*>)")
_FOREIGN = re.compile(r"= \"?((?:mhlo|chlo|tf|tf_\w+)\.\w+)")
_CUSTOM_CALL = re.compile(r"stablehlo\.custom_call @([\w$.]+)")
PORTABLE_CALLS = {"TopK"}  # XLA decomposes or specialises these on every platform


def lower(function, *specs):
    """Lower a function by XLA to StableHLO.

    Args:
      function: a function of tensors, or a `tf.function`.
      *specs: its arguments, nests of `tf.TensorSpec` of known shapes.

    Returns:
      `(text, concrete)`: StableHLO without source locations, and the traced function; its arguments are the flat specs.

    Raises:
      BundleError: XLA cannot lower it, or the result is not portable to every platform.
    """

    def flat_function(*flat):
        return function(*tf.nest.pack_sequence_as(specs, flat))

    flat = tf.nest.flatten(specs)
    compiled = tf.function(flat_function, jit_compile=True, autograph=False)
    concrete = compiled.get_concrete_function(*flat)
    try:
        text = compiled.experimental_get_compiler_ir(*flat)(stage="stablehlo")
    except (ValueError, tf.errors.OpError) as error:
        raise BundleError(f"XLA cannot compile the step: {error}") from error
    text = _BOOLEANS.sub(_spelled, _LOCATION.sub("", _LOCATION_LINE.sub("", text)))
    text = _COPY.sub(r"= stablehlo.convert \1 : \2", text)  # GPU plugins accept only StableHLO
    problems = obstacles(text)
    if problems:
        raise BundleError(f"the step is not portable to every platform: {', '.join(problems)}")
    return text, concrete


def _spelled(match):
    """Spell a constant of booleans as words: hexadecimal means bits or bytes, depending on the version of MLIR."""
    shape = [int(n) for n in match[2].split("x")[:-1]]
    values = np.frombuffer(bytes.fromhex(match[1]), np.uint8)
    if values.size < np.prod(shape):
        values = np.unpackbits(values, count=np.prod(shape), bitorder="little")
    return f"dense<{json.dumps(values.astype(bool).reshape(shape).tolist())}> : tensor<{match[2]}i1>"


def obstacles(text):
    """List the non-portable parts of a module: dynamic shapes, other dialects, calls of one platform's library."""
    found = set(_DYNAMIC.findall(text)) | set(_FOREIGN.findall(text))
    return sorted(found | {f"custom call {name}" for name in set(_CUSTOM_CALL.findall(text)) - PORTABLE_CALLS})


def lower_program(function, specs, variables, constants):
    """Lower a function with its variables to a `Program`.

    Args:
      function: `(number, batch, carry) -> (carry, metrics)`.
      specs: of its arguments.
      variables: TensorFlow or Keras variables by name.
      constants: a list, extended by the tensors that the function captures.

    Raises:
      BundleError: as `lower`; or it uses a variable without a name.
    """
    text, concrete = lower(function, *specs)
    number, batch, carry = specs
    arguments = [_named("number", number)]
    arguments += [_named("/".join(map(str, ("batch", *p))), s, p) for p, s in tree.flatten_with_path(batch)]
    arguments += [_named(f"carry/{i}", s) for i, s in enumerate(tf.nest.flatten(carry))]
    names = {id(getattr(v, "value", v).handle if hasattr(v, "path") else v.handle): n for n, v in variables.items()}
    for captured in concrete.captured_inputs:
        if captured.dtype != tf.resource:
            arguments.append(_named(f"constants/{len(constants)}", captured))
            constants.append(captured.numpy())
        elif id(captured) in names:
            name = names[id(captured)]
            arguments.append(_named(f"variables/{name}", variables[name]))
        else:
            used = [v.name for v in concrete.variables if v.handle is captured]
            raise BundleError(f"the step uses the variable {used[0] if used else captured}, which has no name")
    next_carry, metrics = concrete.structured_outputs
    outputs = [_named(f"carry/{i}", t) for i, t in enumerate(tf.nest.flatten(next_carry))]
    outputs += [_named(f"metrics/{name}", metrics[name]) for name in sorted(metrics)]
    aliases = {int(result): int(parameter) for parameter, result in _ALIAS.findall(text)}
    parameter_types, result_types = _signature(text)
    for index in range(len(outputs), len(result_types)):
        if index not in aliases:
            raise BundleError(f"XLA's function has a result {index} of unknown meaning")
        outputs.append(arguments[aliases[index]])
    for what, leaves, types in (("parameters", arguments, parameter_types), ("results", outputs, result_types)):
        if [(leaf.shape, leaf.dtype) for leaf in leaves] != types:
            raise BundleError(f"XLA's function has {len(types)} {what} that are not the step's {len(leaves)}")
    return Program(text, arguments, outputs)


def _named(name, tensor, path=()):
    dtype = tf.as_dtype(tensor.dtype)
    return Leaf(name, tuple(int(n) for n in tensor.shape), dtype.name, tuple(path))


def _signature(text):
    """Shapes and types of the parameters and results of a module's main function."""
    found = _MAIN.search(text)
    return [
        [(tuple(int(n) for n in shape.split("x")[:-1]), _DTYPES[dtype]) for shape, dtype in _TYPE.findall(types)]
        for types in found.groups()
    ]


def _specs(nest):
    return tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), nest)


def make_bundle(experiment, preset=None):
    """Compile an experiment's update and evaluation to a bundle.

    Args:
      experiment: a `tfmem.training.Experiment`; its `data_source` and `evaluation` are included.
      preset: name of the preset, for the record.

    Returns:
      A `Bundle`; `tfmem.aot.bundle.write_bundle` writes it.

    Raises:
      BundleError: the configuration does not allow it, the data need TensorFlow, or XLA cannot compile it.
    """
    config = experiment.config
    world = getattr(config, "world", None)
    if not getattr(world, "compiles", True):
        raise BundleError(f"world: {type(world).__name__}, must be a world of the graph in a bundle")
    if config.num_updates % config.updates_per_call:
        raise BundleError(
            f"num_updates: {config.num_updates}, must be a multiple of updates_per_call ({config.updates_per_call}) "
            "in a bundle"
        )
    number, constants, programs = tf.TensorSpec([], tf.int64), [], {}
    variables, carry = experiment.variables(), experiment.initial_carry()
    initial = checkpoint_arrays(experiment, carry)
    data_sources = {"train": experiment.data_source("train")}
    _check_source(data_sources["train"], experiment.batch(0))

    updates = compiled_updates(experiment, config.updates_per_call)
    batches = stacked_batches(experiment, 0, config.updates_per_call)
    specs = (number, _specs(batches), _specs(carry))
    programs["update"] = lower_program(updates, specs, variables, constants)

    evaluation, steps, evaluation_carry = experiment.evaluation(), 0, []
    if evaluation is not None:
        data_sources["evaluation"] = experiment.data_source("evaluation")
        batch = open_source(data_sources["evaluation"]).batch(0) if data_sources["evaluation"] else {}
        specs = (number, _specs(batch), _specs(evaluation.carry))
        program = lower_program(evaluation.step, specs, variables, constants)
        if any(leaf.name.startswith("variables/") for leaf in program.results):
            raise BundleError("evaluation: its step changes a variable, must change its carry only")
        programs["evaluation"], steps = program, evaluation.num_steps
        evaluation_carry = [np.asarray(t) for t in tf.nest.flatten(evaluation.carry)]
    return Bundle(
        experiment=experiment.name,
        preset=preset,
        config=as_json(config_fields(config)),
        updates_per_call=config.updates_per_call,
        programs=programs,
        evaluation_steps=steps,
        initial=initial | {f"constants/{i}": array for i, array in enumerate(constants)},
        evaluation_carry=evaluation_carry,
        data_sources=as_json(data_sources),
        versions=describe_machine()["versions"],
        names=variable_names(experiment),
    )


def _check_source(source, expected):
    if source is None:
        if tf.nest.flatten(expected):
            raise BundleError("data_source: None, must describe the data, as `batch` is not {}")
        return
    batch = open_source(as_json(source)).batch(0)
    tf.nest.assert_same_structure(batch, expected)
    for a, b in zip(tf.nest.flatten(batch), tf.nest.flatten(expected), strict=True):
        if not np.array_equal(a, b) or np.asarray(a).dtype != np.asarray(b).dtype:
            raise BundleError(f"data_source: {source[0]} gives other data than `batch`")
