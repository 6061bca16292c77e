"""Operators that have no static int8 kernel but another mode: embeddings with 4- and 8-bit weights, dynamic LSTMs.

Kernels: ``GatherBlockQuantized`` and ``DynamicQuantizeLSTM`` of the domain ``com.microsoft`` (onnxruntime, "Contrib
Operators").
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from nc_strategies.backends.onnxruntime.schemes import DYNAMIC_SCHEME, WEIGHT_ONLY_SCHEMES, blocks_of
from nc_strategies.onnx_graph.fuse import ENGINE
from nc_strategies.onnx_graph.graph import FusedOp, Graph
from nc_strategies.onnx_graph.weights import FULL, REDUCED, SMALLEST_SCALE, WeightCache
from nc_strategies.space import OpScheme

LEAST_EMBEDDING = 2**16
"""Fewest weights of an embedding that is a choice: a smaller one, such as that of token types, takes little memory."""
Constant = Callable[[str, NDArray[np.generic]], None]
"""Adds a constant by name."""


def find_other_ops(graph: Graph) -> dict[str, FusedOp]:
    """The embeddings and LSTMs of a model that the engine may have kernels for, by name."""
    found = {}
    for node in graph.model.graph.node:
        if node.domain in ("", "ai.onnx") and not graph.floats.isdisjoint(node.output):
            if node.op_type == "Gather" and _is_embedding(graph, node):
                found[str(node.name)] = FusedOp(node, (), weight=str(node.input[0]))
            elif node.op_type == "LSTM" and _is_plain_lstm(graph, node):
                found[str(node.name)] = FusedOp(node, (str(node.input[0]),), weight=str(node.input[1]))
    return found


def candidates(graph: Graph, op: FusedOp) -> tuple[OpScheme, ...]:
    """The schemes of an embedding or LSTM whose kernels take weights of its shape."""
    if op.type == "LSTM":
        return (DYNAMIC_SCHEME,)
    width = int(graph.initializers[op.weight or ""].dims[1])
    return tuple(scheme for scheme in WEIGHT_ONLY_SCHEMES if width % blocks_of(scheme)[1] == 0)


def _is_embedding(graph: Graph, node: onnx.NodeProto) -> bool:
    weight = graph.initializers.get(node.input[0])
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    return weight is not None and len(weight.dims) == 2 and axis == 0 and np.prod(weight.dims) >= LEAST_EMBEDDING


def _is_plain_lstm(graph: Graph, node: onnx.NodeProto) -> bool:
    layout = next((a.i for a in node.attribute if a.name == "layout"), 0)
    return layout == 0 and all(name in graph.initializers for name in node.input[1:3])


def embedding(op: FusedOp, scheme: OpScheme, weights: WeightCache, constant: Constant, stem: str) -> onnx.NodeProto:
    """An embedding with weights in blocks along its rows.

    Args:
        op: The Gather.
        scheme: Its scheme.
        weights: Quantized weights.
        constant: Adds a constant.
        stem: Prefix of the constants' names.
    """
    bits, block = blocks_of(scheme)
    made = weights.blocks(op, bits, block)
    packed, scales = f"{stem}_weight", f"{stem}_scale"
    constant(packed, made.packed.reshape(len(made.packed), -1))
    constant(scales, made.scales)
    return helper.make_node(
        "GatherBlockQuantized",
        [packed, op.node.input[1], scales],
        [op.raw],
        name=op.name,
        domain=ENGINE,
        gather_axis=0,
        quantize_axis=1,
        block_size=block,
        bits=bits,
    )


def lstm(graph: Graph, op: FusedOp, read: list[str], reduced: bool, constant: Constant, stem: str) -> onnx.NodeProto:
    """An LSTM whose inputs and hidden states are quantized at run time, with one scale per gate's unit.

    Args:
        graph: The prepared model.
        op: The LSTM.
        read: Its inputs in floating point, in ONNX's order; the constant weights among them are replaced.
        reduced: Whether to use 7-bit weights.
        constant: Adds a constant.
        stem: Prefix of the constants' names.
    """
    inputs = [*read, *[""] * (8 - len(read))]
    for place, part in ((1, "input"), (2, "recurrent")):
        values, scale = _lstm_weight(graph.array(read[place]), reduced)
        names = [f"{stem}_{part}", f"{stem}_{part}_scale", f"{stem}_{part}_zero"]
        constant(names[0], values)
        constant(names[1], scale)
        constant(names[2], np.zeros(scale.shape, np.int8))
        inputs[place] = names[0]
        inputs += names[1:]
    node = helper.make_node("DynamicQuantizeLSTM", inputs, list(op.node.output), name=op.name, domain=ENGINE)
    node.attribute.extend(a for a in op.node.attribute if a.name != "layout")
    return node


def _lstm_weight(weight: NDArray[np.generic], reduced: bool) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """An LSTM's weight of shape (directions, 4 * hidden, inputs) as int8 with the last axes swapped, and its scales."""
    limit = REDUCED if reduced else FULL
    turned = np.asarray(weight, np.float64).transpose(0, 2, 1)
    peak = np.abs(turned).max(1)
    scale = np.maximum(np.where(peak > 0, peak, 1.0) / limit, SMALLEST_SCALE).astype(np.float32)
    rounded = np.clip(np.round(turned / scale[:, None].astype(np.float64)), -limit, limit)
    return np.ascontiguousarray(rounded.astype(np.int8)), scale
