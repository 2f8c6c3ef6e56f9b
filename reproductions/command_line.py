"""Parsing of a command line by tyro: commands are dataclasses, and an error is one line."""

import contextlib
import dataclasses
import io
import itertools
import os
import re
import sys
import typing
from pathlib import Path
from typing import Annotated, Union

import tyro

from . import close, did_you_mean
from .runs import UsageError, refusals


def expanded(text):
    """Make a path of a text; expand `~`, which the shell leaves in `--folder=~/runs`.

    Raises:
      UsageError: the locale's encoding lacks a character of it.
    """
    try:
        text.encode()  # TensorFlow takes paths as UTF-8
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        raise UsageError(f"path: {text!a}, must be {encoding} text; LC_ALL=C.UTF-8 allows all") from None
    return Path(os.path.expanduser(text))


NESTED = re.compile(r"^__tyro-dummy-inner__[\w.-]*: ")  # tyro's name of a nested configuration, before its error

PathArgument = Annotated[
    Path,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda texts: expanded(texts[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    ),
]


OWN_OPTIONS = {"Run": ("--preset", "--folder", "--continue"), "Compile": ("--preset", "--max-mib")}


def missing_parts(config, parts, options):
    """Names such as "core:rmc" of a configuration's parts that have options, but that no given part replaces."""
    kinds = dict.fromkeys(option.partition(".")[0] for option in options if "." in option)
    given, found = {part.partition(":")[0] for part in parts}, []
    for kind in kinds:
        hint = typing.get_type_hints(type(config), include_extras=True).get(kind)
        for member in typing.get_args(hint) if kind not in given else ():
            names = [mark.name for mark in getattr(member, "__metadata__", ()) if hasattr(mark, "name")]
            if names and typing.get_args(member)[0] is type(getattr(config, kind)):
                found.append(f"{kind}:{names[0]}")
    return found


def command_name(command):
    """Name of a command's class on the command line: "import-bundle" for ImportBundle."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in command.__name__).removeprefix("-")


def configured(command, module, preset):
    """Make a command's class whose field `config` takes the options of an experiment; they are those of the preset."""
    fields = [("config", Annotated[module.Config, tyro.conf.arg(name="")], dataclasses.field(default=preset))]
    made = dataclasses.make_dataclass(command.__name__, fields, bases=(command,), kw_only=True)
    made.__doc__ = f"{module.__doc__.strip()}\n\nThe values below are those of the preset."
    return made


def preset_option(argv):
    """Value of `--preset` among arguments, or None."""

    @dataclasses.dataclass
    class Options:
        preset: str | None = None

    with contextlib.redirect_stderr(io.StringIO()):
        try:
            return tyro.cli(Options, args=argv, return_unknown_args=True, add_help=False)[0].preset
        except SystemExit:  # it has no value: the whole parse refuses it
            return None


def parse(commands, argv, prog, description):
    """Parse a command line.

    Args:
      commands: dataclasses.
      argv: arguments, without the program's name.
      prog: the program's name.
      description: text for `--help`.

    Returns:
      An instance of one of the commands.

    Raises:
      UsageError: in one line: an unknown command or option, or a value out of range.
      SystemExit: after `--help`.
    """
    commands = {command_name(command): command for command in commands}
    kinds = Union[tuple(Annotated[c, tyro.conf.subcommand(name)] for name, c in commands.items())]  # noqa: UP007
    if not argv or argv[0] not in ("-h", "--help", *commands):
        near = did_you_mean(close(argv[0], commands)) if argv else ""
        given = repr(argv[0]) if argv else "none"
        raise UsageError(f"COMMAND: {given}, must be one of {', '.join(commands)}{near}; see `{prog} --help`")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), refusals() if "tensorflow" in sys.modules else contextlib.nullcontext():
            return tyro.cli(kinds, args=argv, prog=prog, description=description)
    except SystemExit as stop:
        if stop.code == 0:
            raise
    command = commands[argv[0]]
    shown = " ".join([prog, *argv[: 2 if _has_configuration(command) else 1]])
    raise UsageError(f"{_message(said.getvalue(), command, argv)}; see `{shown} --help`")


def _has_configuration(command):
    return dataclasses.is_dataclass(getattr(command, "config", None))


def _message(said, command, argv):
    """Take the message from what tyro prints.

    It draws a box: a title, a rule where the terminal is not UTF-8, the message, a rule, advice.
    """
    lines = [line.strip(" │╭╮╰╯─") for line in said.splitlines()[1:]]
    lines = itertools.dropwhile(lambda line: not line.strip("-"), lines)
    message = " ".join(itertools.takewhile(lambda line: line.strip("-"), lines))
    message = message.removeprefix("Error parsing ").removeprefix("Config: ").removeprefix(": ").rstrip(".")
    message = NESTED.sub("", message)
    if not _has_configuration(command):
        return message
    names = [*OWN_OPTIONS[command.__name__], *("--" + name.replace("_", "-") for name in _options(command.config))]
    # The options of a chosen core or task are not the preset's.
    chosen = {f"--{o.partition(':')[0]}." for o in argv if ":" in o and not o.startswith("-")}
    for given in (argument.split("=")[0] for argument in argv):
        option = given.replace("_", "-")
        if given not in message or any(option.startswith(prefix) for prefix in chosen):
            continue
        if option.startswith("--") and option not in names:
            kind = option[2:].partition(".")[0] if "." in option else None
            if kind and len(typing.get_args(typing.get_type_hints(type(command.config)).get(kind))) > 1:
                return f"{option}: no such hyper-parameter here; those of another {kind} stand behind {kind}:NAME"
            near = close(option, names) or names
            return f"{option}: no such hyper-parameter, must be one of {', '.join(near)}"
    return message


def _options(config, prefix=""):
    """Names of a configuration's options; those of a nested one begin with its field's name."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _options(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name
