"""From the times of an engine's nodes to those of the model's operators."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from nc_strategies.backends.base import Profile

UNDISTURBED = 0.75
"""Part of a node's times in several runs that count, the least ones: what disturbs a run only ever adds to it. They are
averaged, because engines tell whole microseconds, which is the order of what a short node takes."""


@dataclass
class NodeTimes:
    """A node that ran.

    Args:
        operator: Operator of the model that it computes, or computes a part of; of a conversion, the one whose result
            it converts. None when it cannot be told.
        conversion: It only changes a tensor's type or layout.
        elements: Size of its output.
        seconds: Its time in each run.
    """

    operator: str | None
    conversion: bool
    elements: int = 0
    seconds: list[float] = field(default_factory=list)


def summarise(nodes: Iterable[NodeTimes], traced: bool = False) -> Profile:
    """The profile that nodes' times make.

    Args:
        nodes: Nodes that ran.
        traced: The operators of conversions are known.
    """
    ops: defaultdict[str, float] = defaultdict(float)
    counts: Counter[str | None] = Counter()
    conversions: list[tuple[int, float]] = []
    converted: list[str | None] = []
    other = 0.0
    for node in nodes:
        seconds = _usual(node.seconds)
        if node.conversion:
            conversions.append((node.elements, seconds))
            converted.append(node.operator)
            continue
        counts[node.operator] += 1
        if node.operator is not None:
            ops[node.operator] += seconds
        else:
            other += seconds
    return Profile(
        dict(ops),
        tuple(conversions),
        other,
        {name: counts[name] for name in ops},
        counts[None],
        tuple(converted) if traced else (),
    )


def _usual(seconds: list[float]) -> float:
    ordered = np.sort(seconds)
    return float(ordered[: max(1, round(UNDISTURBED * len(ordered)))].mean())
