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
        places: Positions of the batches among all batches of the data set; all of them by default.
    """

    def __init__(self, data: Dataset, size: int, places: range | None = None) -> None:
        self._data, self._size = data, size
        self._places = range(-(-len(data) // size)) if places is None else places
        data.store()  # batches are read several times

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        """One batch, or the batches of a range, which are made when they are read."""
        if isinstance(index, slice):
            return LazyBatches(self._data, self._size, self._places[index])
        start = self._places[index] * self._size
        count = self._data.batch_size or min(self._size, len(self._data) - start)
        return self._data.batch(start, count)
