"""Int8 weights, computed once per operator, granularity and bit width, and shared by all configurations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.tensorflow.fused_ops import FusedOp
from nc_strategies.backends.tensorflow.graph import Graph, Node
from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow

FULL = 127
"""Largest magnitude of an 8-bit weight."""
REDUCED = 64
"""Largest weight for which the sum of two products with 255 fits in 16 bits: 2 * 255 * 64 = 32640."""
SMALLEST_MAGNITUDE = 1e-20
"""Lower bound of a quantized range: `MARKS` are negligible beside it, products of two scales stay normal float32."""
MARKS = {
    ("per_channel", FULL): 0.0,
    ("per_channel", REDUCED): 1e-30,
    ("per_tensor", FULL): 2e-30,
    ("per_tensor", REDUCED): 3e-30,
}
"""Number that identifies a weight's granularity and bit width, see `GraphBuilder._mark`."""
EQUALIZED = 4e-30
"""Number added to the marks of weights whose channels were equalized."""


@dataclass(frozen=True)
class QuantizedWeight:
    """The weight arguments of an int8 kernel.

    Args:
        values: The integers, a constant.
        bound: The real value that 127 represents, per channel or for the whole tensor; a constant.
        label: The operator's name and how the weight was quantized.
        mark: A negligibly small number that differs between the quantizations of one weight.
    """

    values: Node
    bound: Node
    label: str
    mark: float


class WeightCache:
    """Cache of the quantized weights of one graph.

    Args:
        graph: The simplified graph that holds the floating-point weights.
        equalized: Whether its channels were equalized.
    """

    def __init__(self, graph: Graph, equalized: bool = False) -> None:
        self._graph = graph
        self._added = EQUALIZED if equalized else 0.0
        self._weights: dict[tuple[str, str, int], QuantizedWeight] = {}

    def get(self, fused_op: FusedOp, granularity: str, limit: int) -> QuantizedWeight:
        """The weight of a fused operator, symmetric in ``[-limit, limit]``.

        Args:
            fused_op: The operator.
            granularity: ``per_channel`` or ``per_tensor``.
            limit: `FULL` or `REDUCED`.
        """
        key = (fused_op.name, granularity, limit)
        if key not in self._weights:
            self._weights[key] = self._quantize(fused_op, granularity, limit)
        return self._weights[key]

    def _quantize(self, fused_op: FusedOp, granularity: str, limit: int) -> QuantizedWeight:
        weight = self._graph.value(fused_op.weight)
        assert weight is not None
        if fused_op.op == "MatMul" and self._graph.nodes[fused_op.name].attr["transpose_b"].b:
            weight = np.ascontiguousarray(weight.T)
        # The channels of a depthwise convolution are on two axes: those of its input, and its depth multiplier.
        depthwise = fused_op.op == "DepthwiseConv2dNative"
        flat = weight.reshape(*weight.shape[:2], -1) if depthwise else weight
        largest, values = quantize(flat, flat.ndim - 1, granularity, limit)
        values = values.reshape(weight.shape)
        label = f"{fused_op.name}/{granularity}/{limit}"
        # The kernels take the bound as the real value of 127, whatever the limit is.
        bound = (largest * (FULL / limit)).astype(np.float32)
        part = Graph()
        values_name = part.constant(f"{fused_op.name}/int8", values, tensorflow().qint8)
        bound_name = part.constant(f"{fused_op.name}/bound", bound)
        mark = self._added + MARKS[granularity, limit]
        return QuantizedWeight(part.nodes[values_name], part.nodes[bound_name], label, mark)


def quantize(
    weight: NDArray[np.float32], axis: int, granularity: str, limit: int = FULL
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Quantize a weight to integers in ``[-limit, limit]``.

    Args:
        weight: The weight.
        axis: Its axis of output channels.
        granularity: ``per_channel`` or ``per_tensor``.
        limit: `FULL` or `REDUCED`.

    Returns:
        The largest magnitude, of shape (channels,) or (); and the integers, of the weight's shape.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest: Any = np.abs(weight).max(axis=others if granularity == "per_channel" else None)
    # A channel of zeros must not have a zero scale; it gets that of the whole tensor.
    whole = np.abs(weight).max(initial=0.0) or 1.0
    largest = np.maximum(np.where(largest > 0, largest, whole), SMALLEST_MAGNITUDE).astype(np.float32)
    shape = [1] * weight.ndim
    if granularity == "per_channel":
        shape[axis] = -1
    values = np.clip(np.rint(weight / (largest.reshape(shape) / np.float32(limit))), -limit, limit)
    return largest, values.astype(np.int8)
