"""What a program is made of beside its columns."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nc_strategies.problem.latency import ConversionEdge

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Budgeted:
    """A loss to keep within a limit.

    Args:
        prices: Loss of each column.
        limit: The most it may sum to.
        pairs: Triples (column, column, loss that the two add when both are chosen).
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
    """What conversions cost.

    Args:
        conversions: The conversions.
        int8: Units that run in int8; all others are float.
    """
    total = 0.0
    for b in conversions:
        if b.producer in int8:
            total += b.dequantize * (b.float_consumer or any(c not in int8 for c in b.consumers))
        else:
            total += b.quantize * any(c in int8 for c in b.consumers)
    return total
