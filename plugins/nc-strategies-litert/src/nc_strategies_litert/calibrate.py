"""Reading of the floating-point model's activations on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from nc_strategies.api import Batch
from nc_strategies_litert.graph import Graph
from nc_strategies_litert.interpreter import ResizedInterpreter


class LiteRtObserver:
    """See `nc_strategies.api.Observer`: an interpreter that keeps every tensor of a run.

    Args:
        content: The floating-point model.
        graph: Its graph.
        tensors: Indices of the tensors to observe.
        threads: Threads per run.
    """

    def __init__(self, content: bytes, graph: Graph, tensors: Sequence[int], threads: int) -> None:
        self._interpreter = ResizedInterpreter(content, threads, keep_tensors=True)
        self._tensors = {graph.tensors[index].name: index for index in tensors}

    def shapes(self, feed: Batch) -> Mapping[str, tuple[int, ...]]:
        """See `Observer.shapes`."""
        self._interpreter.run(feed)
        return {name: self._interpreter.tensor(index).shape for name, index in self._tensors.items()}

    def reader(self, names: Sequence[str]) -> Callable[[Batch], Sequence[NDArray[Any]]]:
        """See `Observer.reader`."""

        def read(feed: Batch) -> list[NDArray[Any]]:
            self._interpreter.run(feed)
            return [self._interpreter.tensor(self._tensors[name]) for name in names]

        return read
