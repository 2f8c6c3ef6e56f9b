"""Files of data sets: errors that say how to get them, downloads, and text and archive members by one rule."""

import io
import os
import posixpath
from pathlib import Path
from urllib import request

DATA_DIR, CACHE_DIR = "TFMEM_DATA_DIR", "TFMEM_CACHE_DIR"


class MissingDataError(FileNotFoundError):
    """A data set is missing; the message gives the place and the command that gets it."""


class CorruptDataError(ValueError):
    """A data file is damaged or of another format; the message names the file and the fault."""


def cache_folder():
    """The folder for what is computed once and kept: TFMEM_CACHE_DIR, else ~/.cache/tfmem."""
    return Path(os.path.expanduser(os.environ.get(CACHE_DIR) or "~/.cache/tfmem"))


def curl(path, url):
    """The command that downloads `url` to `path`."""
    return f"curl --fail --location --create-dirs --output {path} {url}"


def missing_file(path, url):
    """The message of a `MissingDataError` for a file of a data folder that `url` has."""
    return (
        f"{path.name} is not in {path.parent} (the folder that {DATA_DIR} or data_dir names). Get it with\n"
        f"    {curl(path, url)}\nor unset {DATA_DIR} to let tensorflow-datasets download it."
    )


def members_by_path(names):
    """An archive's members by their path, which a leading "./" does not change: {path: name as it is stored}."""
    return {posixpath.normpath(name): name for name in names}


def decoded_lines(stream):
    """The lines of a binary stream of UTF-8 text, with their ends; joined files may each have a byte-order mark."""
    for line in io.TextIOWrapper(stream, "utf-8", newline="\n"):
        yield line.removeprefix("\ufeff")


def ask(url):
    """Request the head of `url`. Without a network TFDS would retry for minutes, so ask before it downloads.

    Raises:
        OSError: there is no answer.
    """
    request.urlopen(request.Request(url, method="HEAD"), timeout=20).close()


def ask_for(url, what):
    """Request the head of `url`, from which TFDS is about to download `what`.

    Raises:
        MissingDataError: there is no answer.
    """
    try:
        ask(url)
    except OSError as error:
        raise MissingDataError(
            f"the {what} could not be downloaded from {url}: {error}\nWithout a network, put {url.rsplit('/', 1)[1]} "
            f"into the manual folder of tensorflow-datasets (--manual_dir), or set {DATA_DIR}."
        ) from error


def download_or_manual(dl_manager, url, what):
    """The file of `url`: from the manual folder of tensorflow-datasets if it is there, else downloaded.

    Raises:
        MissingDataError: it is not there, and there is no network.
    """
    name = url.rsplit("/", 1)[1]
    try:
        manual = dl_manager.manual_dir / name
        if manual.exists():
            return manual
    except AssertionError:  # TFDS: there is no such folder, or it is empty
        pass
    ask_for(url, what)
    return dl_manager.download(url)
