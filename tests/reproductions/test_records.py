"""Results as data: what is recorded, the tables of the pages made from it, and that the pages have them."""

import json
import shutil

import numpy as np
import pytest

from reproductions import records
from reproductions.__main__ import main
from reproductions.runs import UsageError
from tests.reproductions import toy
from tests.reproductions.test_cli import MODULES
from tfmem.training import train
from tfmem.training.run_folder import RunFolder, RunFolderError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "runs"
    for seed, width in ((0, 4), (1, 4), (0, 3)):
        config = toy.Config(num_updates=200, updates_per_call=4, log_every=2, eval_every=40, seed=seed, width=width)
        train(toy.Experiment(config), path / f"{width}-{seed}", "smoke", toy.PAPER)
    return path


@pytest.fixture(scope="module")
def root(runs, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    records.record([runs], MODULES, root)
    return root


def test_a_record_has_what_a_run_has(runs, root):
    files = sorted((root / "toy/results/regression").iterdir())
    assert len(files) == 3
    contents = [json.loads(file.read_text()) for file in files]
    (content,) = [c for c in contents if "width" not in c["setting"] and c["seeds"] == [0]]
    result = RunFolder(runs / "4-0").result()
    assert content["experiment"] == "toy/regression"
    assert content["setting"].startswith("smoke, num_updates=200")
    assert content["ours"] == result["ours"]
    assert content["paper"]["error"] == {"value": 0.25, "source": "Table 9"}
    for name in ("updates", "wall_time_seconds", "cpu_time_seconds", "hardware", "versions", "git_revision"):
        assert content[name] == result[name]
    loss = np.array(content["curves"]["train/loss"])
    assert loss.shape == (records.POINTS, 3)
    assert loss[-1, 0] == 200
    rows = RunFolder(runs / "4-0").metrics()
    assert loss[:, 2].mean() == pytest.approx(np.mean([row["train/loss"] for row in rows]), rel=0.05)
    assert "train/learning_rate" not in content["curves"]


def test_tables_and_curves_are_made_from_records(root, runs):
    page = root / "page.md"
    page.write_text(
        "# Page\n\n<!-- results toy/regression: error unknown -->\nold\n<!-- end -->\n\nText.\n\n"
        "<!-- curves toy/regression: train/loss against seconds -->\n![Loss](images/loss.png)\n<!-- end -->\n"
    )
    assert records.write_results([page], root) == [page]
    text = page.read_text()
    assert "old" not in text
    assert text.endswith("![Loss](images/loss.png)\n<!-- end -->\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == "| setting | `error` | `unknown` | seeds | updates | minutes |"
    assert rows[2].startswith("| paper | 0.25 (Table 9) | - (not published) |")
    by_width = {"width=3" in row: row for row in rows[3:]}
    errors = [RunFolder(runs / name).result()["ours"]["error"] for name in ("4-0", "4-1")]
    assert f"| {np.mean(errors):.4g} ±" in by_width[False]
    assert "| 0, 1 | 200 |" in by_width[False]
    assert "| 0 | 200 |" in by_width[True]
    assert (root / "images/loss.png").exists()
    assert records.write_results([page], root) == []


def test_what_a_place_must_have(root, tmp_path):
    page = tmp_path / "page.md"
    for block, message in (
        ("<!-- results toy/nothing: error -->\n<!-- end -->", "results: 'toy/nothing', must be an experiment"),
        ("<!-- results toy/regression@paper*: error -->\n<!-- end -->", "must be an experiment with recorded results"),
        ("<!-- results toy/regression: eror -->\n<!-- end -->", "results: 'eror', must be one of error, unknown"),
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
            records.write_results([page], root)
        assert page.read_text() == block


def test_code_blocks_and_line_ends_stay(root):
    fenced = "```\n<!-- results EXPERIMENT: METRIC -->\n<!-- end -->\n```\n"
    assert records.filled(fenced, root) == fenced
    text = records.filled("<!-- results toy/regression: error -->\r\n<!-- end -->\r\n", root)
    assert text.count("\r\n") == text.count("\n") > 5


def test_names_of_files_are_those_of_one_setting():
    names = [records.file_name(text) for text in ("demo", "demo, x=[3]", "demo, x=[-3]", 'demo, y="a|b"', "x" * 300)]
    assert names[0] == "demo"
    assert len(set(names)) == 5
    assert max(map(len, names)) <= 90


def test_nothing_to_record(tmp_path):
    with pytest.raises(RunFolderError, match="no finished run"):
        records.record([tmp_path], MODULES, tmp_path)


def test_record_from_the_command_line(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(records.record, "__defaults__", (tmp_path,))
    shutil.copytree(runs / "4-0", tmp_path / "runs")
    assert main(["report", str(tmp_path / "runs"), "--record"], MODULES) == 0
    (file,) = (tmp_path / "toy/results/regression").iterdir()
    assert f"written: {file}" in capsys.readouterr().out


def test_pages_have_the_recorded_results():
    for page in records.default_pages():
        text = page.read_bytes().decode("utf-8")
        assert records.filled(text) == text, f"{page}: run `reproduce results`"
        for kind, experiment, wanted, body in records.places(text):
            if kind == "curves":
                assert any(
                    wanted.partition(" ")[0] in c["curves"] for s in records.records(experiment).values() for c in s
                )
                assert (page.parent / records.PICTURE.search(body).group(1)).exists()
