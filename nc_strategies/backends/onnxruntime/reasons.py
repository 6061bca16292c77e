"""Why an operator of an ONNX model computes in floating point on onnxruntime's static int8 kernels."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx
from onnx import TensorProto

from nc_strategies.backends.onnxruntime.executed import MOVEMENT
from nc_strategies.onnx_graph.fuse import hard_sigmoid_coefficients
from nc_strategies.onnx_graph.graph import ACTIVATIONS, FOLLOWING, QUANTIZABLE, QUIET, WEIGHTED, Graph
from nc_strategies.space import FloatOp

CONTROL_FLOW = {"If", "Loop", "Scan"}
FLOATING = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
}
NO_KERNEL = "the engine has no int8 kernel"
ONLY_DYNAMIC = "static int8 has no kernel; the dynamic one needs constant weights and backend.modes=auto or all"
NOT_BEHIND_INT8 = "part of an int8 operator only right behind one"
NOT_RUN = "the engine did not run it in int8 between quantized tensors"


def float_ops(graph: Graph, offered: Collection[str]) -> tuple[FloatOp, ...]:
    """The computing operators that stay in floating point, each with the reason.

    Operators that only move values, those that compute on integers, and what is fused into another operator are left
    out.

    Args:
        graph: The prepared model.
        offered: Names of the fused operators that the engine runs in int8.
    """
    types = _element_types(graph)
    inside = {op.act.name for op in graph.fused_ops.values() if op.act is not None}
    found: list[FloatOp] = []
    for node in graph.model.graph.node:
        kind = str(node.op_type)
        if node.name in offered or node.name in inside or node.output[0] in graph.scaled:
            continue
        if kind in CONTROL_FLOW:
            found += [
                FloatOp(f"{node.name}/{inner.name}", inner.op_type, f"inside a body of {kind}", True)
                for inner in _bodies(node)
                if inner.op_type in QUANTIZABLE
            ]
        elif kind not in MOVEMENT | FOLLOWING and kind not in QUIET:
            dtype = types.get(next((name for name in node.output if name), ""))
            if dtype is None or dtype in FLOATING:
                reason, fixable = _reason(graph, node, dtype)
                found.append(FloatOp(str(node.name), kind, reason, fixable))
    return tuple(found)


def _reason(graph: Graph, node: onnx.NodeProto, dtype: int | None) -> tuple[str, bool]:
    """The reason, and whether the operator could run in int8 in another form."""
    if node.name in graph.fused_ops:
        return NOT_RUN, False
    if node.op_type in ACTIVATIONS:
        return NOT_BEHIND_INT8, False
    if node.op_type == "LSTM":
        return ONLY_DYNAMIC, False
    if node.op_type not in QUANTIZABLE or node.domain not in ("", "ai.onnx"):
        return NO_KERNEL, False
    if dtype is None:
        return "the type of its output is not known", True
    if dtype != TensorProto.FLOAT:
        return f"computes in {FLOATING[dtype]}; int8 kernels go with fp32", True
    return _operand_reason(graph, node) or "no int8 pattern of the engine fits it", True


def _operand_reason(graph: Graph, node: onnx.NodeProto) -> str:
    """What about a quantizable operator's operands or attributes keeps it in floating point; empty if nothing known."""
    data = [name for name in node.input if name]
    if all(name in graph.initializers for name in data):
        return "all it reads is constant"
    if node.op_type == "HardSigmoid":
        return (
            "a slope that is not positive, or an activation behind it"
            if min(hard_sigmoid_coefficients(node)) <= 0 or len(graph.consumers.get(node.output[0], [])) == 1
            else ""
        )
    if node.op_type not in WEIGHTED:
        return ""
    weight = graph.initializers.get(node.input[1])
    if weight is None:
        return _computed_weight(graph, node.input[1])
    if node.op_type == "MatMul":
        return f"its constant has {len(weight.dims)} axes" if len(weight.dims) != 2 else ""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    for name, usual in (("alpha", 1.0), ("beta", 1.0), ("transA", 0)):
        if node.op_type == "Gemm" and given.get(name, usual) != usual:
            return f"its {name} is {given[name]:g}"
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and bias not in graph.initializers:
        return "its bias is computed, not constant"
    dims = list(graph.initializers[bias].dims) if bias else [1]
    return f"its bias has shape {tuple(dims)}" if len(dims) != 1 else ""


def _computed_weight(graph: Graph, name: str) -> str:
    """What a weight that is no constant comes from."""
    producer = graph.producers.get(name)
    stored = graph.initializers.get(producer.input[0]) if producer is not None and producer.input else None
    if producer is not None and producer.op_type == "Cast" and stored is not None and stored.data_type in FLOATING:
        return f"its weight is stored in {FLOATING[stored.data_type]} and cast at run time"
    if producer is not None and producer.op_type == "DequantizeLinear":
        return "its weight is quantized already"
    return "its weight is computed, not constant"


def _element_types(graph: Graph) -> dict[str, int]:
    """ONNX element type of every tensor whose type is known."""
    inner = graph.model.graph
    known = {
        value.name: int(value.type.tensor_type.elem_type)
        for value in [*inner.input, *inner.output, *inner.value_info]
        if value.type.tensor_type.elem_type
    }
    return {**known, **{i.name: int(i.data_type) for i in inner.initializer}}


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The operators in the bodies of a node, and in the bodies within them."""
    for attribute in node.attribute:
        for body in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
            for inner in body.node:
                yield inner
                yield from _bodies(inner)
