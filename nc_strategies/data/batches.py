"""Batches of a data set that are made when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nc_strategies.data.dataset import Dataset
from nc_strategies.models.info import Batch


class LazyBatches(Sequence[Batch]):
    """The inputs of all batches of a data set, in order. Only the batch that is read is in memory.

    Args:
        data: The data set.
        size: Samples per batch. The last batch is shorter, or padded to a fixed batch size.
    """

    def __init__(self, data: Dataset, size: int) -> None:
        self._data, self._size = data, size
        data.store()  # batches are read several times

    def __len__(self) -> int:
        return -(-len(self._data) // self._size)

    def __getitem__(self, index: Any) -> Any:
        """One batch, or a list of the batches of a range."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start = index % len(self) * self._size
        count = self._size if self._data.fixed_batch else min(self._size, len(self._data) - start)
        return self._data.batch(start, count)
