"""The wheel and the sdist: what they hold, and a new environment in which the wheel alone is installed."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import tfmem

ROOT = Path(__file__).parents[1]
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md")
FILES = (*FILES, "CHANGELOG.md", "CITATION.cff", "requirements.txt")
DATA = ["tfmem/data/builders/checksums.tsv", "tfmem/py.typed"]
WEIGHTS = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tfmem/weights").rglob("*") if path.is_file()]


def run(arguments, folder):
    """Run a program that must succeed; its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """Folder of an sdist and of the wheel that is built from it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("tfmem", "reproductions"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    run([sys.executable, "-m", "build", "--no-isolation"], source)
    return source / "dist"


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """New environment with the wheel; everything else comes from the environment of the tests, by a path."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin/python", "--disable-pip-version-check"]
    wheel = next(dist.glob("*.whl"))
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], environment)
    packages = Path(sysconfig.get_path("purelib", vars={"base": environment}))
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return environment / "bin"


def sources(folder):
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")}


def test_wheel_holds_the_code_and_its_data_and_no_name_that_others_may_have(dist):
    names = zipfile.ZipFile(next(dist.glob("*.whl"))).namelist()
    held = {name for name in names if ".dist-info/" not in name}
    assert held == {*sources("tfmem"), *DATA, *WEIGHTS, *(f"tfmem_{name}" for name in sources("reproductions"))}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"tfmem", "tfmem_reproductions"}


def test_citation_and_release_notes_have_the_version():
    assert f"\nversion: {tfmem.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\n## {tfmem.__version__}\n" in (ROOT / "docs/release_notes.md").read_text("utf-8")


def test_a_package_index_accepts_both(dist):
    files = sorted(dist.iterdir())
    assert [file.suffix for file in files] == [".whl", ".gz"]
    run([sys.executable, "-m", "twine", "check", "--strict", *files], dist)


def test_reproductions_import_each_other_relatively():
    """Another import would fail where the folder is installed as `tfmem_reproductions`."""
    absolute = []
    for path in sorted((ROOT / "reproductions").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            absolute += [(path.name, name) for name in names if name.split(".")[0] == "reproductions"]
    assert absolute == []


def test_installed_command_lists_what_a_clone_lists(installed, tmp_path):
    shown = run([installed / "reproduce", "list"], tmp_path)
    assert "multigrid/mapping" in shown
    assert shown == run([sys.executable, "-m", "reproductions", "list"], ROOT)


def test_installed_alone(installed, tmp_path):
    code = "import importlib.util as i; print(*(i.find_spec(n) and i.find_spec(n).origin for n in {}), sep='\\n')"
    names = ("tfmem", "tfmem_reproductions", "reproductions")
    found = run([installed / "python", "-c", code.format(names)], tmp_path).split()
    assert [Path(path).is_relative_to(installed.parent) for path in found[:2]] == [True, True]
    assert found[2] == "None"
