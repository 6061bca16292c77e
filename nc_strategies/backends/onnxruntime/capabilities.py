"""The schemes that the engine executes for a model. Every scheme was observed in the engine's optimized graph."""

from __future__ import annotations

from collections.abc import Mapping
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
from nc_strategies.backends.onnxruntime.executed import MOVEMENT, base_name, is_int8
from nc_strategies.backends.onnxruntime.modes import SCHEMES as OTHER_SCHEMES
from nc_strategies.backends.onnxruntime.modes import is_product
from nc_strategies.backends.onnxruntime.other_ops import candidates, find_other_ops
from nc_strategies.backends.onnxruntime.probe_modes import executed_schemes
from nc_strategies.backends.onnxruntime.providers import CPU, Provider
from nc_strategies.backends.onnxruntime.reasons import float_ops
from nc_strategies.backends.onnxruntime.session import optimize
from nc_strategies.onnx_graph.graph import QUIET
from nc_strategies.onnx_graph.qdq import GraphBuilder
from nc_strategies.space import FLOAT, Capabilities, Config, OpCapability, OpScheme


def describe(
    builder: GraphBuilder,
    operators: Mapping[str, str],
    reduce_range: tuple[bool, ...],
    modes: str = "static",
    provider: Provider = CPU,
) -> Capabilities:
    """The capabilities of a model.

    Args:
        builder: Builds the model's Q/DQ graphs.
        operators: Name of a node or of its output to the operator of the user's model that it computes.
        reduce_range: Values of the option ``reduce_range``, the default first.
        modes: One of `nc_strategies.backends.onnx_schemes.MODES`.
        provider: Execution provider that the graphs are optimized for.

    Raises:
        EngineError: the engine refuses a graph.
        InputError: see `optimize`.
    """
    graph, builder = builder.graph, builder.to_look_at()
    offered = _offered(builder, operators, reduce_range[0], provider)
    for name, schemes in _other_modes(builder, operators, modes, provider).items():
        offered[name] += schemes
    capable = {name: capability(graph, op, offered[name]) for name, op in graph.fused_ops.items() if offered[name]}
    capable.update(_without_static(builder, operators, modes, provider))
    ops = tuple(capable[node.name] for node in graph.model.graph.node if node.name in capable)
    pairs = tuple((a, b) for a, b in edges(graph) if offered.get(a) and offered.get(b))
    order = tuple(n.name for n in graph.model.graph.node if n.op_type not in MOVEMENT and n.op_type not in QUIET)
    stay = float_ops(graph, {op.name for op in ops})
    return Capabilities(ops, pairs, (), (("reduce_range", reduce_range),), order, stay)


def _offered(
    builder: GraphBuilder, operators: Mapping[str, str], reduce_range: bool, provider: Provider
) -> dict[str, list[OpScheme]]:
    """The int8 schemes of each operator that the engine runs in int8 when asked to; none for the others."""
    graph = builder.graph
    offered: dict[str, list[OpScheme]] = {name: [] for name in graph.fused_ops}
    for dtype, symmetry in ACTIVATIONS:
        everything = tuple((name, first_scheme(graph, op, dtype, symmetry)) for name, op in graph.fused_ops.items())
        running = _runs_int8(builder, operators, Config(everything, (("reduce_range", reduce_range),)), provider)
        for name in running & set(graph.fused_ops):
            offered[name] += static_schemes(graph, graph.fused_ops[name], dtype, symmetry)
    return offered


def _other_modes(
    builder: GraphBuilder, operators: Mapping[str, str], modes: str, provider: Provider
) -> dict[str, list[OpScheme]]:
    """The dynamic and weight-only schemes of each matrix product that the engine keeps in its optimized graph."""
    graph = builder.graph
    products = [op for op in graph.fused_ops.values() if is_product(graph, op)]
    if modes == "static" or not products or (modes == "auto" and share_of_work(graph, products) < LEAST_SHARE):
        return {}
    found: dict[str, list[OpScheme]] = {op.name: [] for op in products}
    executed = executed_schemes(provider=provider)
    for scheme in (s for s in OTHER_SCHEMES if s in executed):
        config = Config(tuple((op.name, scheme) for op in products), (("reduce_range", False),))
        for name in _runs_int8(builder, operators, config, provider) & set(found):
            found[name].append(scheme)
    return found


def _without_static(
    builder: GraphBuilder, operators: Mapping[str, str], modes: str, provider: Provider
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
            if name in _runs_int8(builder, operators, alone, provider):
                schemes.append(scheme)
        if schemes:
            made = capability(graph, op, schemes)
            starts_float = op.type == "Gather"
            found[name] = replace(made, schemes=(FLOAT, *schemes)) if starts_float else made
    return found


def _runs_int8(builder: GraphBuilder, operators: Mapping[str, str], config: Config, provider: Provider) -> set[str]:
    """Operators for which the engine selects int8 kernels; the ranges are arbitrary."""
    return int8_kernels(builder.build(config, any_ranges(builder.graph))[0], operators, provider)


def int8_kernels(model: onnx.ModelProto, operators: Mapping[str, str], provider: Provider = CPU) -> set[str]:
    """Operators for which the engine selects int8 kernels, read from its optimized graph; the model is not run.

    Args:
        model: The model.
        operators: See `describe`.
        provider: Execution provider that the graph is optimized for.

    Raises:
        EngineError: the engine refuses the model.
        InputError: see `optimize`.
    """
    optimized = optimize(model.SerializeToString(), provider)
    names = [base_name(n.name) for n in optimized.graph.node if is_int8(n.op_type, [])]
    return {operators[name] for name in names if name in operators}
