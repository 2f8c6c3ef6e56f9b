"""Parts of a configuration that a word of the command line selects, such as `core:dnc`, and errors in their options.

Options of the run come before the first part; those of a part, such as `--core.memory-size`, come after it.
"""

import dataclasses
import re
import typing

from . import close, did_you_mean


class Part(typing.NamedTuple):
    """Part that `core:dnc` selects: for the field "core" the class "dnc", with its options."""

    field: str
    name: str
    held: type  # NoneType of "core:none"

    @property
    def options(self):
        fields = () if self.held is type(None) else dataclasses.fields(self.held)
        return [f"--{self.field}.{field.name.replace('_', '-')}" for field in fields]


def find_parts(config):
    """Parts that a configuration may have, by their words: `{"core:dnc": Part("core", "dnc", DNCConfig), ...}`."""
    found = []
    for field, hint in typing.get_type_hints(type(config), include_extras=True).items():
        members = typing.get_args(hint)
        named = [(member, mark) for member in members for mark in getattr(member, "__metadata__", ())]
        chosen = [Part(field, mark.name, typing.get_args(m)[0]) for m, mark in named if hasattr(mark, "name")]
        found += [*chosen, *[Part(field, "none", type(None))] * (chosen != [] and type(None) in members)]
    return {f"{part.field}:{part.name}": part for part in found}


def preset_parts(config):
    """The parts that a configuration has: `{"core": "core:rmc"}`."""
    parts = find_parts(config).items()
    return {part.field: word for word, part in parts if type(getattr(config, part.field)) is part.held}


def missing_parts(config, given, options):
    """Names such as "core:rmc" of a configuration's parts that have options, but that no given part replaces."""
    fields = dict.fromkeys(option.partition(".")[0] for option in options if "." in option)
    preset, replaced = preset_parts(config), {word.partition(":")[0] for word in given}
    return [preset[field] for field in fields if field in preset and field not in replaced]


def mistake(config, own, words, refused):
    """Find the first mistake of a command line that has a better message than the parser's.

    Args:
      config: configuration of the preset.
      own: options of the command that are not the configuration's.
      words: the command line.
      refused: the parser's message; it names every option that is wrong.

    Returns:
      `(message, word)`: the word of the part whose help has the answer, or None. None if there is no such mistake.
    """
    parts = find_parts(config)
    fields = {part.field for part in parts.values()}
    given = [word for word in words if ":" in word and word.partition(":")[0] in fields]
    for word in given:
        field, _, name = word.partition(":")
        same = [other for other in given if other.startswith(f"{field}:")]
        if word not in parts:
            return _unknown_part(field, name, [part for part in parts.values() if part.field == field]), None
        if len(same) > 1:
            return f"{field}: given {len(same)} times ({' '.join(same)}), must be given once", None
    run, preset, here = [*own, *_options(config)], preset_parts(config), None
    for word in words:
        option = word.partition("=")[0]
        if word in given:
            here = word
        elif option.startswith("--") and option in refused:
            found = _wrong_option(option.replace("_", "-"), here, given, run, parts, preset)
            if found:
                return found
    return None


def _unknown_part(field, name, parts):
    # "core:RelationalMemory" is meant as "core:rmc".
    names = {part.held.__name__.removesuffix("Config"): part.name for part in parts}
    names |= {part.name: part.name for part in parts}
    near = dict.fromkeys(names[n] for n in close(name, names))
    return f"{field}: {name!r}, must be one of {', '.join(part.name for part in parts)}{did_you_mean(near)}"


def _options(config, prefix="--"):
    """Options of a configuration without those of its parts; options of a nested one begin with its field's name."""
    found, apart = [], preset_parts(config)
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name.replace("_", "-")
        if field.name not in apart:
            found += _options(value, f"{name}.") if dataclasses.is_dataclass(value) else [name]
    return found


def _wrong_option(option, here, given, run, parts, preset):
    """`mistake` in an option after the part `here`, or before all parts."""
    if option in run:
        return (f"{option}: after {here}, must be before the first part, {given[0]}", None) if here else None
    field = re.split("[.:]", option[2:])[0]
    if "." not in option and field in preset:
        names = ", ".join(part.name for part in parts.values() if part.field == field)
        return f"{option}: begins with dashes, must be {field}:NAME, where NAME is one of {names}", None
    for word in given:
        names = parts[word].options
        if parts[word].field != field:
            continue
        if option in names:
            place = f"after {here}" if here else "before the first part"
            return None if word == here else (f"{option}: {place}, must follow {word}", word)
        allowed = f"must be one of {', '.join(_near(option, names) or names)}" if names else "must not be given with it"
        return f"{option}: no hyper-parameter of {word}, {allowed}", word
    end = option if "." in option else f".{option[2:]}"
    for words in () if any(name.endswith(end) for name in run) else (given, preset.values(), parts):
        owners = [(word, name) for word in words for name in parts[word].options if name.endswith(end)]
        if owners:
            name = owners[0][1]
            after = " or ".join(word for word, other in owners if other == name)
            if name == option:
                return f"{option}: without {field}:NAME before it, must follow {after}", owners[0][0]
            return f"{option}: no such hyper-parameter, must be {name} after {after}", owners[0][0]
    near = _near(option, [*run, *dict.fromkeys(name for part in parts.values() for name in part.options)])
    return f"{option}: no such hyper-parameter, must be one of {', '.join(near or run)}", None


def _near(option, names):
    """Names that an option may be a typing error of, or, if there are none, whose last word it may be."""
    last = {name.rpartition(".")[2].lstrip("-"): name for name in names}
    return close(option, names) or [last[word] for word in close(option[2:], last)]
