"""Settings, in a module that imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from nc_strategies.errors import InputError


@dataclass
class IlpSettings:
    """Settings of `IlpStrategy`.

    Args:
        risk: Accepted probability, by the loss model, that a configuration which measures within the limit is over it
            on more samples; what is riskier is only tried when nothing else is left.
        probes: Divergences to ask for at most, to compare calibration algorithms, granularities and graph options
            without trials; 0 for none.

    Raises:
        InputError: a value that is not allowed.
    """

    name: str = "ilp"
    risk: float = 0.2
    probes: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.risk <= 1:
            raise InputError("strategy.risk", f"is {self.risk}", "more than 0, at most 1")
        if self.probes < 0:
            raise InputError("strategy.probes", f"is {self.probes}", "0 or more")
