"""Random search: the baseline for all other strategies."""

from __future__ import annotations

from nc_strategies.problem import Problem, Trial
from nc_strategies.space import Config
from nc_strategies.strategies.base import Strategy
from nc_strategies.strategies.settings import RandomSettings


class RandomStrategy(Strategy):
    """Draws configurations uniformly without repetition, the default first. Any number may be pending at a time.

    Source: Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 13 (2012).
    """

    settings: RandomSettings

    def __init__(self, settings: RandomSettings, problem: Problem) -> None:
        super().__init__(settings, problem)
        self._proposed: set[str] = set()

    def propose(self) -> Config | None:
        """See `Strategy.propose`."""
        space = self.problem.space
        self.stage = "random"
        config = space.default() if not self._proposed and self.settings.default_first else None
        while config is None or config.fingerprint in self._proposed:
            if len(self._proposed) >= space.size():
                return None
            config = space.sample(self.problem.rng)
        self.note = (
            "a uniform sample" if self._proposed or not self.settings.default_first else "default int8 everywhere"
        )
        self._proposed.add(config.fingerprint)
        return config

    def observe(self, trial: Trial) -> None:
        """See `Strategy.observe`; random search learns nothing."""
