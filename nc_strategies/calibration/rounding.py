"""Rounding of weights that looks at the values which the weights multiply, and the mean error that rounding leaves.

Shapes: G groups (one except for grouped convolutions), K values that one output sums over, N outputs per group, R rows
of calibration values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class RoundingLimits:
    """Tuning constants of `round_by_second_moments`.

    Args:
        damping: Share of the mean second moment that is added to each value's own: the moments come from few rows, and
            directions that no row has must not carry arbitrarily large corrections. GPTQ's reference uses the same.
        block: Values that are rounded before their errors are passed on to all later ones in one matrix product.
    """

    damping: float = 0.01
    block: int = 64


LIMITS = RoundingLimits()


@dataclass(frozen=True)
class Rows:
    """Calibration values that an operator's weight multiplies.

    Args:
        fit: What corrections are fitted on, shape (G, R, K).
        held_out: What they are judged on, shape (G, R', K).
    """

    fit: Array
    held_out: Array

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.fit.nbytes + self.held_out.nbytes


@dataclass(frozen=True)
class ErrorSpread:
    """How the rounding error of a value is made up for by the values that are rounded after it.

    Args:
        order: Values in the order of rounding, shape (G, K).
        factor: Upper triangular factor of the inverse second moments in that order, shape (G, K, K).
    """

    order: NDArray[np.int64]
    factor: Array


def error_spread(rows: Array, limits: RoundingLimits = LIMITS) -> ErrorSpread:
    """The order and the spread of errors for rows of shape (G, R, K); see `round_by_second_moments`."""
    peak = np.abs(rows).max(initial=0.0)
    alike = rows / peak if peak > 0 else rows  # squares of very large or small values are out of float32's range
    moments = np.matmul(alike.swapaxes(1, 2), alike).astype(np.float64)
    own = np.einsum("gkk->gk", moments)  # a view of the diagonals
    mean = own.mean(1, keepdims=True)
    own += np.where(mean > 0, limits.damping * mean, 1.0)
    order = np.argsort(-own, axis=1, kind="stable")
    at = np.arange(len(order))[:, None, None]
    moments = moments[at, order[:, :, None], order[:, None, :]]
    # With the values reversed, the inverse of the lower factor of the moments is the upper factor of their inverse. It
    # takes a third of the operations of inverting first.
    factor = _inverse_of_lower(np.linalg.cholesky(moments[:, ::-1, ::-1]))[:, ::-1, ::-1]
    return ErrorSpread(order, np.ascontiguousarray(factor, np.float32))


def _inverse_of_lower(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverses of lower triangular matrices, shape (G, K, K), by halves."""
    size = matrices.shape[1]
    if size <= LIMITS.block:
        return np.tril(np.linalg.inv(matrices))
    half = size // 2
    found = np.zeros_like(matrices)
    upper, lower = (_inverse_of_lower(matrices[:, part, part]) for part in (slice(0, half), slice(half, size)))
    found[:, :half, :half], found[:, half:, half:] = upper, lower
    found[:, half:, :half] = -np.matmul(lower, np.matmul(matrices[:, half:, :half], upper))
    return found


def round_by_second_moments(
    weight: NDArray[Any],
    scale: NDArray[Any],
    spread: ErrorSpread,
    low: int,
    high: int,
    limits: RoundingLimits = LIMITS,
) -> NDArray[np.int8]:
    """Round a weight so that its products with calibration rows change little.

    Values are rounded one after the other along K, those with the greatest second moment first. Each rounding error is
    made up for by the values that are not rounded yet, as far as the rows are correlated.

    Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR
    2023, with its activation order.

    Args:
        weight: Shape (G, K, N).
        scale: Steps of the grid, of a shape that broadcasts to that of `weight`.
        spread: What `error_spread` returns for the rows.
        low: Least integer of the grid.
        high: Greatest integer of the grid.
        limits: Tuning constants.

    Returns:
        The integers, shape (G, K, N).
    """
    groups, depth, _ = weight.shape
    at, order, factor = np.arange(groups)[:, None], spread.order, spread.factor
    left = np.asarray(weight, np.float32)[at, order]
    steps = np.broadcast_to(np.asarray(scale, np.float32), weight.shape)[at, order]
    found = np.empty(weight.shape, np.int8)
    for start in range(0, depth, limits.block):
        stop = min(start + limits.block, depth)
        errors = np.empty((groups, stop - start, weight.shape[2]), np.float32)
        for k in range(start, stop):
            found[:, k] = np.clip(np.round(left[:, k] / steps[:, k]), low, high)
            error = (left[:, k] - found[:, k] * steps[:, k]) / factor[:, k, k, None]
            left[:, k + 1 : stop] -= factor[:, k, k + 1 : stop, None] * error[:, None]
            errors[:, k - start] = error
        left[:, stop:] -= np.matmul(factor[:, start:stop, stop:].swapaxes(1, 2), errors)
    back = np.argsort(order, axis=1, kind="stable")
    return found[at, back]


def mean_error(weight: NDArray[Any], rounded: NDArray[Any], rows: Array) -> NDArray[np.float64]:
    """What rounding takes from each output on average: the rows' mean times the weights' error, shape (G, N).

    Source: bias correction of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
    ICCV 2019, with the mean of calibrated values.

    Args:
        weight: Shape (G, K, N).
        rounded: The weight that is used in its place, dequantized; same shape.
        rows: Shape (G, R, K).
    """
    error = np.asarray(weight, np.float64) - rounded
    return np.asarray(np.einsum("gk,gkn->gn", rows.mean(1, dtype=np.float64), error))


def output_noise(
    weight: NDArray[Any], rounded: NDArray[Any], rows: Array, correction: NDArray[Any] | None = None
) -> float:
    """Noise-to-signal ratio that a rounded weight causes in an operator's output, without its bias.

    Args:
        weight: Shape (G, K, N).
        rounded: The weight that is used in its place, dequantized; same shape.
        rows: Shape (G, R, K).
        correction: What is added to the outputs, shape (G, N).
    """
    error = np.matmul(rows, np.asarray(weight - rounded, np.float32))
    if correction is not None:
        error = error - correction[:, None].astype(np.float32)
    signal = float(np.square(np.matmul(rows, np.asarray(weight, np.float32)), dtype=np.float64).sum())
    noise = float(np.square(error, dtype=np.float64).sum())
    return noise / signal if signal > 0 else 0.0
