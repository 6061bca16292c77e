"""Repeated structure of a model: layers that are alike, and the roles of the operators in them.

A deep model repeats a few layers many times. Operators at the same place of every repetition lose and save about the
same, so that one decision, or one prior, serves all of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from nc_strategies.space.capabilities import OpCapability

QUERY, KEY, VALUE, OUTPUT, UP, DOWN = ROLES = ("query", "key", "value", "output", "up", "down")
"""Roles of the products with constant weights in a layer of a transformer: the projections to queries, keys and values,
the projection of the attention's result, and the two products of the feed-forward network."""
SCORES, MIX = "scores", "mix"
"""Roles of the products of activations: queries times keys, and attention weights times values."""
PRODUCTS = ("MatMul", "Gemm", "Dense")
LEAST_PERIOD, LEAST_COPIES = 2, 2

# Words that exporters and libraries use for a role, in the order in which they are looked for. "output" and "proj" mean
# the attention's projection only within an attention.
_ATTENTION = r"(?:^|[/._])(?:self_?|cross_?)?att(?:entio)?n"
_WORDS = (
    (SCORES, r"(?:^|[/._])(?:scores|qk|attention_scores)(?:[/._]|$)"),
    (QUERY, r"(?:^|[/._])(?:query|q_proj|q_lin|wq|to_q|q)(?:[/._]|$)"),
    (KEY, r"(?:^|[/._])(?:key|k_proj|k_lin|wk|to_k|k)(?:[/._]|$)"),
    (VALUE, r"(?:^|[/._])(?:value|v_proj|v_lin|wv|to_v|v)(?:[/._]|$)"),
    (UP, r"(?:^|[/._])(?:intermediate|fc1|lin1|linear1|up_proj|gate_proj|c_fc|wi|wi_0|wi_1|up)(?:[/._]|$)"),
    (DOWN, r"(?:^|[/._])(?:fc2|lin2|linear2|down_proj|wo_ff|down)(?:[/._]|$)"),
    (OUTPUT, r"(?:^|[/._])(?:out_proj|o_proj|out_lin|to_out|wo)(?:[/._]|$)"),
    (OUTPUT, _ATTENTION + r".*[/._](?:output|proj|c_proj|dense)(?:[/._]|$)"),
    (DOWN, r"(?:^|[/._])(?:output|c_proj|ffn_output)(?:[/._]|$)"),
)


@dataclass(frozen=True)
class Repetition:
    """Operators that recur, such as those of a layer.

    Args:
        copies: The operators of each repetition by place; all repetitions have the same length.
    """

    copies: tuple[tuple[str, ...], ...]

    @property
    def alike(self) -> tuple[tuple[str, ...], ...]:
        """The operators at each place, over all repetitions."""
        return tuple(zip(*self.copies, strict=True))


def find_repetitions(ops: Sequence[OpCapability]) -> tuple[Repetition, ...]:
    """Stretches of operators that repeat; names do not matter.

    Operators with weights repeat if their types, numbers of weights and schemes do. The stretch that covers most of
    them with its repetitions is taken first, and of those that cover as many, the shortest; then those before and
    behind it. Operators without weights belong to the one with weights before them. One that is missing in a
    repetition, such as the scaling of a mask that the first layer computes for all, is left out.

    Args:
        ops: Operators in execution order.
    """
    places = [place for place, op in enumerate(ops) if op.parameters]
    signs = [_sign(ops[place]) for place in places]
    numbers = {sign: number for number, sign in enumerate(dict.fromkeys(signs))}
    runs = _runs([numbers[sign] for sign in signs])
    bounds = [*places, len(ops)]
    found: list[tuple[int, Repetition]] = []
    ranges = [(0, len(places))]
    while ranges:
        low, high = ranges.pop()
        start, period, copies = _best(runs, low, high)
        if period:
            end = start + period * copies
            parts = [
                [ops[bounds[i] : bounds[i + 1]] for i in range(first, first + period)]
                for first in range(start, end, period)
            ]
            found.append((start, Repetition(_aligned(parts))))
            ranges += [(low, start), (end, high)]
    return tuple(repetition for _, repetition in sorted(found, key=lambda pair: pair[0]))


def _aligned(copies: Sequence[Sequence[Sequence[OpCapability]]]) -> tuple[tuple[str, ...], ...]:
    """Names of the operators that every copy has, by place.

    Args:
        copies: For each copy, its operators with weights, each with those up to the next one.
    """
    placed = [
        {(number, *kind): name for number, part in enumerate(copy) for kind, name in _numbered(part).items()}
        for copy in copies
    ]
    shared = [place for place in placed[0] if all(place in other for other in placed[1:])]
    return tuple(tuple(names[place] for place in shared) for names in placed)


def _numbered(part: Sequence[OpCapability]) -> dict[tuple[str, int], str]:
    """Operators by type and their number among those of that type."""
    seen: Counter[str] = Counter()
    found = {}
    for op in part:
        found[op.type, seen[op.type]] = op.name
        seen[op.type] += 1
    return found


def _sign(op: OpCapability) -> Hashable:
    return op.type, op.parameters, frozenset(op.schemes)


def _runs(signs: Sequence[int]) -> list[list[int]]:
    """For each period and place, the number of signs from there on that equal those one period later."""
    count = len(signs)
    runs = [[0] * (count + 1) for _ in range(count // LEAST_COPIES + 1)]
    for period in range(LEAST_PERIOD, len(runs)):
        row = runs[period]
        for place in range(count - period - 1, -1, -1):
            row[place] = row[place + 1] + 1 if signs[place] == signs[place + period] else 0
    return runs


def _best(runs: Sequence[Sequence[int]], low: int, high: int) -> tuple[int, int, int]:
    """Start, period and number of repetitions of the stretch that covers most of a range; zeros if nothing repeats."""
    best, most = (0, 0, 0), 0
    for period in range(LEAST_PERIOD, (high - low) // LEAST_COPIES + 1):
        row = runs[period]
        for start in range(low, high - period):
            copies = min(row[start], high - period - start) // period + 1
            if copies >= LEAST_COPIES and copies * period > most:
                best, most = (start, period, copies), copies * period
    return best


def find_roles(ops: Sequence[OpCapability]) -> dict[str, str]:
    """Operator name to its role, see `ROLES`, for the matrix products of transformer layers.

    The role is read from the operator's name. Where the names of a repeated stretch do not tell, the order does: up to
    three products with weights before the two products of activations, then the attention's projection, and the two
    products of the feed-forward network, of which the second has fewer outputs.

    Args:
        ops: Operators in execution order.
    """
    known = {op.name: op for op in ops}
    roles = {op.name: role for op in ops if op.type in PRODUCTS and (role := _named_role(op))}
    for repetition in find_repetitions(ops):
        products = [places for places in repetition.alike if known[places[0]].type in PRODUCTS]
        for places, role in zip(products, _roles_by_order([known[p[0]] for p in products]), strict=True):
            if role and not any(name in roles for name in places):
                roles.update(dict.fromkeys(places, role))
    return roles


def find_kinds(ops: Sequence[OpCapability]) -> dict[str, str]:
    """Operator name to what operators that are alike have in common: their role, or their place in a repetition.

    Operators of no role that do not recur have no entry.

    Args:
        ops: Operators in execution order.
    """
    found = {}
    for number, repetition in enumerate(find_repetitions(ops)):
        for place, names in enumerate(repetition.alike):
            found.update(dict.fromkeys(names, f"repetition {number}, place {place}"))
    return {**found, **find_roles(ops)}


def _named_role(op: OpCapability) -> str | None:
    name = op.name.lower()
    role = next((role for role, words in _WORDS if re.search(words, name)), None)
    # A product of activations has no weights; "query" in its path names the layer that it belongs to.
    if op.parameters:
        return role if role in ROLES else None
    return None


def _roles_by_order(products: Sequence[OpCapability]) -> list[str | None]:
    """Roles of the products of one stretch, which may begin anywhere in a layer."""
    inner = [i for i, op in enumerate(products) if not op.parameters]
    roles: list[str | None] = [None] * len(products)
    if len(inner) != 2:
        return roles
    scores, mix = inner
    roles[scores], roles[mix] = SCORES, MIX
    # Behind the second product of activations comes the layer's rest, then the next layer's projections; the values'
    # projection may stand between both products.
    behind = [(mix + 1 + i) % len(products) for i in range(len(products) - (mix - scores) - 1)]
    if len(behind) < len((OUTPUT, UP, DOWN)) or len(behind) + mix - scores - 1 != len(ROLES):
        return roles
    output, up, down = behind[:3]
    if products[up].parameters != products[down].parameters:
        return roles
    roles[output], roles[up], roles[down] = OUTPUT, UP, DOWN
    projections = [*behind[3:], *range(scores + 1, mix)]
    for index, role in zip(projections, (QUERY, KEY, VALUE), strict=True):
        roles[index] = role
    return roles
