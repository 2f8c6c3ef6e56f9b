"""The folder of one run: config, metrics, checkpoints, figures, exported model and result, safe against crashes.

    config.json      experiment and configuration; a folder of another configuration is refused
    metrics.csv      one row per logged or evaluated update
    checkpoints/     checkpoint-<update>.npz, the newest few: arrays by name and JSON metadata, with checksums
    figures/  saved_model/  tensorboard/
    result.json      written last: a folder that has it is finished

Every file is written by `tfmem.atomic`: a crash at any moment leaves the old file or the new one, and two processes
never write to the same file. numpy and the standard library only: the bundle runner has no TensorFlow.
"""

import csv
import errno
import io
import json
import os
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfmem.atomic import PARTIAL, is_leftover_of, lock_folder, remove_leftover, replacing
from tfmem.validation import check_range

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d{9,})\.npz")
METADATA = "metadata.json"
SECONDS = "seconds"  # column of metrics.csv: wall-clock seconds of training up to a row


class RunFolderError(Exception):
    """A run folder cannot be used or written; the message says why and what is still there."""


class OtherConfigurationError(RunFolderError):
    """A run folder is of another configuration.

    Args:
      message: the message.
      names: names of the fields that differ, such as "config.width".
    """

    def __init__(self, message, names):
        super().__init__(message)
        self.names = names


class Checkpoint(NamedTuple):
    """State of a run after `update` updates: arrays by name, and metadata for JSON."""

    update: int
    arrays: dict[str, np.ndarray]
    metadata: dict


class RunFolder:
    """Reader and writer of one run folder.

    Args:
      path: the folder. Nothing is created before `claim`.
      keep: how many of the newest checkpoints stay.

    Raises:
      ValueError: `keep` is not positive.
    """

    def __init__(self, path, keep=2):
        check_range("keep", keep, 1)
        self.path = Path(os.path.expanduser(path))
        self.keep = keep
        self.config_path = self.path / "config.json"
        self.metrics_path = self.path / "metrics.csv"
        self.result_path = self.path / "result.json"
        self.checkpoints = self.path / "checkpoints"
        self.figures = self.path / "figures"
        self.saved_model = self.path / "saved_model"
        self.tensorboard = self.path / "tensorboard"
        self._lock = None

    # Configuration

    def claim(self, config):
        """Make the folder of a run with this configuration, or check that it belongs to the same one.

        Args:
          config: dict that JSON can hold.

        Raises:
          OtherConfigurationError: it holds a run of another configuration; the differing fields are listed.
          RunFolderError: another process is working in the folder, or it holds files but no run. In all these cases
            nothing has been changed.
        """
        config, held = as_json(config), self._lock
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(self.path) if held is None else held
            there = [path for path in self.path.iterdir() if not is_leftover_of(self.config_path, path)]
            found = differences(self.config(), config) if self.config_path in there else []
            differing = ":" + "".join(f"\n  {name}: {old!r} there, {new!r} now" for name, old, new in found)
            if self._lock is None:
                of_another = f", a run of another configuration{differing}" if found else ""
                raise RunFolderError(f"another process is working in {self.path}{of_another}")
            if found:
                message = f"{self.path} was made by another configuration and is left as it is{differing}"
                raise OtherConfigurationError(message, [name for name, *_ in found])
            if there and self.config_path not in there:
                raise RunFolderError(f"{self.path} is not empty and has no config.json; it is left as it is")
            if not there:
                write_json(self.config_path, config)
            self.checkpoints.mkdir(exist_ok=True)
            self.figures.mkdir(exist_ok=True)
        except BaseException as error:
            if held is None:
                self.release()
            if isinstance(error, OSError):
                raise _write_error(self.path, error) from error
            raise

    def config(self):
        """The configuration that the folder was made with.

        Raises:
          RunFolderError: there is none, or it cannot be read.
        """
        try:
            return read_json(self.config_path)
        except FileNotFoundError:
            raise RunFolderError(f"{self.path} is not a run folder: it has no config.json") from None

    def release(self):
        """Let another process (or another `RunFolder`) work in the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # Checkpoints

    def save(self, checkpoint):
        """Write a checkpoint and remove all but the newest `keep`.

        Raises:
          RunFolderError: it could not be written (full disk, say); the earlier checkpoints are kept.
        """
        path = self.checkpoints / f"checkpoint-{checkpoint.update:09d}.npz"
        write_checkpoint(path, checkpoint)
        for _, old in self.saved()[self.keep :]:
            old.unlink()

    def restore(self):
        """Return the newest readable checkpoint, and the faults of newer ones.

        Returns:
          `(checkpoint, damaged)`: a `Checkpoint`, or None if none was ever saved; and (path, reason) pairs.

        Raises:
          RunFolderError: there are checkpoints and none can be read.
        """
        damaged = []
        for update, path in self.saved():
            try:
                return _read_checkpoint(path, update), damaged
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
                damaged.append((path, f"{type(error).__name__}: {error}"))
        if damaged:
            raise RunFolderError(
                f"no checkpoint in {self.checkpoints} can be read; nothing was deleted:\n"
                + "\n".join(f"  {path.name}: {reason}" for path, reason in damaged)
            )
        return None, []

    def resume(self):
        """Return to the newest readable checkpoint: `restore`, and bring the folder to that moment.

        Metrics of later updates are dropped, and damaged checkpoints are set aside as `<name>.damaged`. Remains of an
        interrupted write are removed; files that a live process is writing are not.
        """
        checkpoint, damaged = self.restore()
        for parent, folders, files in os.walk(self.path):  # skips folders that are gone meanwhile
            for name in [*folders, *files]:
                if name.endswith(PARTIAL):
                    remove_leftover(Path(parent, name))
        for path, _ in damaged:
            os.replace(path, path.with_name(path.name + ".damaged"))
        self._drop_metrics_after(checkpoint.update if checkpoint else 0)
        return checkpoint, damaged

    def saved(self):
        """(update, path) of the checkpoints, newest first."""
        found = ((CHECKPOINT_NAME.fullmatch(path.name), path) for path in self.checkpoints.glob("*.npz"))
        return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)

    # Metrics

    def append_metrics(self, update, values):
        """Add a row to metrics.csv; a new name becomes a new column.

        Args:
          update: number of updates done, greater than in the rows before.
          values: floats by name.

        Raises:
          RunFolderError: it could not be written; the rows before are kept.
        """
        row = {"update": str(update), **{name: repr(float(value)) for name, value in values.items()}}
        columns = self._columns()
        new = [name for name in row if name not in columns]
        if new:
            self._write_metrics(columns + new, [*self._rows(), row])
            return
        line = io.StringIO()
        csv.DictWriter(line, columns, restval="", lineterminator="\n").writerow(row)
        size = self.metrics_path.stat().st_size
        try:
            with self.metrics_path.open("ab") as file:
                file.write(line.getvalue().encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            os.truncate(self.metrics_path, size)
            raise _write_error(self.metrics_path, error) from error

    def metrics(self):
        """The rows of metrics.csv: dicts of an int `update` and floats; a row lacks empty columns."""
        return [
            {name: int(text) if name == "update" else float(text) for name, text in row.items() if text}
            for row in self._rows()
        ]

    def trim_metrics(self, update, keep):
        """Keep in the row of `update` the columns that `keep(name)` accepts; drop empty rows and columns."""

        def trimmed(row):
            stays = [int(row["update"]) != update or name == "update" or keep(name) for name in row]
            return {name: text for (name, text), stay in zip(row.items(), stays, strict=True) if text and stay}

        rows = [trimmed(row) for row in self._rows()]
        rows = [row for row in rows if set(row) - {"update", SECONDS}]
        if rows:
            self._write_metrics([name for name in self._columns() if any(row.get(name) for row in rows)], rows)
        else:
            self.metrics_path.unlink(missing_ok=True)

    def _columns(self):
        if not self.metrics_path.exists():
            return []
        with self.metrics_path.open(newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file), [])

    def _rows(self):
        """Whole rows as text; a last row that a crash cut off is left out."""
        text = self.metrics_path.read_text("utf-8-sig") if self.metrics_path.exists() else ""
        return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))

    def _write_metrics(self, columns, rows):
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.metrics_path, lambda file: file.write(text.getvalue().encode()))

    def _drop_metrics_after(self, update):
        rows = [row for row in self._rows() if int(row["update"]) <= update]
        if rows:
            self._write_metrics(self._columns(), rows)
        else:
            self.metrics_path.unlink(missing_ok=True)

    # Result

    def write_result(self, result):
        """Write result.json, which marks the run as finished."""
        write_json(self.result_path, result)

    def result(self):
        """Return the content of result.json, or None if the run is not finished.

        Raises:
          RunFolderError: it cannot be read.
        """
        return read_json(self.result_path) if self.result_path.exists() else None


def write_atomically(path, write):
    """Make `path` by `write(file)`: the whole file or, after an error or a crash, the file before.

    Raises:
      RunFolderError: the system refused (full disk, rights); nothing is left of the attempt.
    """
    path = Path(path)
    try:
        with replacing(path) as partial, partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)
    except OSError as error:
        raise _write_error(path, error) from error


def write_checkpoint(path, checkpoint):
    """Write a `Checkpoint` as a file, atomically."""
    write_atomically(path, lambda file: _write_checkpoint(file, checkpoint))


def write_json(path, value):
    """Write `value` as indented JSON, atomically."""
    write_atomically(path, lambda file: file.write((json.dumps(value, indent=2) + "\n").encode()))


def read_json(path):
    """The dict of a JSON file; a byte-order mark and the terminal's encoding make no difference."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:  # not JSON, or not text
        raise RunFolderError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} is damaged: it holds {value!r}, must hold an object")
    return value


def as_json(value):
    """Return `value` as read back from a JSON file (tuples as lists)."""
    return json.loads(json.dumps(value))


def differences(old, new, prefix=""):
    """List (field, old, new) of all differences between two nested dicts; those of another "type" differ in all."""
    found = []
    if old.get("type") != new.get("type"):
        old = {name: value for name, value in old.items() if name not in new or name == "type"}
    for name in [*old, *(n for n in new if n not in old)]:
        before, now = old.get(name, "absent"), new.get(name, "absent")
        if isinstance(before, dict) and isinstance(now, dict):
            found += differences(before, now, f"{prefix}{name}.")
        elif before != now:
            found.append((prefix + name, before, now))
    return found


def run_config(folder):
    """Read the content of config.json: "experiment" and its "config".

    Raises:
      RunFolderError: the folder has none, or it cannot be read.
    """
    return with_fields(folder.config_path, folder.config, {"experiment": str, "config": dict})


def run_result(folder):
    """Return the content of a run's result.json; None if the run is not finished.

    Raises:
      RunFolderError: it cannot be read, or lacks a field of every result.
    """
    return with_fields(folder.result_path, folder.result, RESULT_FIELDS) if folder.result_path.exists() else None


RESULT_FIELDS = {"ours": dict, "seeds": list, "updates": int, "wall_time_seconds": (int, float)}


def with_fields(path, read, kinds):
    """Check the content of a JSON file.

    Args:
      path: of the file, for the error.
      read: function that returns the content.
      kinds: class, or tuple of classes, of each field that the content must have.

    Returns:
      The content.

    Raises:
      RunFolderError: a field is missing or of another class.
    """
    content = read()
    for name, kind in kinds.items():
        if name not in content:
            raise RunFolderError(f"{path} is damaged: it has no {name!r}")
        if not isinstance(content[name], kind):
            raise RunFolderError(f"{path} is damaged: {name}: {content[name]!r} is of another kind")
    return content


def _write_checkpoint(file, checkpoint):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        dtypes = {}
        for name, array in checkpoint.arrays.items():
            array = np.asarray(array)
            dtypes[name] = array.dtype.name
            if array.dtype.kind == "V":  # bfloat16 and other types that .npy has no name for
                array = array.view(f"u{array.dtype.itemsize}")
            member = io.BytesIO()
            np.save(member, array, allow_pickle=False)
            archive.writestr(f"{name}.npy", member.getbuffer())
        archive.writestr(METADATA, json.dumps({"dtypes": dtypes, "metadata": checkpoint.metadata}))


def _read_checkpoint(path, update):
    with zipfile.ZipFile(path) as archive:
        about = json.loads(archive.read(METADATA))  # read() compares each member's CRC-32
        arrays = {}
        for name, dtype in about["dtypes"].items():
            array = np.load(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
            arrays[name] = array if array.dtype.name == dtype else array.view(_dtype(dtype))
    return Checkpoint(update, arrays, about["metadata"])


def _dtype(name):
    import ml_dtypes  # only where an array needs it; TensorFlow and JAX both bring it

    return np.dtype(getattr(ml_dtypes, name))


def _sync_folder(folder):
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_error(path, error):
    why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
    return RunFolderError(f"cannot write {path}: {why}; what was saved before is kept")
