"""Q/DQ graphs whose floating-point operators are not quantized by onnxruntime's optimizer.

The engine's optimizer quantizes a floating-point operator between int8 neighbours, although the configuration keeps it
in floating point. Two guards in the model prevent this, so that they hold wherever the model is opened:

- The DequantizeLinear before a Conv or Gemm has its scale repeated per channel. The optimizer fuses scalar scales only,
  and moves only these over Reshape and similar operators.
- So has the DequantizeLinear of a tensor that only one reader requantizes, behind an operator that moves values. The
  optimizer would merge the two quantizations into one and then lose the int8 kernel of the reader.
- An elementwise operator is followed by a Max with the lowest number (Add is written as Sum). No int8 pattern of the
  optimizer contains either.

A sum that the optimizer would fuse to a slower kernel (see `probe_fusions`) is written as Sum too.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
import onnx
from onnx import helper

from nc_strategies.backends.onnxruntime.executed import BARRIER, MOVEMENT
from nc_strategies.backends.onnxruntime.probe_fusions import FUSED_SUMS, slow_fusions
from nc_strategies.backends.onnxruntime.providers import CPU, Provider
from nc_strategies.onnx_graph.graph import FOLLOWING
from nc_strategies.onnx_graph.qdq import GraphBuilder, QdqGraph, Ranges
from nc_strategies.space import Config

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
    "Where",
}
"""Operator types that the engine turns into int8 kernels whenever they stand between Q/DQ pairs."""
PROPAGATING = FOLLOWING | MOVEMENT
"""Operator types over which the engine moves QuantizeLinear and DequantizeLinear, if these have a scalar scale."""
REQUANTIZED_WEIGHTS = {"Conv", "ConvTranspose", "Gemm"}
"""Operator types between Q/DQ pairs whose float weights the engine quantizes (its WeightBiasQuantization pass)."""


class _Guard(Enum):
    """What keeps the engine's optimizer from quantizing a float operator, see this module.

    ``SCALES``: the scale in front of it repeated for every channel. ``BARRIER``: an operator behind it, or another in
    its place, that no int8 pattern contains.
    """

    NONE = "none"
    SCALES = "scales"
    BARRIER = "barrier"


class GuardedQdqGraph(QdqGraph):
    """A Q/DQ graph with guards around its floating-point operators; see the module's docstring.

    Args:
        builder: Builder of the model's graphs.
        config: The configuration to build.
        ranges: Calibrated ranges.
        provider: Execution provider that will run it.
    """

    def __init__(self, builder: GraphBuilder, config: Config, ranges: Ranges, provider: Provider = CPU) -> None:
        super().__init__(builder, config, ranges)
        self.provider = provider
        self.movable: set[str] = set()
        """Float tensors over which the engine moves a DequantizeLinear, because their channels are not known."""

    def float_node(self, node: onnx.NodeProto) -> None:
        """See `QdqGraph.float_node`. Guards are added where the optimizer would quantize the operator."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        guard = self.guard(node)
        repeated = self.channels(node) if guard is _Guard.SCALES else None
        for index, name in enumerate(node.input):
            if name in self.state:
                copy.input[index] = self.as_float(name, repeated if index == 0 else None)
        self.nodes.append(copy)
        if guard is _Guard.NONE and node.op_type in PROPAGATING and self.from_int8(node.input[0]):
            self.movable.update(node.output)
        if node.op_type == "Add" and (guard is _Guard.BARRIER or self.fused_slowly(node)):
            copy.op_type = "Sum"
        elif guard is _Guard.BARRIER:
            copy.output[0] = self.fresh(f"{node.output[0]}/open")
            lowest = self.fresh("ncs/lowest")
            self.constant(lowest, np.array(np.finfo(np.float32).min))
            barrier = self.fresh(node.name + BARRIER)
            self.nodes.append(helper.make_node("Max", [copy.output[0], lowest], [node.output[0]], name=barrier))

    def to_requantize(self, name: str) -> str:
        """See `QdqGraph.to_requantize`."""
        maker = self.graph.producers.get(name)
        moved = maker is not None and self.graph.carried(maker) is not None
        return self.as_float(name, self.length(name) if moved else None)

    def fused_slowly(self, node: onnx.NodeProto) -> bool:
        """Whether the engine would fuse a sum with the operator behind it to a kernel that takes longer than both."""
        readers = self.graph.consumers.get(node.output[0], [])
        kinds = {r.op_type for r in readers if r.op_type in FUSED_SUMS and r.input[0] == node.output[0]}
        return bool(kinds) and not slow_fusions(self.provider).isdisjoint(kinds)

    def guard(self, node: onnx.NodeProto) -> _Guard:
        """What a float operator needs so that the engine leaves it in floating point."""
        repeatable = _Guard.SCALES if self.channels(node) is not None else None
        if node.op_type in PROPAGATING:
            return repeatable or _Guard.NONE
        data = [n for n in node.input if n and n not in self.graph.initializers]
        if not data or not self.read_in_int8(node):
            return _Guard.NONE
        if node.op_type in REQUANTIZED_WEIGHTS:
            if node.input[0] in self.state and repeatable:
                return repeatable
            data = data[:1]
        elif node.op_type not in FUSED_BY_PATTERN:
            return _Guard.NONE
        return _Guard.BARRIER if all(map(self.from_int8, data)) else _Guard.NONE

    def from_int8(self, name: str) -> bool:
        """Whether the engine finds a DequantizeLinear before a tensor, at once or after it has moved it."""
        return name in self.state or name in self.movable

    def read_in_int8(self, node: onnx.NodeProto) -> bool:
        """Whether a QuantizeLinear follows a floating-point operator, at once or after the engine has moved it."""
        fused_op = self.graph.fused_ops.get(node.name)
        return bool(self.wanted(fused_op.output if fused_op is not None else node.output[0], PROPAGATING))

    def as_float(self, name: str, channels: int | None) -> str:
        """Dequantize an int8 tensor for a floating-point operator.

        Args:
            name: The tensor.
            channels: Number of repetitions of the scale along axis 1; None for a scalar scale.

        Returns:
            The name of the floating-point tensor.
        """
        source = self.state[name]
        if channels is None:
            return self.dequantize(source)
        output = self.fresh(f"{source.name}/dq_channels")
        if output not in self.emitted:
            self.emitted.add(output)
            scale, zero = self.scale_names(output)
            self.constant(scale, np.full(channels, source.scale, np.float32))
            self.constant(zero, np.full(channels, source.zero_point, np.uint8))
            name = self.fresh(f"{output}:dq")
            self.nodes.append(self.conversion("DequantizeLinear", (source.tensor, scale, zero), output, name, axis=1))
        return output

    def channels(self, node: onnx.NodeProto) -> int | None:
        """Length of axis 1 of a node's input; None if it is unknown or 1, where a repeated scale is a scalar."""
        known = self.length(node.input[0])
        if known is None and node.op_type == "Conv" and node.input[1] in self.graph.initializers:
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            known = int(self.graph.initializers[node.input[1]].dims[1] * group)
        return known if known and known > 1 else None

    def length(self, name: str) -> int | None:
        """Length of axis 1 of a tensor; None if it is unknown or 1."""
        shape = self.graph.shapes.get(name)
        known = shape[1] if shape is not None and len(shape) > 1 else None
        return known if known and known > 1 else None
