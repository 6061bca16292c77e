"""A base class for strategies that go from the best configuration so far to the next, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import Any

from nc_strategies.problem import Problem, Trial
from nc_strategies.space import Config, OpCapability
from nc_strategies.strategies.base import Several, Steps, StepwiseStrategy
from nc_strategies.strategies.choices import changed, changes, whole_modes

Proposals = Iterator[Config | None]
"""Proposals that may be open together; None where the next one depends on an open trial."""


class StagedStrategy(StepwiseStrategy):
    """A `StepwiseStrategy` that remembers its trials and the best of them. No configuration is proposed twice.

    What `_try_several` tries starts from the best configuration that is known when a trial can start: from the best of
    all earlier ones, if one trial runs at a time.
    """

    def __init__(self, settings: Any, problem: Problem) -> None:
        super().__init__(settings, problem)
        self._best: Trial | None = None
        self._tried: dict[str, Trial] = {}
        self._trying: set[str] = set()

    def _try(self, config: Config, stage: str, note: str) -> Generator[Config, Trial, Trial]:
        """Propose a configuration unless it was tried, and return its trial."""
        if config.fingerprint not in self._tried:
            self.stage, self.note = stage, note
            self._trying.add(config.fingerprint)
            self._remember((yield config))
        return self._tried[config.fingerprint]

    def _try_several(self, proposals: Proposals) -> Steps:
        """Try configurations that need not wait for each other, see `Several`."""
        yield Several(proposals, self._remember)

    def _new(self, config: Config, stage: str, note: str) -> Proposals:
        """A proposal of `_try_several`; none if the configuration was tried or is being tried."""
        if config.fingerprint not in self._tried and config.fingerprint not in self._trying:
            self.stage, self.note = stage, note
            self._trying.add(config.fingerprint)
            yield config

    def _remember(self, trial: Trial) -> None:
        self._trying.discard(trial.config.fingerprint)
        self._tried[trial.config.fingerprint] = trial
        if trial.evaluation is not None and self._preferred(trial):
            self._best = trial

    def _preferred(self, trial: Trial) -> bool:
        """Whether a trial is better than the best; a trial that was stopped early has missed the goal."""
        best = self._best
        if best is None or self._feasible(trial) != self._feasible(best):
            return best is None or self._feasible(trial)
        assert trial.evaluation is not None
        assert best.evaluation is not None
        return self.problem.goal.better(trial.evaluation, best.evaluation)

    def _feasible(self, trial: Trial) -> bool:
        return self.problem.goal.kept_by(trial)

    @property
    def _base(self) -> Config:
        """Configuration of the best trial; the default before there is one."""
        return self._best.config if self._best is not None else self.problem.space.default()

    def _met(self) -> bool:
        """Whether the best trial keeps the constraints."""
        return self._best is not None and self._feasible(self._best)

    def _left(self) -> int:
        """Trials left of the budget, without those that are open; below 1 without a budget."""
        return self.problem.budget - len(self._tried) - len(self._trying)

    def _whole_model(self, after_modes: Callable[[], Proposals] = lambda: iter(())) -> Steps:
        """Try int8 everywhere, then each graph option, quantization mode and scheme for all operators together.

        Args:
            after_modes: A stage between the modes and the schemes.
        """
        yield from self._try(self.problem.space.default(), "default int8", "default int8 everywhere")
        whole = self._combinations("all operators", self.problem.space.quantizable)
        yield from self._try_several(chain(self._options(), self._each_mode(), after_modes(), whole))

    def _each_mode(self) -> Proposals:
        """Each quantization mode for all operators that offer it."""
        for mode, config in whole_modes(self.problem.space).items():
            yield from self._new(config, "modes", f"{mode} quantization, the others in fp32")

    def _options(self) -> Proposals:
        """Each value of each graph option."""
        for name, values in self.problem.space.options.items():
            for value in values:
                yield from self._new(self._base.with_option(name, value), "options", f"{name}={value}")

    def _combinations(self, label: str, part: Iterable[OpCapability]) -> Proposals:
        """One choice at a time, for some operators together."""
        part = tuple(part)
        for field, change in changes(part).items():
            config = changed(self.problem.space, self._base, part, change)
            yield from self._new(config, "combinations", f"{field} for {label}")
