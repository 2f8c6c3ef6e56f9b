"""Files and folders that appear whole or not at all, and locks of folders. The standard library only.

A file or a folder is written in a folder of its own, `<name>.<random>.partial`, and renamed. Locks are those of `flock`
on folders: they hold between the processes of one machine, on network disks as well, and end with the process.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: two processes in one folder are not kept apart there
    fcntl = None

PARTIAL = ".partial"  # end of the name of a folder in which something is being written


def lock_folder(path):
    """Takes the lock of a folder, for one process alone.

    Returns:
      A file descriptor whose closing gives the lock back, as the end of the process does; None where another holds it.
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
    """A new path for a file or a folder that takes the place of `path` once it is written; an error leaves nothing.

    It lies in a locked folder of its own beside `path`, so that no other writer and no `RunFolder.resume` touches it.
    """
    path = Path(path)
    folder, lock = _partial_folder(path)
    try:
        yield folder / path.name
        os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder)
        os.close(lock)


def _partial_folder(path):
    """A new folder beside `path` and the descriptor of its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=PARTIAL, dir=path.parent))
        with contextlib.suppress(FileNotFoundError):  # a `resume` took it for a leftover before it was locked
            lock = lock_folder(folder)
            if lock is not None:
                if folder.exists():
                    return folder, lock
                os.close(lock)


def is_leftover_of(path, left):
    """Return whether `left` is a folder in which `path` was being written."""
    return left.name.startswith(path.name) and left.name.endswith(PARTIAL)


def remove_leftover(path):
    """Removes what an interrupted write left, unless its writer is at work or has just finished."""
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
