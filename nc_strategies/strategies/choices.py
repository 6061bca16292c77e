"""What strategies share: choices that several operators make together, and the order in which operators fall back."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from nc_strategies.errors import EngineError
from nc_strategies.problem import Problem
from nc_strategies.space import FLOAT, Config, OpCapability, OpScheme, Space
from nc_strategies.space.blocks import find_kinds
from nc_strategies.space.scheme import way

log = logging.getLogger(__name__)
Change = tuple[tuple[str, str], ...]
Group = tuple[str, ...]
Scores = dict[Group, float]


def changes(ops: Iterable[OpCapability]) -> dict[str, Change]:
    """Choices within static int8: text to the fields that the choice sets, in a fixed order."""
    found: dict[str, Change] = {}
    for op in ops:
        for scheme in op.schemes:
            if not scheme.is_static:
                continue
            act = scheme.activation
            found.setdefault(f"{act.algorithm} calibration", (("algorithm", act.algorithm),))
            found.setdefault(f"{act.dtype} {act.scheme} activations", (("dtype", act.dtype), ("scheme", act.scheme)))
            if scheme.weight is not None:
                found.setdefault(f"{scheme.weight.granularity} weights", (("granularity", scheme.weight.granularity),))
    return found


def changed_scheme(scheme: OpScheme, change: Change) -> OpScheme:
    """A static int8 scheme with a change of its fields applied; any other scheme stays as it is."""
    act, weight = scheme.activation, scheme.weight
    if not scheme.is_static:
        return scheme
    for field, value in change:
        if field == "granularity":
            weight = replace(weight, granularity=value) if weight else None
        else:
            act = replace(act, **{field: value})
    return OpScheme(act, weight)


def changed(space: Space, base: Config, ops: Iterable[OpCapability], change: Change) -> Config:
    """The configuration with a change applied to each operator and those tied to it, where their schemes allow it."""
    schemes: dict[str, OpScheme] = {}
    for op in ops:
        old, group = base.schemes[op.name], space.group_of[op.name]
        wanted = changed_scheme(old, change)
        if old.is_static and wanted in space.schemes(group):
            schemes.update(dict.fromkeys(group, wanted))
    return base.with_ops(schemes)


def whole_modes(space: Space) -> dict[str, Config]:
    """Every other mode than static int8, wherever operators offer it, with all other operators in floating point."""
    ways = dict.fromkeys(
        way(s) for group in space.groups for s in space.schemes(group) if not s.is_static and not s.is_float
    )
    found = {}
    for wanted in ways:
        chosen: dict[str, OpScheme] = {}
        for group in space.groups:
            mine = next((s for s in space.schemes(group) if way(s) == wanted), None)
            if mine is None and FLOAT in space.schemes(group):
                mine = FLOAT
            if mine is not None:
                chosen.update(dict.fromkeys(group, mine))
        found[wanted] = space.default().with_ops(chosen)
    return found


def kinds(space: Space) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Kinds of operators that recur in repeated layers, see `find_kinds`, each with its groups of tied operators."""
    known = find_kinds(list(space.ops.values()))
    found: dict[str, list[tuple[str, ...]]] = {}
    for group in space.groups:
        kind = next((known[name] for name in group if name in known), None)
        if kind is not None:
            found.setdefault(kind, []).append(group)
    return {kind: tuple(groups) for kind, groups in found.items()}


def quantized_groups(space: Space, config: Config) -> list[Group]:
    """Groups of operators that are quantized in a configuration and could run in floating point, in execution order."""
    return [g for g in space.groups if not config.schemes[g[0]].is_float and FLOAT in space.schemes(g)]


def guessed_work(space: Space, group: Group) -> float:
    """Time of a group of operators, in an arbitrary unit, guessed from their sizes.

    The time of a matrix product grows about as the geometric mean of the numbers of weights and outputs.
    """
    return sum(math.sqrt(max(space.ops[n].parameters, 1) * max(space.ops[n].elements, 1)) for n in group)


def score(
    problem: Problem, groups: Sequence[Group], estimate: Callable[[], Mapping[str, float]] | None, what: str
) -> Scores:
    """Score groups of operators by an estimate, the most sensitive highest; guess the order where there is none.

    The guess: the first and the last operator with weights come first, then the smallest operators, which cost the
    least time in floating point. The user is told that it is a guess.

    Args:
        problem: The tuning problem.
        groups: Groups of operators.
        estimate: Returns the estimate by operator, larger is more sensitive; None if the backend has none. The score of
            a group is the largest among its operators, and 0 if none has an estimate.
        what: Name of the estimate, for the notice.
    """
    found: Mapping[str, float] = {}
    reason = "the backend has no such estimate" if estimate is None else "the run has no time for it"
    try:
        found = estimate() if estimate is not None else {}
    except EngineError as error:
        reason = f"the engine failed ({error})"
    if any(math.isfinite(value) for value in found.values()):
        return {g: max((found[name] for name in g if name in found), default=0.0) for g in groups}
    if groups:
        problem.notice(
            f"operators fall back in a guessed order, the first, the last and the smallest before others: "
            f"{what} is not known, because {'the engine fails at every operator' if found else reason}"
        )
    space = problem.space
    weighted = [g for g in groups if any(space.ops[name].parameters for name in g)] or list(groups)
    ends = {weighted[0], weighted[-1]} if weighted else set()
    return {g: math.inf if g in ends else 1.0 / guessed_work(space, g) for g in groups}


def step_size(groups: int, trials_left: int) -> int:
    """Number of groups to change per trial, so that half of the trials left suffice for all; 1 without a budget."""
    return max(1, math.ceil(groups / (trials_left // 2))) if trials_left > 1 else 1
