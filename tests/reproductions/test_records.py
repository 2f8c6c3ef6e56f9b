"""Results as data: what is recorded, and under which names."""

import json
import shutil

import numpy as np
import pytest

from reproductions import records
from reproductions.__main__ import main
from tests.reproductions.test_cli import MODULES
from tfmem.training.run_folder import RunFolder, RunFolderError


def test_a_record_has_what_a_run_has(toy_runs, toy_root):
    files = sorted((toy_root / "toy/results/regression").iterdir())
    assert len(files) == 3
    contents = [json.loads(file.read_text()) for file in files]
    (content,) = [c for c in contents if "width" not in c["setting"] and c["seeds"] == [0]]
    result = RunFolder(toy_runs / "4-0").result()
    assert content["experiment"] == "toy/regression"
    assert content["setting"].startswith("smoke, num_updates=200")
    assert content["ours"] == result["ours"]
    assert content["paper"]["error"] == {"value": 0.25, "source": "Table 9"}
    for name in ("updates", "wall_time_seconds", "cpu_time_seconds", "hardware", "versions", "git_revision"):
        assert content[name] == result[name]
    loss = np.array(content["curves"]["train/loss"])
    assert loss.shape == (records.POINTS, 3)
    assert loss[-1, 0] == 200
    rows = RunFolder(toy_runs / "4-0").metrics()
    assert loss[:, 2].mean() == pytest.approx(np.mean([row["train/loss"] for row in rows]), rel=0.05)
    assert "train/learning_rate" not in content["curves"]


@pytest.mark.parametrize(("precision", "change"), [("float32", ""), ("tf32", ', precision="tf32"')])
def test_a_bundle_in_float32_is_a_run_of_its_setting(toy_runs, tmp_path, precision, change):
    run = shutil.copytree(toy_runs / "4-0", tmp_path / "run")
    about = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**about, "bundle": {"manifest": "0", "precision": precision}}))
    (file,) = records.record([run], {"toy/regression": "tests.reproductions.toy"}, tmp_path / "root")
    (plain,) = records.record([toy_runs / "4-0"], {"toy/regression": "tests.reproductions.toy"}, tmp_path / "plain")
    settings = [json.loads(path.read_text())["setting"] for path in (file, plain)]
    assert settings[0] == settings[1] + change


def test_names_of_files_are_those_of_one_setting():
    names = [records.file_name(text) for text in ("demo", "demo, x=[3]", "demo, x=[-3]", 'demo, y="a|b"', "x" * 300)]
    assert names[0] == "demo"
    assert len(set(names)) == 5
    assert max(map(len, names)) <= 90


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "is damaged: Expecting"),
        ("[]", r"is damaged: it holds \[\], must hold an object"),
        ({"setting": None}, "is damaged: setting: None is of another kind"),
        ({"ours": {"error": None}}, "is damaged: error: None, must be a number"),
        ({"seeds": []}, r"is damaged: seeds: \[\], must be integers"),
    ],
)
def test_damaged_records(toy_root, tmp_path, change, message):
    shutil.copytree(toy_root, tmp_path, dirs_exist_ok=True)
    file = next((tmp_path / "toy/results/regression").iterdir())
    text = change if isinstance(change, str) else json.dumps({**json.loads(file.read_text()), **change})
    file.write_text(text)
    with pytest.raises(RunFolderError, match=f"{file.name} {message}"):
        records.records("toy/regression", tmp_path)


def test_nothing_to_record(tmp_path):
    with pytest.raises(RunFolderError, match="no finished run"):
        records.record([tmp_path], MODULES, tmp_path)


def test_record_from_the_command_line(toy_runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(records.record, "__defaults__", (tmp_path,))
    shutil.copytree(toy_runs / "4-0", tmp_path / "runs")
    assert main(["report", str(tmp_path / "runs"), "--record"], MODULES) == 0
    (file,) = (tmp_path / "toy/results/regression").iterdir()
    assert f"written: {file}" in capsys.readouterr().out
    for arguments in ([], [str(tmp_path / "runs"), "--out", str(tmp_path / "out")]):
        assert main(["report", *arguments, "--record"], MODULES) == 2
        assert "record: True, must come with the RUNS to record, and without --out" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["report", "runs", "--record"], MODULES) == 0


def test_an_installed_package_records_nothing(toy_runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(records, "ROOT", tmp_path / "tfmem_reproductions")
    assert main(["report", str(toy_runs), "--record"], MODULES) == 2
    assert "must be in a checkout of the repository" in capsys.readouterr().err
