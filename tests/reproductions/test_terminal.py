"""The command line in a process of its own: an ASCII terminal, no TensorFlow before it is needed, no log lines."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[2])


def run_python(code, folder, **environment):
    """Run code in `folder` with an environment without TF_CPP_MIN_LOG_LEVEL; the finished process, output as bytes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TF_CPP")}
    environment = {**kept, "PYTHONPATH": ROOT, **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, timeout=300)


COMMANDS = """
import os, pathlib, warnings
import numpy as np
warnings.filterwarnings("error", category=EncodingWarning, module="(tfmem(?!.training.run_folder)|reproductions)[.]")
from reproductions import load_experiment
from reproductions.__main__ import main

DOUBLE_COPY = "metalearned/double_copy"
MODULES = {"toy/regression": "tests.reproductions.toy", DOUBLE_COPY: "reproductions.metalearned.double_copy"}
toy = load_experiment("toy/regression", MODULES)
toy.__doc__ = "Regression, \\u00a74."
toy.PAPER = {"error": (0.25, "\\u00a74 \\u00b1 Table 9")}
import tensorflow as tf
import tests.reproductions.test_cli
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    for name, shape in {"kernel": (4, 1), "dense/w": (1, 1), "dense/b": (1,)}.items():
        tf.compat.v1.get_variable(name, initializer=np.ones(shape, np.float32), use_resource=False)
    session.run(tf.compat.v1.global_variables_initializer())
    tf.compat.v1.train.Saver().save(session, "model.ckpt")

run = ["run", "toy/regression", "--preset", "smoke", "--folder", "runs/one"]
for arguments in (
    ["list"],
    ["list", "toy"],
    run,
    run,
    ["run", "toy/regression", "--preset", "smoke", "--folder", "runs/two", "--seed", "2"],
    ["evaluate", "runs/one"],
    ["export", "runs/one", "exported"],
    ["report", "runs", "--out", "report"],
    ["import", "toy/regression", "model.ckpt", "imported.keras"],
    ["compile", DOUBLE_COPY, "--preset", "smoke", "bundle"],
):
    assert main(arguments, MODULES) == 0, arguments
cafe = os.fsdecode("caf\\u00e9".encode())  # as the interpreter decodes arguments
assert main([*run[:-1], cafe], MODULES) == 2
assert main(["evaluate", cafe], MODULES) == 2
for arguments in (["run", "toy/regression", "--help"], ["--help"]):
    try:
        main(arguments, MODULES)
    except SystemExit as stop:
        assert not stop.code
text = pathlib.Path("report/report.md").read_bytes().decode("utf-8")
assert "\\u00a74 \\u00b1 Table 9" in text
"""


def test_every_command_in_an_ascii_terminal(tmp_path):
    ascii_only = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}
    ascii_only["PYTHONWARNDEFAULTENCODING"] = "1"  # every file that is opened as text names its encoding
    done = run_python(COMMANDS, tmp_path, **ascii_only)
    assert done.returncode == 0, done.stderr.decode()
    output, errors = done.stdout.decode("ascii"), done.stderr.decode("ascii").splitlines()
    assert len([line for line in errors if "must be ascii text" in line]) == 2
    assert "toy/regression: Regression, ?4" in output
    assert output.count("?4 ? Table 9") >= 4  # list twice, run twice, evaluate


NAMES = """
import sys
from reproductions.__main__ import main
for arguments in {commands!r}:
    try:
        print(main(arguments))
    except SystemExit as stop:
        print(stop.code)
assert not {{"tensorflow", "keras", "sonnet"}} & set(sys.modules)
"""


def test_names_are_checked_before_tensorflow_is_imported(tmp_path):
    wrong = [
        ["run", "multigrid/maping", "--preset", "smoke"],
        ["run", "Mapping"],
        ["compile", "multigrid/maping", "out"],
        ["import", "multigrid/maping", "model.ckpt", "out.keras"],
        ["list", "maping"],
        ["evaluate", "nowhere"],
        ["export", "nowhere", "out"],
        ["import-bundle", "nowhere", "out"],
        ["report", "nowhere"],
    ]
    done = run_python(NAMES.format(commands=[*wrong, ["--help"], ["run", "--help"], ["list", "--help"]]), tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    statuses = done.stdout.decode().split()
    errors = done.stderr.decode().splitlines()
    assert len(errors) == len(wrong)
    assert all("; did you mean multigrid/mapping" in line for line in errors[:4])
    assert "; did you mean mapping" in errors[4]
    assert [statuses[0], statuses[4], statuses[5]] == ["2", "2", "1"]
    assert not list(tmp_path.iterdir())


LOGS = """
import os, sys
from reproductions import load_experiment
load_experiment("metalearned/double_copy")
import tensorflow as tf
tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(1))
os.write(2, b"the error stream is there again")
"""


def test_log_lines_of_tensorflow_are_silent(tmp_path):
    done = run_python(LOGS, tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0
    assert done.stderr == b"the error stream is there again"


def test_an_import_that_fails_shows_what_was_said(tmp_path):
    (tmp_path / "tensorflow.py").write_text("import os\nos.write(2, b'no such instruction')\nraise ImportError('no')\n")
    code = "from reproductions import load_experiment; load_experiment('multigrid/babi')"
    done = run_python(code, tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert done.returncode == 1
    assert b"no such instruction" in done.stderr
    assert b"ImportError: no" in done.stderr
