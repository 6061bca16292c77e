"""What a program is made of beside its columns."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Conversion:
    """What is paid once, or saved, for a tensor where int8 meets float; members are units, None where always float.

    Args:
        producer: Unit that makes the tensor.
        consumers: Units that take it.
        quantize: Cost when the producer is float and a consumer int8.
        dequantize: Cost when the producer is int8 and a consumer float.
        float_consumer: Something without a choice takes it in float too.
    """

    producer: int | None
    consumers: tuple[int, ...]
    quantize: float
    dequantize: float
    float_consumer: bool = False


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


def paid(conversions: Iterable[Conversion], int8: Set[float]) -> float:
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
