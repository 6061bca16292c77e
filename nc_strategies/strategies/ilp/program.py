"""The integer program: one choice a unit, the least cost within the limits on loss."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

Array = NDArray[np.float64]
GAP = 5e-4
"""Relative gap at which a solution counts as optimal."""
NODES = 20_000
"""Nodes of the search tree at most; a limit on time would make runs differ."""
_stdout = threading.Lock()


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


class _Rows:
    def __init__(self) -> None:
        self._entries: list[tuple[int, int, float]] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def add(self, entries: dict[int, float], low: float, high: float) -> None:
        self._entries += [(len(self.low), column, value) for column, value in entries.items()]
        self.low.append(low)
        self.high.append(high)

    def matrix(self, columns: int) -> csr_array:
        rows, places, values = zip(*self._entries, strict=True)
        return csr_array((values, (rows, places)), shape=(len(self.low), columns))


def solve(owner: Array, is_int8: NDArray[np.bool_], cost: Array, losses: Sequence[Budgeted],
          conversions: Sequence[Conversion] = (), cuts: Sequence[Cut] = ()) -> Array | None:
    """The cheapest choice of one column a unit.

    The products of pairs and the conversions, which depend on several units, are linearized: a conversion is at
    least each difference between its producer and a consumer, one that saves time at most what its producer and all
    of its consumers allow, and a product at most each factor and at least their sum less one.

    Args:
        owner: Unit of each column, shape (columns,).
        is_int8: Whether a column is an int8 scheme.
        cost: Cost of each column.
        losses: Limits.
        conversions: Costs between units.
        cuts: What may not be chosen together.

    Returns:
        0 or 1 for each column; None where nothing keeps the limits.
    """
    columns, rows = len(owner), _Rows()
    conversions = [c for c in conversions if c.quantize or c.dequantize]
    prices, upper = list(cost), _undominated(owner, is_int8, cost, losses, cuts)
    for unit in np.unique(owner):
        rows.add(dict.fromkeys(np.flatnonzero(owner == unit).tolist(), 1.0), 1.0, 1.0)
    int8 = {int(u): np.flatnonzero((owner == u) & is_int8).tolist() for u in np.unique(owner)}
    size = columns
    for conversion in conversions:
        quantize, dequantize, size = size, size + 1, size + 2
        prices += [conversion.quantize, conversion.dequantize]
        made = {} if conversion.producer is None else dict.fromkeys(int8[conversion.producer], 1.0)
        taken = [dict.fromkeys(int8[c], 1.0) for c in conversion.consumers if c != conversion.producer]
        floats = conversion.float_consumer and bool(made)
        for mine in taken:
            if conversion.quantize > 0:
                rows.add({quantize: 1.0, **_negative(mine), **made}, 0.0, np.inf)
            if conversion.dequantize > 0:
                rows.add({dequantize: 1.0, **_negative(made), **mine}, 0.0, np.inf)
        if floats and conversion.dequantize > 0:
            rows.add({dequantize: 1.0, **_negative(made)}, 0.0, np.inf)
        together = {column: 1.0 for mine in taken for column in mine}
        if conversion.quantize < 0:
            rows.add({quantize: 1.0, **made}, -np.inf, 1.0)
            rows.add({quantize: 1.0, **_negative(together)}, -np.inf, 0.0)
        if conversion.dequantize < 0:
            rows.add({dequantize: 1.0, **_negative(made)}, -np.inf, 0.0)
            rows.add({dequantize: 1.0, **together}, -np.inf, float(len(taken) + floats))
    for loss in losses:
        entries = {i: float(p) for i, p in enumerate(loss.prices) if p != 0}
        for a, b, price in loss.pairs:
            product, size = size, size + 1
            prices.append(0.0)
            rows.add({product: 1.0, a: -1.0}, -np.inf, 0.0)
            rows.add({product: 1.0, b: -1.0}, -np.inf, 0.0)
            rows.add({product: 1.0, a: -1.0, b: -1.0}, -1.0, np.inf)
            entries[product] = price
        if entries:
            scale = max(abs(p) for p in entries.values())  # the solver's tolerances are absolute
            rows.add({i: p / scale for i, p in entries.items()}, -np.inf, loss.limit / scale)
        elif loss.limit < 0:
            return None
    for cut in cuts:
        rows.add(dict.fromkeys(cut.columns, 1.0), -np.inf, cut.most)
    whole = np.concatenate([np.ones(columns), np.zeros(size - columns)])
    bounds = Bounds(np.zeros(size), np.concatenate([upper, np.ones(size - columns)]))
    with quiet():
        found = milp(np.array(prices), integrality=whole, bounds=bounds,
                     constraints=LinearConstraint(rows.matrix(size), rows.low, rows.high),
                     options={"mip_rel_gap": GAP, "node_limit": NODES})
    return None if found.x is None else np.asarray(np.round(found.x[:columns]))


def _negative(entries: dict[int, float]) -> dict[int, float]:
    return {column: -value for column, value in entries.items()}


def _undominated(owner: Array, is_int8: NDArray[np.bool_], cost: Array, losses: Sequence[Budgeted],
                 cuts: Sequence[Cut]) -> Array:
    """1 for columns worth choosing, 0 for an int8 scheme which another of its unit beats in cost and every loss.

    Conversions do not tell int8 schemes of one unit apart. A unit that a cut other than a tried configuration
    speaks of keeps all of its columns, and so does one with a pair.
    """
    keep = np.ones(len(owner))
    touched = {c for cut in cuts for c in cut.columns if cut.most < len(cut.columns) - 1}
    touched |= {c for loss in losses for a, b, _ in loss.pairs for c in (a, b)}
    for unit in np.unique(owner):
        mine = np.flatnonzero((owner == unit) & is_int8)
        if len(mine) < 2 or touched & set(mine.tolist()):
            continue
        values = np.column_stack([cost[mine], *(loss.prices[mine] for loss in losses)])
        for k, row in enumerate(values):
            as_good = (values <= row).all(1)
            better = as_good & ((values < row).any(1) | (np.arange(len(mine)) < k))
            keep[mine[k]] = float(not better.any())
    return keep


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what HiGHS writes to the process's standard output, past Python and now and then, off the terminal."""
    with _stdout:
        try:
            kept = os.dup(1)
        except OSError:
            yield
            return
        if sys.stdout is not None:
            sys.stdout.flush()
        try:
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
