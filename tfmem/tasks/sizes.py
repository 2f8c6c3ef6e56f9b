"""How large a task's arrays may be, so that sizes that cannot work are refused before anything is made."""

import math

LARGEST = 2**31 - 1  # numbers of an array: TensorFlow computes sizes in int32


def check_array(*shape, **sizes):
    """Checks that an array can be made.

    Args:
        *shape: of the largest array that `sizes` ask for.
        **sizes: the arguments that it follows from.

    Raises:
        ValueError: it would have more than `LARGEST` numbers; the message names the arguments.
    """
    numbers = math.prod(map(int, shape))
    if numbers > LARGEST:
        given = ", ".join(f"{name}: {value}" for name, value in sizes.items())
        raise ValueError(f"{given}, must make arrays of at most {LARGEST} numbers; the largest would have {numbers}")
