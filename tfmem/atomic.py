"""Files and folders that appear whole or not at all, and locks of folders. The standard library only.

A file or a folder is written inside a temporary folder, `<name>.<random>.partial`, and then renamed. Locks are those of
`flock` on folders: they hold between the processes of one machine, also on network disks, and end with the process.
"""

import contextlib
import errno
import itertools
import os
import shutil
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: two processes in one folder are not excluded there
    fcntl = None

PARTIAL = ".partial"  # end of the name of a folder in which something is being written


def lock_folder(path):
    """Take the exclusive lock of a folder.

    Returns:
      A file descriptor; closing it, or the end of the process, releases the lock. None if another process holds it.
    """
    if fcntl is None:
        return os.open(os.devnull, os.O_RDONLY)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def replacing(path):
    """Context manager with a temporary path that replaces `path` on exit; after an error nothing remains.

    The temporary path lies in a locked folder next to `path`, so no other writer and no `RunFolder.resume` touches it.
    """
    path = Path(path)
    with _partial(path) as folder:
        yield folder / path.name
        os.replace(folder / path.name, path)


@contextlib.contextmanager
def replacing_folder(path):
    """Context manager with an empty folder that replaces the folder `path`, if there is one, on exit; as `replacing`.

    Of several writers at a time the last one counts.
    """
    path = Path(path)
    with _partial(path) as folder:
        (folder / path.name).mkdir()
        yield folder / path.name
        for attempt in itertools.count():
            try:
                return os.replace(folder / path.name, path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):  # the last one: Windows
                    raise
            with contextlib.suppress(FileNotFoundError):  # another writer has moved it
                os.replace(path, folder / f"{path.name}.{attempt}")


@contextlib.contextmanager
def _partial(path):
    """Context manager with a new locked folder next to `path`, which is removed on exit."""
    folder, lock = _partial_folder(path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        os.close(lock)


def _partial_folder(path):
    """A new folder next to `path` and the descriptor of its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=PARTIAL, dir=path.parent))
        with contextlib.suppress(FileNotFoundError):  # a `resume` removed it as a leftover before it was locked
            lock = lock_folder(folder)
            if lock is not None:
                if folder.exists():
                    return folder, lock
                os.close(lock)


def is_leftover_of(path, left):
    """Return whether `left` is a folder in which `path` was being written."""
    return left.name.startswith(path.name) and left.name.endswith(PARTIAL)


def remove_leftover(path):
    """Remove the rest of an interrupted write, unless its writer still runs or has just finished."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):
        lock = lock_folder(path)
        if lock is not None:
            try:
                shutil.rmtree(path)
            finally:
                os.close(lock)
