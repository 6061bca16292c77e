"""Whether a model is quantized already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from nc_strategies.onnx_graph.names import graphs_in

INTEGER_OPERATORS = {
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
    "MatMulNBits",
    "MatMulBnb4",
    "MatMulFpQ4",
    "GatherBlockQuantized",
    "QAttention",
    "QEmbedLayerNormalization",
    "QGemm",
    "QMoE",
    "QOrderedAttention",
    "QOrderedGelu",
    "QOrderedLayerNormalization",
    "QOrderedLongformerAttention",
    "QOrderedMatMul",
    "QuantizeBFP",
    "DequantizeBFP",
}
"""Operators of ONNX and com.microsoft that compute with quantized values."""
INTEGER_PREFIX = "QLinear"
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
MOVING = {"Cast", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that only move values: what stands before or behind them is still the model's input or output."""


def computes_in_integers(kind: str) -> bool:
    """Whether operators of a type compute with quantized values."""
    return kind in INTEGER_OPERATORS or kind.startswith(INTEGER_PREFIX)


def is_quantized(kind: str) -> bool:
    """Whether operators of a type compute with quantized values, or convert to or from them."""
    return kind in CONVERSIONS or computes_in_integers(kind)


def quantized_by(model: onnx.ModelProto) -> str | None:
    """What shows that a model is quantized; None for a floating-point model.

    A DequantizeLinear of the model's own inputs is preprocessing, and a QuantizeLinear of its outputs postprocessing,
    unless the same tensor is quantized and dequantized again.

    Returns:
        The type of a node, with the name of the first one.
    """
    scopes = [list(graph.node) for graph in graphs_in(model.graph)]
    scopes += [list(function.node) for function in model.functions]
    for nodes in scopes:
        for node in nodes:
            if computes_in_integers(node.op_type):
                return _told(node)
    # Within functions nothing is an input or output of the model.
    inputs = {i.name for i in model.graph.input} - {i.name for i in model.graph.initializer}
    outputs = {o.name for o in model.graph.output}
    nodes = [node for scope in scopes for node in scope]
    return next(_inner_conversions(nodes, inputs, outputs), None)


def _told(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or next(iter(node.output), '')!r}"


def _inner_conversions(nodes: Iterable[onnx.NodeProto], inputs: set[str], outputs: set[str]) -> Iterator[str]:
    """The QuantizeLinear and DequantizeLinear that are neither preprocessing nor postprocessing."""
    producers = {name: node for node in nodes for name in node.output if name}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in nodes:
        if node.op_type == "DequantizeLinear" and not _comes_from(node.input[0], producers, inputs):
            yield _told(node)
        if node.op_type == "QuantizeLinear" and not _ends_in(node.output[0], readers, outputs):
            yield _told(node)


def _comes_from(name: str, producers: dict[str, onnx.NodeProto], inputs: set[str]) -> bool:
    """Whether a tensor is an input of the model, moved at most."""
    seen: set[str] = set()  # Bodies beside each other may use one name twice.
    while name not in inputs:
        node = producers.get(name)
        if node is None or node.op_type not in MOVING or name in seen:
            return False
        seen.add(name)
        name = node.input[0]
    return True


def _ends_in(name: str, readers: dict[str, list[onnx.NodeProto]], outputs: set[str]) -> bool:
    """Whether a tensor is read for nothing but the model's outputs, moved at most."""
    waiting, seen = [name], set()
    while waiting:
        one = waiting.pop()
        behind = readers.get(one, [])
        if any(node.op_type not in MOVING for node in behind) or not (behind or one in outputs):
            return False
        seen.add(one)
        waiting += [node.output[0] for node in behind if node.output[0] not in seen]
    return True
