"""From the times of an engine's nodes to those of the model's operators."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from nc_strategies.backends.base import Profile

QUANTILE = 0.25
"""Of a node's times in several runs; what disturbs a run only ever adds to it."""


@dataclass
class NodeTimes:
    """A node that ran.

    Args:
        operator: Operator of the model that it computes, or computes a part of; None when it cannot be told.
        conversion: It only changes a tensor's type or layout.
        elements: Size of its output.
        seconds: Its time in each run.
    """

    operator: str | None
    conversion: bool
    elements: int = 0
    seconds: list[float] = field(default_factory=list)


def summarise(nodes: Iterable[NodeTimes]) -> Profile:
    """The profile that nodes' times make."""
    ops: defaultdict[str, float] = defaultdict(float)
    counts: Counter[str | None] = Counter()
    conversions: list[tuple[int, float]] = []
    other = 0.0
    for node in nodes:
        seconds = float(np.quantile(node.seconds, QUANTILE))
        if node.conversion:
            conversions.append((node.elements, seconds))
            continue
        counts[node.operator] += 1
        if node.operator is not None:
            ops[node.operator] += seconds
        else:
            other += seconds
    return Profile(dict(ops), tuple(conversions), other, {name: counts[name] for name in ops}, counts[None])
