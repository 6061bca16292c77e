"""fp32's outputs on all samples, kept to compare other models with."""

from __future__ import annotations

import tempfile
import weakref
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.spool import LARGE
from nc_strategies.errors import InputError
from nc_strategies.measuring.outputs import joined

Array = NDArray[Any]


@dataclass
class _Block:
    """Outputs of one batch: in memory, or at an offset of the file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    array: Array | None
    offset: int = 0


class ReferenceOutputs:
    """Several outputs of fp32, appended batch by batch.

    They are held in memory up to `memory` bytes, and in an unnamed temporary file beyond.

    Args:
        memory: Bytes that are held in memory.
    """

    def __init__(self, memory: int = LARGE) -> None:
        self._memory, self._held = memory, 0
        self._blocks: list[tuple[_Block, ...]] = []
        self._file: IO[bytes] | None = None
        self._places: dict[int, tuple[int, int]] = {}

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self._places)

    def append(self, outputs: tuple[Array, ...], samples: NDArray[np.intp]) -> None:
        """Append the outputs of a batch, each of shape (n, ...), for n samples at the given positions of the data.

        Raises:
            InputError: the disk is full.
        """
        for row, sample in enumerate(samples.tolist()):
            self._places[sample] = (len(self._blocks), row)
        self._blocks.append(tuple(self._block(output) for output in outputs))

    def _block(self, output: Array) -> _Block:
        block = _Block(output.shape, output.dtype, None)
        if self._held + output.nbytes <= self._memory:
            self._held += output.nbytes
            block.array = output
            return block
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="ncs-")  # noqa: SIM115 - it lives as long as this object
            weakref.finalize(self, self._file.close)
        try:
            block.offset = self._file.seek(0, 2)
            output.tofile(self._file)
            self._file.flush()
        except OSError as error:
            raise InputError(
                "metrics.accuracy.output",
                f"fp32's outputs cannot be stored in {tempfile.gettempdir()} ({error.strerror})",
                "TMPDIR names another folder; or one small output to compare",
            ) from None
        return block

    def rows(self, samples: NDArray[np.intp]) -> tuple[Array, ...]:
        """Outputs of samples at the given positions, each of shape (n, ...); an array of objects if shapes differ."""
        found: list[list[Array]] = [[] for _ in self._blocks[0]]
        for index, first, last in self._stretches(samples):
            for parts, block in zip(found, self._blocks[index], strict=True):
                parts.append(self._read(block, first, last))
        return tuple(parts[0] if len(parts) == 1 else joined(parts) for parts in found)

    def _stretches(self, samples: NDArray[np.intp]) -> list[tuple[int, int, int]]:
        """Triples (index of a block, first row, end) of consecutive rows, in the order of the samples."""
        found: list[tuple[int, int, int]] = []
        for sample in samples.tolist():
            index, row = self._places[sample]
            if found and found[-1][0] == index and found[-1][2] == row:
                found[-1] = (index, found[-1][1], row + 1)
            else:
                found.append((index, row, row + 1))
        return found

    def _read(self, block: _Block, first: int, last: int) -> Array:
        if block.array is not None:
            return block.array[first:last]
        assert self._file is not None
        each = int(np.prod(block.shape[1:], dtype=np.int64))
        self._file.seek(block.offset + first * each * block.dtype.itemsize)
        return np.fromfile(self._file, block.dtype, (last - first) * each).reshape(last - first, *block.shape[1:])
