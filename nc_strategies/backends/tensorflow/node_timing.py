"""Latency of each node, from the runtime's traces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from nc_strategies.backends.base import Profile
from nc_strategies.backends.profiling import NodeTimes, summarise
from nc_strategies.backends.tensorflow.executed import CONVERSIONS


def read_times(steps: Iterable[Any], operators: Mapping[str, str]) -> Profile:
    """Times of the nodes over several traced runs.

    Args:
        steps: ``StepStats`` per run.
        operators: Node name to the operator of the model that it computes, wholly or in part.
    """
    nodes: dict[tuple[str, str], NodeTimes] = {}
    for step in steps:
        for stats in (node for device in step.dev_stats for node in device.node_stats):
            # The label reads "name = Type(inputs)".
            kind = stats.timeline_label.rpartition(" = ")[2].partition("(")[0]
            node = nodes.setdefault(
                (kind, stats.node_name), NodeTimes(operators.get(stats.node_name), kind in CONVERSIONS)
            )
            node.seconds.append((stats.op_end_rel_nanos - stats.op_start_rel_nanos) * 1e-9)
            if stats.output:
                shape = stats.output[0].tensor_description.shape
                node.elements = prod(dimension.size for dimension in shape.dim)
    return summarise(nodes.values())
