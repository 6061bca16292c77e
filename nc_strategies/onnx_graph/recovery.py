"""Recovery of weights in an ONNX graph: rounding that looks at calibration values, and bias correction.

Both belong to a weight and its quantized version, whatever the rest of a configuration is. `WeightCache` asks for them
when it quantizes a weight.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from nc_strategies.calibration.recovery import LIMITS
from nc_strategies.calibration.rounding import (
    ErrorSpread,
    Rows,
    error_spread,
    mean_error,
    output_noise,
    round_by_second_moments,
)
from nc_strategies.onnx_graph.graph import FusedOp, Graph
from nc_strategies.onnx_graph.operands import as_matrices, from_matrices, has_matrix


@dataclass
class WeightRecovery:
    """What calibration rows allow for the weights of a graph.

    Args:
        rows: Operator to the rows that its weight multiplies.
        rounded: Operators whose weights are rounded by `round_by_second_moments`.
        corrected: Operators whose mean error is added to their bias, or to the constant that is added next.
    """

    rows: Mapping[str, Rows] = field(default_factory=dict)
    rounded: Collection[str] = frozenset()
    corrected: Collection[str] = frozenset()
    _spreads: dict[str, ErrorSpread] = field(default_factory=dict)

    def _spread(self, name: str) -> ErrorSpread:
        """The spread of an operator's errors; kept for other quantizations of its weight, as far as memory allows."""
        if name in self._spreads:
            return self._spreads[name]
        spread = error_spread(self.rows[name].fit)
        if spread.factor.nbytes + sum(kept.factor.nbytes for kept in self._spreads.values()) <= LIMITS.row_bytes:
            self._spreads[name] = spread
        return spread

    def round(
        self,
        fused_op: FusedOp,
        weight: NDArray[Any],
        nearest: NDArray[np.int8],
        scale: NDArray[Any],
        low: int,
        high: int,
    ) -> NDArray[np.int8]:
        """The integers of a weight: those of `round_by_second_moments` where they leave less noise on unseen rows.

        Args:
            fused_op: The operator.
            weight: Its weight.
            nearest: The nearest integers, of the shape of `weight`.
            scale: Steps of the grid, of a shape that broadcasts to that of `weight`.
            low: Least integer of the grid.
            high: Greatest integer of the grid.
        """
        if fused_op.name not in self.rounded:
            return nearest
        rows = self.rows[fused_op.name]
        matrices, steps, plain = (
            as_matrices(fused_op, np.broadcast_to(values, weight.shape)) for values in (weight, scale, nearest)
        )
        found = round_by_second_moments(matrices, steps, self._spread(fused_op.name), low, high)
        noise, plain_noise = (output_noise(matrices, q * steps, rows.held_out) for q in (found, plain))
        better = noise <= LIMITS.max_noise_ratio * plain_noise
        return from_matrices(fused_op, found, weight.shape) if better else nearest

    def correction(self, fused_op: FusedOp, weight: NDArray[Any], dequantized: NDArray[Any]) -> NDArray[np.float64]:
        """What to add to the outputs of an operator with rows, shape (outputs,).

        Args:
            fused_op: The operator.
            weight: Its weight.
            dequantized: What is used in its place, of the same shape.
        """
        matrices, used = (as_matrices(fused_op, values) for values in (weight, dequantized))
        return mean_error(matrices, used, self.rows[fused_op.name].fit).reshape(-1)


def addend(graph: Graph, fused_op: FusedOp) -> tuple[onnx.NodeProto, str] | None:
    """The operator that adds a constant per output to a matrix product without a bias, and that constant.

    None if the product has another reader, or nothing of that form is added.
    """
    readers = graph.consumers.get(fused_op.raw, [])
    if fused_op.type != "MatMul" or fused_op.weight is None or len(readers) != 1 or fused_op.raw in graph.named:
        return None
    node = readers[0]
    if node.op_type != "Add" or node.domain not in ("", "ai.onnx"):
        return None
    constants = [name for name in node.input if name in graph.initializers]
    if len(constants) != 1:
        return None
    outputs = int(graph.initializers[fused_op.weight].dims[-1])
    dims = list(graph.initializers[constants[0]].dims)
    return (node, constants[0]) if dims and dims[-1] == outputs == int(np.prod(dims)) else None


def can_be_corrected(graph: Graph, fused_op: FusedOp) -> bool:
    """Whether an operator has something to which its mean error can be added without another operator."""
    if not has_matrix(graph, fused_op):
        return False
    return fused_op.bias is not None or addend(graph, fused_op) is not None
