"""Reading of the floating-point graph's activations on calibration data."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Sequence
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nc_strategies.backends.onnxruntime.providers import CPU, Provider
from nc_strategies.models.info import Batch
from nc_strategies.onnx_graph.graph import Graph
from nc_strategies.onnx_graph.interpreter import options, run, start

SHAPE = "ncs/shape/"
"""Prefix of the names of outputs that hold a tensor's shape."""


class OrtObserver:
    """See `nc_strategies.backends.collection.Observer`.

    Observed tensors are outputs of the graph, which the engine keeps in memory until the end of a run. To read few of
    them, a session with few outputs is opened.

    Args:
        graph: The floating-point graph.
        threads: Threads per run.
        provider: Execution provider of the sessions.
        tensors: The activations to observe; None for all.
    """

    def __init__(
        self, graph: Graph, threads: int, provider: Provider = CPU, tensors: Collection[str] | None = None
    ) -> None:
        self._model = graph.model
        self._threads, self._provider = threads, provider
        self._inputs = {i.name for i in self._model.graph.input}
        self._outputs = {o.name for o in self._model.graph.output}
        self._session: ort.InferenceSession | None = None
        self.names = [name for name in graph.observed() if tensors is None or name in tensors]

    def shapes(self, feed: Batch) -> dict[str, tuple[int, ...]]:
        """See `Observer.shapes`: operators that compute shapes are added to the graph."""
        produced = [name for name in self.names if name not in self._inputs]
        nodes = [helper.make_node("Shape", [name], [SHAPE + name], name=SHAPE + name) for name in produced]
        outputs = [helper.make_tensor_value_info(SHAPE + name, TensorProto.INT64, None) for name in produced]
        session = self._open(nodes, outputs)
        found = run(session, feed, [SHAPE + name for name in produced]) if produced else []
        shapes = dict(zip(produced, (tuple(map(int, shape)) for shape in found), strict=True))
        return {name: shapes[name] if name in shapes else feed[name].shape for name in self.names}

    def reader(self, names: Sequence[str]) -> Callable[[Batch], Sequence[NDArray[Any]]]:
        """See `Observer.reader`."""
        produced = [name for name in names if name not in self._inputs]
        added = [name for name in produced if name not in self._outputs]
        session = self._open([], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in added])

        def read(feed: Batch) -> list[NDArray[Any]]:
            values = dict(zip(produced, run(session, feed, produced) if produced else [], strict=True))
            return [values[name] if name in values else feed[name] for name in names]

        return read

    def _open(self, nodes: Sequence[onnx.NodeProto], outputs: Sequence[onnx.ValueInfoProto]) -> ort.InferenceSession:
        """A session of the graph with further nodes and outputs, in place of the last one."""
        self._session = None
        gc.collect()
        further = onnx.ModelProto(graph=onnx.GraphProto(node=nodes, output=outputs))
        chosen = options(max(self._threads, 1))
        chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        # Buffers are not kept from run to run, whose sizes differ between groups of tensors.
        chosen.enable_cpu_mem_arena = False
        # This order runs operators that compute shapes as soon as it can, so that their inputs are freed.
        chosen.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        # Serialized messages that follow each other are merged by the parser, so that the weights are not copied.
        whole = self._model.SerializeToString() + further.SerializeToString()
        self._session = start(whole, chosen, self._provider.for_session())
        return self._session
