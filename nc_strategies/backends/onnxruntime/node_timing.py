"""Latency of each node of an optimized graph, measured by running the node in isolation.

The engine's profiler writes some hundred bytes per node. For a node of about a microsecond this overhead dominates the
reported time, and it evicts the model from the caches: the nodes of a small model take two to four times as long as
without the profiler.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from nc_strategies.backends.base import Profile
from nc_strategies.backends.onnxruntime.executed import BARRIER, CONVERSIONS, base_name, node_events
from nc_strategies.backends.onnxruntime.providers import CPU, Provider
from nc_strategies.backends.profiling import NodeTimes, summarise
from nc_strategies.errors import EngineError
from nc_strategies.models.info import Batch
from nc_strategies.onnx_graph import external
from nc_strategies.onnx_graph.fold import branches
from nc_strategies.onnx_graph.interpreter import options, run, start

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class NodeTimingLimits:
    """How often and how long a node is timed.

    Args:
        min_copies: Least number of copies of a node that run in a row.
        max_copies: Greatest number of copies. Each has weights of its own, because in the model's graph the weights of
            other nodes pass through the caches between two runs of a node.
        weight_bytes: Bytes that the weights of all copies may take.
        copied_bytes: Bytes that the weights of the least number of copies may take: they are in memory at least twice.
        row_seconds: Seconds that a row of more than `min_copies` copies may take: a slow node needs fewer copies, as
            its time is far above the clock's resolution.
        runs: Timed runs of the row.
        min_runs: Timed runs that are made even when `run_seconds` are over.
        run_seconds: Seconds after which no further run starts.
        probe_size: Rows and columns of the matrix product whose time shows the machine's present speed.
        quiet_ratio: Greatest ratio of the product's time, before and after a measurement, to its shortest time. Other
            processes can halve the machine's speed for about a second; as each node is timed only once, such a
            measurement would never be corrected.
        max_attempts: Measurements until one is made on a quiet machine.
        node_seconds: Seconds after which a node is not measured again, on a quiet machine or not: a large model has
            many slow nodes.
    """

    min_copies: int = 2
    max_copies: int = 8
    weight_bytes: int = 2**25
    copied_bytes: int = 2**28
    row_seconds: float = 0.002
    runs: int = 12
    min_runs: int = 4
    run_seconds: float = 0.05
    probe_size: int = 96
    quiet_ratio: float = 1.06
    max_attempts: int = 12
    node_seconds: float = 0.1


LIMITS = NodeTimingLimits()


class KernelTimes:
    """Latency of nodes. Nodes with the same kernel and the same shapes are timed once.

    Args:
        threads: Threads per run.
        provider: Execution provider of the sessions.
    """

    def __init__(self, threads: int, provider: Provider = CPU) -> None:
        self._threads, self._provider = threads, provider
        self._known: dict[tuple[object, ...], float | None] = {}
        self._probe: ort.InferenceSession | None = None
        self._best = float("inf")

    def __call__(self, model: onnx.ModelProto, batch: Batch) -> dict[str, float]:
        """Seconds by node name, without the nodes that cannot run in isolation, such as those with a subgraph.

        Args:
            model: A graph after the engine's optimizations, with its weights.
            batch: Input of the graph; it determines the shapes.
        """
        with ThreadPoolExecutor(1) as thread:  # a thread of its own, for the reason given in `OrtExecutable`
            return thread.submit(self._all, model, batch).result()

    def _all(self, model: onnx.ModelProto, batch: Batch) -> dict[str, float]:
        weights = {i.name: external.array(i) for i in model.graph.initializer}
        try:
            values = self._values(model, batch)
        except EngineError:
            return {}
        times = {}
        for node in model.graph.node:
            names = [name for name in (*node.input, *node.output) if name]
            if node.name and not branches(node) and all(name in weights or name in values for name in names):
                key = _key(node, weights, values)
                if key not in self._known:
                    self._known[key] = self._time(model, node, weights, values)
                seconds = self._known[key]
                if seconds is not None:
                    times[node.name] = seconds
        return times

    def _values(self, model: onnx.ModelProto, batch: Batch) -> dict[str, NDArray[np.generic]]:
        """The values of all tensors in one run."""
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        have = {o.name for o in model.graph.output}
        names = [name for node in model.graph.node for name in node.output if name]
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
        values = run(self._open(watched), batch, names)
        return {**{n: v for n, v in zip(names, values, strict=True) if isinstance(v, np.ndarray)}, **batch}

    def _open(self, model: onnx.ModelProto) -> ort.InferenceSession:
        chosen = options(self._threads)
        chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return start(model.SerializeToString(), chosen, self._provider.for_session())

    def _time(self, model: onnx.ModelProto, node: onnx.NodeProto, weights: Arrays, values: Arrays) -> float | None:
        """Seconds of a node: the added time of further copies, divided by their number."""
        weight_bytes = sum(weights[name].nbytes for name in set(node.input) if name in weights)
        if weight_bytes * (1 + LIMITS.min_copies) > LIMITS.copied_bytes:
            return None  # The copies are in memory, and the session that runs them holds them again.
        feed = {name: values[name] for name in node.input if name and name not in weights}
        start = time.perf_counter()
        try:
            single = self._open(_copies(model, node, 1, weights, values))
            seconds = min(_seconds(single, feed) for _ in range(2))
            added_copies = int(
                np.clip(
                    min(LIMITS.weight_bytes / max(1, weight_bytes), LIMITS.row_seconds / seconds),
                    LIMITS.min_copies,
                    LIMITS.max_copies,
                )
            )
            several = self._open(_copies(model, node, 1 + added_copies, weights, values))
            attempts = []
            for _ in range(LIMITS.max_attempts):
                before = self._pace()
                attempts.append(_burst(single, several, feed))
                if max(before, self._pace()) <= LIMITS.quiet_ratio * self._best:
                    return attempts[-1][1] / added_copies
                if time.perf_counter() - start > LIMITS.node_seconds:
                    break
        except EngineError:
            return None
        return min(attempts)[1] / added_copies

    def _pace(self) -> float:
        """Seconds of a fixed matrix product; on an idle machine it always takes the same time."""
        if self._probe is None:
            self._probe = start(_product(), options(1), self._provider.for_session())
        seconds = _seconds(self._probe, {"a": np.ones((LIMITS.probe_size, LIMITS.probe_size), np.float32)})
        self._best = min(self._best, seconds)
        return seconds


def _seconds(opened: ort.InferenceSession, feed: Batch) -> float:
    """Duration of one run in seconds."""
    before = time.perf_counter()
    run(opened, feed)
    return time.perf_counter() - before


def _burst(single: ort.InferenceSession, several: ort.InferenceSession, feed: Batch) -> tuple[float, float]:
    """Median seconds of several copies, and how much longer they take than a single one; the runs alternate."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for index in range(1 + LIMITS.runs):
        for opened, durations in zip((single, several), seconds, strict=True):
            durations.append(_seconds(opened, feed))
        if index >= LIMITS.min_runs and sum(map(sum, seconds)) > LIMITS.run_seconds:
            break
    one_copy, all_copies = (float(np.median(durations[1:])) for durations in seconds)
    return all_copies, max(0.0, all_copies - one_copy)


def _product() -> bytes:
    """A graph that multiplies a matrix by itself."""
    shape = (LIMITS.probe_size, LIMITS.probe_size)
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "ab"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "a"], ["b"])], "product", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


def _key(node: onnx.NodeProto, weights: Arrays, values: Arrays) -> tuple[object, ...]:
    """The properties of a node on which its time depends."""

    def signature(name: str) -> tuple[object, ...]:
        array = weights[name] if name in weights else values[name]
        return name in weights, str(array.dtype), array.shape

    attributes = tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))
    inputs = tuple(signature(name) if name else () for name in node.input)
    return node.domain, node.op_type, attributes, inputs, tuple(map(bool, node.output))


def _copies(
    model: onnx.ModelProto, node: onnx.NodeProto, count: int, weights: Arrays, values: Arrays
) -> onnx.ModelProto:
    """A graph of independent copies of a node that read the same values."""
    nodes, initializers = [], []
    for index in range(count):
        inputs = [f"{name}/{index}" if name in weights else name for name in node.input]
        outputs = [f"{index}/{position}" if name else "" for position, name in enumerate(node.output)]
        copy = onnx.NodeProto(
            op_type=node.op_type,
            domain=node.domain,
            name=str(index),
            input=inputs,
            output=outputs,
            attribute=node.attribute,
        )
        nodes.append(copy)
        initializers += [
            numpy_helper.from_array(weights[name], f"{name}/{index}")
            for name in dict.fromkeys(node.input)
            if name in weights
        ]
    graph_inputs = [_info(name, values[name]) for name in dict.fromkeys(node.input) if name and name not in weights]
    graph_outputs = [
        _info(copy, values[name]) for copy, name in zip(nodes[-1].output, node.output, strict=True) if name
    ]
    graph = helper.make_graph(nodes, "copies", graph_inputs, graph_outputs, initializers)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _info(name: str, array: NDArray[np.generic]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def origins(graph: onnx.GraphProto, operators: Mapping[str, str]) -> dict[str, str | None]:
    """Name of each conversion in an optimized graph to the operator whose result it converts; None if there is none."""
    producers = {name: node for node in graph.node for name in node.output}
    sources: dict[str, str | None] = {}
    for node in graph.node:
        source: onnx.NodeProto | None = node
        while source is not None and _converts(source.op_type, source.name):
            source = producers.get(source.input[0])
        if source is not node:
            sources[node.name] = operators.get(_stem(source.name)) if source is not None else None
    return sources


def _converts(kind: str, name: str) -> bool:
    # The Transposes that the engine inserts between layouts are named after their type.
    return kind in CONVERSIONS or (kind == "Transpose" and base_name(name) == kind)


def _stem(name: str) -> str:
    return base_name(name).removesuffix(BARRIER)


def read_times(
    events: list[dict[str, Any]],
    operators: Mapping[str, str],
    converted: Mapping[str, str | None],
    alone: Mapping[str, float],
) -> Profile:
    """Times of the nodes: those measured in isolation, else those of the profiled runs without the first run.

    Args:
        events: Events of the engine's profile of several runs.
        operators: Name of a node or of its output to the operator of the user's model that it computes.
        converted: See `origins`.
        alone: Seconds of the nodes that were run in isolation, by name.
    """
    nodes: dict[tuple[str, str], NodeTimes] = {}
    for event in node_events(events):
        kind, name = event["args"]["op_name"], event["name"].removesuffix("_kernel_time")
        if (kind, name) not in nodes:
            conversion = _converts(kind, name)
            owner = converted.get(name) if conversion else operators.get(_stem(name))
            shapes = event["args"].get("output_type_shape", [])
            elements = prod(next(iter(shapes[0].values()))) if shapes else 0
            nodes[kind, name] = NodeTimes(owner, conversion, elements)
            continue
        nodes[kind, name].seconds.append(alone.get(name, event["dur"] * 1e-6))
    return summarise(nodes.values(), True)
