"""The capabilities of a model, derived from its fused operators and from the kernels that run on this processor."""

from __future__ import annotations

import math
from collections.abc import Callable

from nc_strategies.backends.tensorflow.build import SIGNED_SUM, activation_dtype
from nc_strategies.backends.tensorflow.executed import MOVES
from nc_strategies.backends.tensorflow.fused_ops import CARRIERS, FusedOp, Matched
from nc_strategies.backends.tensorflow.graph import Graph, node_of
from nc_strategies.backends.tensorflow.probe import Kernels
from nc_strategies.backends.tensorflow.reasons import float_ops
from nc_strategies.backends.tensorflow.weights import FULL, REDUCED
from nc_strategies.calibration.histogram import ALGORITHMS
from nc_strategies.errors import InputError
from nc_strategies.space import FLOAT, Capabilities, OpCapability, OpScheme, TensorScheme

GRANULARITIES = ("per_channel", "per_tensor")
REDUCE_RANGE = "reduce_range"


def describe(graph: Graph, matched: Matched, kernels: Kernels) -> Capabilities:
    """The capabilities of a model.

    An operator's ``activation.dtype`` is the type of its input: ``uint8`` if the input is never negative (after ReLU,
    for example), ``int8`` otherwise. The model determines it, and there is no choice: the kernels have no zero point,
    so the other type would waste half of the range or clip. The type of its output follows in the same way.
    ``reduce_range`` limits weights to 7 bits where products would saturate.

    Raises:
        InputError: this machine's kernels run none of the operators that have one.
    """
    ops = []
    for fused_op in matched.fused_ops.values():
        dtype = activation_dtype(matched, fused_op.source)
        if kernels.runs(fused_op.op, dtype):
            ops.append(
                OpCapability(
                    fused_op.name,
                    fused_op.op,
                    (*_schemes(dtype), FLOAT),
                    False,
                    _size(graph, fused_op),
                    _elements(matched, fused_op),
                )
            )
    if matched.fused_ops and not ops:
        why = next(iter(kernels.failures.values()), "they compute wrong results")
        raise InputError(
            "backend", f"TensorFlow's int8 kernels do not run on this machine ({why})", "try backend=onnxruntime"
        )
    known = {op.name for op in ops}
    order, edges = _flow(graph, matched)
    options = ((REDUCE_RANGE, (True, False)),) if _saturating(matched, kernels, known) else ()
    stay = float_ops(graph, matched, kernels, known)
    return Capabilities(tuple(ops), tuple(e for e in edges if known.issuperset(e)), (), options, order, stay)


def limits(kernels: Kernels, reduce_range: bool) -> Callable[[str, str], int]:
    """Map (operator type, activation type) to the largest integer weight to use.

    A MatMul on signed activations always has 7-bit weights if its kernel saturates: the kernel shifts activations by
    128, so that nearly every product would saturate. `SIGNED_SUM` saturates whatever the weights are.
    """

    def limit(op_type: str, dtype: str) -> int:
        always = op_type == SIGNED_SUM or (op_type == "MatMul" and dtype == "int8")
        reduced = kernels.saturates(op_type, dtype) and (reduce_range or always)
        return REDUCED if reduced else FULL

    return limit


def _schemes(dtype: str) -> tuple[OpScheme, ...]:
    return tuple(
        OpScheme(
            TensorScheme(dtype, "sym", "per_tensor", algorithm), TensorScheme("int8", "sym", granularity, "minmax")
        )
        for algorithm in ALGORITHMS
        for granularity in GRANULARITIES
    )


def _saturating(matched: Matched, kernels: Kernels, known: set[str]) -> bool:
    pairs = {
        (fused_op.op, activation_dtype(matched, fused_op.source))
        for fused_op in matched.fused_ops.values()
        if fused_op.name in known
    }
    return any(limits(kernels, True)(*pair) != limits(kernels, False)(*pair) for pair in pairs)


def _size(graph: Graph, fused_op: FusedOp) -> int:
    weight = graph.value(fused_op.weight)
    return 0 if weight is None else weight.size


def _elements(matched: Matched, fused_op: FusedOp) -> int:
    shape = matched.shapes.get(fused_op.output)
    return 0 if shape is None or None in shape[1:] else math.prod(size or 1 for size in shape[1:])


def _flow(graph: Graph, matched: Matched) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """Computing operators in execution order, and the (producer, consumer) pairs among them."""
    owner = {
        name: fused_op.name for fused_op in matched.fused_ops.values() for name in (fused_op.name, *fused_op.absorbed)
    }
    makers: dict[str, frozenset[str]] = {}
    order: dict[str, None] = {}
    edges: dict[tuple[str, str], None] = {}
    for node in graph.ordered():
        sources = frozenset().union(*(makers.get(node_of(text), frozenset()) for text in node.input))
        if node.op in MOVES or (node.op in CARRIERS and node.name not in owner):
            makers[node.name] = sources
            continue
        name = owner.get(node.name, node.name)
        order[name] = None
        for source in sorted(sources - {name}):
            edges[source, name] = None
        makers[node.name] = frozenset({name})
    return tuple(order), list(edges)
