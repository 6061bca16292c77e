"""Matrix products that are quantized at run time, or in their weights only, as the engine's own operators.

They read and write floating point. Kernels: ``DynamicQuantizeMatMul``, ``MatMulIntegerToFloat`` and ``MatMulNBits`` of
the domain ``com.microsoft`` (onnxruntime, "Contrib Operators").
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from nc_strategies.backends.onnxruntime import attention, other_ops
from nc_strategies.backends.onnxruntime.build import GuardedQdqGraph
from nc_strategies.backends.onnxruntime.executed import DYNAMIC_PRODUCT, DYNAMIC_SUFFIX
from nc_strategies.backends.onnxruntime.other_ops import find_other_ops
from nc_strategies.backends.onnxruntime.providers import CPU, Provider
from nc_strategies.backends.onnxruntime.schemes import SCHEMES, blocks_of
from nc_strategies.errors import EngineError
from nc_strategies.onnx_graph.graph import FusedOp, Graph
from nc_strategies.onnx_graph.qdq import GraphBuilder, Ranges
from nc_strategies.space import Config, OpScheme
from nc_strategies.space.scheme import DYNAMIC, WEIGHT_ONLY

MICROSOFT = "com.microsoft"
PRODUCTS = ("MatMul", "Gemm")
"""Operator types that have kernels for these modes."""
INT8_ACCURACY_LEVEL = 4
"""Level of ``MatMulNBits`` at which activations are rounded to int8 per block inside the kernel: the fast one."""

__all__ = ["MICROSOFT", "SCHEMES", "ModalQdqGraph", "is_product"]


def is_product(graph: Graph, fused_op: FusedOp) -> bool:
    """Whether an operator is a product with one constant matrix, for which the engine has kernels of these modes."""
    if fused_op.type not in PRODUCTS or fused_op.weight is None or len(fused_op.inputs) != 1:
        return False
    attributes = {a.name: a.i for a in fused_op.node.attribute}
    if attributes.get("transA"):
        return False
    return len(graph.initializers[fused_op.weight].dims) == 2


class ModalQdqGraph(GuardedQdqGraph):
    """A Q/DQ graph with operators of all modes; arguments as for `GuardedQdqGraph`."""

    def __init__(self, builder: GraphBuilder, config: Config, ranges: Ranges, provider: Provider = CPU) -> None:
        super().__init__(builder, config, ranges, provider)
        self.additions: dict[str, onnx.NodeProto] = {}
        """Operators whose kernels add a bias that the model adds in a node of its own, with that node."""

    def emit(self, node: onnx.NodeProto) -> None:
        """See `QdqGraph.emit`. The kernels of these modes add the bias behind a ``MatMul`` at no cost."""
        if node.name in self.others and node.name not in self.graph.fused_ops:
            self.other_op(find_other_ops(self.graph)[node.name], self.others[node.name])
            return
        if node.name in self.others:
            addition = self.addition(self.graph.fused_ops[node.name])
            if addition is not None:
                self.additions[node.name] = addition
                self.dropped.add(addition.name)
        super().emit(node)

    def other_op(self, op: FusedOp, scheme: OpScheme) -> None:
        """Add an operator that has no static int8 kernel, see `other_ops`."""
        self.domains.add(MICROSOFT)
        if scheme.mode == WEIGHT_ONLY:
            bits, block = blocks_of(scheme)
            stem = self.fresh(f"{op.name}/rows{bits}_{block}")
            node = other_ops.embedding(op, scheme, self.weights, self.constant, stem)
        else:
            read = [self.as_float(name, None) if name in self.state else str(name) for name in op.node.input]
            stem = self.fresh(f"{op.name}/dynamic{'_7bit' if self.reduce_range else ''}")
            node = other_ops.lstm(self.graph, op, read, self.reduce_range, self.constant, stem)
        self.nodes.append(node)

    def finish(self) -> None:
        """See `QdqGraph.finish`."""
        result = attention.fused(self.graph, self.nodes) if self.fused_attention else None
        if result is not None:
            self.nodes = result.nodes
            self.domains.add(MICROSOFT)
            for name, values in result.constants.items():
                self.constant(name, values)

    def addition(self, fused_op: FusedOp) -> onnx.NodeProto | None:
        """The floating-point Add of a constant row that is all that reads a product; None without one."""
        readers = self.graph.consumers.get(fused_op.raw, [])
        alone = len(readers) == 1 and fused_op.raw not in self.graph.named
        if not alone or fused_op.type != "MatMul" or fused_op.act is not None or readers[0].name in self.schemes:
            return None
        if readers[0].op_type != "Add" or readers[0].domain not in ("", "ai.onnx"):
            return None
        row = self.graph.initializers.get(self._addend(readers[0], fused_op.raw))
        _, channels = self._shape(fused_op)
        return readers[0] if row is not None and list(row.dims) == [channels] else None

    @staticmethod
    def _addend(node: onnx.NodeProto, other: str) -> str:
        return next((str(name) for name in node.input if name != other), "")

    def other_mode(self, fused_op: FusedOp, scheme: OpScheme) -> None:
        """See `QdqGraph.other_mode`."""
        source = fused_op.inputs[0]
        read = self.as_float(source, None) if source in self.state else source
        if scheme.mode == DYNAMIC:
            self.nodes += self._dynamic(fused_op, scheme, source, read)
        elif scheme.mode == WEIGHT_ONLY:
            self.nodes.append(self._weight_only(fused_op, scheme, read))
        else:
            raise EngineError(f"operator {fused_op.name} cannot run in mode {scheme.mode}")

    def _dynamic(self, fused_op: FusedOp, scheme: OpScheme, source: str, read: str) -> list[onnx.NodeProto]:
        assert scheme.weight is not None
        _, scale = self.weights.plain(fused_op, scheme.weight.granularity, self.reduce_range)
        values = self.weights.columns(fused_op, scheme.weight.granularity, self.reduce_range)
        stem = f"{fused_op.name}/dynamic{'_7bit' if self.reduce_range else ''}"
        weight, weight_scale, zero = (self.fresh(f"{stem}_{part}") for part in ("weight", "scale", "zero"))
        self.constant(weight, values)
        self.constant(weight_scale, scale)
        self.constant(zero, np.zeros(scale.shape, np.int8))
        correction = self.weights.correction(fused_op, scheme.weight.granularity, self.reduce_range)
        bias = self._bias(fused_op, correction, stem.rpartition("/")[2])
        readers = [n for n in self.graph.consumers.get(source, []) if self._is_dynamic(n.name)]
        if len(readers) < 2:
            inputs = [read, weight, weight_scale, zero, bias]
            return [self._made("DynamicQuantizeMatMul", inputs, fused_op)]
        # Quantized once for all products that read it.
        shared, shared_scale, shared_zero = (self.fresh(f"{source}/dynamic{part}") for part in ("", "_scale", "_zero"))
        nodes = []
        if shared not in self.emitted:
            self.emitted.add(shared)
            name = self.fresh(f"{fused_op.name}{DYNAMIC_SUFFIX}")
            nodes.append(
                helper.make_node("DynamicQuantizeLinear", [read], [shared, shared_scale, shared_zero], name=name)
            )
        inputs = [shared, weight, shared_scale, weight_scale, shared_zero, zero, bias]
        product = self._made("MatMulIntegerToFloat", inputs, fused_op)
        product.name = self.fresh(f"{fused_op.name}{DYNAMIC_PRODUCT}")
        return [*nodes, product]

    def _bias(self, fused_op: FusedOp, correction: NDArray[np.float64] | None, label: str) -> str:
        """Name of the bias that the kernel of a product adds, corrected for the error of its weight; empty for none."""
        addition = self.additions.get(fused_op.name)
        bias = fused_op.bias or "" if addition is None else self._addend(addition, fused_op.raw)
        if not bias:
            self.correct(fused_op, correction, label)
            return ""
        if correction is None:
            return bias
        name = self.fresh(f"{fused_op.name}/{label}_bias")
        self.constant(name, (self.graph.array(bias) + correction).astype(np.float32))
        return name

    def _is_dynamic(self, name: str) -> bool:
        scheme = self.others.get(name)
        return scheme is not None and scheme.mode == DYNAMIC

    def _weight_only(self, fused_op: FusedOp, scheme: OpScheme, read: str) -> onnx.NodeProto:
        bits, block = blocks_of(scheme)
        weight = self.weights.blocks(fused_op, bits, block)
        depth, channels = self._shape(fused_op)
        packed, scales = (self.fresh(f"{fused_op.name}/blocks{bits}_{block}_{part}") for part in ("weight", "scale"))
        self.constant(packed, weight.packed)
        self.constant(scales, weight.scales)
        bias = self._bias(fused_op, self.weights.block_correction(fused_op, bits, block), f"blocks{bits}_{block}")
        inputs = [read, packed, scales, "", "", bias]
        attributes = {"K": depth, "N": channels, "bits": bits, "block_size": block}
        return self._made("MatMulNBits", inputs, fused_op, accuracy_level=INT8_ACCURACY_LEVEL, **attributes)

    def _shape(self, fused_op: FusedOp) -> tuple[int, int]:
        assert fused_op.weight is not None
        rows, columns = self.graph.initializers[fused_op.weight].dims
        return (rows, columns) if self.weights.axis(fused_op) else (columns, rows)

    def _made(self, kind: str, inputs: list[str], fused_op: FusedOp, **attributes: int) -> onnx.NodeProto:
        while inputs and not inputs[-1]:
            inputs.pop()
        self.domains.add(MICROSOFT)
        addition = self.additions.get(fused_op.name)
        result = fused_op.raw if addition is None else str(addition.output[0])
        return helper.make_node(kind, inputs, [result], name=fused_op.name, domain=MICROSOFT, **attributes)
