"""Minimum of a sum of terms over 0/1 variables, by variable elimination.

A variable is eliminated by taking, for each assignment of its neighbours, the better of its two values. The cost is
exponential in the number of neighbours at that time. The graphs of networks are long and narrow, so neighbours are few.
Sources: nonserial dynamic programming, Bertele and Brioschi 1972; as a tree of buckets, Dechter, Artificial
Intelligence 1999; the order by least fill-in, Rose 1972.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MAX_SCOPE_VARIABLES = 14
"""Largest number of variables in one scope: an array over a scope has two to this power elements."""


@dataclass(frozen=True)
class Plan:
    """An order of elimination.

    Args:
        scopes: For each variable, in the order of elimination, the variable and its remaining neighbours, sorted by
            their position in the order.
        parents: Position of the scope that receives the result of each elimination; -1 where the result is a number.
        places: Position of each variable in the order.
    """

    scopes: tuple[tuple[int, ...], ...]
    parents: tuple[int, ...]
    places: tuple[int, ...]


@lru_cache(maxsize=8)
def plan(count: int, groups: frozenset[frozenset[int]]) -> Plan | None:
    """An order of elimination with small scopes.

    Args:
        count: Number of variables, which are numbered from 0.
        groups: Sets of variables that share a term.

    Returns:
        The order; None where a scope would have more than `MAX_SCOPE_VARIABLES` variables.
    """
    near: dict[int, set[int]] = {v: set() for v in range(count)}
    for group in groups:
        for v in group:
            near[v] |= group - {v}
    order, later = [], []
    while near:
        best = min(near, key=lambda v: (_fill(near, v), len(near[v]), v))
        if len(near[best]) >= MAX_SCOPE_VARIABLES:
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
    """Twice the number of pairs of neighbours that are not neighbours of each other yet."""
    return sum(len(near[v] - near[u]) - 1 for u in near[v])


class Sum:
    """A sum of terms over groups of 0/1 variables.

    Args:
        order: The order of elimination.
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
        """The least value, and an assignment that attains it, shape (variables,).

        Args:
            single: Value that each variable adds at 0 and at 1, shape (variables, 2).
        """
        tables, _, least = self._up(single)
        found = np.zeros(len(tables), bool)
        for scope, table in zip(reversed(self._plan.scopes), reversed(tables), strict=True):
            place: tuple[Any, ...] = (slice(None), *(int(found[v]) for v in scope[1:]))
            column = table[place]
            found[scope[0]] = column[1] < column[0]
        return least, found

    def marginals(self, single: Array) -> Array:
        """The least value with each variable fixed at 0 and at 1, shape (variables, 2).

        Args:
            single: Value that each variable adds at 0 and at 1, shape (variables, 2).
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
    """An array over a group, its axes in the order of the scope, reshaped to broadcast with arrays over the scope."""
    return values.reshape([2 if v in group else 1 for v in scope])
