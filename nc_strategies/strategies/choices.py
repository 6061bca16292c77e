"""Choices among int8 schemes that several operators share: an algorithm, a granularity, a data type."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nc_strategies.space import Config, OpCapability, OpScheme, Space

Change = tuple[tuple[str, str], ...]


def changes(ops: Iterable[OpCapability]) -> dict[str, Change]:
    """Choices of the operators: text to the fields that the choice sets, in a fixed order."""
    found: dict[str, Change] = {}
    for op in ops:
        for scheme in op.schemes:
            if scheme.is_float:
                continue
            act = scheme.activation
            found.setdefault(f"{act.algorithm} calibration", (("algorithm", act.algorithm),))
            found.setdefault(f"{act.dtype} {act.scheme} activations", (("dtype", act.dtype), ("scheme", act.scheme)))
            if scheme.weight is not None:
                found.setdefault(f"{scheme.weight.granularity} weights", (("granularity", scheme.weight.granularity),))
    return found


def changed_scheme(scheme: OpScheme, change: Change) -> OpScheme:
    """An int8 scheme with a change applied."""
    act, weight = scheme.activation, scheme.weight
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
        old = base.schemes[op.name]
        if old.is_float:
            continue
        wanted, group = changed_scheme(old, change), space.group_of[op.name]
        if wanted in space.schemes(group):
            schemes.update(dict.fromkeys(group, wanted))
    return base.with_ops(schemes)
