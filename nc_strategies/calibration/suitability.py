"""Operators for which calibration shows that int8 is impossible or likely harmful, whatever the engine supports.

Attention masks are the usual case: exporters add minus infinity, the lowest float or -10000 to the scores of positions
that must not be attended to. Infinity has no int8 scale. A finite mask has one, but the scores, which span some tens,
share the grid of the sum with -10000 and are all rounded to the same number.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from nc_strategies.space import FLOAT, Capabilities

SHARED_GRID = frozenset({"Add", "Concat", "Where"})
"""Operator types whose operands all end up on the grid of the result."""
LEAST_LEVELS = 8
"""Least number of steps of the result's grid that an operand has to span. With fewer, less than three bits of it are
left; a residual branch that small starts in floating point as well."""
NAMED = 4
"""Number of tensors or operators that a remark lists by name."""

Range = Callable[[str], tuple[float, float]]
"""Tensor or constant to its (lowest, highest) value."""


@dataclass(frozen=True)
class Operands:
    """What an operator reads and computes.

    Args:
        type: The operator's type.
        inputs: Tensors and constants that it reads.
        raw: The tensor that it computes.
        output: The tensor behind the activation function that is fused into it; `raw` if there is none.
    """

    type: str
    inputs: tuple[str, ...]
    raw: str
    output: str


def suitable(
    able: Capabilities,
    operands: Callable[[str], Operands],
    infinite: Collection[str],
    span: Range,
    unseen: Collection[str] = (),
) -> tuple[Capabilities, tuple[str, ...]]:
    """What calibration leaves of an engine's capabilities.

    An operator that touches a tensor with infinite values is no choice any more: it stays in floating point. So does
    one that touches a tensor without values, as the past of a decoder has none at the start of a sequence. An operator
    whose result would round an operand to fewer than `LEAST_LEVELS` levels starts in floating point, and int8 remains a
    choice for the search.

    Args:
        able: The engine's capabilities.
        operands: Tensors of an operator, by its name.
        infinite: Tensors that were infinite somewhere.
        span: Range of a tensor or constant.
        unseen: Tensors that never held a value.

    Returns:
        The capabilities, and remarks for the user.
    """
    touching = {
        op.name: bad for op in able.ops if (bad := [t for t in _tensors(operands(op.name)) if t in set(infinite)])
    }
    reading = {
        op.name: none
        for op in able.ops
        if op.name not in touching and (none := [t for t in _tensors(operands(op.name)) if t in set(unseen)])
    }
    barred = {*touching, *reading}
    free = [op for op in able.ops if op.name not in barred and not op.opt_in]
    drowned = [op.name for op in free if _drowns(operands(op.name), span)]
    ops = tuple(
        replace(op, schemes=(FLOAT, *(s for s in op.schemes if not s.is_float))) if op.name in drowned else op
        for op in able.ops
        if op.name not in barred
    )
    edges = tuple(edge for edge in able.edges if not barred & set(edge))
    remarks = []
    if touching:
        tensors = list(dict.fromkeys(t for bad in touching.values() for t in bad))
        remarks.append(
            f"{_listed('tensor', tensors)} {_verb(tensors, 'holds', 'hold')} infinite values on the calibration data: "
            f"{_listed('operator', list(touching))} {_verb(list(touching), 'stays', 'stay')} in floating point."
        )
    if reading:
        tensors = list(dict.fromkeys(t for none in reading.values() for t in none))
        remarks.append(
            f"{_listed('tensor', tensors)} {_verb(tensors, 'is', 'are')} empty on the calibration data: "
            f"{_listed('operator', list(reading))} {_verb(list(reading), 'stays', 'stay')} in floating point."
        )
    if drowned:
        remarks.append(
            f"{_listed('operator', drowned)} {_verb(drowned, 'starts', 'start')} in floating point: in int8, one "
            f"operand is so large that another would be rounded to fewer than {LEAST_LEVELS} levels."
        )
    return replace(able, ops=ops, edges=edges), tuple(text[0].upper() + text[1:] for text in remarks)


def _tensors(op: Operands) -> tuple[str, ...]:
    return (*op.inputs, op.raw, op.output)


def _drowns(op: Operands, span: Range) -> bool:
    """Whether the grid of an operator's result is too coarse for one of its operands."""
    if op.type not in SHARED_GRID:
        return False
    low, high = span(op.output)
    step = (max(high, 0.0) - min(low, 0.0)) / 255
    widths = [highest - lowest for lowest, highest in map(span, op.inputs)]
    return any(0 < width < LEAST_LEVELS * step for width in widths)


def _listed(what: str, names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:NAMED])
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{what}{'s' if len(names) > 1 else ''} {shown}{more}"


def _verb(names: Sequence[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several
