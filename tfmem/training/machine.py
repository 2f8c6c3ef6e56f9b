"""The machine, the packages and the commit that a result depends on besides its configuration."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "tfmem",
    "tensorflow",
    "keras",
    "dm-sonnet",
    "tensorflow-probability",
    "tensorflow-datasets",
    "numpy",
    "jax",
)


def describe_machine(devices=()):
    """Describe hardware, package versions and git revision, on which a result depends besides its configuration.

    Args:
      devices: names of the accelerators in use, as the caller's framework gives them.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "hardware": {"cpu": _cpu_name(), "cores": os.cpu_count(), "devices": list(devices)},
        "versions": versions,
        "git_revision": _git_revision(),
    }


def _cpu_name():
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git_revision():
    """The commit of the checkout this file is in, with "+changes" where files differ from it; None outside one."""
    here = Path(__file__).resolve().parents[1]

    def git(*arguments):
        command = ["git", "-C", here, *arguments]
        return os.fsdecode(subprocess.run(command, capture_output=True, check=True).stdout).strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != here.parent:
            return None  # installed inside somebody else's checkout
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
