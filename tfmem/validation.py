"""Checks of arguments. Every error has one form: `name: VALUE, must be WHAT`."""

import math
import numbers
from collections.abc import Iterable

LARGEST = 2**31 - 1  # numbers of an array: TensorFlow computes sizes in int32


def is_integer(value, least=1):
    """True for an integer, NumPy's included, of at least `least`; a bool is none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= least


def is_number(value):
    """True for a real number, NumPy's included; a bool is none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def positive_int(name, value):
    """Return `value` as an int.

    Raises:
      ValueError: it is not an integer of at least 1.
    """
    if not is_integer(value):
        raise ValueError(f"{name}: {value!r}, must be a positive integer")
    return int(value)


def positive_ints(name, values):
    """Return `values` as a tuple of ints, which may be empty.

    Raises:
      ValueError: it is not a sequence of integers of at least 1.
    """
    if not isinstance(values, Iterable) or not all(map(is_integer, values := tuple(values))):
        raise ValueError(f"{name}: {values!r}, must be a sequence of positive integers")
    return tuple(map(int, values))


def check_positive(**arguments):
    """Raise a ValueError unless each argument is a positive integer."""
    for name, value in arguments.items():
        positive_int(name, value)


def check_sizes(**arguments):
    """Raise a ValueError unless each argument is a non-empty sequence of positive integers."""
    for name, value in arguments.items():
        if not positive_ints(name, value):
            raise ValueError(f"{name}: {value!r}, must be positive integers")


def check_above_zero(**arguments):
    """Raise a ValueError unless each argument is a number greater than 0."""
    for name, value in arguments.items():
        if not is_number(value) or not value > 0:
            raise ValueError(f"{name}: {value!r}, must be greater than 0")


def check_choice(name, value, choices):
    """Raise a ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}: {value!r}, must be one of {', '.join(map(repr, choices))}")


def check_range(name, value, low, high=float("inf")):
    """Raise a ValueError unless `value` is a number with `low <= value <= high`."""
    bounds = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
    if not is_number(value):
        raise ValueError(f"{name}: {value!r}, must be a number, {bounds}")
    if not low <= value <= high:
        raise ValueError(f"{name}: {value!r}, must be {bounds}")


def check_bool(name, value):
    """Raise a ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: {value!r}, must be True or False")


def check_integer(name, value, low, high=float("inf")):
    """Raise a ValueError unless `value` is an integer, NumPy's included, with `low <= value <= high`."""
    if not is_integer(value, float("-inf")):
        raise ValueError(f"{name}: {value!r}, must be an integer")
    check_range(name, int(value), low, high)


def check_array(*shape, **sizes):
    """Raise a ValueError unless an array can be made, before anything is.

    Args:
      *shape: of the largest array that `sizes` ask for.
      **sizes: the arguments that it follows from, for the message.
    """
    count = math.prod(map(int, shape))
    if count > LARGEST:
        given = ", ".join(f"{name}: {value}" for name, value in sizes.items())
        raise ValueError(f"{given}, must make arrays of at most {LARGEST} numbers; the largest would have {count}")
