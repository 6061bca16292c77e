"""Q/DQ graphs as OpenVINO runs them best.

OpenVINO's low-precision transformations turn a Q/DQ pair into the input of an int8 kernel wherever an operator reads
one. So a tensor is quantized only for the operators that read it in int8; every other reader gets the floating-point
tensor, and nothing has to keep the engine from running it in int8. An int8 kernel can return floating point, whatever
its type.

Operators that only move values run in int8 between a DequantizeLinear and the int8 operators behind them: the engine
moves the former over them. Biases stay in floating point, as the engine adds them to the dequantized sums.

A product whose weight only is quantized is a ``MatMulNBits`` of the domain ``com.microsoft`` (onnxruntime, "Contrib
Operators"), which OpenVINO reads as a product with a compressed weight.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import numpy as np
import onnx
from onnx import helper

from nc_strategies.api import EngineError, FusedOp, OpScheme, QdqGraph, TensorScheme

SUMS = frozenset({"Add"})
"""Operators that the engine runs as a part of the convolution before them, on 8-bit tensors if what they read is
quantized for other operators, and if their result is."""
MICROSOFT = "com.microsoft"
INT8_ACCURACY_LEVEL = 4
"""Level of ``MatMulNBits`` at which onnxruntime's kernel rounds activations to int8 per block, as OpenVINO's does."""
PROPAGATED = {
    "MaxPool",
    "Reshape",
    "Transpose",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Split",
    "Slice",
    "Gather",
    "DepthToSpace",
    "SpaceToDepth",
}
"""Operators over which the engine moves a DequantizeLinear (its low-precision transformations of these names)."""


class OpenVinoQdqGraph(QdqGraph):
    """A Q/DQ graph whose floating-point operators read floating-point tensors; see the module's docstring."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.moved: dict[str, str] = {}
        """Name of an 8-bit tensor to the dequantized tensor that stands for it, behind an operator that moves it."""
        self.floats: set[str] = {i.name for i in self.graph.model.graph.input}
        """Tensors of the model that the new graph has in floating point."""
        self.position = {node.name: index for index, node in enumerate(self.graph.model.graph.node)}
        self.maker = {op.output: op.name for op in self.graph.fused_ops.values()}

    def int8_fused_op(self, fused_op: FusedOp, scheme: OpScheme) -> None:
        """See `QdqGraph.int8_fused_op`. The result is quantized only if an int8 operator reads it."""
        self.add_float(self.reading_int8(fused_op, scheme))
        readers = self.wanted(fused_op.output)
        if not readers:
            return
        source = fused_op.output
        if fused_op.act is not None:
            self.dropped.add(fused_op.act.name)
            if self.saturates(fused_op, readers[0]) and not self.read_in_float(source, readers[0]):
                source = fused_op.raw
            else:
                self.float_node(fused_op.act)
        target = self.variant(fused_op.output, readers[0], *self.parameters(fused_op.output, readers[0]))
        self.quantize(source, target)
        self.state[fused_op.output] = target

    def other_mode(self, fused_op: FusedOp, scheme: OpScheme) -> None:
        """See `QdqGraph.other_mode`: a product with a weight in blocks of integers."""
        if scheme.weight is None or scheme.mode != "weight_only":
            raise EngineError(f"operator {fused_op.name} cannot run in mode {scheme.mode}")
        bits = int(scheme.weight.dtype.removeprefix("int"))
        block = int(scheme.weight.granularity.rpartition("_")[2])
        weight = self.weights.blocks(fused_op, bits, block)
        rows, columns = self.graph.initializers[fused_op.weight or ""].dims
        depth, channels = (rows, columns) if self.weights.axis(fused_op) else (columns, rows)
        packed, scales = (self.fresh(f"{fused_op.name}/blocks{bits}_{block}_{part}") for part in ("weight", "scale"))
        self.constant(packed, weight.packed)
        self.constant(scales, weight.scales)
        self.domains.add(MICROSOFT)
        result = fused_op.raw if fused_op.bias is None else self.fresh(f"{fused_op.raw}/product")
        attributes = {"K": depth, "N": channels, "bits": bits, "block_size": block}
        self.add_float(
            helper.make_node(
                "MatMulNBits",
                [fused_op.inputs[0], packed, scales],
                [result],
                name=fused_op.name,
                domain=MICROSOFT,
                accuracy_level=INT8_ACCURACY_LEVEL,
                **attributes,
            )
        )
        if fused_op.bias is not None:
            name = self.fresh(f"{fused_op.name}/add")
            self.add_float(helper.make_node("Add", [result, fused_op.bias], [fused_op.raw], name=name))

    def float_node(self, node: onnx.NodeProto) -> None:
        """See `QdqGraph.float_node`: the node as it is in the model, but for a sum between int8 operators."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        operands = self.sum_operands(node)
        for index, name in enumerate(node.input):
            if name in operands:
                copy.input[index] = self.dequantize(self.quantized(name, operands[name]))
        self.add_float(copy)

    def sum_operands(self, node: onnx.NodeProto) -> dict[str, TensorScheme]:
        """The operands that a sum reads in 8 bits, with their schemes; none for any other node.

        A sum whose result is quantized reads what is quantized for other operators. If nothing is, the operand that an
        int8 operator computes first is quantized: it waits in memory for the kernel that adds to it.
        """
        fused_op = self.graph.fused_ops.get(node.name)
        if node.op_type not in SUMS or fused_op is None:
            return {}
        results = self.direct(fused_op.output)
        if not results:
            return {}
        operands = {name: keys[0] for name in fused_op.inputs if (keys := self.direct(name))}
        makers = [self.maker.get(name, "") for name in fused_op.inputs]
        if not operands and len(makers) > 1 and all(maker in self.schemes for maker in makers):
            first = min(zip(makers, fused_op.inputs, strict=True), key=lambda pair: self.position[pair[0]])
            operands[first[1]] = results[0]
        return operands

    def add_float(self, node: onnx.NodeProto) -> None:
        """Add a node whose results are floating-point tensors of the model."""
        self.nodes.append(node)
        self.floats.update(node.output)

    def wanted(self, name: str, through: Set[str] = frozenset()) -> list[TensorScheme]:
        """See `QdqGraph.wanted`; it looks only through operators that the engine runs in int8."""
        sums = [self.sum_operands(node) for node in self.graph.consumers.get(name, [])]
        return [*self.direct(name), *(operands[name] for operands in sums if name in operands)]

    def direct(self, name: str) -> list[TensorScheme]:
        """Activation schemes of the int8 operators that read a tensor, without those of sums."""
        keys: list[TensorScheme] = []
        for node in self.graph.consumers.get(name, []):
            if node.name in self.schemes:
                keys.append(self.schemes[node.name].activation)
            elif self.passes_on(node, name):
                for output in node.output:
                    keys.extend(self.direct(output))
        return keys

    def passes_on(self, node: onnx.NodeProto, name: str) -> bool:
        """Whether a node returns the 8-bit values of a tensor as they are."""
        known = node.op_type in PROPAGATED or node.output[0] in self.graph.scaled
        return known and self.graph.carried(node) == name

    def read_in_float(self, name: str, key: TensorScheme) -> bool:
        """Whether something reads a tensor in floating point, or quantizes it in another scheme than `key`."""
        if name in self.graph.named:
            return True
        for node in self.graph.consumers.get(name, []):
            if node.name in self.schemes:
                if self.schemes[node.name].activation != key:
                    return True
            elif name in (operands := self.sum_operands(node)):
                if operands[name] != key:
                    return True
            elif self.passes_on(node, name) and any(map(self.direct, node.output)):
                if any(self.read_in_float(output, key) for output in node.output):
                    return True
            else:
                return True
        return False

    def following(self, node: onnx.NodeProto) -> None:
        """See `QdqGraph.following`. Where the result is read in floating point too, the node is there twice."""
        source = self.state[node.input[0]]
        if not self.passes_on(node, node.input[0]):
            self.float_node(node)
            return
        moved = onnx.NodeProto()
        moved.CopyFrom(node)
        moved.input[0] = self.dequantize(source)
        for index, name in enumerate(node.output):
            if name:
                moved.output[index] = self.fresh(f"{name}/moved")
                self.state[name] = self.variant(name, source.key, source.scale, source.zero_point)
                self.moved[self.state[name].name] = moved.output[index]
        self.nodes.append(moved)
        self.float_copy(node, source.key)

    def float_copy(self, node: onnx.NodeProto, key: TensorScheme) -> None:
        """Add a node that moves or scales values in floating point, beside its 8-bit version, if it is read so."""
        if any(self.read_in_float(name, key) for name in node.output if name):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = self.fresh(f"{node.name}/float")
            self.add_float(copy)

    def scaled(self, node: onnx.NodeProto) -> None:
        """See `QdqGraph.scaled`."""
        name = node.output[0]
        source, factor = self.graph.scaled[name]
        self.state[name] = self.times(self.state[source], name, factor)
        self.float_copy(node, self.state[name].key)

    def to_requantize(self, name: str) -> str:
        """See `QdqGraph.to_requantize`."""
        return name if name in self.floats else self.dequantize(self.state[name])

    def dequantize(self, source: Any) -> str:
        """See `QdqGraph.dequantize`."""
        return self.moved.get(source.name) or super().dequantize(source)

    def weight(self, fused_op: FusedOp, scheme: TensorScheme, source: Any) -> list[str]:
        """See `QdqGraph.weight`; the bias stays in floating point."""
        values, scale = self.weights.plain(fused_op, scheme.granularity, self.reduce_range)
        stem = f"{fused_op.name}/weight_{scheme.granularity}{'_7bit' if self.reduce_range else ''}"
        read = (self.fresh(stem), self.fresh(f"{stem}_scale"), self.fresh(f"{stem}_zero"))
        self.constant(read[0], values)
        self.constant(read[1], scale)
        self.constant(read[2], np.zeros(scale.shape, np.int8))
        axis = {"axis": self.weights.axis(fused_op)} if scale.ndim else {}
        result = self.fresh(f"{fused_op.name}/weight")
        node = self.conversion("DequantizeLinear", read, result, self.fresh(f"{fused_op.name}/weight_dq"), **axis)
        self.nodes.append(node)
        return [result] if fused_op.bias is None else [result, fused_op.bias]
