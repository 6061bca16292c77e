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

    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    array: Array | None
    offset: int = 0


class ReferenceOutputs:
    """Several outputs of fp32, appended batch by batch in the order of the samples.

    They are held in memory up to `memory` bytes, and in an unnamed temporary file beyond.

    Args:
        memory: Bytes that are held in memory.
    """

    def __init__(self, memory: int = LARGE) -> None:
        self._memory, self._held = memory, 0
        self._blocks: list[tuple[_Block, ...]] = []
        self._file: IO[bytes] | None = None
        self.count = 0

    def append(self, outputs: tuple[Array, ...]) -> None:
        """Append the outputs of a batch, each of shape (n, ...).

        Raises:
            InputError: the disk is full.
        """
        self._blocks.append(tuple(self._block(output) for output in outputs))
        self.count += len(outputs[0])

    def _block(self, output: Array) -> _Block:
        block = _Block(self.count, output.shape, output.dtype, None)
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

    def rows(self, samples: slice) -> tuple[Array, ...]:
        """Outputs of consecutive samples, each of shape (n, ...), or an array of objects if shapes differ."""
        found: list[list[Array]] = [[] for _ in (self._blocks[0] if self._blocks else ())]
        for blocks in self._blocks:
            start = blocks[0].start
            first, last = max(samples.start - start, 0), min(samples.stop - start, blocks[0].shape[0])
            if first < last:
                for parts, block in zip(found, blocks, strict=True):
                    parts.append(self._read(block, first, last))
        return tuple(parts[0] if len(parts) == 1 else joined(parts) for parts in found)

    def _read(self, block: _Block, first: int, last: int) -> Array:
        if block.array is not None:
            return block.array[first:last]
        assert self._file is not None
        each = int(np.prod(block.shape[1:], dtype=np.int64))
        self._file.seek(block.offset + first * each * block.dtype.itemsize)
        return np.fromfile(self._file, block.dtype, (last - first) * each).reshape(last - first, *block.shape[1:])
