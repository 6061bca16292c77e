"""Int8 weights, computed once per operator, granularity and bit width."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.onnx_graph.block_weights import BlockWeights, quantize_blocks
from nc_strategies.onnx_graph.graph import FusedOp, Graph

FULL, REDUCED = 127, 64
"""Largest magnitude of an 8-bit weight, and of a 7-bit one."""
BIAS_LIMIT = float(2**30)
"""Largest magnitude of a quantized bias; half of the int32 range is left to the accumulated products."""
SMALLEST_SCALE = 2 * float(np.finfo(np.float32).tiny)
"""Smallest scale: twice the smallest normal float32, because kernels may flush smaller numbers to zero and divide by
them, and a product of two scales is rounded."""
LARGEST_SCALE = float(np.finfo(np.float32).max) / 2
"""Largest scale, likewise."""
BLOCK_BYTES = 2**26
"""Bytes of a weight that are quantized together."""


def normal_scale(scale: float) -> np.float32:
    """The nearest positive, finite and normal float32 to a positive scale."""
    return np.float32(min(max(scale, SMALLEST_SCALE), LARGEST_SCALE))


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
        if fused_op.type in ("Conv", "Gather"):
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
        bias = None if fused_op.bias is None else self._graph.array(fused_op.bias).astype(np.float64).reshape(-1)
        step = np.float64(input_scale)
        floor = np.asarray(SMALLEST_SCALE / step)
        if bias is not None:
            floor = np.maximum(floor, np.abs(bias) / (step * BIAS_LIMIT))
            floor = floor if scale.ndim else floor.max()
        cap = LARGEST_SCALE / step
        if np.any(floor > scale) or np.any(scale > cap):
            # With tiny weights in a channel, the scale is so small that a normal bias would overflow int32. The product
            # of both scales has to be a normal number as well, because kernels compute it in float32.
            weight, scale = self._quantize(fused_op, granularity, reduce_range, floor, cap)
        if bias is None:
            return weight, scale, None
        quantized = np.round(bias / (step * scale.astype(np.float64)))
        return weight, scale, np.clip(quantized, -BIAS_LIMIT, BIAS_LIMIT).astype(np.int32)

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
        self, fused_op: FusedOp, granularity: str, reduce_range: bool, floor: Any = 0.0, cap: float = LARGEST_SCALE
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        assert fused_op.weight is not None
        weight = self._graph.array(fused_op.weight)
        axis = self.axis(fused_op)
        limit = REDUCED if reduce_range else FULL
        # A channel of zeros gets the whole tensor's scale, with which its bias is as precise as the others'.
        whole = float(_peak(weight, tuple(range(weight.ndim)))) or 1.0
        if granularity == "per_channel":
            others = tuple(i for i in range(weight.ndim) if i != axis)
            peak = _peak(weight, others)
            spread: tuple[int, ...] = tuple(-1 if i == axis else 1 for i in range(weight.ndim))
        else:
            peak, spread = np.asarray(whole), ()
        floor = np.maximum(floor, SMALLEST_SCALE)
        scale = np.minimum(np.maximum(np.where(peak > 0, peak, whole) / limit, floor), cap).astype(np.float32)
        quantized = np.empty(weight.shape, np.int8)
        divisor = np.broadcast_to(scale.astype(np.float64).reshape(spread), weight.shape)
        for rows in _blocks(weight):
            quantized[rows] = np.clip(np.round(weight[rows] / divisor[rows]), -limit, limit)
        return (quantized if self._graph.files is None else self._graph.files.keep(quantized)), scale


def _blocks(values: NDArray[Any]) -> Iterator[slice]:
    """Ranges of the first axis with at most `BLOCK_BYTES` each: intermediate results of a large weight stay small."""
    step = max(1, BLOCK_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), step):
        yield slice(start, start + step)


def _peak(values: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    """Largest magnitudes over some axes."""
    parts = [np.abs(values[rows].astype(np.float64)).max(axes, keepdims=True, initial=0.0) for rows in _blocks(values)]
    joined = np.concatenate(parts) if 0 not in axes else np.maximum.reduce(parts)
    return np.asarray(joined.squeeze(axes))
