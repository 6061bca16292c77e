"""One pass of the floating-point graph over calibration data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.tensorflow.graph import Graph
from nc_strategies.backends.tensorflow.import_tensorflow import reason, tensorflow
from nc_strategies.backends.tensorflow.loading import Port
from nc_strategies.backends.tensorflow.session import session_config
from nc_strategies.calibration.histogram import Histogram
from nc_strategies.errors import InputError
from nc_strategies.models.info import Batch


def collect(
    graph: Graph,
    inputs: Sequence[Port],
    tensors: Sequence[str],
    batches: Sequence[Batch],
    threads: int,
    look: Callable[[str, NDArray[Any]], None] = lambda *_: None,
) -> dict[str, Histogram]:
    """Collect a histogram per tensor over all batches.

    Args:
        graph: The floating-point graph.
        inputs: Inputs of the graph.
        tensors: Tensors to observe.
        batches: Calibration data.
        threads: Threads per run.
        look: Called with the name and the values of each tensor, per batch.

    Raises:
        InputError: there is no data, the graph does not accept it, or a value is not finite.
    """
    if not batches:
        raise InputError("data.calibration_samples", "there is no calibration data")
    tf = tensorflow()
    imported = tf.Graph()
    with imported.as_default():
        tf.import_graph_def(graph.to_def(), name="")
    histograms = {tensor: Histogram() for tensor in tensors}
    names = [tensor if ":" in tensor else f"{tensor}:0" for tensor in tensors]
    with tf.compat.v1.Session(graph=imported, config=session_config(threads)) as session:
        for batch in batches:
            feed: dict[str, Any] = {
                f"{port.tensor}:0": np.asarray(batch[port.spec.name], port.spec.dtype) for port in inputs
            }
            try:
                values = session.run(names, feed)
            except (tf.errors.OpError, ValueError) as error:
                raise InputError("data", f"the model does not accept the calibration data: {reason(error)}") from error
            for tensor, value in zip(tensors, values, strict=True):
                try:
                    histograms[tensor].update(value)
                except ValueError as error:
                    raise InputError("data", f"{error} (tensor {tensor})") from error
                look(tensor, value)
    return histograms
