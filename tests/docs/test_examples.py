"""Examples of the pages: every ```python block of README.md and docs runs, every core and experiment has a page."""

import importlib
import re
from pathlib import Path

import keras
import pytest

from tfmem import cores

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_id(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    """The page's blocks, each compiled so that a traceback shows the page's own lines."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start(1))
        yield compile("\n" * line + found.group(1), str(page), "exec")


def with_examples():
    """Pages with Python blocks; `make long` runs those of the cores and of long guides."""
    later = ("extend.md", "train_an_agent.md", "grid_worlds.md")
    for page in PAGES:
        if BLOCK.search(page.read_text(encoding="utf-8")):
            yield pytest.param(
                page, marks=pytest.mark.long if page.parent.name == "cores" or page.name in later else pytest.mark.slow
            )


@pytest.mark.parametrize("page", list(with_examples()), ids=page_id)
def test_examples_run(page, tmp_path, monkeypatch):
    # Blocks write into an empty folder and find the reference checkpoints as from the repository's root.
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        exec(block, namespace)
    keras.backend.clear_session()


def test_every_core_is_in_the_table_and_has_a_page_with_an_example():
    table = (ROOT / "docs" / "cores" / "README.md").read_text(encoding="utf-8")
    pages = [page.read_text(encoding="utf-8") for page in ROOT.glob("docs/cores/*.md")]
    examples = "".join(block for text in pages for block in BLOCK.findall(text))
    for name in cores.__all__:
        assert f"`{name}`" in table, f"docs/cores/README.md does not name {name}"
        assert any(f"`{name}" in text or f".{name}" in text for text in pages), f"no page describes {name}"
        assert re.search(rf"\b{name}\(", examples) or name == "TVTCore", f"no example uses {name}"


def test_every_experiment_has_a_page_with_its_presets():
    experiments = importlib.import_module("reproductions").experiment_modules()
    for name, module in experiments.items():
        page = (ROOT / "reproductions" / name.split("/")[0] / "README.md").read_text(encoding="utf-8")
        assert f"[{name.split('/')[1]}.py]" in page or name in page, f"the page does not name {name}"
        for preset in importlib.import_module(module).PRESETS:
            assert f"`{preset}`" in page, f"the page of {name} does not name the preset {preset}"
