"""Reading files below a folder without leaving it: no symbolic link is followed, no pipe is waited for.

Each part of a path is opened relative to the folder before it, so that a link which is put there meanwhile is not
followed either.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MEBIBYTE = 2**20


class UnreadableError(Exception):
    """A file or folder cannot be read; the text says why, without its name."""


@contextmanager
def opened_folder(root: Path, parts: Sequence[str]) -> Iterator[int]:
    """The descriptor of a folder.

    Args:
        root: The folder to stay in; an absolute path without symbolic links.
        parts: Names of the folders from there.

    Raises:
        UnreadableError: it is not there, it or a folder above it is a symbolic link, or it cannot be read.
    """
    descriptor = _open(str(root), FOLDER_FLAGS, None)
    try:
        for part in parts:
            if part in ("", ".", "..") or "/" in part:
                raise UnreadableError("is not a name")
            inner = _open(part, FOLDER_FLAGS, descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def read_file(folder: int, name: str, most_bytes: int, offset: int = 0) -> bytes:
    """Content of a file from an offset on.

    Args:
        folder: Descriptor of its folder.
        name: Its name.
        most_bytes: Size in bytes above which it is refused.
        offset: Bytes to leave out.

    Raises:
        UnreadableError: it is a symbolic link or no regular file, is too large, or cannot be read.
    """
    descriptor = _open(name, FILE_FLAGS, folder)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UnreadableError("is not a regular file")
        if found.st_size - offset > most_bytes:
            raise UnreadableError(f"is larger than {most_bytes // MEBIBYTE} MiB")
        with open(descriptor, "rb", closefd=False) as stream:
            stream.seek(offset)
            return stream.read(most_bytes)
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror})") from None
    finally:
        os.close(descriptor)


def is_locked(folder: int, name: str) -> bool:
    """Whether a process holds the lock of a lock file.

    A lock that nobody holds is taken shared for a moment: there is no other way to ask on all systems.

    Args:
        folder: Descriptor of its folder.
        name: Its name.

    Raises:
        UnreadableError: it is a symbolic link, or cannot be read.
    """
    descriptor = _open(name, FILE_FLAGS, folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise UnreadableError(f"cannot be asked for ({error.strerror})") from None
    finally:
        os.close(descriptor)
    return False


def _open(name: str, flags: int, folder: int | None) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        # A link that is opened as a folder is no folder (Linux), or one link too many.
        if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and flags & os.O_DIRECTORY):
            raise UnreadableError("is a symbolic link, which is not followed, or no folder") from None
        raise UnreadableError(f"cannot be read ({error.strerror})") from None
    except ValueError:
        raise UnreadableError("is not a name") from None
