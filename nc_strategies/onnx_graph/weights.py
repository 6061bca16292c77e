"""Int8 weights, computed once per operator, granularity and bit width."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from nc_strategies.onnx_graph.block_weights import BlockWeights, quantize_blocks
from nc_strategies.onnx_graph.graph import FusedOp, Graph

FULL, REDUCED = 127, 64
"""Largest magnitude of an 8-bit weight, and of a 7-bit one."""
BIAS_LIMIT = float(2**30)
"""Largest magnitude of a quantized bias; half of the int32 range is left to the accumulated products."""


class WeightCache:
    """Cache of the quantized weights of a model.

    Weights are symmetric: ``q = round(w / scale)`` with ``scale = max|w| / limit`` over the tensor or per output
    channel (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", CVPR 2018).
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._cache: dict[tuple[str, str, bool], tuple[NDArray[np.int8], NDArray[np.float32]]] = {}
        self._blocks: dict[tuple[str, int, int, int], BlockWeights] = {}

    def axis(self, fused_op: FusedOp) -> int:
        """The axis of a weight's output channels."""
        if fused_op.type == "Conv":
            return 0
        if fused_op.type == "Gemm":
            transposed = any(a.name == "transB" and a.i for a in fused_op.node.attribute)
            return 0 if transposed else 1
        return 1

    def get(
        self, fused_op: FusedOp, granularity: str, reduce_range: bool, input_scale: float
    ) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int32] | None]:
        """The quantized weight, its scale, and the quantized bias of a fused operator.

        Args:
            fused_op: An operator with a weight.
            granularity: ``per_tensor`` or ``per_channel``.
            reduce_range: Whether to use 7-bit weights.
            input_scale: Scale of its quantized input; the bias has scale ``input_scale * weight scale``.

        Returns:
            The int8 weight in the model's layout; its scale, of shape () or (channels,); the int32 bias or None.
        """
        weight, scale = self.plain(fused_op, granularity, reduce_range)
        if fused_op.bias is None:
            return weight, scale, None
        bias = self._graph.array(fused_op.bias).astype(np.float64)
        floor = np.abs(bias) / (input_scale * BIAS_LIMIT)
        if scale.ndim == 0:
            floor = floor.max()
        if np.any(floor > scale):
            # With tiny weights in a channel, the scale is so small that a normal bias would overflow int32.
            weight, scale = self._quantize(fused_op, granularity, reduce_range, floor.astype(np.float32))
        quantized = np.round(bias / (np.float64(input_scale) * scale))
        return weight, scale, np.clip(quantized, -(2**31), 2**31 - 1).astype(np.int32)

    def plain(
        self, fused_op: FusedOp, granularity: str, reduce_range: bool
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """The quantized weight and its scale, whatever the bias; see `get`."""
        assert fused_op.weight is not None
        key = (fused_op.weight + f":{self.axis(fused_op)}", granularity, reduce_range)
        if key not in self._cache:
            self._cache[key] = self._quantize(fused_op, granularity, reduce_range)
        return self._cache[key]

    def blocks(self, fused_op: FusedOp, bits: int, block: int) -> BlockWeights:
        """The weight of a matrix product in blocks along the axis that it sums over; see `quantize_blocks`."""
        assert fused_op.weight is not None
        key = (fused_op.weight, self.axis(fused_op), bits, block)
        if key not in self._blocks:
            weight = self._graph.array(fused_op.weight)
            self._blocks[key] = quantize_blocks(weight if self.axis(fused_op) else weight.T, bits, block)
        return self._blocks[key]

    def _quantize(
        self, fused_op: FusedOp, granularity: str, reduce_range: bool, floor: Any = 0.0
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        assert fused_op.weight is not None
        weight = self._graph.array(fused_op.weight)
        axis = self.axis(fused_op)
        limit = REDUCED if reduce_range else FULL
        if granularity == "per_channel":
            others = tuple(i for i in range(weight.ndim) if i != axis)
            peak = np.abs(weight).max(axis=others)
            spread: tuple[int, ...] = tuple(-1 if i == axis else 1 for i in range(weight.ndim))
        else:
            peak, spread = np.asarray(np.abs(weight).max()), ()
        scale = np.maximum(np.where(peak > 0, peak / limit, 1.0), floor).astype(np.float32)
        quantized = np.clip(np.round(weight / scale.reshape(spread)), -limit, limit).astype(np.int8)
        return quantized, scale


def tensor(name: str, values: NDArray[Any]) -> onnx.TensorProto:
    """Create an initializer."""
    return onnx.numpy_helper.from_array(np.ascontiguousarray(values) if values.ndim else values, name)
