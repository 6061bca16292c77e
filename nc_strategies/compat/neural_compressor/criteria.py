"""The accuracy criterion and the tuning criterion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nc_strategies.compat.neural_compressor.checks import Check, Checked, flag, listed, number, one_of, text
from nc_strategies.defaults import MAX_TRIALS, TOLERABLE_LOSS
from nc_strategies.errors import InputError
from nc_strategies.runtime.secrets import hide

OBJECTIVES = {"performance": "latency", "modelsize": "size"}
"""Neural Compressor's objectives to those of this package."""
REFUSED_OBJECTIVES = {
    "footprint": "the engines' memory is allocated outside Python and shared by the models of a "
    "process, so that a trial's own share cannot be measured; see modelsize"
}
ACCURACY = "accuracy"


def _strategy_kwargs(key: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(key, "is not a mapping", "the strategy's settings by name")
    return hide(value)


def _objective(key: str, value: Any) -> Any:
    names, weights, directions = _objective_parts(value)
    if not names:
        raise InputError(key, f"is {value!r}", f"allowed: {', '.join((*OBJECTIVES, ACCURACY))}, or a list of them")
    for name in names:
        one_of(*OBJECTIVES, ACCURACY, refused=REFUSED_OBJECTIVES)(key, name)
    if set(names) == {ACCURACY} or (weights is not None and ACCURACY in names):
        raise InputError(
            key,
            f"is {value!r}: accuracy is the constraint, which accuracy_criterion states, and decides "
            "between equally fast models",
            "name what is to be improved: performance or modelsize",
        )
    if weights is not None and len(weights) != len(names):
        raise InputError(key, f"has {len(weights)} weights for {len(names)} objectives", "one weight per objective")
    for weight in weights or []:
        if number()(f"{key}.weight", weight) <= 0:
            raise InputError(f"{key}.weight", f"is {weight!r}", "more than 0")
    if any(d is not False for d in directions):
        raise InputError(f"{key}.higher_is_better", f"is {directions!r}", "latency and size are better when lower")
    return value if isinstance(value, dict) else names


def _objective_parts(value: Any) -> tuple[list[Any], list[Any] | None, list[Any]]:
    if isinstance(value, Mapping):
        for name in value:
            one_of("objective", "weight", "higher_is_better")("tuning_criterion.objective", name)
        weights = value.get("weight")
        names, directions = listed(value.get("objective")), listed(value.get("higher_is_better"))
        return names, None if weights is None else listed(weights), directions
    return listed(value), None, []


@dataclass
class AccuracyCriterion(Checked):
    """The tolerable loss of accuracy from fp32.

    Args:
        higher_is_better: Direction of the metric.
        criterion: ``relative`` (a fraction of fp32's value) or ``absolute`` (in the metric's unit).
        tolerable_loss: The loss that is accepted.

    Raises:
        InputError: a value is not allowed.
    """

    _prefix: ClassVar[str] = "accuracy_criterion."
    _checks: ClassVar[Mapping[str, Check]] = {
        "higher_is_better": flag,
        "criterion": one_of("relative", "absolute"),
        "tolerable_loss": number(),
    }

    higher_is_better: bool = True
    criterion: str = "relative"
    tolerable_loss: float = TOLERABLE_LOSS

    @property
    def relative(self) -> float | None:
        """The tolerable loss if it is relative, else None; setting it makes the criterion relative."""
        return self.tolerable_loss if self.criterion == "relative" else None

    @relative.setter
    def relative(self, value: float) -> None:
        self.criterion, self.tolerable_loss = "relative", value

    @property
    def absolute(self) -> float | None:
        """The tolerable loss if it is absolute, else None; setting it makes the criterion absolute."""
        return self.tolerable_loss if self.criterion == "absolute" else None

    @absolute.setter
    def absolute(self, value: float) -> None:
        self.criterion, self.tolerable_loss = "absolute", value


@dataclass
class TuningCriterion(Checked):
    """Strategy, budget and objectives of the tuning.

    Args:
        strategy: Name of an installed strategy.
        strategy_kwargs: Its settings. Only the strategy receives a secret among them, such as ``sigopt_api_token``: it
            appears in no file, log or `repr`.
        timeout: Time limit in seconds; 0 stops at the first model that meets the goal, or after `max_trials`.
        max_trials: Greatest number of configurations to measure.
        objective: ``performance``, ``modelsize``, a list of them, or ``{"objective": [...], "weight": [...]}``.

    Raises:
        InputError: a value is not allowed.
    """

    _prefix: ClassVar[str] = "tuning_criterion."
    _checks: ClassVar[Mapping[str, Check]] = {
        "strategy": text,
        "strategy_kwargs": _strategy_kwargs,
        "timeout": number(0),
        "max_trials": number(0, whole=True),
        "objective": _objective,
    }

    strategy: str = "basic"
    strategy_kwargs: Any = None
    timeout: float = 0
    max_trials: int = MAX_TRIALS
    objective: Any = "performance"

    @property
    def objectives(self) -> dict[str, float]:
        """This package's names of the objectives, with their weights."""
        names, weights, _ = _objective_parts(self.objective)
        pairs = zip(names, weights or [1.0] * len(names), strict=True)
        return {OBJECTIVES[name]: float(weight) for name, weight in pairs if name != ACCURACY}
