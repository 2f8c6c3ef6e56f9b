"""Parts such as `core:dnc` of a command line: an unknown one, and options of a part in a wrong place, are one line."""

import pytest

import reproductions
from reproductions.__main__ import main
from reproductions.parts import find_parts, missing_parts, preset_parts

CORES = "lstm, sonnet-lstm, rmc, dnc, entnet, lstm-salu, mnm, plastic, rma, kanerva"


@pytest.mark.parametrize(
    ("words", "message", "helped"),
    [
        (["core:gru"], f"core: 'gru', must be one of {CORES}; see", ""),
        (["task:double-copy", "core:DNC"], f"core: 'DNC', must be one of {CORES}; did you mean dnc?; see", ""),
        (
            ["core:RelationalMemory"],
            f"core: 'RelationalMemory', must be one of {CORES}; did you mean rmc or entnet",
            "",
        ),
        (["core:"], f"core: '', must be one of {CORES}; see", ""),
        (["core:dnc", "core:rmc"], "core: given 2 times (core:dnc core:rmc), must be given once", ""),
        (["--core", "dnc"], f"--core: begins with dashes, must be core:NAME, where NAME is one of {CORES}", ""),
        (["--core:dnc"], f"--core:dnc: begins with dashes, must be core:NAME, where NAME is one of {CORES}", ""),
        (
            ["--core.memory-size", "3", "core:dnc"],
            "--core.memory-size: before the first part, must follow core:dnc",
            "core:dnc",
        ),
        (
            ["core:dnc", "task:babi", "--core.memory_size=3"],
            "--core.memory-size: after task:babi, must follow core:dnc",
            "core:dnc",
        ),
        (
            ["core:dnc", "--num-updates", "3"],
            "--num-updates: after core:dnc, must be before the first part, core:dnc",
            "",
        ),
        (["core:dnc", "--folder=x"], "--folder: after core:dnc, must be before the first part, core:dnc", ""),
        (
            ["--mem-slots", "4"],
            "--mem-slots: no such hyper-parameter, must be --core.mem-slots after core:rmc",
            "core:rmc",
        ),
        (["--units", "4"], "--units: no such hyper-parameter, must be --core.units after core:lstm;", "core:lstm"),
        (["core:rma", "--num-reads", "4"], "must be --core.num-reads after core:rma;", "core:rma"),
        (["--mem-slts", "4"], "--mem-slts: no such hyper-parameter, must be one of --core.mem-slots", ""),
        (["--core.units", "4"], "--core.units: without core:NAME before it, must follow core:lstm;", "core:lstm"),
        (["--core.num-reads", "4"], "must follow core:dnc or core:rma;", "core:dnc"),
        (
            ["core:dnc", "--core.memory-sise", "3"],
            "--core.memory-sise: no hyper-parameter of core:dnc, must be one of --core.memory-size",
            "core:dnc",
        ),
        (
            ["task:nth-farthest", "--task.length", "3", "core:rmc"],
            "--task.length: no hyper-parameter of task:nth-farthest, must be one of --task.num-objects",
            "task:nth-farthest",
        ),
        (["core:dnc", "--core.memory-size", "many"], "--core.memory-size: invalid literal for int()", ""),
    ],
)
def test_mistakes_name_what_must_be_there(tmp_path, monkeypatch, capsys, words, message, helped):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "supervised", *words]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("reproduce: error: ")
    assert message in errors
    assert errors.endswith(f"; see `reproduce run supervised {helped} --help`\n".replace("  ", " "))
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_part_without_options_and_a_preset_without_the_part(capsys):
    assert main(["run", "gymnasium", "core:none", "--core.units", "3"]) == 2
    assert "--core.units: no hyper-parameter of core:none, must not be given with it" in capsys.readouterr().err
    assert main(["run", "multigrid/mapping", "--preset", "demo", "core:gru"]) == 2
    assert f"core: 'gru', must be one of {CORES}, none;" in capsys.readouterr().err


def test_parts_of_a_configuration():
    config = reproductions.load_experiment("gymnasium", reproductions.GENERAL).PRESETS["smoke"]
    parts = find_parts(config)
    assert parts["core:dnc"].options[0] == "--core.memory-size"
    assert parts["core:none"].options == []
    assert preset_parts(config) == {"core": "core:lstm", "torso": "torso:mlp"}
    assert missing_parts(config, ["torso:conv"], ["core.units", "torso.filters", "world.id", "seed"]) == ["core:lstm"]
