"""The integer program: one column per decision, the least cost within the limits on loss."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from nc_strategies.problem.latency import ConversionEdge
from nc_strategies.strategies.ilp.constraints import Array, Budgeted, Cut
from nc_strategies.strategies.ilp.reduction import Reduction

RELATIVE_GAP = 5e-4
"""Relative gap at which a solution counts as optimal."""
MAX_NODES = 20_000
"""Largest number of nodes of the search tree, which ends most programs: a limit on time makes runs differ."""
SOLVE_SECONDS = 20.0
"""Limit of one program's time, for the rare ones whose nodes take long: the best choice found by then counts."""
_stdout = threading.Lock()


class _Rows:
    """The program under construction: one price per variable, columns first, and rows that bound sums of variables."""

    def __init__(self, prices: list[float]) -> None:
        self.prices = prices
        self._entries: list[tuple[int, int, float]] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def variable(self, price: float) -> int:
        """Add a variable between 0 and 1, and return its position."""
        self.prices.append(price)
        return len(self.prices) - 1

    def add(self, entries: dict[int, float], low: float, high: float) -> None:
        self._entries += [(len(self.low), column, value) for column, value in entries.items()]
        self.low.append(low)
        self.high.append(high)

    def matrix(self, columns: int) -> csr_array:
        rows, places, values = zip(*self._entries, strict=True)
        return csr_array((values, (rows, places)), shape=(len(self.low), columns))


def solve(
    owner: Array,
    is_int8: NDArray[np.bool_],
    cost: Array,
    losses: Sequence[Budgeted],
    conversions: Sequence[ConversionEdge[int]] = (),
    cuts: Sequence[Cut] = (),
    seconds: float = SOLVE_SECONDS,
) -> Array | None:
    """The cheapest choice of one column per decision.

    Bounds settle most decisions (`reduction`), HiGHS solves for the others. The products of pairs and the conversions
    depend on several decisions and are linearized. A conversion between two decisions is a product as well; all
    conversions between the same two are one product. The variable of a conversion with more decisions is at least each
    difference between its producer and a consumer. The variable of a conversion that saves time is at most what its
    producer and all of its consumers allow. A product is at most each factor and at least their sum less one.

    Args:
        owner: Decision of each column, shape (columns,).
        is_int8: Whether a column is a scheme of static int8, which reads and writes int8 tensors, shape (columns,).
        cost: Cost of each column, shape (columns,).
        losses: Losses and their limits.
        conversions: Conversion costs between decisions.
        cuts: Columns that may not be chosen together.
        seconds: Limit of the time; the best choice found by then is returned.

    Returns:
        0 or 1 for each column; None where no choice keeps the limits, or none was found in time.
    """
    conversions = [c for c in conversions if c.quantize or c.dequantize]
    allowed = _undominated(owner, is_int8, cost, losses, cuts)
    reduced = Reduction(owner, is_int8, cost, allowed, losses, conversions, cuts).run()
    if reduced is not None:
        if reduced.found is not None and reduced.cost - reduced.bound <= RELATIVE_GAP * abs(reduced.cost):
            return reduced.found
        allowed = reduced.allowed
    return _solved(owner, is_int8, cost, allowed, losses, conversions, cuts, seconds)


def _solved(
    owner: Array,
    is_int8: NDArray[np.bool_],
    cost: Array,
    allowed: NDArray[np.bool_],
    losses: Sequence[Budgeted],
    conversions: Sequence[ConversionEdge[int]],
    cuts: Sequence[Cut],
    seconds: float,
) -> Array | None:
    """Solve the program by HiGHS, over the allowed columns."""
    if seconds <= 0:
        return None
    columns, rows = len(owner), _Rows(cost.tolist())
    for decision in np.unique(owner):
        rows.add(dict.fromkeys(np.flatnonzero(owner == decision).tolist(), 1.0), 1.0, 1.0)
    int8 = {int(u): dict.fromkeys(np.flatnonzero((owner == u) & is_int8).tolist(), 1.0) for u in np.unique(owner)}
    added, products, wider = _expanded(conversions)
    for decision, value in added.items():
        for column in int8[decision]:
            rows.prices[column] += value
    for (one, other), value in products.items():
        _add_product(rows, int8[one], int8[other], value)
    for conversion in wider:
        _add_conversion(rows, int8, conversion)
    for loss in losses:
        if not _add_loss(rows, loss):
            return None
    for cut in cuts:
        rows.add(dict.fromkeys(cut.columns, 1.0), -np.inf, cut.most)
    size = len(rows.prices)
    whole = np.concatenate([np.ones(columns), np.zeros(size - columns)])
    bounds = Bounds(np.zeros(size), np.concatenate([allowed, np.ones(size - columns)]))
    with quiet():
        found = milp(
            np.array(rows.prices),
            integrality=whole,
            bounds=bounds,
            constraints=LinearConstraint(rows.matrix(size), rows.low, rows.high),
            options={"mip_rel_gap": RELATIVE_GAP, "node_limit": MAX_NODES, "time_limit": seconds},
        )
    return None if found.x is None else np.asarray(np.round(found.x[:columns]))


def _add_product(rows: _Rows, one: dict[int, float], other: dict[int, float], value: float) -> None:
    """Add the cost of int8 in both of two decisions."""
    product = rows.variable(value)
    if value < 0:
        rows.add({product: 1.0, **_negative(one)}, -np.inf, 0.0)
        rows.add({product: 1.0, **_negative(other)}, -np.inf, 0.0)
    else:
        rows.add({product: 1.0, **_negative(one), **_negative(other)}, -1.0, np.inf)


def _add_conversion(rows: _Rows, int8: dict[int, dict[int, float]], conversion: ConversionEdge[int]) -> None:
    """Add a conversion of more than two decisions."""
    quantize, dequantize = rows.variable(conversion.quantize), rows.variable(conversion.dequantize)
    made = {} if conversion.producer is None else int8[conversion.producer]
    taken = [int8[c] for c in conversion.consumers if c != conversion.producer]
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


def _add_loss(rows: _Rows, loss: Budgeted) -> bool:
    """Add a limit on loss with its products; False where no choice keeps it."""
    entries = {i: float(p) for i, p in enumerate(loss.prices) if p != 0}
    for a, b, price in loss.pairs:
        product = rows.variable(0.0)
        rows.add({product: 1.0, a: -1.0}, -np.inf, 0.0)
        rows.add({product: 1.0, b: -1.0}, -np.inf, 0.0)
        rows.add({product: 1.0, a: -1.0, b: -1.0}, -1.0, np.inf)
        entries[product] = price
    if not entries:
        return loss.limit >= 0
    scale = max(abs(p) for p in entries.values())  # The solver's tolerances are absolute.
    rows.add({i: p / scale for i, p in entries.items()}, -np.inf, loss.limit / scale)
    return True


def _expanded(
    conversions: Sequence[ConversionEdge[int]],
) -> tuple[dict[int, float], dict[tuple[int, int], float], list[ConversionEdge[int]]]:
    """Cost of int8 in one decision, extra cost of int8 in both of two, and conversions of more than two decisions."""
    added: dict[int, float] = {}
    products: dict[tuple[int, int], float] = {}
    wider = []
    for conversion in conversions:
        producer = conversion.producer
        consumers = [c for c in conversion.consumers if c != producer]
        if len(consumers) > 1 or (producer is None and not consumers):
            wider.append(conversion)
            continue
        if producer is not None and (consumers or conversion.float_consumer):
            added[producer] = added.get(producer, 0.0) + conversion.dequantize
        for consumer in consumers:
            added[consumer] = added.get(consumer, 0.0) + conversion.quantize
            if producer is not None:
                both = (min(producer, consumer), max(producer, consumer))
                products[both] = products.get(both, 0.0) - _saved_together(conversion)
    return added, {both: value for both, value in products.items() if value}, wider


def _saved_together(conversion: ConversionEdge[int]) -> float:
    """Saving of a conversion between two decisions when both are in int8."""
    return conversion.quantize + (0.0 if conversion.float_consumer else conversion.dequantize)


def _negative(entries: dict[int, float]) -> dict[int, float]:
    return {column: -value for column, value in entries.items()}


def _undominated(
    owner: Array, is_int8: NDArray[np.bool_], cost: Array, losses: Sequence[Budgeted], cuts: Sequence[Cut]
) -> NDArray[np.bool_]:
    """False for columns that another int8 scheme of the decision dominates in cost and loss, True for all others.

    Conversions cost the same for all int8 schemes of one decision. A decision keeps all of its columns when one of them
    is in a pair, or in a cut other than that of a tried configuration.
    """
    keep = np.ones(len(owner), bool)
    touched = {c for cut in cuts for c in cut.columns if cut.most < len(cut.columns) - 1}
    touched |= {c for loss in losses for a, b, _ in loss.pairs for c in (a, b)}
    for decision in np.unique(owner):
        mine = np.flatnonzero((owner == decision) & is_int8)
        if len(mine) < 2 or touched & set(mine.tolist()):
            continue
        values = np.column_stack([cost[mine], *(loss.prices[mine] for loss in losses)])
        for k, row in enumerate(values):
            as_good = (values <= row).all(1)
            better = as_good & ((values < row).any(1) | (np.arange(len(mine)) < k))
            keep[mine[k]] = not better.any()
    return keep


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress what HiGHS sometimes writes to the process's standard output, bypassing Python."""
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
