"""Why an operator of a TensorFlow graph computes in floating point."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from nc_strategies.backends.tensorflow.build import activation_dtype
from nc_strategies.backends.tensorflow.executed import MOVES
from nc_strategies.backends.tensorflow.fold import WEIGHTED
from nc_strategies.backends.tensorflow.fused_ops import CARRIERS, Matched, is_grouped
from nc_strategies.backends.tensorflow.graph import Graph, Node
from nc_strategies.backends.tensorflow.probe import Kernels
from nc_strategies.space import FloatOp

FUNCTION_CALLS = frozenset(
    {
        "If",
        "StatelessIf",
        "While",
        "StatelessWhile",
        "Case",
        "StatelessCase",
        "PartitionedCall",
        "StatefulPartitionedCall",
    }
)
NO_KERNEL = "the engine has no int8 kernel"
GROUPED = "its channels are in groups; int8 kernels take one group, or one for each channel (depthwise)"
NOT_MATCHED = "no int8 kernel of the engine fits it"


def float_ops(graph: Graph, matched: Matched, kernels: Kernels, offered: Collection[str]) -> tuple[FloatOp, ...]:
    """The computing operators that stay in floating point, each with the reason.

    Args:
        graph: The simplified graph.
        matched: Its fused operators.
        kernels: The int8 kernels that run on this machine.
        offered: Names of the fused operators that can run in int8.
    """
    inside = {name for fused_op in matched.fused_ops.values() for name in fused_op.absorbed}
    found: list[FloatOp] = []
    for node in graph.ordered():
        if node.name in offered or node.name in inside or node.op in MOVES or node.op in CARRIERS:
            continue
        if node.op in FUNCTION_CALLS:
            found += _in_functions(graph, node)
        dtype = matched.dtypes.get(node.name)
        if dtype is None or not dtype.is_floating:
            continue
        if node.name in matched.fused_ops:
            case = f"{node.op}/{activation_dtype(matched, matched.fused_ops[node.name].source)}"
            why = kernels.failures.get(case, "it computes wrong results")
            found.append(FloatOp(node.name, node.op, f"its int8 kernel does not run on this machine ({why})"))
        elif node.op not in FUNCTION_CALLS:
            weighted = node.op in WEIGHTED or node.op == "Conv2DBackpropInput"
            grouped = is_grouped(graph, node, matched.shapes)
            why = GROUPED if grouped else _reason(graph, node) if weighted else NO_KERNEL
            found.append(FloatOp(node.name, node.op, why, weighted))
    return tuple(found)


def _reason(graph: Graph, node: Node) -> str:
    """Why no int8 kernel fits an operator with a weight."""
    weight = graph.value(node.input[1])
    if weight is None:
        return "its weight is computed, not constant"
    if weight.dtype != np.float32:
        return f"its weight is {weight.dtype}; int8 kernels go with float32"
    if node.op == "MatMul":
        return "its first operand is transposed" if node.attr["transpose_a"].b else NOT_MATCHED
    if node.op == "Conv2DBackpropInput":
        return _reason_transposed(node, weight.shape)
    return NOT_MATCHED


def _reason_transposed(node: Node, kernel: tuple[int, ...]) -> str:
    """Why a transposed convolution is not written as a convolution, see `layout.convolve_instead`."""
    rows, columns = list(node.attr["strides"].list.i)[1:3]
    if set(node.attr["dilations"].list.i) - {1}:
        return "transposed and dilated: no int8 kernel computes it"
    if rows not in (1, columns):
        return f"its strides are {rows} and {columns}; int8 takes equal ones, or a stride along the last axis only"
    if kernel[0] % rows or kernel[1] % columns:
        return f"its kernel of {kernel[0]} by {kernel[1]} is no multiple of its stride; int8 takes such kernels only"
    return "the sizes of its input or output are not fixed in the graph"


def _in_functions(graph: Graph, node: Node) -> list[FloatOp]:
    """The operators with a weight in the functions that a node calls."""
    named = [attribute.func.name for attribute in node.attr.values() if attribute.HasField("func")]
    return [
        FloatOp(f"{node.name}/{inner.name}", inner.op, f"inside a function of {node.op}", True)
        for function in graph.library.function
        if function.signature.name in named
        for inner in function.node_def
        if inner.op in WEIGHTED
    ]
