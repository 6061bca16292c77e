"""The schemes that the engine executes for a model. Every scheme was observed in the engine's optimized graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from nc_strategies.backends.onnxruntime.executed import MOVEMENT, base_name, is_int8
from nc_strategies.backends.onnxruntime.modes import SCHEMES as OTHER_SCHEMES
from nc_strategies.backends.onnxruntime.modes import is_product
from nc_strategies.backends.onnxruntime.other_ops import candidates, find_other_ops
from nc_strategies.backends.onnxruntime.probe_modes import executed_schemes
from nc_strategies.backends.onnxruntime.providers import CPU, Provider
from nc_strategies.backends.onnxruntime.reasons import float_ops
from nc_strategies.backends.onnxruntime.session import optimize
from nc_strategies.calibration.histogram import ALGORITHMS
from nc_strategies.onnx_graph.graph import NOT_NEGATIVE, OPT_IN, QUIET, FusedOp, Graph
from nc_strategies.onnx_graph.qdq import GraphBuilder
from nc_strategies.space import FLOAT, Capabilities, Config, OpCapability, OpScheme, TensorScheme

ACTIVATIONS = (("uint8", "asym"), ("int8", "sym"))
GRANULARITIES = ("per_channel", "per_tensor")
MODES = ("auto", "static", "all")
"""Values of the setting ``modes``."""
LEAST_SHARE = 0.05
"""Share of the model's multiplications from which matrix products are offered other modes than static int8: in an image
classifier only its last operator is one, and each further mode costs timings and trials."""
FREE_LENGTH = 16
"""Length that a free dimension counts with, when operators' work is compared."""


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
        modes: One of `MODES`.
        provider: Execution provider that the graphs are optimized for.

    Raises:
        EngineError: the engine refuses a graph.
        InputError: see `optimize`.
    """
    graph, builder = builder.graph, builder.to_look_at()
    offered = _offered(builder, operators, reduce_range[0], provider)
    for name, schemes in _other_modes(builder, operators, modes, provider).items():
        offered[name] += schemes
    capable = {name: _capability(graph, op, offered[name]) for name, op in graph.fused_ops.items() if offered[name]}
    capable.update(_without_static(builder, operators, modes, provider))
    ops = tuple(capable[node.name] for node in graph.model.graph.node if node.name in capable)
    edges = tuple((a, b) for a, b in _edges(graph) if offered.get(a) and offered.get(b))
    order = tuple(n.name for n in graph.model.graph.node if n.op_type not in MOVEMENT and n.op_type not in QUIET)
    stay = float_ops(graph, {op.name for op in ops})
    return Capabilities(ops, edges, (), (("reduce_range", reduce_range),), order, stay)


def _offered(
    builder: GraphBuilder, operators: Mapping[str, str], reduce_range: bool, provider: Provider
) -> dict[str, list[OpScheme]]:
    """The int8 schemes of each operator that the engine runs in int8 when asked to; none for the others."""
    graph = builder.graph
    offered: dict[str, list[OpScheme]] = {name: [] for name in graph.fused_ops}
    for dtype, scheme in ACTIVATIONS:
        everything = tuple(
            (name, _scheme(op, dtype, scheme, _granularities(graph, op)[0], "minmax"))
            for name, op in graph.fused_ops.items()
        )
        running = _runs_int8(builder, operators, Config(everything, (("reduce_range", reduce_range),)), provider)
        for name in running & set(graph.fused_ops):
            op = graph.fused_ops[name]
            offered[name] += [
                _scheme(op, dtype, scheme, granularity, algorithm)
                for algorithm in ALGORITHMS
                for granularity in _granularities(graph, op)
            ]
    return offered


def _granularities(graph: Graph, op: FusedOp) -> tuple[str, ...]:
    """Granularities of an operator's weight. A stack of matrices has one scale: the engine has no kernel for more."""
    if op.weight is None:
        return GRANULARITIES[:1]
    stacked = op.type == "MatMul" and len(graph.initializers[op.weight].dims) > 2
    return GRANULARITIES[1:] if stacked else GRANULARITIES


def _other_modes(
    builder: GraphBuilder, operators: Mapping[str, str], modes: str, provider: Provider
) -> dict[str, list[OpScheme]]:
    """The dynamic and weight-only schemes of each matrix product that the engine keeps in its optimized graph."""
    graph = builder.graph
    products = [op for op in graph.fused_ops.values() if is_product(graph, op)]
    if modes == "static" or not products or (modes == "auto" and _share(graph, products) < LEAST_SHARE):
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
            made = _capability(graph, op, schemes)
            starts_float = op.type == "Gather"
            found[name] = replace(made, schemes=(FLOAT, *schemes)) if starts_float else made
    return found


def _share(graph: Graph, products: list[FusedOp]) -> float:
    """Share of the model's multiplications that matrix products with constant weights make."""
    work = {op.name: _work(graph, op) for op in graph.fused_ops.values()}
    whole = sum(work.values())
    return sum(work[op.name] for op in products) / whole if whole else 0.0


def _work(graph: Graph, op: FusedOp) -> int:
    """Multiplications of a product or convolution per sample, free dimensions counted as `FREE_LENGTH`."""
    if not op.weight:
        return 0
    weight = int(np.prod(graph.initializers[op.weight].dims))
    shape = graph.shapes.get(op.raw, ())
    if op.type == "Conv":
        return weight * int(np.prod([d or FREE_LENGTH for d in shape[2:]]))
    return weight * int(np.prod([d or FREE_LENGTH for d in shape[1:-1]]))


def _capability(graph: Graph, op: FusedOp, int8: list[OpScheme]) -> OpCapability:
    opt_in = op.type in OPT_IN
    schemes = (FLOAT, *int8) if opt_in else (*int8, FLOAT)
    parameters = int(np.prod(graph.initializers[op.weight].dims)) if op.weight else 0
    shape = graph.shapes.get(op.output, ())
    elements = int(np.prod([d for d in shape[1:] if d])) if len(shape) > 1 else 0
    return OpCapability(op.name, op.type, schemes, opt_in, parameters, elements)


def _scheme(op: FusedOp, dtype: str, scheme: str, granularity: str, algorithm: str) -> OpScheme:
    weight = TensorScheme("int8", "sym", granularity, "minmax") if op.weight else None
    return OpScheme(TensorScheme(dtype, scheme, "per_tensor", algorithm), weight)


def _runs_int8(builder: GraphBuilder, operators: Mapping[str, str], config: Config, provider: Provider) -> set[str]:
    """Operators for which the engine selects int8 kernels, read from its optimized graph; the ranges are arbitrary."""

    def ranges(name: str, algorithm: str) -> tuple[float, float]:
        node = builder.graph.producers.get(name)
        return (0.0, 1.0) if node is not None and node.op_type in NOT_NEGATIVE else (-1.0, 1.0)

    model, _ = builder.build(config, ranges)
    optimized = optimize(model.SerializeToString(), provider)
    names = [base_name(n.name) for n in optimized.graph.node if is_int8(n.op_type, [])]
    return {operators[name] for name in names if name in operators}


def _edges(graph: Graph) -> list[tuple[str, str]]:
    owner: dict[str, str] = {}
    edges: list[tuple[str, str]] = []
    activations = {op.act.name for op in graph.fused_ops.values() if op.act is not None}
    for node in graph.model.graph.node:
        op = graph.fused_ops.get(node.name)
        if op is not None:
            edges += [(owner[name], op.name) for name in op.inputs if name in owner]
            owner[op.raw] = owner[op.output] = op.name
        elif node.name not in activations and graph.carried(node) in owner:
            owner.update(dict.fromkeys(node.output, owner[str(graph.carried(node))]))
    return edges
