"""Value of a program of learning to execute, from its text alone: a recursive-descent parser."""

import re

OPERATORS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def evaluate(program):
    """The integer value of a program's text, before any modulus."""
    value, rest = _expression(re.findall(r"\d+|if|else|for|x\+=|x=|.", program))
    assert rest == [], f"{program!r}: {rest} is left over"
    return value


def _expression(tokens):
    if tokens[0] == "x=":
        start, rest = _operand(tokens[1:])
        assert rest[:2] == ["for", "["]
        assert rest[3:5] == ["]", "x+="]
        step, rest_of_it = _operand(rest[5:])
        value = start
        for _ in range(int(rest[2])):
            value += step
        return value, rest_of_it
    first, rest = _operand(tokens)
    if rest and rest[0] in OPERATORS:
        second, rest_of_it = _operand(rest[1:])
        return OPERATORS[rest[0]](first, second), rest_of_it
    if rest and rest[0] == "if":
        left, rest = _operand(rest[1:])
        right, after = _operand(rest[1:])
        holds = {"<": left < right, ">": left > right}[rest[0]]
        assert after[0] == "else"
        other, rest = _operand(after[1:])
        return first if holds else other, rest
    return first, rest


def _operand(tokens):
    if tokens[0] != "(":
        return int(tokens[0]), tokens[1:]
    value, rest = _expression(tokens[1:])
    assert rest[0] == ")"
    return value, rest[1:]
