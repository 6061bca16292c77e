"""Reading of the floating-point graph's tensors on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.collection import LIMITS, MemoryLimits
from nc_strategies.backends.collection import collect as collect_within
from nc_strategies.backends.tensorflow.graph import Graph
from nc_strategies.backends.tensorflow.import_tensorflow import reason, tensorflow
from nc_strategies.backends.tensorflow.loading import Port
from nc_strategies.backends.tensorflow.session import session_config
from nc_strategies.calibration.histogram import Histogram
from nc_strategies.calibration.state import Look
from nc_strategies.errors import EngineError, InputError
from nc_strategies.models.info import Batch, ModelInfo


class TfObserver:
    """See `nc_strategies.backends.collection.Observer`. A session keeps the tensors of a run that are fetched.

    Args:
        session: A session of the graph, in which nodes that compute shapes are added.
        inputs: Inputs of the graph.
        tensors: Tensors to observe.
    """

    def __init__(self, session: Any, inputs: Sequence[Port], tensors: Sequence[str]) -> None:
        tf = tensorflow()
        self._session, self._inputs = session, inputs
        self._tensors = {tensor: tensor if ":" in tensor else f"{tensor}:0" for tensor in tensors}
        with session.graph.as_default():
            self._shapes = {
                name: tf.shape(session.graph.get_tensor_by_name(full)) for name, full in self._tensors.items()
            }

    def shapes(self, feed: Batch) -> dict[str, tuple[int, ...]]:
        """See `Observer.shapes`."""
        found = self._run(list(self._shapes.values()), feed)
        return {name: tuple(map(int, shape)) for name, shape in zip(self._shapes, found, strict=True)}

    def reader(self, names: Sequence[str]) -> Callable[[Batch], Sequence[NDArray[Any]]]:
        """See `Observer.reader`."""
        fetched = [self._tensors[name] for name in names]
        return lambda feed: self._run(fetched, feed)

    def _run(self, fetched: Sequence[Any], batch: Batch) -> list[NDArray[Any]]:
        feed: dict[str, Any] = {
            f"{port.tensor}:0": np.asarray(batch[port.spec.name], port.spec.dtype) for port in self._inputs
        }
        try:
            return list(self._session.run(fetched, feed))
        except (tensorflow().errors.OpError, ValueError) as error:
            raise EngineError(reason(error)) from error


def collect(
    graph: Graph,
    inputs: Sequence[Port],
    tensors: Sequence[str],
    batches: Sequence[Batch],
    info: ModelInfo,
    threads: int,
    look: Look = lambda *_: None,
    limits: MemoryLimits = LIMITS,
) -> tuple[dict[str, Histogram], int]:
    """Collect a histogram per tensor, see `nc_strategies.backends.collection.collect`.

    Args:
        graph: The floating-point graph.
        inputs: Inputs of the graph.
        tensors: Tensors to observe.
        batches: Calibration data.
        info: The model's inputs, with the axes that count samples.
        threads: Threads per run.
        look: Called with the name and the values of each tensor, per run.
        limits: Limits of memory.

    Raises:
        InputError: there is no data, the graph does not accept it, or a value is not finite.
    """
    tf = tensorflow()
    imported = tf.Graph()
    with imported.as_default():
        tf.import_graph_def(graph.to_def(), name="")
    with tf.compat.v1.Session(graph=imported, config=session_config(threads)) as session:
        histograms, largest = collect_within(TfObserver(session, inputs, tensors), batches, info, look, limits)
        for tensor, histogram in histograms.items():
            if histogram.infinite:
                raise InputError("data", f"a calibration activation is infinite (tensor {tensor})")
        return histograms, largest
