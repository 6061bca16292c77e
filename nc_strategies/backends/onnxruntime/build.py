"""Q/DQ graphs whose float operators stay float when onnxruntime's optimizer has passed over them.

Where an operator in floating point stands between int8 neighbours, the engine's optimizer would quantize it all the
same. Two guards prevent that in the model itself, so that they hold wherever it is opened. The dequantization in front
of a Conv or Gemm has its one scale repeated for every channel: the optimizer takes scalars only, and moves nothing else
over Reshapes and the like. Behind an elementwise operator stands a Max with the lowest number (Add becomes Sum), which
no int8 pattern contains.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
import onnx
from onnx import helper

from nc_strategies.backends.onnxruntime.executed import BARRIER, MOVEMENT
from nc_strategies.onnx_graph.graph import FOLLOWING
from nc_strategies.onnx_graph.qdq import QdqGraph

FUSED_BY_PATTERN = {
    "Add",
    "Mul",
    "Concat",
    "AveragePool",
    "GlobalAveragePool",
    "MatMul",
    "Softmax",
    "Sigmoid",
    "LeakyRelu",
}
"""Types that the engine turns into int8 whenever they stand between Q/DQ pairs, asked or not."""
PROPAGATING = FOLLOWING | MOVEMENT
"""Types over which the engine moves quantizations, as long as they have one scale."""
REQUANTIZED_WEIGHTS = {"Conv", "ConvTranspose", "Gemm"}
"""Types whose float weights the engine quantizes itself between Q/DQ pairs (its WeightBiasQuantization)."""


class _Guard(Enum):
    """What keeps the engine's optimizer from quantizing a float operator, see this module.

    ``SCALES``: the scale in front of it repeated for every channel. ``BARRIER``: an operator behind it, or another in
    its place, that no int8 pattern contains.
    """

    NONE = "none"
    SCALES = "scales"
    BARRIER = "barrier"


class GuardedQdqGraph(QdqGraph):
    """A Q/DQ graph with guards around its float operators; see this module."""

    def float_node(self, node: onnx.NodeProto) -> None:
        """See `QdqGraph.float_node`; guards are added where the optimizer would quantize the operator."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        guard = self.guard(node)
        repeated = self.channels(node) if guard is _Guard.SCALES else None
        for index, name in enumerate(node.input):
            if name in self.state:
                copy.input[index] = self.as_float(name, repeated if index == 0 else None)
        self.nodes.append(copy)
        if guard is _Guard.BARRIER and node.op_type == "Add":
            copy.op_type = "Sum"
        elif guard is _Guard.BARRIER:
            copy.output[0] = f"{node.output[0]}/open"
            self.constant("ncs/lowest", np.array(np.finfo(np.float32).min))
            self.nodes.append(
                helper.make_node("Max", [copy.output[0], "ncs/lowest"], [node.output[0]], name=node.name + BARRIER)
            )

    def guard(self, node: onnx.NodeProto) -> _Guard:
        """What a float operator needs so that the engine leaves it in floating point."""
        repeatable = _Guard.SCALES if self.channels(node) is not None else None
        if node.op_type in PROPAGATING:
            return repeatable or _Guard.NONE
        data = [n for n in node.input if n and n not in self.graph.initializers]
        if not data or not self.read_in_int8(node):
            return _Guard.NONE
        if node.op_type in REQUANTIZED_WEIGHTS:
            return (repeatable or _Guard.BARRIER) if node.input[0] in self.state else _Guard.NONE
        fused = node.op_type in FUSED_BY_PATTERN and all(n in self.state for n in data)
        return _Guard.BARRIER if fused else _Guard.NONE

    def read_in_int8(self, node: onnx.NodeProto) -> bool:
        """Whether a quantization follows a float operator, or will when the engine has moved it forward."""
        fused_op = self.graph.fused_ops.get(node.name)
        return bool(self.wanted(fused_op.output if fused_op is not None else node.output[0], PROPAGATING))

    def as_float(self, name: str, channels: int | None) -> str:
        """The float form of an int8 tensor for an operator in floating point.

        Args:
            name: The tensor.
            channels: Repeat the scale so many times along axis 1; None for one scale.
        """
        source = self.state[name]
        if channels is None:
            return self.dequantize(source)
        made = f"{source.name}/dq_channels"
        if made not in self.emitted:
            self.emitted.add(made)
            self.constant(f"{made}_scale", np.full(channels, source.scale, np.float32))
            self.constant(f"{made}_zero", np.full(channels, source.zero_point, np.uint8))
            self.nodes.append(
                helper.make_node(
                    "DequantizeLinear",
                    [source.tensor, f"{made}_scale", f"{made}_zero"],
                    [made],
                    name=f"{made}:dq",
                    axis=1,
                )
            )
        return made

    def channels(self, node: onnx.NodeProto) -> int | None:
        """Length of axis 1 of a node's input, when it is known and the trick with repeated scales has an effect."""
        shape = self.graph.shapes.get(node.input[0])
        known = shape[1] if shape is not None and len(shape) > 1 else None
        if known is None and node.op_type == "Conv" and node.input[1] in self.graph.initializers:
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            known = int(self.graph.initializers[node.input[1]].dims[1] * group)
        return known if known and known > 1 else None
