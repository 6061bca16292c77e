"""How long the nodes of an optimized graph take, each run on its own.

The engine's profiler writes some hundred bytes at every node. On a node of a microsecond that is most of what it tells,
and it pushes the model out of the caches: the nodes of a small model take two to four times as long as without it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from nc_strategies.backends.base import Profile
from nc_strategies.backends.onnxruntime.executed import BARRIER, CONVERSIONS, base_name, node_events
from nc_strategies.backends.profiling import NodeTimes, summarise
from nc_strategies.errors import EngineError
from nc_strategies.models.info import Batch
from nc_strategies.onnx_graph.fold import branches
from nc_strategies.onnx_graph.interpreter import options, run, start

Arrays = Mapping[str, NDArray[np.generic]]
LEAST_COPIES, MOST_COPIES, COPIES_BYTES = 2, 8, 2**25
"""Copies of a node that run in a row, and the bytes that their weights may take together. Each has weights of its own:
between two runs of a node in its graph, those of others pass through the caches."""
ROW_SECONDS = 0.002
"""What the copies may take together, where they are more than the least: a long node needs fewer to be told apart."""
RUNS, LEAST_RUNS, SECONDS = 12, 4, 0.05
"""Timed runs of the copies, and the seconds after which there are no more than the least number."""
PROBE, CALM, BURSTS = 96, 1.06, 12
"""Rows and columns of the product that tells how fast the machine is at the moment, how much longer than at best it may
take before and after a node is timed, and how often that is tried. Where others use the machine, it is half as fast for
a second and as fast as ever in the next; as a node is timed once and for all, that would stay with it."""
NODE_SECONDS = 0.1
"""After so many seconds a node is not tried again, calm or not: those of a large model are many, and long."""


class KernelTimes:
    """Times of nodes. What is the same kernel on the same shapes is timed once.

    Args:
        threads: Threads for one run.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._known: dict[tuple[object, ...], float | None] = {}
        self._probe: ort.InferenceSession | None = None
        self._best = float("inf")

    def __call__(self, model: onnx.ModelProto, batch: Batch) -> dict[str, float]:
        """Seconds by node name. What cannot run on its own is left out, as a node with a graph within.

        Args:
            model: A graph after the engine's optimizations, with its weights.
            batch: What it is run on, which gives the shapes.
        """
        with ThreadPoolExecutor(1) as thread:  # with memory of its own, as for an `OrtExecutable`
            return thread.submit(self._all, model, batch).result()

    def _all(self, model: onnx.ModelProto, batch: Batch) -> dict[str, float]:
        weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        try:
            values = self._values(model, batch)
        except EngineError:
            return {}
        found = {}
        for node in model.graph.node:
            names = [name for name in (*node.input, *node.output) if name]
            if node.name and not branches(node) and all(name in weights or name in values for name in names):
                key = _key(node, weights, values)
                if key not in self._known:
                    self._known[key] = self._time(model, node, weights, values)
                seconds = self._known[key]
                if seconds is not None:
                    found[node.name] = seconds
        return found

    def _values(self, model: onnx.ModelProto, batch: Batch) -> dict[str, NDArray[np.generic]]:
        """All tensors of a run."""
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        have = {o.name for o in model.graph.output}
        names = [name for node in model.graph.node for name in node.output if name]
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
        found = run(self._open(watched), batch, names)
        return {**{n: v for n, v in zip(names, found, strict=True) if isinstance(v, np.ndarray)}, **batch}

    def _open(self, model: onnx.ModelProto) -> ort.InferenceSession:
        chosen = options(self._threads)
        chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return start(model.SerializeToString(), chosen)

    def _time(self, model: onnx.ModelProto, node: onnx.NodeProto, weights: Arrays, values: Arrays) -> float | None:
        """Seconds of a node: what a number of copies take longer than one does."""
        heavy = sum(weights[name].nbytes for name in set(node.input) if name in weights)
        feed = {name: values[name] for name in node.input if name and name not in weights}
        start = time.perf_counter()
        try:
            one = self._open(_copies(model, node, 1, weights, values))
            took = min(_seconds(one, feed) for _ in range(2))
            more = int(np.clip(min(COPIES_BYTES / max(1, heavy), ROW_SECONDS / took), LEAST_COPIES, MOST_COPIES))
            several = self._open(_copies(model, node, 1 + more, weights, values))
            found = []
            for _ in range(BURSTS):
                before = self._pace()
                found.append(_burst(one, several, feed))
                if max(before, self._pace()) <= CALM * self._best:
                    return found[-1][1] / more
                if time.perf_counter() - start > NODE_SECONDS:
                    break
        except EngineError:
            return None
        return min(found)[1] / more

    def _pace(self) -> float:
        """Seconds of something that always takes the same on an idle machine."""
        if self._probe is None:
            self._probe = start(_product(), options(1))
        seconds = _seconds(self._probe, {"a": np.ones((PROBE, PROBE), np.float32)})
        self._best = min(self._best, seconds)
        return seconds


def _seconds(opened: ort.InferenceSession, feed: Batch) -> float:
    """What one run takes."""
    before = time.perf_counter()
    run(opened, feed)
    return time.perf_counter() - before


def _burst(one: ort.InferenceSession, several: ort.InferenceSession, feed: Batch) -> tuple[float, float]:
    """Median seconds of several copies, and of those without what one takes."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for index in range(1 + RUNS):
        for opened, kept in zip((one, several), seconds, strict=True):
            kept.append(_seconds(opened, feed))
        if index >= LEAST_RUNS and sum(map(sum, seconds)) > SECONDS:
            break
    first, all_copies = (float(np.median(kept[1:])) for kept in seconds)
    return all_copies, max(0.0, all_copies - first)


def _product() -> bytes:
    """A graph that multiplies a matrix by itself."""
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (PROBE, PROBE)) for name in "ab"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "a"], ["b"])], "product", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


def _key(node: onnx.NodeProto, weights: Arrays, values: Arrays) -> tuple[object, ...]:
    """What a node's time depends on."""

    def sort(name: str) -> tuple[object, ...]:
        array = weights[name] if name in weights else values[name]
        return name in weights, str(array.dtype), array.shape

    attributes = tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))
    inputs = tuple(sort(name) if name else () for name in node.input)
    return node.domain, node.op_type, attributes, inputs, tuple(map(bool, node.output))


def _copies(
    model: onnx.ModelProto, node: onnx.NodeProto, count: int, weights: Arrays, values: Arrays
) -> onnx.ModelProto:
    """A graph of copies of a node, side by side, that take the same values."""
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
    taken = [_info(name, values[name]) for name in dict.fromkeys(node.input) if name and name not in weights]
    given = [_info(copy, values[name]) for copy, name in zip(nodes[-1].output, node.output, strict=True) if name]
    graph = helper.make_graph(nodes, "copies", taken, given, initializers)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _info(name: str, array: NDArray[np.generic]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def origins(graph: onnx.GraphProto, operators: Mapping[str, str]) -> dict[str, str | None]:
    """For each conversion in an optimized graph, by name, the operator whose result it converts; None for none."""
    producers = {name: node for node in graph.node for name in node.output}
    found: dict[str, str | None] = {}
    for node in graph.node:
        source: onnx.NodeProto | None = node
        while source is not None and _converts(source.op_type, source.name):
            source = producers.get(source.input[0])
        if source is not node:
            found[node.name] = operators.get(_stem(source.name)) if source is not None else None
    return found


def _converts(kind: str, name: str) -> bool:
    # The engine's own Transposes, between layouts, are named for their type.
    return kind in CONVERSIONS or (kind == "Transpose" and base_name(name) == kind)


def _stem(name: str) -> str:
    return base_name(name).removesuffix(BARRIER)


def read_times(
    events: list[dict[str, Any]],
    operators: Mapping[str, str],
    converted: Mapping[str, str | None],
    alone: Mapping[str, float],
) -> Profile:
    """Times of the nodes, from the events of several profiled runs, the first of them left out, where not known better.

    Args:
        events: What the engine recorded.
        operators: Name of a node or of its output to the operator of the user's model it stands for.
        converted: See `origins`.
        alone: Seconds of nodes that were run on their own, by name.
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
