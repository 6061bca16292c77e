"""What a backend that reads ONNX offers for an operator, whatever engine runs it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nc_strategies.calibration.histogram import ALGORITHMS
from nc_strategies.onnx_graph.graph import NOT_NEGATIVE, OPT_IN, FusedOp, Graph
from nc_strategies.onnx_graph.qdq import Ranges
from nc_strategies.space import FLOAT, OpCapability, OpScheme, TensorScheme

ACTIVATIONS = (("uint8", "asym"), ("int8", "sym"))
"""Data type and symmetry of quantized activations, the preferred one first."""
GRANULARITIES = ("per_channel", "per_tensor")
MODES = ("auto", "static", "all")
"""Values of the setting ``modes``."""
LEAST_SHARE = 0.05
"""Share of the model's multiplications from which matrix products are offered other modes than static int8: in an image
classifier only its last operator is one, and each further mode costs timings and trials."""
FREE_LENGTH = 16
"""Length that a free dimension counts with, when operators' work is compared."""


def static_schemes(graph: Graph, op: FusedOp, dtype: str, symmetry: str) -> list[OpScheme]:
    """The static int8 schemes of an operator with activations of one type.

    Args:
        graph: The model.
        op: The operator.
        dtype: Data type of its activations.
        symmetry: ``asym`` or ``sym``.
    """
    return [
        _static_scheme(op, dtype, symmetry, granularity, algorithm)
        for algorithm in ALGORITHMS
        for granularity in _granularities(graph, op)
    ]


def first_scheme(graph: Graph, op: FusedOp, dtype: str, symmetry: str) -> OpScheme:
    """The first of `static_schemes`, with the algorithm ``minmax``."""
    return _static_scheme(op, dtype, symmetry, _granularities(graph, op)[0], "minmax")


def _static_scheme(op: FusedOp, dtype: str, symmetry: str, granularity: str, algorithm: str) -> OpScheme:
    weight = TensorScheme("int8", "sym", granularity, "minmax") if op.weight else None
    return OpScheme(TensorScheme(dtype, symmetry, "per_tensor", algorithm), weight)


def _granularities(graph: Graph, op: FusedOp) -> tuple[str, ...]:
    """Granularities of an operator's weight. A stack of matrices has one scale: engines have no kernel for more."""
    if op.weight is None:
        return GRANULARITIES[:1]
    stacked = op.type == "MatMul" and len(graph.initializers[op.weight].dims) > 2
    return GRANULARITIES[1:] if stacked else GRANULARITIES


def capability(graph: Graph, op: FusedOp, int8: list[OpScheme]) -> OpCapability:
    """What is offered for an operator: its quantized schemes, and floating point.

    An operator without weights whose result must not become 0 is in int8 on request only: infinities and NaN follow.
    """
    opt_in = op.type in OPT_IN or (op.weight is None and graph.must_not_be_zero(op.output))
    schemes = (FLOAT, *int8) if opt_in else (*int8, FLOAT)
    parameters = int(np.prod(graph.initializers[op.weight].dims)) if op.weight else 0
    shape = graph.shapes.get(op.output, ())
    elements = int(np.prod([d for d in shape[1:] if d])) if len(shape) > 1 else 0
    return OpCapability(op.name, op.type, schemes, opt_in, parameters, elements)


def edges(graph: Graph) -> list[tuple[str, str]]:
    """Pairs of operators, of which the second reads what the first computes, maybe moved in between."""
    owner: dict[str, str] = {}
    found: list[tuple[str, str]] = []
    activations = {op.act.name for op in graph.fused_ops.values() if op.act is not None}
    for node in graph.model.graph.node:
        op = graph.fused_ops.get(node.name)
        if op is not None:
            found += [(owner[name], op.name) for name in op.inputs if name in owner]
            owner[op.raw] = owner[op.output] = op.name
        elif node.name not in activations and graph.carried(node) in owner:
            owner.update(dict.fromkeys(node.output, owner[str(graph.carried(node))]))
    return found


def share_of_work(graph: Graph, ops: Iterable[FusedOp]) -> float:
    """Share of the model's multiplications that some of its operators make, from 0 to 1."""
    work = {op.name: _work(graph, op) for op in graph.fused_ops.values()}
    return sum(work[op.name] for op in ops) / (sum(work.values()) or 1)


def _work(graph: Graph, op: FusedOp) -> int:
    """Multiplications of a product or convolution per sample, free dimensions counted as `FREE_LENGTH`."""
    if not op.weight:
        return 0
    weight = int(np.prod(graph.initializers[op.weight].dims))
    shape = graph.shapes.get(op.raw, ())
    return weight * int(np.prod([d or FREE_LENGTH for d in (shape[2:] if op.type == "Conv" else shape[1:-1])]))


def any_ranges(graph: Graph) -> Ranges:
    """Ranges of a graph that is looked at and never run."""

    def ranges(name: str, algorithm: str) -> tuple[float, float]:
        node = graph.producers.get(name)
        return (0.0, 1.0) if node is not None and node.op_type in NOT_NEGATIVE else (-1.0, 1.0)

    return ranges
