"""Arrays larger than memory, in temporary files that are removed when the process ends."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.ragged import Ragged, Samples
from nc_strategies.errors import InputError

LARGE = 512 * 2**20
"""Bytes above which an array is stored on disk."""
CHUNK = 64 * 2**20
"""Bytes that are processed together."""


class NoRoomError(Exception):
    """The folder of temporary files has too little free space."""


def allocate(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Create an array: in memory, or above `LARGE` bytes in an unnamed temporary file.

    The file is in the folder of temporary files (``TMPDIR``). Its space is freed when the array is no longer used, also
    if the process is killed.

    Raises:
        NoRoomError: the folder has too little free space.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size <= LARGE:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(prefix="ncs-") as stream:
        reserve(stream, size)
        return np.memmap(stream, dtype, "r+", shape=shape)


def reserve(stream: IO[bytes], size: int) -> None:
    """Reserve the space of a file, because writing to a mapped file on a full disk would kill the process.

    Raises:
        NoRoomError: the disk has too little free space.
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
    """Ranges (start, stop) of samples with about `CHUNK` bytes each."""
    step = max(1, CHUNK // max(1, bytes_each))
    for start in range(0, length, step):
        yield start, min(start + step, length)


class Spool:
    """Arrays of unknown length, appended batch by batch and stored on disk.

    Args:
        key: Configuration key that errors name.
        folder: Folder of the files if another process maps them, where all samples of a name have one shape; None for
            unnamed temporary files.
    """

    def __init__(self, key: str, folder: Path | None = None) -> None:
        self.key, self.folder = key, folder
        self._files: dict[str, IO[bytes]] = {}
        self._types: dict[str, np.dtype[Any]] = {}
        self._shapes: dict[str, list[NDArray[np.int64]]] = {}

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, batch: Mapping[str, Samples]) -> None:
        """Append a batch: name to array, whose first axis counts samples.

        Raises:
            InputError: names, types or numbers of axes differ from those of the first batch, or the disk is full.
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
            shapes = (
                array.shapes
                if isinstance(array, Ragged)
                else np.tile(np.array(array.shape[1:], np.int64), (len(array), 1))
            )
            values = array.packed().values if isinstance(array, Ragged) else array
            if name not in self._files:
                self._files[name] = self._open(name)
                self._types[name], self._shapes[name] = array.dtype, []
            dtype = self._types[name]
            self._check_shapes(name, shapes)
            try:
                values.astype(dtype, casting="same_kind", copy=False).tofile(self._files[name])
            except TypeError:
                raise InputError(
                    self.key,
                    f"array {name!r} is of type {array.dtype} in one batch and of {dtype} in the first",
                    "one type for all samples",
                ) from None
            except OSError as error:
                raise InputError(
                    self.key,
                    f"cannot be stored in {tempfile.gettempdir()} ({error.strerror})",
                    "TMPDIR names another folder",
                ) from None
            self._shapes[name].append(shapes)

    def _check_shapes(self, name: str, shapes: NDArray[np.int64]) -> None:
        if not self._shapes[name] or not len(shapes):
            return
        first = self._shapes[name][0][0]
        if shapes.shape[1] != len(first) or (self.folder is not None and (shapes != first).any()):
            raise InputError(
                self.key,
                f"array {name!r} has samples of shape {tuple(shapes[0].tolist())} and of {tuple(first.tolist())}",
                "one shape for all samples" if self.folder is not None else "one number of axes for all samples",
            )

    def _open(self, name: str) -> IO[bytes]:
        return (self.folder / f"{name}.raw").open("w+b") if self.folder else tempfile.TemporaryFile(prefix="ncs-")

    def forms(self) -> dict[str, tuple[list[int], str]]:
        """Shape and data type of each array as JSON-serializable values, for `mapped`."""
        found = {name: np.concatenate(shapes) for name, shapes in self._shapes.items()}
        return {name: ([len(shapes), *shapes[0].tolist()], self._types[name].str) for name, shapes in found.items()}

    def arrays(self) -> dict[str, Samples]:
        """All arrays, memory-mapped from disk; ragged where samples differ in their shape."""
        arrays: dict[str, Samples] = {}
        for name, parts in self._shapes.items():
            self._files[name].flush()
            shapes, dtype = np.concatenate(parts), self._types[name].str
            if (shapes == shapes[:1]).all():
                arrays[name] = mapped(self._files[name], (len(shapes), *shapes[0].tolist()), dtype)
            else:
                arrays[name] = Ragged(mapped(self._files[name], (int(shapes.prod(1).sum()),), dtype), shapes)
        return arrays

    def close(self) -> None:
        """Close the files."""
        for stream in self._files.values():
            stream.close()
        self._files = {}


def mapped(file: IO[bytes] | Path, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Map the content of a file as an array."""
    return np.empty(shape, dtype) if 0 in shape else np.memmap(file, dtype, "r", shape=shape)
