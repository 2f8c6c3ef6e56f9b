"""bAbI v1.2 (Weston et al. 2015) as it is published: the archive, its versions, the form of a story.

A text is cut into words by one rule (`words`): lower-case runs of letters of any script, "." and "?". Numbers and other
punctuation are dropped.
"""

import re
import unicodedata
from typing import NamedTuple

from tfmem.data.files import CorruptDataError, MissingDataError, members_by_path

URL = "http://www.thespermwhale.com/jaseweston/babi/tasks_1-20_v1-2.tar.gz"
VERSIONS = ("en", "en-10k", "en-valid", "en-valid-10k", "hn", "hn-10k", "shuffled", "shuffled-10k")
_MEMBER = re.compile(r"tasks_1-20_v1-2/([^/]+)/qa(\d+)_(?:.*_)?(train|valid|test)\.txt")


class Line(NamedTuple):
    """A statement, or a question where `answer` is not empty (each of its words; lists have several).

    `supporting` are the numbers, from 1, of the story's lines that a question's answer follows from.
    """

    text: str
    answer: tuple[str, ...] = ()
    supporting: tuple[int, ...] = ()


class Story(NamedTuple):
    """A story of a task, 1 to 20."""

    task: int
    lines: tuple[Line, ...]


def splits(version):
    """The splits of a version; only one with "valid" in its name has that split."""
    return ("train", "valid", "test") if "valid" in version else ("train", "test")


def read_babi(tar, version, split, tasks=range(1, 21)):
    """The stories of some tasks in an open archive.

    Raises:
        MissingDataError: files are missing in the archive; the message names all.
        CorruptDataError: a file is not of bAbI's form.
    """
    members = {
        int(match[2]): name
        for path, name in members_by_path(tar.getnames()).items()
        if (match := _MEMBER.fullmatch(path)) and (match[1], match[3]) == (version, split)
    }
    missing = [task for task in tasks if task not in members]
    if missing:
        names = ", ".join(f"{version}/qa{task}_*{split}.txt" for task in missing)
        raise MissingDataError(
            f"{names} is not in {tar.name}. The whole archive is {URL}; without it, leave out the tasks "
            f"{', '.join(map(str, missing))} or take another version than {version}."
        )
    stories = []
    for task in tasks:
        try:
            stories += parse(tar.extractfile(members[task]).read().decode("utf-8"), task)
        except ValueError as error:  # UnicodeDecodeError is one
            raise CorruptDataError(f"{members[task]} in {tar.name}: {error}") from None
    return stories


def parse(text, task):
    """The stories of a bAbI file.

    Args:
        text: the file's content: "<number> <statement>" or "<number> <question>\\t<answer>\\t<supporting lines>"; a
            story starts at number 1. A byte-order mark is skipped.
        task: 1 to 20.

    Raises:
        ValueError: a line is not of that form; the message has its number.
    """
    stories, lines = [], []
    for place, row in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        number, _, rest = row.strip().partition(" ")
        fields = [field.strip() for field in rest.split("\t")]
        expected = "1" if not lines else str(len(lines) + 1)
        if number == "1" and lines:
            stories.append(Story(task, tuple(lines)))
            lines, expected = [], "1"
        answer, supporting = fields[1] if len(fields) == 3 else "", fields[2] if len(fields) == 3 else ""
        if number != expected or not fields[0] or len(fields) not in (1, 3) or (len(fields) == 3 and not answer):
            raise ValueError(f"line {place}: {row!r}, must be '{expected} <text>', a tab, an answer and its support")
        if not all(part.isdecimal() for part in supporting.split()):
            raise ValueError(f"line {place}: {row!r}, must have numbers as supporting lines")
        if answer and not words(answer):
            raise ValueError(f"line {place}: {row!r}, must have an answer with a word of letters")
        lines.append(Line(fields[0], tuple(words(answer)), tuple(int(part) for part in supporting.split())))
    if lines:
        stories.append(Story(task, tuple(lines)))
    return stories


def words(text):
    """The words of a text or an answer: runs of letters in lower case and composed form (NFC), and each "." and "?"."""
    return re.findall(r"[^\W\d_]+|[.?]", unicodedata.normalize("NFC", text.lower()))
