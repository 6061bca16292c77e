"""The floating-point model with the values of its quantized weights: what rounding of weights alone does to outputs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from nc_strategies.onnx_graph.graph import FusedOp, Graph
from nc_strategies.onnx_graph.recovery import addend
from nc_strategies.onnx_graph.weights import WeightCache

GRANULARITY = "per_channel"
"""Granularity of the weights whose rounding is judged."""


def rounded_model(graph: Graph, weights: WeightCache, ops: Iterable[FusedOp], reduce_range: bool) -> onnx.ModelProto:
    """A copy of the model whose weights and biases are those that int8 operators use.

    Args:
        graph: The model.
        weights: Its quantized weights.
        ops: Operators whose weights are rounded; each has a weight that no other operator reads.
        reduce_range: Whether the weights have 7 bits.
    """
    changed: dict[str, NDArray[np.float32]] = {}
    addends: dict[str, NDArray[np.float32]] = {}
    for fused_op in ops:
        assert fused_op.weight is not None
        changed[fused_op.weight] = weights.dequantized(fused_op, GRANULARITY, reduce_range)
        correction = weights.correction(fused_op, GRANULARITY, reduce_range)
        if correction is None:
            continue
        found = (fused_op.node, fused_op.bias) if fused_op.bias is not None else addend(graph, fused_op)
        if found is not None:
            node, constant = found
            values = graph.array(constant)
            addends[f"{node.name}\n{constant}"] = (values + correction.reshape(values.shape)).astype(np.float32)
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for initializer in model.graph.initializer:
        if initializer.name in changed:
            initializer.CopyFrom(numpy_helper.from_array(changed[initializer.name], initializer.name))
    # A constant that is corrected may have other readers, so that each node gets its own.
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            values_of_node = addends.get(f"{node.name}\n{name}")
            if values_of_node is not None:
                node.input[index] = graph.fresh(f"{node.name}/corrected")
                model.graph.initializer.append(numpy_helper.from_array(values_of_node, node.input[index]))
    return model
