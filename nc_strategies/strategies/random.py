"""Random search: the yardstick every other strategy has to beat."""

from __future__ import annotations

from dataclasses import dataclass

from nc_strategies.problem import Trial
from nc_strategies.space import Config
from nc_strategies.strategies.base import Strategy


@dataclass
class RandomSettings:
    """Settings of `RandomStrategy`."""

    name: str = "random"
    default_first: bool = True


class RandomStrategy(Strategy):
    """Draws configurations uniformly, the default one first; any number of them at a time.

    Source: Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 13 (2012).
    """

    settings: RandomSettings
    _proposed = 0

    def propose(self) -> Config | None:
        """See `Strategy.propose`."""
        space = self.problem.space
        if self._proposed >= space.size():
            return None
        self._proposed += 1
        self.stage = "random"
        first = self._proposed == 1 and self.settings.default_first
        return space.default() if first else space.sample(self.problem.rng)

    def observe(self, trial: Trial) -> None:
        """Random search learns nothing."""
