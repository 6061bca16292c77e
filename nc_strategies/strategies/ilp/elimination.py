"""Least sums over 0/1 variables by eliminating one after the other, where few hang together.

A variable is eliminated by taking, for each choice of its neighbours, the better of its two values. What that costs
grows with two to the power of the neighbours it has by then; in the graphs of networks, which are long and narrow,
these are few. Sources: nonserial dynamic programming, Bertele and Brioschi 1972; as a tree of buckets, Dechter,
Artificial Intelligence 1999; the order by least fill-in, Rose 1972.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
WIDEST = 14
"""Variables that may hang together at most."""


@dataclass(frozen=True)
class Plan:
    """An order of elimination.

    Args:
        scopes: For each variable, in the order of elimination, the variable and those it still hangs on, sorted by
            their place in the order.
        parents: Place at which what is left of each is taken up; -1 where nothing is left but a number.
        places: Place of each variable.
    """

    scopes: tuple[tuple[int, ...], ...]
    parents: tuple[int, ...]
    places: tuple[int, ...]


@lru_cache(maxsize=8)
def plan(count: int, groups: frozenset[frozenset[int]]) -> Plan | None:
    """An order in which few variables hang together at a time.

    Args:
        count: Variables, numbered from 0.
        groups: Sets of variables that hang together.

    Returns:
        The order; None where more than `WIDEST` would hang together.
    """
    near: dict[int, set[int]] = {v: set() for v in range(count)}
    for group in groups:
        for v in group:
            near[v] |= group - {v}
    order, later = [], []
    while near:
        best = min(near, key=lambda v: (_fill(near, v), len(near[v]), v))
        if len(near[best]) >= WIDEST:
            return None
        order.append(best)
        later.append(set(near[best]))
        for v in near[best]:
            near[v] |= near[best] - {v}
            near[v].discard(best)
        del near[best]
    places = [0] * count
    for place, v in enumerate(order):
        places[v] = place
    scopes = tuple((v, *sorted(rest, key=places.__getitem__)) for v, rest in zip(order, later, strict=True))
    return Plan(scopes, tuple(places[s[1]] if len(s) > 1 else -1 for s in scopes), tuple(places))


def _fill(near: dict[int, set[int]], v: int) -> int:
    """Twice the pairs of neighbours that do not hang together yet."""
    return sum(len(near[v] - near[u]) - 1 for u in near[v])


class Sum:
    """A sum of terms over groups of 0/1 variables.

    Args:
        order: How to eliminate them.
        terms: Groups and their values: an array of shape (2,) * len(group), indexed by the variables' values.
    """

    def __init__(self, order: Plan, terms: Iterable[tuple[Sequence[int], Array]]) -> None:
        self._plan = order
        self._fixed = [np.zeros((2,) * len(scope)) for scope in order.scopes]
        for group, values in terms:
            first = min(order.places[v] for v in group)
            axes = sorted(range(len(group)), key=lambda k: order.places[group[k]])
            self._fixed[first] += _spread(values.transpose(axes), {group[k] for k in axes}, order.scopes[first])

    def least(self, single: Array) -> tuple[float, NDArray[np.bool_]]:
        """The least value, and variables that have it.

        Args:
            single: What each variable adds at 0 and at 1, shape (variables, 2).
        """
        tables, _, least = self._up(single)
        found = np.zeros(len(tables), bool)
        for scope, table in zip(reversed(self._plan.scopes), reversed(tables), strict=True):
            place: tuple[Any, ...] = (slice(None), *(int(found[v]) for v in scope[1:]))
            column = table[place]
            found[scope[0]] = column[1] < column[0]
        return least, found

    def marginals(self, single: Array) -> Array:
        """The least value with each variable held at 0 and at 1, shape (variables, 2).

        Args:
            single: What each variable adds at 0 and at 1, shape (variables, 2).
        """
        tables, messages, least = self._up(single)
        scopes, parents = self._plan.scopes, self._plan.parents
        found, whole = np.empty((len(scopes), 2)), [0.0] * len(scopes)
        for place in reversed(range(len(scopes))):
            scope, parent = scopes[place], parents[place]
            if parent < 0:
                whole[place] = least - float(tables[place].min())
            else:
                above = tables[parent] - _spread(messages[place], set(scope[1:]), scopes[parent])
                gone = tuple(k for k, v in enumerate(scopes[parent]) if v not in scope)
                tables[place] = tables[place] + above.min(axis=gone)[None]
                whole[place] = whole[parent]
            found[scope[0]] = tables[place].reshape(2, -1).min(1) + whole[place]
        return found

    def _up(self, single: Array) -> tuple[list[Array], list[Array], float]:
        tables, messages, least = [table.copy() for table in self._fixed], [], 0.0
        for place, (scope, parent) in enumerate(zip(self._plan.scopes, self._plan.parents, strict=True)):
            tables[place] += single[scope[0]].reshape((2,) + (1,) * (len(scope) - 1))
            message = tables[place].min(axis=0)
            messages.append(message)
            if parent < 0:
                least += float(message)
            else:
                tables[parent] += _spread(message, set(scope[1:]), self._plan.scopes[parent])
        return tables, messages, least


def _spread(values: Array, group: set[int], scope: Sequence[int]) -> Array:
    """An array over a group, its axes in the order of the scope, as one that can be added to one over the scope."""
    return values.reshape([2 if v in group else 1 for v in scope])
