"""The schemes that the engine executes for a model. Every scheme was observed in the engine's optimized graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx

from nc_strategies.backends.onnx_schemes import (
    ACTIVATIONS,
    LEAST_SHARE,
    any_ranges,
    capability,
    edges,
    first_scheme,
    share_of_work,
    static_schemes,
)
from nc_strategies.backends.onnxruntime.executed import MOVEMENT
from nc_strategies.backends.onnxruntime.modes import SCHEMES as OTHER_SCHEMES
from nc_strategies.backends.onnxruntime.modes import is_product
from nc_strategies.backends.onnxruntime.other_ops import candidates, find_other_ops
from nc_strategies.backends.onnxruntime.probe_modes import executed_schemes
from nc_strategies.backends.onnxruntime.providers import CPU, Provider
from nc_strategies.backends.onnxruntime.reasons import float_ops
from nc_strategies.onnx_graph.graph import QUIET
from nc_strategies.onnx_graph.qdq import GraphBuilder
from nc_strategies.space import FLOAT, Capabilities, Config, OpCapability, OpScheme

Executed = Callable[[onnx.ModelProto], frozenset[str]]
"""See `nc_strategies.backends.onnx_backend.OnnxBackend.executed_in_int8`."""


def describe(
    builder: GraphBuilder,
    executed: Executed,
    reduce_range: tuple[bool, ...],
    modes: str = "static",
    provider: Provider = CPU,
) -> Capabilities:
    """The capabilities of a model.

    Args:
        builder: Builds the model's Q/DQ graphs.
        executed: Returns the names of the operators that the engine would execute in int8.
        reduce_range: Values of the option ``reduce_range``, the default first.
        modes: One of `nc_strategies.backends.onnx_schemes.MODES`.
        provider: Execution provider that runs them.

    Raises:
        EngineError: the engine refuses a graph.
        InputError: see `optimize`.
    """
    graph, builder = builder.graph, builder.to_look_at()
    offered = _offered(builder, executed, reduce_range[0])
    for name, schemes in _other_modes(builder, executed, modes, provider).items():
        offered[name] += schemes
    capable = {name: capability(graph, op, offered[name]) for name, op in graph.fused_ops.items() if offered[name]}
    capable.update(_without_static(builder, executed, modes, provider))
    ops = tuple(capable[node.name] for node in graph.model.graph.node if node.name in capable)
    pairs = tuple((a, b) for a, b in edges(graph) if offered.get(a) and offered.get(b))
    order = tuple(n.name for n in graph.model.graph.node if n.op_type not in MOVEMENT and n.op_type not in QUIET)
    stay = float_ops(graph, {op.name for op in ops})
    return Capabilities(ops, pairs, (), (("reduce_range", reduce_range),), order, stay)


def _offered(builder: GraphBuilder, executed: Executed, reduce_range: bool) -> dict[str, list[OpScheme]]:
    """The int8 schemes of each operator that the engine runs in int8 when asked to; none for the others."""
    graph = builder.graph
    offered: dict[str, list[OpScheme]] = {name: [] for name in graph.fused_ops}
    for dtype, symmetry in ACTIVATIONS:
        everything = tuple((name, first_scheme(graph, op, dtype, symmetry)) for name, op in graph.fused_ops.items())
        running = _runs_int8(builder, executed, Config(everything, (("reduce_range", reduce_range),)))
        for name in running & set(graph.fused_ops):
            offered[name] += static_schemes(graph, graph.fused_ops[name], dtype, symmetry)
    return offered


def _other_modes(
    builder: GraphBuilder, executed: Executed, modes: str, provider: Provider
) -> dict[str, list[OpScheme]]:
    """The dynamic and weight-only schemes of each matrix product that the engine keeps in its optimized graph."""
    graph = builder.graph
    products = [op for op in graph.fused_ops.values() if is_product(graph, op)]
    if modes == "static" or not products or (modes == "auto" and share_of_work(graph, products) < LEAST_SHARE):
        return {}
    found: dict[str, list[OpScheme]] = {op.name: [] for op in products}
    held = executed_schemes(provider=provider)
    for scheme in (s for s in OTHER_SCHEMES if s in held):
        config = Config(tuple((op.name, scheme) for op in products), (("reduce_range", False),))
        for name in _runs_int8(builder, executed, config) & set(found):
            found[name].append(scheme)
    return found


def _without_static(
    builder: GraphBuilder, executed: Executed, modes: str, provider: Provider
) -> dict[str, OpCapability]:
    """Embeddings and LSTMs with the schemes that the engine keeps in its optimized graph.

    An embedding takes a small share of the time, and its weights a large one of the memory: it starts in floating
    point.
    """
    graph, found = builder.graph, {}
    for name, op in find_other_ops(graph).items() if modes != "static" else ():
        held = executed_schemes(op.type, provider)
        schemes = []
        for scheme in (s for s in candidates(graph, op) if s in held):
            alone = Config(((name, scheme),), (("reduce_range", False),))
            if name in _runs_int8(builder, executed, alone):
                schemes.append(scheme)
        if schemes:
            made = capability(graph, op, schemes)
            starts_float = op.type == "Gather"
            found[name] = replace(made, schemes=(FLOAT, *schemes)) if starts_float else made
    return found


def _runs_int8(builder: GraphBuilder, executed: Executed, config: Config) -> frozenset[str]:
    """Operators for which the engine selects int8 kernels; the ranges are arbitrary."""
    return executed(builder.build(config, any_ranges(builder.graph))[0])
