"""Least squares with 95 % intervals for designs of zeros and ones, also of many thousand rows and columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nc_strategies.measuring.student import t_95

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FitLimits:
    """What is reported, and how it is computed."""

    residual_freedom: int = 3
    """Residual degrees of freedom below which no effect is reported."""
    term_resolution: float = 1 - 1e-6
    """Diagonal element of the resolution matrix, 1 for a term that the rows determine, above which a term is
    reported."""
    dense_cells: int = 500_000
    """Largest design, in cells, that is decomposed as it is. Larger ones are decomposed by the products of their
    columns: 10,000 rows of 2,000 columns would take minutes and a gigabyte."""
    eigenvalue_ratio: float = 1e-10
    """Eigenvalues of the products below this share of the largest are zero. They are the squares of singular values, so
    that rounding leaves less of them."""
    rows_at_once: int = 1000
    """Rows that are converted to floating point at a time."""


LIMITS = FitLimits()


@dataclass(frozen=True)
class Fit:
    """Terms of a fit, one per column of the design.

    Args:
        terms: The terms.
        reach: Half-widths of their 95 % intervals.
        known: Whether the rows determine the term.
    """

    terms: Array
    reach: Array
    known: NDArray[np.bool_]


def fits(design: NDArray[np.uint8], values: Sequence[Array]) -> list[Fit | None]:
    """Fit several values by the same design.

    Source: ordinary least squares by the pseudo-inverse, intervals by Student's t.

    Args:
        design: Zeros and ones, shape (rows, columns).
        values: What is fitted, shape (rows,) each.

    Returns:
        A fit for each of the values; None where they are not finite or too few.
    """
    if not any(np.isfinite(one).all() for one in values):
        return [None] * len(values)
    small = design.size <= LIMITS.dense_cells
    solved = _Dense(design) if small else _Products(design)
    freedom = len(design) - solved.rank
    if freedom < LIMITS.residual_freedom:
        return [None] * len(values)
    found: list[Fit | None] = []
    for one in values:
        if not np.isfinite(one).all():
            found.append(None)
            continue
        terms, squares = solved.solve(one)
        reach = t_95(freedom) * np.sqrt(squares / freedom * solved.variances)
        found.append(Fit(terms, reach, solved.resolution > LIMITS.term_resolution))
    return found


class _Dense:
    """A design that is decomposed as it is."""

    def __init__(self, design: NDArray[np.uint8]) -> None:
        self._design = design.astype(np.float64)
        self.rank = int(np.linalg.matrix_rank(self._design))
        self._inverse = np.linalg.pinv(self._design)
        self.variances: Array = (self._inverse**2).sum(1)
        self.resolution: Array = np.diag(self._inverse @ self._design)

    def solve(self, values: Array) -> tuple[Array, float]:
        """Terms, and the sum of the squared residuals."""
        terms = self._inverse @ values
        return terms, float(((values - self._design @ terms) ** 2).sum())


class _Products:
    """A design that is decomposed by the products of its columns, a few rows at a time."""

    def __init__(self, design: NDArray[np.uint8]) -> None:
        self._design = design
        self.rank = self._rank_by_rows() if len(design) <= design.shape[1] else -1
        if self.rank >= 0 and len(design) - self.rank < LIMITS.residual_freedom:
            return  # too few rows: the larger decomposition would tell nothing
        # Sums of up to 2**24 products of zeros and ones are exact in single precision.
        products = np.zeros((design.shape[1],) * 2)
        for _, rows in self._blocks():
            block = rows.astype(np.float32)
            products += block.T @ block
        values, vectors = np.linalg.eigh(products)
        kept = values > LIMITS.eigenvalue_ratio * values[-1]
        self.rank = int(kept.sum())
        vectors, values = vectors[:, kept], values[kept]
        self._scaled = vectors / values
        self._vectors = vectors
        self.variances: Array = (self._scaled * vectors).sum(1)
        self.resolution: Array = (vectors**2).sum(1)

    def _rank_by_rows(self) -> int:
        rows = self._design.astype(np.float32)
        values = np.linalg.eigvalsh((rows @ rows.T).astype(np.float64))
        return int((values > LIMITS.eigenvalue_ratio * values[-1]).sum())

    def _blocks(self) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        for start in range(0, len(self._design), LIMITS.rows_at_once):
            part = slice(start, start + LIMITS.rows_at_once)
            yield part, self._design[part]

    def solve(self, values: Array) -> tuple[Array, float]:
        """Terms, and the sum of the squared residuals."""
        moments: Array = np.zeros(self._design.shape[1])
        for part, rows in self._blocks():
            moments += values[part] @ rows.astype(np.float64)
        terms = self._scaled @ (self._vectors.T @ moments)
        residuals = (values[part] - rows.astype(np.float64) @ terms for part, rows in self._blocks())
        return terms, float(sum((one**2).sum() for one in residuals))
