"""Temporary folders of a process that may be killed before it removes them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path

from filelock import FileLock, Timeout

NEW_SECONDS = 60.0
"""Age from which a folder that nobody has locked is abandoned: its maker locks it as soon as it is created."""
LOCK = ".lock"


class ScratchFolder:
    """A temporary folder. `remove` or the end of the process removes it; if that was killed, a later process does.

    Args:
        prefix: What its name starts with. Abandoned folders of the same user and prefix are removed first.

    Raises:
        OSError: it cannot be created.
    """

    def __init__(self, prefix: str) -> None:
        _remove_abandoned(prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._lock = FileLock(self.path / LOCK, thread_local=False)
        with contextlib.suppress(OSError, NotImplementedError):  # a file system without locks: nobody removes it then
            self._lock.acquire()
        self._end = weakref.finalize(self, _remove, self.path, self._lock)

    def remove(self) -> None:
        """Remove the folder with all that is in it; it may be gone."""
        self._end()


def _remove(path: Path, lock: FileLock) -> None:
    shutil.rmtree(path, ignore_errors=True)
    lock.release()


def _remove_abandoned(prefix: str) -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError, NotImplementedError, Timeout):  # gone by now, or in use
            state = path.lstat()
            if state.st_uid == os.getuid() and path.is_dir() and time.time() - state.st_mtime > NEW_SECONDS:
                with FileLock(path / LOCK, timeout=0):
                    shutil.rmtree(path, ignore_errors=True)
