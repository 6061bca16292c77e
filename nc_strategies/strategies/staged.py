"""A base class for strategies that go from the best configuration so far to the next, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

from nc_strategies.problem import Problem, Trial
from nc_strategies.space import Config, OpCapability
from nc_strategies.strategies.base import Steps, StepwiseStrategy
from nc_strategies.strategies.choices import changed, changes, whole_modes


class StagedStrategy(StepwiseStrategy):
    """A `StepwiseStrategy` that remembers its trials and the best of them. No configuration is proposed twice."""

    def __init__(self, settings: Any, problem: Problem) -> None:
        super().__init__(settings, problem)
        self._best: Trial | None = None
        self._tried: dict[str, Trial] = {}

    def _try(self, config: Config, stage: str, note: str) -> Generator[Config, Trial, Trial]:
        """Propose a configuration unless it was tried, and return its trial."""
        if config.fingerprint not in self._tried:
            self.stage, self.note = stage, note
            trial = yield config
            self._tried[config.fingerprint] = trial
            if trial.evaluation is not None and self._preferred(trial):
                self._best = trial
        return self._tried[config.fingerprint]

    def _preferred(self, trial: Trial) -> bool:
        """Whether a trial is better than the best; a trial that was stopped early has missed the goal."""
        best = self._best
        if best is None or self._feasible(trial) != self._feasible(best):
            return best is None or self._feasible(trial)
        assert trial.evaluation is not None
        assert best.evaluation is not None
        return self.problem.goal.better(trial.evaluation, best.evaluation)

    def _feasible(self, trial: Trial) -> bool:
        return trial.ok and trial.evaluation is not None and self.problem.goal.feasible(trial.evaluation)

    @property
    def _base(self) -> Config:
        """Configuration of the best trial; the default before there is one."""
        return self._best.config if self._best is not None else self.problem.space.default()

    def _met(self) -> bool:
        """Whether the best trial keeps the constraints."""
        return self._best is not None and self._feasible(self._best)

    def _left(self) -> int:
        """Trials left of the budget, below 1 without one."""
        return self.problem.budget - len(self._tried)

    def _whole_model(self, after_modes: Callable[[], Steps] | None = None) -> Steps:
        """Try int8 everywhere, then each graph option, quantization mode and scheme for all operators together.

        Args:
            after_modes: A stage between the modes and the schemes.
        """
        yield from self._try(self.problem.space.default(), "default int8", "default int8 everywhere")
        yield from self._options()
        for mode, config in whole_modes(self.problem.space).items():
            yield from self._try(config, "modes", f"{mode} quantization, the others in fp32")
        if after_modes is not None:
            yield from after_modes()
        yield from self._combinations("all operators", self.problem.space.quantizable)

    def _options(self) -> Steps:
        """Try each value of each graph option."""
        for name, values in self.problem.space.options.items():
            for value in values:
                yield from self._try(self._base.with_option(name, value), "options", f"{name}={value}")

    def _combinations(self, label: str, part: Iterable[OpCapability]) -> Steps:
        """Try one choice at a time, for some operators together."""
        part = tuple(part)
        for field, change in changes(part).items():
            config = changed(self.problem.space, self._base, part, change)
            yield from self._try(config, "combinations", f"{field} for {label}")
