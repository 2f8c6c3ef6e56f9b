"""Places of the pages: the tables and curves made from records, and that the pages have them."""

import json

import numpy as np
import pytest

from reproductions import pages
from reproductions.records import records
from reproductions.runs import UsageError
from reproductions.verdicts import claims_table
from tfmem.training.run_folder import RunFolder


def test_tables_and_curves_are_made_from_records(toy_root, toy_runs):
    page = toy_root / "page.md"
    page.write_text(
        "# Page\n\n<!-- results toy/regression: error unknown -->\nold\n<!-- end -->\n\nText.\n\n"
        "<!-- curves toy/regression: train/loss against seconds -->\n![Loss](images/loss.png)\n<!-- end -->\n"
    )
    assert pages.write_results([page], toy_root) == [page]
    text = page.read_text()
    assert "old" not in text
    assert text.endswith("![Loss](images/loss.png)\n<!-- end -->\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == "| setting | `error` | `unknown` | seeds | updates | minutes |"
    assert rows[2].startswith("| paper | 0.25 (Table 9) | - (not published) |")
    by_width = {"width=3" in row: row for row in rows[3:]}
    errors = [RunFolder(toy_runs / name).result()["ours"]["error"] for name in ("4-0", "4-1")]
    assert f"| {np.mean(errors):.4g} ±" in by_width[False]
    assert "| 0, 1 | 200 |" in by_width[False]
    assert "| 0 | 200 |" in by_width[True]
    assert (toy_root / "images/loss.png").exists()
    assert pages.write_results([page], toy_root) == []


def test_a_grid_has_a_cell_for_each_setting(toy_root, toy_runs):
    place = "<!-- grid toy/regression: error by log_every width -->"
    text = pages.filled(f"{place}\n<!-- end -->\n", toy_root)
    head, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert head == "| log every | width: 3 | width: 4 |"
    errors = [RunFolder(toy_runs / name).result()["ours"]["error"] for name in ("3-0", "4-0", "4-1")]
    assert len(rows) == 1
    assert rows[0].split(" | ")[1] == f"{errors[0]:.4g}"
    assert rows[0].split(" | ")[2].startswith(f"{np.mean(errors[1:]):.4g} ±")


def test_a_pattern_can_leave_out_changed_presets(toy_root, tmp_path):
    changed = records("toy/regression@smoke*", toy_root)
    assert len(changed) == 2
    assert records("toy/regression@=smoke*", toy_root) == {}
    content = {**next(iter(changed.values()))[0], "setting": "smoke"}
    folder = tmp_path / "toy/results/regression"
    folder.mkdir(parents=True)
    (folder / "smoke-seed0.json").write_text(json.dumps(content))
    assert list(records("toy/regression@=smoke*", tmp_path)) == ["smoke"]


def test_what_a_place_must_have(toy_root, tmp_path):
    page = tmp_path / "page.md"
    for block, message in (
        ("<!-- results toy/nothing: error -->\n<!-- end -->", "results: 'toy/nothing', must be an experiment"),
        ("<!-- results toy/regression@paper*: error -->\n<!-- end -->", "must be an experiment, or one @ a pattern"),
        ("<!-- results multigrid/mapping@dmo*: error -->\n<!-- end -->", "must be an experiment, or one @ a pattern"),
        ("<!-- claims -->\n| claim |", "place: '<!-- claims -->', must be"),
        ("<!-- results toy/regression: eror -->\n<!-- end -->", "results: 'eror', must be one of error, unknown"),
        ("<!-- grid toy/regression: error -->\n<!-- end -->", "grid: 'error', must be METRIC by FIELD"),
        ("<!-- grid toy/regression: error by depth -->\n<!-- end -->", "grid: 'depth', must be a field"),
        ("<!-- grid toy/regression: error by seed -->\n<!-- end -->", "must not have the seed of another setting"),
        ("<!-- grid toy/regression: eror by width -->\n<!-- end -->", "grid: 'eror', must be a score of"),
        ("<!-- results toy/regression: error -->\ntext", "place: '<!-- results toy/regression: error -->', must be"),
        ("<!-- results toy/regression error -->\n<!-- end -->", "place: '<!-- results toy/regression error -->', must"),
        (
            "<!-- results toy/regression: error -->\ntext\n<!-- results toy/regression: error -->\n<!-- end -->",
            "place: '<!-- results toy/regression: error -->', must be",
        ),
        ("<!-- curves toy/regression: train/loss against days -->\n![](a.png)\n<!-- end -->", "must be COLUMN against"),
        ("<!-- curves toy/regression: train/loss against updates -->\n<!-- end -->", "must be COLUMN against"),
        (
            "<!-- curves toy/regression: eval/x against updates -->\n![](a.png)\n<!-- end -->",
            "must be a recorded column",
        ),
    ):
        page.write_text(block)
        with pytest.raises(UsageError, match=message.replace("(", r"\(")):
            pages.write_results([page], toy_root)
        assert page.read_text() == block


def test_a_place_may_wait_for_its_first_record(toy_root):
    place = "<!-- results multigrid/mapping@demo_*: f_score -->"
    text = pages.filled(f"{place}\n<!-- end -->\n", toy_root)
    assert text == f"{place}\n\nNo run of multigrid/mapping, preset `demo_*`, is recorded yet.\n\n<!-- end -->\n"
    assert pages.filled(text, toy_root) == text


def test_claims_are_filled(toy_root):
    text = pages.filled("Before.\n\n<!-- claims -->\nold\n<!-- end -->\n\nAfter.\n", toy_root)
    table = "\n".join(claims_table(toy_root))
    assert text == f"Before.\n\n<!-- claims -->\n\n{table}\n\n<!-- end -->\n\nAfter.\n"


def test_code_blocks_and_line_ends_stay(toy_root):
    fenced = "```\n<!-- results EXPERIMENT: METRIC -->\n<!-- end -->\n```\n"
    assert pages.filled(fenced, toy_root) == fenced
    text = pages.filled("<!-- results toy/regression: error -->\r\n<!-- end -->\r\n", toy_root)
    assert text.count("\r\n") == text.count("\n") > 5


def test_pages_have_the_recorded_results():
    for page in pages.default_pages():
        text = page.read_bytes().decode("utf-8")
        assert pages.filled(text) == text, f"{page}: run `reproduce results`"
        for kind, experiment, wanted, body in pages.places(text):
            if kind == "curves":
                assert any(wanted.partition(" ")[0] in c["curves"] for s in records(experiment).values() for c in s)
                assert (page.parent / pages.PICTURE.search(body).group(1)).exists()
