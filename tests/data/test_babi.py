"""bAbI's files: the form of a story."""

import pytest

from tfmem.data.babi import Line, Story, parse

TEXT = """1 Mary moved to the bathroom.
2 John got the milk, and 2 apples.
3 What is John carrying? \tmilk,apples\t2
1 Daniel is a swan.
2 What is Daniel?\tSwan\t1
"""


def test_parse():
    first, second = parse(TEXT, 8)
    assert (len(first.lines), len(second.lines)) == (3, 2)
    assert first.lines[2] == Line("What is John carrying?", ("milk", "apples"), (2,))
    assert first.lines[1] == Line("John got the milk, and 2 apples.")
    assert second == Story(8, (Line("Daniel is a swan."), Line("What is Daniel?", ("swan",), (1,))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 Mary left.\n", "line 1: '2 Mary left.', must be '1 <text>'"),
        ("1 Mary left.\n3 John left.\n", "line 2"),
        ("1 Mary left.\nJohn left.\n", "line 2: 'John left.'"),
        ("1 Where?\tkitchen\n", "line 1"),
        ("1 Where?\t\t1\n", "line 1"),
        ("1 Where?\tkitchen\tx\n", "must have numbers as supporting lines"),
        ("1 Where?\tkitchen\t²\n", "must have numbers as supporting lines"),
        ("1 How many?\t2\t1\n", "line 1: .* must have an answer with a word of letters"),
        ("1 What?\t,\t1\n", "must have an answer with a word of letters"),
    ],
)
def test_lines_of_another_form(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text, 1)


def test_a_byte_order_mark_is_no_part_of_a_story():
    assert parse("\ufeff" + TEXT, 8) == parse(TEXT, 8)
