"""TensorFlow sessions, one per graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import Executable, ExecutedOps, Profile
from nc_strategies.backends.tensorflow.executed import count
from nc_strategies.backends.tensorflow.import_tensorflow import reason, tensorflow
from nc_strategies.backends.tensorflow.loading import Port
from nc_strategies.backends.tensorflow.node_timing import read_times
from nc_strategies.errors import EngineError
from nc_strategies.models.info import Batch

REWRITING = ("stock", "fuse", "none")
"""Passes of TensorFlow's graph optimizer before the first run: the default passes, only the fusion of floating-point
operators, or none. The default passes take 0.5 s for an int8 MobileNet and 3 s for an int8 ResNet, and change nothing
in a folded graph except for the fusions, so that the cheaper settings run the same kernels."""


class SessionExecutable(Executable):
    """A graph with a session of its own.

    Args:
        graph_def: The graph.
        inputs: The model's inputs.
        outputs: Names of the tensors to fetch.
        threads: Threads per run.
        fingerprint: Hash of the graph.
        operators: Node name to the operator of the model that it computes, wholly or in part.
        rewriting: One of `REWRITING`.

    Raises:
        EngineError: TensorFlow does not accept the graph.
    """

    def __init__(
        self,
        graph_def: Any,
        inputs: Sequence[Port],
        outputs: Sequence[str],
        threads: int,
        fingerprint: str,
        operators: Mapping[str, str] = MappingProxyType({}),
        rewriting: str = "stock",
    ) -> None:
        tf = tensorflow()
        self.fingerprint, self.size_bytes = fingerprint, graph_def.ByteSize()
        self._inputs = tuple((port.spec.name, _full(port.tensor), port.spec.dtype) for port in inputs)
        self._outputs = [_full(name) for name in outputs]
        self._operators = operators
        self._thread = ThreadPoolExecutor(1)  # a thread of its own, for the reason given in `OrtExecutable`
        try:
            self._session, self._call = self._thread.submit(self._open, graph_def, threads, rewriting).result()
        except (ValueError, tf.errors.OpError) as error:
            raise EngineError(reason(error)) from error
        self._last: list[NDArray[Any]] | None = None

    def _open(self, graph_def: Any, threads: int, rewriting: str) -> tuple[Any, Any]:
        tf = tensorflow()
        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(graph_def, name="")
        session = tf.compat.v1.Session(graph=graph, config=session_config(threads, rewriting))
        return session, session._make_callable_from_options(self._options())

    def _options(self) -> Any:
        """Feeds and fetches. The graph runs in the caller's thread, as a thread switch costs as much as an operator."""
        from tensorflow.core.protobuf import config_pb2

        options = config_pb2.CallableOptions(feed=[tensor for _, tensor, _ in self._inputs], fetch=self._outputs)
        options.run_options.inter_op_thread_pool = -1
        return options

    def predict(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """See `Executable.predict`."""
        if self._call is None:
            raise EngineError("the model was closed")
        values = [np.asarray(batch[name], dtype) for name, _, dtype in self._inputs]
        self._last = values
        try:
            return [np.asarray(output) for output in self._call(*values)]
        except tensorflow().errors.OpError as error:
            raise EngineError(reason(error)) from error

    def executed(self) -> ExecutedOps:
        """Count the nodes of the runtime's partitioned graphs, from the metadata of one run."""
        metadata = self._traced(self._feed(), output_partition_graphs=True)
        nodes = (node for graph in metadata.partition_graphs for node in graph.node)
        return count(nodes, frozenset(self._operators.values()))

    def profile(self, batch: Batch, runs: int) -> Profile:
        """See `Executable.profile`: times from full traces of the runtime."""
        tf = tensorflow()
        feed = {tensor: np.asarray(batch[name], dtype) for name, tensor, dtype in self._inputs}
        level = tf.compat.v1.RunOptions.FULL_TRACE
        steps = [self._traced(feed, trace_level=level).step_stats for _ in range(runs + 1)]
        return read_times(steps[1:], self._operators)

    def _feed(self) -> Mapping[str, NDArray[Any]]:
        values = self._last or [np.zeros([size or 1 for size in shape], dtype) for shape, dtype in self._shapes()]
        return dict(zip((tensor for _, tensor, _ in self._inputs), values, strict=True))

    def _traced(self, feed: Mapping[str, NDArray[Any]], **options: Any) -> Any:
        """The metadata of one run."""
        tf = tensorflow()
        metadata = tf.compat.v1.RunMetadata()
        try:
            self._session.run(self._outputs, feed, options=tf.compat.v1.RunOptions(**options), run_metadata=metadata)
        except tf.errors.OpError as error:
            raise EngineError(reason(error)) from error
        return metadata

    def _shapes(self) -> list[tuple[list[int | None], Any]]:
        tensors = [self._session.graph.get_tensor_by_name(tensor) for _, tensor, _ in self._inputs]
        return [(tensor.shape.as_list(), tensor.dtype.as_numpy_dtype) for tensor in tensors]

    def close(self) -> None:
        """Release the session and its graph."""

        def forget() -> None:
            self._session.close()
            self._call = self._session = None

        if self._session is not None:
            self._thread.submit(forget).result()
            self._thread.shutdown()


def session_config(threads: int, rewriting: str = "stock") -> Any:
    """The ``ConfigProto`` of a session with one of `REWRITING`."""
    config = tensorflow().compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1)
    rewrites = config.graph_options.rewrite_options
    if rewriting == "none":
        rewrites.disable_meta_optimizer = True
    elif rewriting == "fuse":
        rewrites.optimizers.append("remap")
    return config


def _full(tensor: str) -> str:
    return tensor if ":" in tensor else f"{tensor}:0"
