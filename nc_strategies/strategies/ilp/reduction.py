"""Reduction of a program before it is solved: Lagrangian lower bounds, and the columns that they rule out.

With a price on loss instead of a limit, the program becomes a sum of terms over few decisions each. `elimination` finds
its exact minimum, which is a lower bound; a better price gives a tighter bound. A column whose bound exceeds the cost
of a known configuration cannot be part of a better one. The solver gets only the few decisions that are still open.
Sources: Geoffrion, Mathematical Programming Study 2, 1974; Fisher, Management Science 1981.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nc_strategies.problem.latency import ConversionEdge
from nc_strategies.strategies.ilp.constraints import Array, Budgeted, Cut, paid
from nc_strategies.strategies.ilp.elimination import Sum, plan

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class ReductionRules:
    """Limits on the work of a reduction, and its tolerances."""

    forbidden_cost_factor: float = 1e3
    """Cost of a forbidden choice, as a multiple of the sum of all others."""
    max_conversion_decisions: int = 8
    """Decisions of a conversion that becomes a term; one with more decisions counts with its least value only. The size
    of a term is exponential in its decisions."""
    max_price_steps: int = 12
    """Prices of a limit that are tried, in each of the two searches: for an upper price, and between two prices."""
    bound_tolerance: float = 1e-7
    """Difference to the highest bound at which the search for a price ends, in units of cost."""
    improved_starts: int = 2
    """Known choices from which local search starts: up to this number within the limits, and up to it outside."""
    max_improvement_steps: int = 30
    """Steps of one local search, each of which changes one decision."""


REDUCTION_RULES = ReductionRules()


@dataclass(frozen=True)
class Reduced:
    """Result of a reduction.

    Args:
        bound: Lower bound on the cost of every choice within the limits.
        allowed: Whether a column may be part of a choice cheaper than `found`, shape (columns,).
        found: A choice within all limits and cuts, as 0 and 1, shape (columns,); None where none was found.
        cost: Cost of `found`; infinite without one.
    """

    bound: float
    allowed: Flags
    found: Array | None
    cost: float


class _Piece(NamedTuple):
    """The bound at a price of a limit, and its slope there: the excess of the bound's choice over the limit."""

    price: float
    bound: float
    slope: float

    def at(self, price: float) -> float:
        """Value at a price of the line through this point."""
        return self.bound + (price - self.price) * self.slope

    def meets(self, other: _Piece) -> float:
        """The price at which two lines meet."""
        return (self.at(0.0) - other.at(0.0)) / (other.slope - self.slope)


class Reduction:
    """Reduces one program, which `program.solve` defines.

    Args:
        owner: Decision of each column, shape (columns,).
        is_int8: Whether a column is an int8 scheme, shape (columns,).
        cost: Cost of each column, shape (columns,).
        allowed: Whether a column may be chosen, shape (columns,).
        losses: Losses and their limits.
        conversions: Conversion costs between decisions.
        cuts: Columns that may not be chosen together.
    """

    def __init__(
        self,
        owner: Array,
        is_int8: Flags,
        cost: Array,
        allowed: Flags,
        losses: Sequence[Budgeted],
        conversions: Sequence[ConversionEdge[int]],
        cuts: Sequence[Cut],
    ) -> None:
        names, decision = np.unique(owner, return_inverse=True)
        self._decisions, self._decision, self._state = len(names), decision, is_int8.astype(int)
        self._cost, self._allowed, self._losses, self._cuts = cost, allowed, losses, cuts
        self._terms: list[tuple[tuple[int, ...], Array]] = []
        self._rest = 0.0
        self._add_terms(conversions, {int(name): k for k, name in enumerate(names)})
        # A product with a negative price adds at least this price times the mean of its factors, any other at least 0.
        self._prices = [loss.prices + _pairs(loss, len(cost)) for loss in losses]
        self._limits = np.array([loss.limit for loss in losses])
        self._reach = sum(float(np.abs(values).max()) for _, values in self._terms)
        self._conversions, self._owner = conversions, owner
        self._by_size = [
            (
                np.array([g for g, _ in self._terms if len(g) == size]),
                np.array([v for g, v in self._terms if len(g) == size]),
            )
            for size in sorted({len(g) for g, _ in self._terms})
        ]

    def _add_terms(self, conversions: Sequence[ConversionEdge[int]], place: dict[int, int]) -> None:
        """Add conversions as terms over decisions by position; one with many decisions adds its least value only."""
        for conversion in conversions:
            producer = None if conversion.producer is None else place[conversion.producer]
            consumers = [place[c] for c in dict.fromkeys(conversion.consumers) if c != conversion.producer]
            group = (*consumers, *(() if producer is None else (producer,)))
            if len(group) > REDUCTION_RULES.max_conversion_decisions:
                self._rest += min(0.0, conversion.quantize, conversion.dequantize)
            elif group:
                quantized, dequantized = _patterns(len(consumers), producer is not None, conversion.float_consumer)
                self._terms.append((group, conversion.quantize * quantized + conversion.dequantize * dequantized))

    def run(self) -> Reduced | None:
        """Find the bound and the columns that it rules out; None where elimination would need too large a scope."""
        order = plan(self._decisions, frozenset(frozenset(group) for group, _ in self._terms if len(group) > 1))
        if order is None:
            return None
        self._sum = Sum(order, self._terms)
        self._at_hand: dict[bytes, Array] = {}
        multipliers = np.zeros(len(self._losses))
        bound = self._bound(multipliers)[0]
        for _ in range(1 if len(self._losses) < 2 else 2):
            for k in range(len(self._losses)):
                bound, multipliers = self._raise(multipliers, k)
        found, cost = self._best()
        values = self._values(multipliers)
        least = self._best_columns(values)[0]
        marginals = self._sum.marginals(least) + self._rest - float(multipliers @ self._limits)
        ahead = marginals[self._decision, self._state] + values - least[self._decision, self._state]
        return Reduced(bound, self._allowed & (ahead <= cost + 1e-9), found, cost)

    def _values(self, multipliers: Array) -> Array:
        """Each column's cost plus its losses at their prices, shape (columns,)."""
        values = self._cost + sum(
            (m * p for m, p in zip(multipliers, self._prices, strict=True)), np.zeros(len(self._cost))
        )
        return np.where(self._allowed, values, np.inf)

    def _best_columns(self, values: Array) -> tuple[Array, NDArray[np.intp]]:
        """The least value of each decision in fp32 and in int8, shape (decisions, 2), and the column that has it."""
        forbidden = REDUCTION_RULES.forbidden_cost_factor * (
            1.0 + self._reach + float(np.abs(values[self._allowed]).sum())
        )
        least = np.full((self._decisions, 2), forbidden)
        columns = np.zeros((self._decisions, 2), np.intp)
        for k in np.argsort(-values, kind="stable"):
            if self._allowed[k]:
                least[self._decision[k], self._state[k]] = values[k]
                columns[self._decision[k], self._state[k]] = k
        return least, columns

    def _bound(self, multipliers: Array) -> tuple[float, Array]:
        """The bound for given prices, and the excess of its choice over each limit."""
        values = self._values(multipliers)
        least, columns = self._best_columns(values)
        total, int8 = self._sum.least(least)
        row = np.zeros(len(self._cost))
        row[columns[np.arange(self._decisions), int8.astype(int)]] = 1.0
        self._at_hand[row.tobytes()] = row
        over = np.array([float(p @ row) for p in self._prices]) - self._limits
        return total + self._rest - float(multipliers @ self._limits), over

    def _raise(self, multipliers: Array, k: int) -> tuple[float, Array]:
        """The highest bound over the price of one limit, by intersecting linear pieces, and its prices."""

        def at(price: float) -> _Piece:
            bound, over = self._bound(np.where(np.arange(len(multipliers)) == k, price, multipliers))
            return _Piece(price, bound, float(over[k]))

        best = low = at(0.0)
        if low.slope > 0:
            typical = float(np.abs(self._cost).sum()) / max(float(np.abs(self._prices[k]).sum()), 1e-12)
            high = at(typical)
            for _ in range(REDUCTION_RULES.max_price_steps):
                if high.slope <= 0:
                    break
                low, high = high, at(8 * high.price)
            for _ in range(REDUCTION_RULES.max_price_steps):
                if high.slope > 0 or high.slope == low.slope:
                    break
                middle = at(low.meets(high))
                reached = middle.bound >= low.at(middle.price) - REDUCTION_RULES.bound_tolerance
                low, high = (middle, high) if middle.slope > 0 else (low, middle)
                if reached:
                    break
            best = max(low, high, key=lambda piece: piece.bound)
        return best.bound, np.where(np.arange(len(multipliers)) == k, best.price, multipliers)

    def _best(self) -> tuple[Array | None, float]:
        """The best choice within all limits and cuts that local search finds from the best known choices."""
        rows = [(self._fits(row), self._total(row), row) for row in self._at_hand.values()]
        fitting = sorted((cost, k) for k, (fits, cost, _) in enumerate(rows) if fits)
        others = sorted((-cost, k) for k, (fits, cost, _) in enumerate(rows) if not fits)
        best: tuple[Array | None, float] = (None, np.inf)
        for _, k in [*fitting[: REDUCTION_RULES.improved_starts], *others[: REDUCTION_RULES.improved_starts]]:
            fits, cost, row = rows[k]
            now: tuple[Array | None, float] = (row, cost) if fits else (None, np.inf)
            for _ in range(REDUCTION_RULES.max_improvement_steps):
                step = self._step(row, now[1])
                if step is None:
                    break
                row, now = step[0], step
            best = min(best, now, key=lambda pair: pair[1])
        return best

    def _step(self, row: Array, cost: float) -> tuple[Array, float] | None:
        """The cheapest choice within limits and cuts that differs in one decision and costs less than `cost`."""
        chosen = np.empty(self._decisions, int)
        chosen[self._decision[row > 0.5]] = np.flatnonzero(row > 0.5)
        int8 = self._state[chosen]
        flipped = self._flipped(int8)
        change = self._cost - self._cost[chosen[self._decision]]
        change = change + np.where(self._state != int8[self._decision], flipped[self._decision], 0.0)
        ok = self._allowed & (row < 0.5)
        for loss in self._losses:
            if not loss.pairs:
                ok &= float(loss.prices @ row) + loss.prices - loss.prices[chosen[self._decision]] <= loss.limit
        start = self._total(row)
        for k in np.argsort(np.where(ok, change, np.inf), kind="stable"):
            if not ok[k] or start + change[k] >= cost - 1e-9:
                return None
            other = row.copy()
            other[chosen[self._decision[k]]], other[k] = 0.0, 1.0
            if self._fits(other) and (total := self._total(other)) < cost - 1e-9:
                return other, total
        return None

    def _flipped(self, int8: NDArray[np.int_]) -> Array:
        """Change of the terms by switching each decision between fp32 and int8, shape (decisions,)."""
        change = np.zeros(self._decisions)
        for groups, values in self._by_size:
            states, terms = int8[groups], np.arange(len(groups))
            now = values[(terms, *states.T)]
            for place in range(groups.shape[1]):
                other = states.copy()
                other[:, place] ^= 1
                np.add.at(change, groups[:, place], values[(terms, *other.T)] - now)
        return change

    def _fits(self, row: Array) -> bool:
        within = all(
            float(loss.prices @ row) + sum(p * row[a] * row[b] for a, b, p in loss.pairs) <= loss.limit
            for loss in self._losses
        )
        return within and all(float(row[list(cut.columns)].sum()) <= cut.most + 1e-6 for cut in self._cuts)

    def _total(self, row: Array) -> float:
        """Cost of a choice."""
        int8 = set(self._owner[(row > 0.5) & (self._state == 1)].tolist())
        return float(self._cost @ row) + paid(self._conversions, int8)


@lru_cache
def _patterns(consumers: int, producer: bool, float_consumer: bool) -> tuple[Array, Array]:
    """Where a conversion's two costs apply: 0 and 1 over the consumers and, as the last axis, the producer."""
    shape = (2,) * (consumers + producer)
    quantized, dequantized = np.zeros(shape), np.zeros(shape)
    for values in product((0, 1), repeat=len(shape)):
        taken, made = values[:consumers], bool(producer and values[-1])
        quantized[values] = float(not made and any(taken))
        dequantized[values] = float(made and (float_consumer or not all(taken)))
    return quantized, dequantized


def _pairs(loss: Budgeted, columns: int) -> Array:
    """Lower bound on what the products of a loss add to its prices, shape (columns,)."""
    found = np.zeros(columns)
    for a, b, price in loss.pairs:
        found[[a, b]] += min(price, 0.0) / 2
    return found
