"""Limits, cuts and conversion costs of an integer program."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nc_strategies.problem.latency import ConversionEdge

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Budgeted:
    """A loss with its limit.

    Args:
        prices: Loss of each column, shape (columns,).
        limit: Largest allowed sum.
        pairs: Triples (column, column, additional loss when both are chosen).
    """

    prices: Array
    limit: float
    pairs: tuple[tuple[int, int, float], ...] = ()


@dataclass(frozen=True)
class Cut:
    """At most `most` of the columns may be chosen."""

    columns: tuple[int, ...]
    most: float


def paid(conversions: Iterable[ConversionEdge[int]], int8: Set[float]) -> float:
    """Total cost of conversions.

    Args:
        conversions: The conversions.
        int8: Decisions in int8; all others are float.
    """
    total = 0.0
    for b in conversions:
        if b.producer in int8:
            total += b.dequantize * (b.float_consumer or any(c not in int8 for c in b.consumers))
        else:
            total += b.quantize * any(c in int8 for c in b.consumers)
    return total
