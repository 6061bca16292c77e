"""Batches of a data set that are made when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.dataset import Dataset
from nc_strategies.models.info import Batch
from nc_strategies.runtime.random_streams import Stream, generator


class LazyBatches(Sequence[Batch]):
    """The inputs of all batches of a data set, in order. Only the batch that is read is in memory.

    Where samples differ in their length, a batch holds samples of like length, see `Dataset.plan`.

    Args:
        data: The data set.
        size: Samples per batch. The last batch is shorter, or padded to a fixed batch size.
        places: Positions of the batches among all batches of the data set; all of them by default.
        seed: Seed of the order of batches by length.
    """

    def __init__(self, data: Dataset, size: int, places: range | None = None, seed: int = 0) -> None:
        self._data, self._size, self._seed = data, size, seed
        self._plan: list[NDArray[np.intp]] | None = None
        if data.lengths is not None:
            self._plan = data.plan(size, generator(seed, Stream.BATCHES))
        count = -(-len(data) // size) if self._plan is None else len(self._plan)
        self._places = range(count) if places is None else places
        data.store()  # batches are read several times

    def __len__(self) -> int:
        return len(self._places)

    def samples(self, count: int) -> int:
        """Number of samples in the first `count` batches."""
        if self._plan is None:
            return min(len(self._data), count * self._size)
        return min(len(self._data), sum(len(self._plan[place]) for place in self._places[:count]))

    def __getitem__(self, index: Any) -> Any:
        """One batch, or the batches of a range, which are made when they are read."""
        if isinstance(index, slice):
            return LazyBatches(self._data, self._size, self._places[index], self._seed)
        if self._plan is not None:
            own = self._plan[self._places[index]]
            assert self._data.lengths is not None
            return self._data.padded(own, self._data.lengths.length_of(own))
        start = self._places[index] * self._size
        count = self._data.batch_size or min(self._size, len(self._data) - start)
        return self._data.batch(start, count)
