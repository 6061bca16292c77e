"""Time of each node in a run, from the engine's performance counters."""

from __future__ import annotations

from typing import Any

from nc_strategies.api import Batch, NodeTimes, Profile, summarise
from nc_strategies_openvino import engine
from nc_strategies_openvino.executed import MOVEMENT, Operators, is_conversion, runtime_nodes


def timed(model: Any, threads: int, operators: Operators, batch: Batch, runs: int) -> Profile:
    """Profile a model.

    Args:
        model: An ``openvino.Model``.
        threads: Threads per run.
        operators: The model's operators.
        batch: What it is run on.
        runs: Number of runs that count; one precedes them.

    Raises:
        EngineError: the engine could not run it.
    """
    compiled = engine.compiled(model, engine.options(threads, profiling=True))
    request = compiled.create_infer_request()
    seconds: dict[str, list[float]] = {}
    engine.run(request, batch)
    for _ in range(runs):
        engine.run(request, batch)
        for info in request.profiling_info:
            seconds.setdefault(info.node_name, []).append(info.real_time.total_seconds())
    nodes: list[NodeTimes] = []
    for node in runtime_nodes(compiled):
        taken = seconds.get(node.name)
        if not taken:
            continue
        names = operators.computed(node)
        conversion = is_conversion(node, operators)
        computes = bool(names) and not conversion and node.layer not in MOVEMENT
        nodes.append(NodeTimes(names[0] if computes else None, conversion, node.elements, taken))
        # What is fused behind another operator takes no time of its own.
        nodes += [NodeTimes(name, False, 0, [0.0]) for name in names[1:] if name in operators.choices]
    return summarise(nodes)
