"""Int8 weights, computed once per operator, granularity and bit width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from nc_strategies.onnx_graph.block_weights import (
    BlockWeights,
    Rounding,
    dequantized_blocks,
    packed_shape,
    quantize_blocks,
)
from nc_strategies.onnx_graph.external import WeightFiles
from nc_strategies.onnx_graph.graph import FusedOp, Graph
from nc_strategies.onnx_graph.recovery import WeightRecovery

FULL, REDUCED = 127, 64
"""Largest magnitude of an 8-bit weight, and of a 7-bit one."""
BIAS_LIMIT = float(2**30)
"""Largest magnitude of a quantized bias; half of the int32 range is left to the accumulated products."""
SMALLEST_SCALE = 2 * float(np.finfo(np.float32).tiny)
"""Smallest scale: twice the smallest normal float32, because kernels may flush smaller numbers to zero and divide by
them, and a product of two scales is rounded."""
LARGEST_SCALE = float(np.finfo(np.float32).max) / 2
"""Largest scale, likewise."""
LEAST_ROUNDED_BITS = 4
"""Bits per weight up to which blocks are rounded by calibration rows where `WeightRecovery` says so."""
BLOCK_BYTES = 2**26
"""Bytes of a weight that are quantized together."""


def normal_scale(scale: float) -> np.float32:
    """The nearest positive, finite and normal float32 to a positive scale."""
    return np.float32(min(max(scale, SMALLEST_SCALE), LARGEST_SCALE))


class WeightCache:
    """Cache of the quantized weights of a model.

    Weights are symmetric: ``q = round(w / scale)`` with ``scale = max|w| / limit`` over the tensor or per output
    channel (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", CVPR 2018), unless `recover` gave another rounding.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._recovery = WeightRecovery()
        self._cache: dict[tuple[str, str, bool], tuple[NDArray[np.int8], NDArray[np.float32]]] = {}
        self._blocks: dict[tuple[str, int, int, int], BlockWeights] = {}
        self._turned: dict[tuple[str, str, bool], NDArray[np.int8]] = {}

    def recover(self, recovery: WeightRecovery) -> None:
        """Round and correct by calibration rows from now on; what was quantized before is forgotten."""
        self._recovery = recovery
        self._cache.clear()
        self._blocks.clear()
        self._turned.clear()

    def forget(self, fused_op: FusedOp) -> None:
        """Quantize the weight of an operator anew when it is asked for."""
        assert fused_op.weight is not None
        for key in [key for key in self._cache if key[0].startswith(f"{fused_op.weight}:")]:
            del self._cache[key]
        for turned in [turned for turned in self._turned if turned[0] == fused_op.weight]:
            del self._turned[turned]
        for place in [place for place in self._blocks if place[0] == fused_op.weight]:
            del self._blocks[place]

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
            weight, scale = self._widened(fused_op, granularity, reduce_range, floor, cap)
        if bias is None:
            return weight, scale, None
        if fused_op.name in self._recovery.corrected:
            used = self._dequantized(fused_op, weight, scale)
            bias = bias + self._recovery.correction(fused_op, self.original(fused_op), used)
        quantized = np.round(bias / (step * scale.astype(np.float64)))
        return weight, scale, np.clip(quantized, -BIAS_LIMIT, BIAS_LIMIT).astype(np.int32)

    def _widened(
        self, fused_op: FusedOp, granularity: str, reduce_range: bool, floor: Any, cap: float
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """The weight with scales within bounds; the integers of channels whose scale stays are those of `plain`."""
        before, scale_before = self.plain(fused_op, granularity, reduce_range)
        weight, scale = self._nearest(fused_op, granularity, reduce_range, floor, cap)
        if scale.ndim and fused_op.name in self._recovery.rounded:
            spread = [1] * weight.ndim
            spread[self.axis(fused_op)] = -1
            weight = np.where((scale == scale_before).reshape(spread), before, weight)
        return weight, scale

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
            columns = weight if self.axis(fused_op) else weight.T
            found = quantize_blocks(columns, bits, block, self._block_rounding(fused_op, bits))
            self._blocks[key] = replace(found, packed=self._kept(found.packed), scales=self._kept(found.scales))
        return self._blocks[key]

    def columns(self, fused_op: FusedOp, granularity: str, reduce_range: bool) -> NDArray[np.int8]:
        """The quantized weight of a matrix product, with its output channels on axis 1; see `plain`."""
        weight, _ = self.plain(fused_op, granularity, reduce_range)
        if self.axis(fused_op):
            return weight
        key = (fused_op.weight or "", granularity, reduce_range)
        if key not in self._turned:
            self._turned[key] = self._kept(np.ascontiguousarray(weight.T))
        return self._turned[key]

    def _kept(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values that are kept for later graphs: in a file, if the model's weights are in files."""
        return values if self._graph.files is None else self._graph.files.keep(values)

    def _block_rounding(self, fused_op: FusedOp, bits: int) -> Rounding | None:
        """How blocks are rounded where not to the nearest; 8 bits leave too little noise to be worth the time."""
        recovery = self._recovery
        if bits > LEAST_ROUNDED_BITS or fused_op.name not in recovery.rounded:
            return None

        def rounded(
            columns: NDArray[Any], nearest: NDArray[Any], scale: NDArray[Any], low: int, high: int
        ) -> NDArray[Any]:
            if self.axis(fused_op):
                return recovery.round(fused_op, columns, nearest, scale, low, high)
            return recovery.round(fused_op, columns.T, nearest.T, scale.T, low, high).T

        return rounded

    def correction(self, fused_op: FusedOp, granularity: str, reduce_range: bool) -> NDArray[np.float64] | None:
        """What bias correction adds to an operator's outputs with its weight from `plain`; None for nothing."""
        if fused_op.name not in self._recovery.corrected:
            return None
        used = self.dequantized(fused_op, granularity, reduce_range)
        return self._recovery.correction(fused_op, self.original(fused_op), used)

    def block_correction(self, fused_op: FusedOp, bits: int, block: int) -> NDArray[np.float64] | None:
        """The same with its weight from `blocks`."""
        if fused_op.name not in self._recovery.corrected:
            return None
        weight = self.original(fused_op)
        depth = weight.shape[0] if self.axis(fused_op) else weight.shape[1]
        columns = dequantized_blocks(self.blocks(fused_op, bits, block), depth)
        return self._recovery.correction(fused_op, weight, columns if self.axis(fused_op) else columns.T)

    def original(self, fused_op: FusedOp) -> NDArray[Any]:
        """An operator's weight in floating point."""
        assert fused_op.weight is not None
        return self._graph.array(fused_op.weight)

    def dequantized(self, fused_op: FusedOp, granularity: str, reduce_range: bool) -> NDArray[np.float32]:
        """The floating-point values of the weight from `plain`, in the model's layout."""
        return self._dequantized(fused_op, *self.plain(fused_op, granularity, reduce_range))

    def _dequantized(
        self, fused_op: FusedOp, values: NDArray[np.int8], scale: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        spread = [1] * values.ndim
        spread[self.axis(fused_op)] = -1
        return np.asarray(values * (scale.reshape(spread) if scale.ndim else scale), np.float32)

    def _quantize(
        self, fused_op: FusedOp, granularity: str, reduce_range: bool
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        quantized, scale = self._nearest(fused_op, granularity, reduce_range)
        if fused_op.name in self._recovery.rounded:
            limit = REDUCED if reduce_range else FULL
            spread = [1] * quantized.ndim
            spread[self.axis(fused_op)] = -1
            steps = scale.reshape(spread) if scale.ndim else scale
            rounded = self._recovery.round(fused_op, self.original(fused_op), quantized, steps, -limit, limit)
            return self._kept(rounded), scale
        return quantized, scale

    def _nearest(
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
        return self._kept(quantized), scale


class PlaceholderWeights(WeightCache):
    """Weights of zeros in place of quantized ones, for graphs that are looked at and never run.

    Which kernels the engine selects does not depend on the values of weights. Quantizing those of a large model in
    every scheme takes minutes.

    Args:
        graph: A model whose weights are in files.
        files: Where they are.
    """

    def __init__(self, graph: Graph, files: WeightFiles) -> None:
        super().__init__(graph)
        self._files = files

    def _nearest(
        self, fused_op: FusedOp, granularity: str, reduce_range: bool, floor: Any = 0.0, cap: float = LARGEST_SCALE
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        assert fused_op.weight is not None
        shape = tuple(self._graph.initializers[fused_op.weight].dims)
        scale = np.ones(shape[self.axis(fused_op)] if granularity == "per_channel" else (), np.float32)
        return self._files.zeros("int8", TensorProto.INT8, shape), scale

    def blocks(self, fused_op: FusedOp, bits: int, block: int) -> BlockWeights:
        """See `WeightCache.blocks`."""
        assert fused_op.weight is not None
        rows, columns = self._graph.initializers[fused_op.weight].dims
        shape = packed_shape(*((rows, columns) if self.axis(fused_op) else (columns, rows)), bits, block)
        packed = self._files.zeros("uint8", TensorProto.UINT8, shape)
        return BlockWeights(packed, np.ones(shape[:2], np.float32), bits, block)

    def columns(self, fused_op: FusedOp, granularity: str, reduce_range: bool) -> NDArray[np.int8]:
        """See `WeightCache.columns`."""
        assert fused_op.weight is not None
        rows, columns = self._graph.initializers[fused_op.weight].dims
        shape = (rows, columns) if self.axis(fused_op) else (columns, rows)
        return self._files.zeros("int8", TensorProto.INT8, shape)


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
