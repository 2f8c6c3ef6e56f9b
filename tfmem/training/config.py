"""Configurations as JSON holds them, and back."""

import dataclasses
import types
import typing


def config_fields(config):
    """A configuration as JSON holds it: a nested dataclass is a dict of its fields and its class's name, "type"."""
    return {field.name: _as_field(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _as_field(value):
    return {"type": type(value).__name__, **config_fields(value)} if dataclasses.is_dataclass(value) else value


def config_defaults(kind):
    """The defaults of a configuration's class, as `config_fields` gives them, by name."""
    fields = [field for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING]
    return {field.name: _as_field(field.default) for field in fields}


def config_from_fields(kind, fields):
    """The configuration of a class that `config_fields` gave `fields` for.

    Raises:
      ValueError: a nested configuration is of no class that the field takes, or a value is out of range.
      TypeError: a field does not exist.
    """
    hints = typing.get_type_hints(kind)
    return kind(**{name: _from_field(name, hints.get(name), value) for name, value in fields.items()})


def nested_classes(kind, name):
    """List the classes of nested configurations that a configuration's field takes."""
    hint = typing.get_type_hints(kind).get(name)
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return [option for option in options if dataclasses.is_dataclass(option)]


def _from_field(name, hint, value):
    if isinstance(value, list):
        return tuple(_from_field(name, None, v) for v in value)
    if not isinstance(value, dict):
        return value
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    options = {option.__name__: option for option in options}
    if value.get("type") not in options:
        raise ValueError(f"{name}: {value.get('type')!r}, must be one of {', '.join(options)}")
    return config_from_fields(options[value["type"]], {n: v for n, v in value.items() if n != "type"})
