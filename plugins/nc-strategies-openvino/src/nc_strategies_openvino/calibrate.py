"""Reading of the floating-point graph's activations on calibration data, by the engine itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.api import Batch, EngineError
from nc_strategies_openvino import engine


class OpenVinoObserver:
    """Runs the floating-point graph with tensors as further outputs.

    Args:
        model: The serialized model.
        names: The tensors that can be read.
        inputs: Names of the model's inputs.
        threads: Threads per run.
    """

    def __init__(self, model: bytes, names: Sequence[str], inputs: Sequence[str], threads: int) -> None:
        self._model, self._threads = model, threads
        self._names, self._inputs = list(names), set(inputs)

    def shapes(self, feed: Batch) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the tensors in a run; operators that compute shapes are added to the graph."""
        openvino = engine.openvino()
        produced = [name for name in self._names if name not in self._inputs]
        model = engine.read(self._model)
        results = [openvino.opset13.shape_of(port) for port in self._ports(model, produced)]
        model.add_results([openvino.opset13.result(shape) for shape in results])
        found = self._run(model, feed)[-len(produced) :] if produced else []
        shapes = {name: tuple(map(int, shape)) for name, shape in zip(produced, found, strict=True)}
        return {name: shapes[name] if name in shapes else np.shape(feed[name]) for name in self._names}

    def reader(self, names: Sequence[str]) -> Callable[[Batch], Sequence[NDArray[Any]]]:
        """A function that runs a feed and returns the values of some of the tensors."""
        openvino = engine.openvino()
        produced = [name for name in names if name not in self._inputs]
        model = engine.read(self._model)
        model.add_results([openvino.opset13.result(port) for port in self._ports(model, produced)])
        request = engine.compiled(model, engine.options(max(self._threads, 1))).create_infer_request()
        first = len(model.outputs) - len(produced)

        def read(feed: Batch) -> list[NDArray[Any]]:
            engine.run(request, feed)
            values = {name: request.get_output_tensor(first + i).data.copy() for i, name in enumerate(produced)}
            return [values[name] if name in values else feed[name] for name in names]

        return read

    @staticmethod
    def _ports(model: Any, names: Sequence[str]) -> list[Any]:
        """What makes each tensor."""
        ops = [op for op in model.get_ops() if op.get_type_name() != "Result"]
        known = {name: output for op in ops for output in op.outputs() for name in output.get_names()}
        for name in names:
            if name not in known:
                raise EngineError(f"OpenVINO's graph has no tensor {name!r}")
        return [known[name] for name in names]

    def _run(self, model: Any, feed: Batch) -> list[NDArray[Any]]:
        request = engine.compiled(model, engine.options(max(self._threads, 1))).create_infer_request()
        engine.run(request, feed)
        return [request.get_output_tensor(index).data.copy() for index in range(len(model.outputs))]
