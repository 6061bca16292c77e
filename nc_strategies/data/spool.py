"""Arrays larger than memory: on disk, in files that vanish with the process."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import InputError

LARGE = 512 * 2**20
"""Bytes above which an array goes to disk."""
CHUNK = 64 * 2**20
"""Bytes to work on at a time."""


class NoRoomError(Exception):
    """The folder of temporary files is too small."""


def allocate(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array to fill: in memory, or when larger than `LARGE` in a temporary file that has no name.

    The file lies in the folder of temporary files (``TMPDIR``); its space is free again once nobody uses the array,
    also when the process is killed.

    Raises:
        NoRoomError: there is no room for it.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size <= LARGE:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(prefix="ncs-") as stream:
        reserve(stream, size)
        return np.memmap(stream, dtype, "r+", shape=shape)


def reserve(stream: IO[bytes], size: int) -> None:
    """Claim a file's room beforehand: writing to a mapped file on a full disk would kill the process.

    Raises:
        NoRoomError: there is not that much.
    """
    folder = tempfile.gettempdir()
    problem = NoRoomError(f"{size / 2**30:.1f} GiB do not fit into {folder}; TMPDIR names another folder")
    if shutil.disk_usage(folder).free < size:
        raise problem
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size)
        else:
            stream.truncate(size)
    except OSError:
        raise problem from None


def chunks(length: int, bytes_each: int) -> Iterator[tuple[int, int]]:
    """Ranges of samples of about `CHUNK` bytes each."""
    step = max(1, CHUNK // max(1, bytes_each))
    for start in range(0, length, step):
        yield start, min(start + step, length)


class Spool:
    """Arrays of unknown number, given batch by batch, kept on disk; samples of one name are all of one shape.

    Args:
        key: Configuration key to name in errors.
        folder: Where the files lie for another process to map; None for nameless ones.
    """

    def __init__(self, key: str, folder: Path | None = None) -> None:
        self.key, self.folder = key, folder
        self._files: dict[str, IO[bytes]] = {}
        self._forms: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self._counts: dict[str, int] = {}

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, batch: Mapping[str, NDArray[Any]]) -> None:
        """Take a batch: name to array, first axis samples.

        Raises:
            InputError: names or shapes differ from those of the first batch, or there is no room.
        """
        if self._files and set(batch) != set(self._files):
            raise InputError(
                self.key, f"one batch has {', '.join(sorted(batch))}, the first had {', '.join(sorted(self._files))}"
            )
        for name, array in batch.items():
            if array.ndim == 0:
                raise InputError(self.key, f"array {name!r} is a single number where samples are expected")
            if array.dtype.kind not in "fiub":
                raise InputError(self.key, f"array {name!r} is of type {array.dtype}", "numbers are needed")
            form = array.shape[1:], array.dtype
            if name not in self._files:
                self._files[name] = self._open(name)
                self._forms[name], self._counts[name] = form, 0
            shape, dtype = self._forms[name]
            if form[0] != shape:
                raise InputError(
                    self.key,
                    f"array {name!r} has samples of shape {form[0]} and of {shape}",
                    "one shape for all samples",
                )
            try:
                array.astype(dtype, casting="same_kind", copy=False).tofile(self._files[name])
            except TypeError:
                raise InputError(
                    self.key,
                    f"array {name!r} is of type {form[1]} in one batch and of {dtype} in the first",
                    "one type for all samples",
                ) from None
            except OSError as error:
                raise InputError(
                    self.key,
                    f"cannot be kept in {tempfile.gettempdir()} ({error.strerror})",
                    "TMPDIR names another folder",
                ) from None
            self._counts[name] += len(array)

    def _open(self, name: str) -> IO[bytes]:
        return (self.folder / f"{name}.raw").open("w+b") if self.folder else tempfile.TemporaryFile(prefix="ncs-")

    def forms(self) -> dict[str, tuple[list[int], str]]:
        """Shape and type of each array, JSON-ready, for `mapped`."""
        return {name: ([self._counts[name], *shape], dtype.str) for name, (shape, dtype) in self._forms.items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything, mapped from disk."""
        found: dict[str, NDArray[Any]] = {}
        for name, (shape, dtype) in self.forms().items():
            self._files[name].flush()
            found[name] = mapped(self._files[name], tuple(shape), dtype)
        return found

    def close(self) -> None:
        """Let go of the files."""
        for stream in self._files.values():
            stream.close()
        self._files = {}


def mapped(file: IO[bytes] | Path, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """A file's content as an array."""
    return np.empty(shape, dtype) if 0 in shape else np.memmap(file, dtype, "r", shape=shape)
