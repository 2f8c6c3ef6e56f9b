"""Parsing of a command line by tyro: commands are dataclasses, and an error is one line."""

import contextlib
import dataclasses
import io
import itertools
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Union

import tyro

from . import close, did_you_mean
from .parts import mistake
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


OWN_OPTIONS = {
    "Run": ("--preset", "--folder", "--continue", "--actors", "--max-lag", "--ray-address", "--multi-worker"),
    "Compile": ("--preset", "--max-mib"),
}


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
    command, message = commands[argv[0]], _message(said.getvalue())
    words = argv[:1]
    if hasattr(command, "config") and dataclasses.is_dataclass(command.config):
        message, part = mistake(command.config, OWN_OPTIONS[command.__name__], argv, message) or (message, None)
        words = [*argv[:2], *[part] * (part is not None)]
    raise UsageError(f"{message}; see `{' '.join([prog, *words])} --help`")


def _message(said):
    """Take the message from what tyro prints.

    It draws a box: a title, a rule where the terminal is not UTF-8, the message, a rule, advice.
    """
    lines = [line.strip(" │╭╮╰╯─") for line in said.splitlines()[1:]]
    lines = itertools.dropwhile(lambda line: not line.strip("-"), lines)
    message = " ".join(itertools.takewhile(lambda line: line.strip("-"), lines))
    message = message.removeprefix("Error parsing ").removeprefix("Config: ").removeprefix(": ").rstrip(".")
    return NESTED.sub("", message)
