"""The criterion and the tolerable loss of a run that states none, or one that its metric cannot have."""

from __future__ import annotations

from typing import Any

from nc_strategies.config import CRITERIA, RunConfig
from nc_strategies.errors import InputError
from nc_strategies.metrics.settings import DefaultGoal
from nc_strategies.registry import registry


def state_goals(config: RunConfig) -> None:
    """Fill in the defaults of the metrics' own goals.

    Args:
        config: The configuration, which is changed.

    Raises:
        InputError: a loss relative to fp32's value is asked of a metric for which it means nothing.
    """
    tuning, metrics = config.tuning, config.metrics
    own = default_goal(metrics.accuracy.get("name"))
    if own is not None:
        _check("tuning", metrics.accuracy["name"], tuning.criterion, own)
        tuning.criterion = "absolute"
        tuning.tolerable_loss = own.tolerable_loss if tuning.tolerable_loss is None else tuning.tolerable_loss
    for place, asked in enumerate(metrics.further()):
        own = default_goal(asked.metric["name"])
        if own is None:
            continue
        _check(f"metrics.constraints[{place}]", asked.metric["name"], asked.criterion, own)
        loss = own.tolerable_loss if asked.tolerable_loss is None else asked.tolerable_loss
        metrics.constraints[place] = {**metrics.constraints[place], "criterion": "absolute", "tolerable_loss": loss}
    tuning.criterion, tuning.tolerable_loss = tuning.goal


def default_goal(name: Any) -> DefaultGoal | None:
    """The goal that a metric has of its own, because a loss relative to fp32's value means nothing for it; else None.

    Args:
        name: The metric's name; anything that is not the name of a registered metric has none.
    """
    component = registry().components.get(("metric", str(name)))
    found = getattr(component.schema, "goal", None) if component is not None else None
    return found if isinstance(found, DefaultGoal) else None


def _check(key: str, metric: str, criterion: str | None, own: DefaultGoal) -> None:
    if criterion in CRITERIA and criterion != "absolute":
        raise InputError(
            f"{key}.criterion",
            f"is {criterion}, which metric {metric!r} cannot have: {own.reason}",
            f"absolute; by default with tolerable_loss={own.tolerable_loss:g}",
        )
