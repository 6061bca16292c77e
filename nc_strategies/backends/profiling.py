"""Sum the times of an engine's nodes up to times per operator of the model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from nc_strategies.backends.base import Profile

FASTEST_SHARE = 0.75
"""Share of a node's runs that count, the fastest ones: interference by other processes only ever lengthens a run. Their
mean is taken and not their minimum, because engines report whole microseconds, about the duration of a short node."""


@dataclass
class NodeTimes:
    """A node that the engine executed.

    Args:
        operator: Operator of the model that the node computes, wholly or in part. For a conversion: the operator whose
            result it converts. None when it is unknown.
        conversion: Whether the node only changes a tensor's type or layout.
        elements: Number of elements of its output.
        seconds: Its duration in each run, in seconds.
    """

    operator: str | None
    conversion: bool
    elements: int = 0
    seconds: list[float] = field(default_factory=list)


def summarise(nodes: Iterable[NodeTimes], traced: bool = False) -> Profile:
    """Aggregate the times of nodes into a profile.

    Args:
        nodes: Nodes that the engine executed.
        traced: Whether the operators of conversions are known.
    """
    ops: defaultdict[str, float] = defaultdict(float)
    counts: Counter[str | None] = Counter()
    conversions: list[tuple[int, float]] = []
    converted: list[str | None] = []
    other = 0.0
    for node in nodes:
        seconds = _typical(node.seconds)
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


def _typical(seconds: list[float]) -> float:
    """Mean of the fastest runs."""
    ordered = np.sort(seconds)
    return float(ordered[: max(1, round(FASTEST_SHARE * len(ordered)))].mean())
