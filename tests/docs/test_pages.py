"""Pages and docstrings as text: links and anchors have targets, README.md is short, and the language is the field's."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SITE = sorted([README, *ROOT.glob("docs/**/*.md")])
CODE_FOLDERS = ("tfmem", "reproductions", "benchmarks", "examples", "tests")
LINKED = [*SITE, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("reproductions/**/*.md"))]

FENCE = re.compile(r"^(```+).*?^\1 *$", re.MULTILINE | re.DOTALL)
CODE = re.compile(rf"{FENCE.pattern}|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(\s*([^)\s]+)[^)]*\)|^\[[^\]]+\]:\s*(\S+)|\b(?:src|href)=\"([^\"]+)\"", re.MULTILINE)
HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)? *$", re.MULTILINE)
STOP_LIST = re.compile(
    r"\b(?:told|tell|tells|teller|telling)\b|\bgoes\s+on\b|\bis\s+to\s+be\b|\bbeside\s+it\b|\bour\s+choice\b|\bWho\s",
    re.IGNORECASE,
)

# In docstrings and comments. Names in code are not read: some are in checkpoints.
CODE_STOP_LIST = re.compile(rf"{STOP_LIST.pattern}|\bgo\s+on\b|\bare\s+to\s+be\b|\bours?\b|\bwho\b", re.IGNORECASE)
FIRST_WORDS = re.compile(r"(?:What|Where|Who|Whether|How|Which|When|Why)\b")  # that a docstring must not begin with


def page_id(page):
    return page.relative_to(ROOT).as_posix()


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def blank(pattern, text):
    """The text with spaces in the place of what matches, so that positions and lines stay."""
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    made = []
    for heading in HEADING.findall(blank(FENCE, text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
        made.append(slug if slug not in made else f"{slug}-{made.count(slug)}")
    return {*made, *re.findall(r"\b(?:id|name)=\"([^\"]+)\"", text)}


def broken_links(page, root=ROOT):
    """`file:line: link` of every relative link of a page that points to nothing."""
    text = page.read_text(encoding="utf-8")
    broken = []
    for match in LINK.finditer(blank(CODE, text)):
        link = next(filter(None, match.groups()))
        if re.match(r"[a-z][a-z+.-]*:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        found = target.exists() and target.is_relative_to(root)
        if found and anchor:
            found = target.suffix == ".md" and anchor in anchors(target.read_text(encoding="utf-8"))
        if not found:
            broken.append(f"{page.relative_to(root)}:{line_of(text, match.start())}: {link}")
    return broken


def stopped_words(page, root=ROOT):
    """`file:line: words` of every expression of the stop-list in a page."""
    text = page.read_text(encoding="utf-8")
    hits = [match for match in STOP_LIST.finditer(text) if not match[0].startswith("who")]
    return [f"{page.relative_to(root)}:{line_of(text, hit.start())}: {hit[0].strip()}" for hit in hits]


def docstrings_and_comments(text):
    """`(line, text, is a docstring)` of each docstring, strings below fields included, and of each comment."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, ast.get_source_segment(text, node), True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string, False


def stopped_words_of_code(file, root=ROOT):
    """`file:line: words` of every expression of the stop-list in a Python file, and of wrong first words."""
    found = []
    for line, text, is_docstring in docstrings_and_comments(file.read_text(encoding="utf-8")):
        hits = [*CODE_STOP_LIST.finditer(text), *([FIRST_WORDS.match(text.lstrip('r"'))] if is_docstring else [])]
        found += [(line + text.count("\n", 0, hit.start()), hit[0]) for hit in hits if hit]
    return [f"{file.relative_to(root)}:{line}: {' '.join(words.split())}" for line, words in sorted(found)]


@pytest.mark.parametrize("page", LINKED, ids=page_id)
def test_relative_links_and_anchors_exist(page):
    assert broken_links(page) == []


@pytest.mark.parametrize("page", [page for page in LINKED if page.name != "CHANGELOG.md"], ids=page_id)
def test_language_stop_list(page):
    assert stopped_words(page) == []


@pytest.mark.parametrize("folder", CODE_FOLDERS)
def test_language_stop_list_of_docstrings_and_comments(folder):
    files = [file for file in sorted((ROOT / folder).rglob("*.py")) if file != Path(__file__)]
    assert [words for file in files for words in stopped_words_of_code(file)] == []


def test_site_has_every_page_of_docs():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")} - {"README.md"}
    assert [page for page in sorted(pages) if not re.search(rf"[ :]{re.escape(page)}$", navigation, re.MULTILINE)] == []


def test_readme_has_at_most_120_lines():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_broken_links_are_found_with_file_and_line(tmp_path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# One `two`, three\n\n```sh\n# not a heading\n```\n\n# Again\n\n# Again\n", encoding="utf-8")
    right = "[a](other.md) [b](other.md#one-two-three) [c](other.md#again-1) [d](#top) [e](https://example.org/x#y)"
    page.write_text(
        f"# Top\n{right}\n`[code](none)`\n[x](none.md)\n[y](other.md#not-a-heading)\n![z](none.png)\n[r]: gone.md\n",
        encoding="utf-8",
    )
    assert broken_links(page, tmp_path) == [
        "page.md:4: none.md",
        "page.md:5: other.md#not-a-heading",
        "page.md:6: none.png",
        "page.md:7: gone.md",
    ]


def test_stop_list_finds_each_expression_with_file_and_line(tmp_path):
    page = tmp_path / "page.md"
    lines = ["told", "Tells", "a teller", "tell\nme", "It goes on.", "x is to be", "is to\nbe seen", "beside it"]
    lines += ["our choice", "Our\nchoice", "Who walks stays.", "a researcher who fortells a retold foretelling"]
    page.write_text("\n".join(lines), encoding="utf-8")
    found = [int(hit.split(":")[1]) for hit in stopped_words(page, tmp_path)]
    assert found == [1, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14]


def test_stop_list_of_code_reads_docstrings_and_comments_alone(tmp_path):
    file = tmp_path / "code.py"
    file.write_text(
        '''"""What it is."""

told = teller = "who is told"  # the one who reads


class Field:
    """Noun phrase.

    It goes
    on.
    """

    size: int = 1
    """Whether it is."""
    rate: int = 2
    """Rate. Not specified; ours."""
''',
        encoding="utf-8",
    )
    found = stopped_words_of_code(file, tmp_path)
    assert found == [
        "code.py:1: What",
        "code.py:3: who",
        "code.py:9: goes on",
        "code.py:14: Whether",
        "code.py:16: ours",
    ]
