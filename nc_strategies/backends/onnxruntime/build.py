"""Q/DQ graphs whose float operators stay float when onnxruntime's optimizer has passed over them.

Where an operator in floating point stands between int8 neighbours, the engine's optimizer would quantize it all the
same. Two guards prevent that in the model itself, so that they hold wherever it is opened. The dequantization in front
of a Conv or Gemm has its one scale repeated for every channel: the optimizer takes scalars only, and moves nothing else
over Reshapes and the like. Behind an elementwise operator stands a Max with the lowest number (Add becomes Sum), which
no int8 pattern contains.
"""

from __future__ import annotations

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


class GuardedQdqGraph(QdqGraph):
    """A Q/DQ graph with guards around its float operators; see this module."""

    def float_node(self, node: onnx.NodeProto) -> None:
        """See `QdqGraph.float_node`; guards are added where the optimizer would quantize the operator."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        data = [n for n in node.input if n and n not in self.graph.initializers]
        enclosed = bool(data) and self.read_in_int8(node)
        repeat = open_output = False
        if node.op_type in PROPAGATING:
            repeat = self.channels(node) is not None
        elif enclosed and node.op_type in REQUANTIZED_WEIGHTS:
            repeat = node.input[0] in self.state and self.channels(node) is not None
            open_output = node.input[0] in self.state and not repeat
        elif enclosed and node.op_type in FUSED_BY_PATTERN and all(n in self.state for n in data):
            open_output = True
        for index, name in enumerate(node.input):
            if name in self.state:
                copy.input[index] = self.as_float(name, self.channels(node) if repeat and index == 0 else None)
        self.nodes.append(copy)
        if open_output and node.op_type == "Add":
            copy.op_type = "Sum"
        elif open_output:
            copy.output[0] = f"{node.output[0]}/open"
            self.constant("ncs/lowest", np.array(np.finfo(np.float32).min))
            self.nodes.append(
                helper.make_node("Max", [copy.output[0], "ncs/lowest"], [node.output[0]], name=node.name + BARRIER)
            )

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
