"""Times of operators, from the delegate's profile."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nc_strategies.api import NodeTimes, Profile, summarise
from nc_strategies_litert.executed import Assigned, assign
from nc_strategies_litert.graph import CONVERSIONS, SILENT, Graph, Op
from nc_strategies_litert.profiler import KernelEvent


def read_times(graph: Graph, parts: Sequence[Sequence[int]], runs: Sequence[Sequence[KernelEvent]]) -> Profile:
    """Times of the operators of a graph over some runs.

    Args:
        graph: The graph that ran.
        parts: See `executed.delegated_ops`.
        runs: The events of each run; all runs run the same kernels.
    """
    placed = assign(graph, parts, runs[0])
    position = {id(event): index for index, event in enumerate(runs[0])}
    nodes = []
    for each in placed:
        index = position[id(each.event)]
        times = [run[index].seconds for run in runs if index < len(run)]
        nodes.append(_node(graph, each, times))
    return summarise(nodes, traced=True)


def _node(graph: Graph, each: Assigned, seconds: list[float]) -> NodeTimes:
    op = each.op
    if op is None or op.type in SILENT:
        return NodeTimes(None, False, 0, seconds)
    if op.type in CONVERSIONS:
        return NodeTimes(_producer(graph, op), True, graph.tensors[op.outputs[0]].elements or 1, seconds)
    return NodeTimes(op.name, False, 0, seconds)


def _producer(graph: Graph, op: Op, seen: Collection[int] = ()) -> str | None:
    """The computing operator whose result a conversion converts."""
    maker = graph.producers.get(op.inputs[0]) if op.inputs else None
    if maker is None or maker.index in seen:
        return None
    if maker.type in CONVERSIONS or maker.type in SILENT:
        return _producer(graph, maker, (*seen, maker.index))
    return maker.name
