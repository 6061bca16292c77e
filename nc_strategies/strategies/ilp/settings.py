"""Settings of the strategy, in a module that imports no heavy package."""

from __future__ import annotations

from dataclasses import dataclass

from nc_strategies.errors import InputError


@dataclass
class IlpSettings:
    """Settings of `IlpStrategy`.

    Args:
        risk: Accepted probability, by the loss model, that a configuration whose measured loss is within the limit
            exceeds it on more samples. Riskier configurations are tried only when no other is left.
        probes: Divergences to measure at most, to compare calibration algorithms, granularities and graph options
            without trials; 0 for none.

    Raises:
        InputError: a value is not allowed.
    """

    name: str = "ilp"
    risk: float = 0.2
    probes: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.risk <= 1:
            raise InputError("strategy.risk", f"is {self.risk}", "more than 0, at most 1")
        if self.probes < 0:
            raise InputError("strategy.probes", f"is {self.probes}", "0 or more")
