"""Choices among int8 schemes that several operators share: a mode, an algorithm, a granularity, a data type."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nc_strategies.space import FLOAT, Config, OpCapability, OpScheme, Space
from nc_strategies.space.blocks import find_kinds
from nc_strategies.space.scheme import way

Change = tuple[tuple[str, str], ...]


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
