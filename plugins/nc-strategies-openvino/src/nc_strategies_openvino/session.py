"""Compiled models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.api import Batch, EngineError, Executable, ExecutedOps, Profile
from nc_strategies_openvino import engine
from nc_strategies_openvino.executed import Operators, count, runtime_nodes
from nc_strategies_openvino.fake_quantize import with_fake_quantize
from nc_strategies_openvino.node_timing import timed


def opened(model: bytes | Path) -> Any:
    """An ``openvino.Model``. A serialized ONNX model gets FakeQuantize operators in place of Q/DQ pairs.

    Raises:
        EngineError: the engine refuses it.
    """
    read = engine.read(model)
    return with_fake_quantize(read) if isinstance(model, bytes) else read


class OpenVinoExecutable(Executable):
    """A compiled model with one request.

    Args:
        model: A serialized ONNX model, or the path of a model file.
        threads: Threads per run.
        fingerprint: Hash of the graph.
        operators: The model's operators.
        size_bytes: Size of the model as it would be saved.

    Raises:
        EngineError: the engine refuses the model.
    """

    def __init__(
        self,
        model: bytes | Path,
        threads: int,
        fingerprint: str,
        operators: Operators,
        size_bytes: int,
    ) -> None:
        self.fingerprint, self.size_bytes = fingerprint, size_bytes
        self._model, self._threads, self._operators = model, threads, operators
        self._compiled: Any = engine.compiled(opened(model), engine.options(threads))
        self._request: Any = self._compiled.create_infer_request()
        self._outputs = range(len(self._compiled.outputs))

    def predict(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """See `Executable.predict`; half-precision results as float32."""
        if self._request is None:
            raise EngineError("the model was closed")
        engine.run(self._request, batch)
        arrays = (self._request.get_output_tensor(index).data for index in self._outputs)
        return [array.astype(np.float32 if array.dtype == np.float16 else array.dtype) for array in arrays]

    def executed(self) -> ExecutedOps:
        """See `Executable.executed`: counted in the graph that the engine compiled."""
        if self._compiled is None:
            raise EngineError("the model was closed")
        return count(runtime_nodes(self._compiled), self._operators)

    def profile(self, batch: Batch, runs: int) -> Profile:
        """See `Executable.profile`. The model is compiled once more, because profiling slows every run."""
        return timed(opened(self._model), self._threads, self._operators, batch, runs)

    def close(self) -> None:
        """See `Executable.close`."""
        self._request = self._compiled = None
