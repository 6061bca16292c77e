"""Histograms of activations, from which the range of every calibration algorithm is derived after one pass."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALGORITHMS = ("minmax", "percentile", "kl")
BINS = 8192
"""Bins of a histogram; a power of two, so that neighbouring bins merge exactly when the range doubles."""
COUNTED_TOGETHER = 2**15
"""Values that are counted together: their intermediate results take 0.6 MB, which fits into the processor's cache."""
SMALLEST_BOUND = 2.0**-126
"""Smallest bound of a histogram, the smallest normal float32: its inverse has to be a float32 as well."""
KL_CANDIDATES = 128
"""Number of thresholds that the ``kl`` algorithm compares."""
KL_EMPTY_BIN_PENALTY = 10
"""Divergence per unit of probability for which the quantized distribution has no mass; KL itself would be infinite."""


class Histogram:
    """Counts of a tensor's values over a range that doubles when larger values arrive.

    The bins span ``[-bound, bound]``. As `bound` is a power of two, doubling it merges neighbouring bins exactly, and
    the counts do not depend on the order of the data. The exact minimum and maximum are kept as well.

    Attributes:
        low: The least finite value.
        high: The greatest finite value.
        infinite: Whether there were infinite values, which are not counted.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.bound = 0.0
        self.low = math.inf
        self.high = -math.inf
        self.infinite = False

    @property
    def empty(self) -> bool:
        """Whether there was no value at all."""
        return self.low > self.high and not self.infinite

    def update(self, values: NDArray[Any]) -> None:
        """Count the values of an array of any shape.

        Raises:
            ValueError: a value is not a number (NaN).
        """
        flat = np.asarray(values, np.float32).ravel()
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if math.isnan(low):
            raise ValueError("a calibration activation is not finite (NaN)")
        if math.isinf(low) or math.isinf(high):
            self.infinite = True
            self.update(flat[np.isfinite(flat)])
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(abs(low), abs(high)))
        if self.bound:
            for start in range(0, flat.size, COUNTED_TOGETHER):
                part = flat[start : start + COUNTED_TOGETHER]
                # Division by the bound, a power of two, is exact. Masks hold the lowest float32, whose sum with the
                # bound would overflow.
                index = ((part * np.float32(1 / self.bound) + np.float32(1)) * np.float32(BINS // 2)).astype(np.int32)
                self.counts += np.bincount(np.clip(index, 0, BINS - 1), minlength=BINS)
        else:
            self.counts[BINS // 2] += flat.size

    def merge(self, other: Histogram) -> None:
        """Add the counts of another histogram."""
        self.infinite |= other.infinite
        if other.low > other.high:
            return
        self._grow(other.bound)
        grown = Histogram()
        grown.counts, grown.bound = other.counts.copy(), other.bound
        grown._grow(self.bound)
        self.counts += grown.counts
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def _grow(self, magnitude: float) -> None:
        if magnitude <= self.bound:
            return
        bound = 2.0 ** math.ceil(math.log2(max(magnitude, SMALLEST_BOUND)))
        if not self.bound:
            zeros, self.counts = self.counts.sum(), np.zeros(BINS, np.int64)
            self.counts[BINS // 2], self.bound = zeros, bound
        while self.bound < bound:
            merged = np.zeros(BINS, np.int64)
            merged[BINS // 4 : 3 * BINS // 4] = self.counts.reshape(-1, 2).sum(1)
            self.counts, self.bound = merged, self.bound * 2

    def range(self, algorithm: str, percentile: float = 99.99) -> tuple[float, float]:
        """The range to quantize, as (lowest, highest) value.

        Args:
            algorithm: ``minmax``; ``percentile``: the quantiles ``100 - percentile`` and ``percentile``; or ``kl``:
                the threshold whose quantized distribution diverges least from the observed one (Migacz, "8-bit
                Inference with TensorRT", GTC 2017).
            percentile: For ``percentile``, in percent.

        Raises:
            ValueError: the algorithm is unknown, or no values were counted.
        """
        if self.low > self.high:
            raise ValueError("the histogram has no calibration data")
        if algorithm == "minmax" or not self.bound:
            return self.low, self.high
        if algorithm == "percentile":
            low, high = self._quantile(1 - percentile / 100), self._quantile(percentile / 100, upper=True)
        elif algorithm == "kl":
            threshold = self._kl_threshold()
            low, high = -threshold, threshold
        else:
            raise ValueError(f"unknown calibration algorithm {algorithm!r}; allowed: {', '.join(ALGORITHMS)}")
        return max(low, self.low), min(high, self.high)

    def _quantile(self, fraction: float, upper: bool = False) -> float:
        total = np.cumsum(self.counts)
        index = int(np.searchsorted(total, fraction * total[-1], side="left" if upper else "right"))
        return (min(index, BINS - 1) + upper) * (2 * self.bound / BINS) - self.bound

    def _kl_threshold(self) -> float:
        half = BINS // 2
        width = self.bound / half
        counts = self.counts[half:] + self.counts[:half][::-1]
        levels = 256 if self.low >= 0 else 128
        used = min(half, int(np.flatnonzero(counts)[-1]) + 1)
        # Exact zeros (after ReLU) have no error at any threshold, so their great number must not decide.
        magnitudes = counts.astype(np.float64)
        magnitudes[0] = magnitudes[1]
        if used <= levels or not magnitudes.any():
            return used * width
        candidates = np.unique(np.linspace(levels, used, KL_CANDIDATES).astype(int))
        return float(min(candidates, key=lambda stop: _divergence(magnitudes, int(stop), levels)) * width)


def _divergence(counts: NDArray[np.float64], stop: int, levels: int) -> float:
    """KL divergence of the distribution clipped at bin `stop` from the one quantized to `levels` levels."""
    inside = counts[:stop]
    clipped = inside.copy()
    clipped[-1] += counts[stop:].sum()
    starts = _level_starts(stop, levels)
    present = inside > 0
    sums = np.add.reduceat(inside, starts)
    filled = np.add.reduceat(present.astype(np.float64), starts)
    mean = np.divide(sums, filled, out=np.zeros_like(sums), where=filled > 0)
    quantized = np.repeat(mean, np.diff(np.append(starts, stop))) * present
    both = (clipped > 0) & (quantized > 0)
    if not both.any():
        return math.inf
    p, q = clipped / clipped.sum(), quantized / quantized.sum()
    lost = p[(clipped > 0) & ~both].sum()
    return float((p[both] * np.log(p[both] / q[both])).sum() + lost * KL_EMPTY_BIN_PENALTY)


@cache
def _level_starts(stop: int, levels: int) -> NDArray[np.int64]:
    return np.linspace(0, stop, levels, endpoint=False).astype(np.int64)
