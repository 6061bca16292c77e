"""The interface of a strategy, and a form of it that reads from top to bottom."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any

from nc_strategies.problem import Prediction, Problem, Trial
from nc_strategies.space import Config

Steps = Generator[Config, Trial, None]
"""What `StepwiseStrategy.steps` returns: it yields configurations and is sent their trials."""


class Strategy(ABC):
    """Proposes configurations and is told what came of them.

    Args:
        settings: The strategy's own settings, an instance of the schema it is registered with.
        problem: What is to be solved.

    A strategy must be deterministic in what it has observed and in ``problem.rng``: a resumed run shows it the
    finished trials again and expects the same proposals. It may propose a configuration twice; the second
    time is answered from the history and costs nothing.
    """

    stage: str = ""
    """What the strategy is doing, in a word or two, for the progress line."""
    note: str = ""
    """Why it proposed the latest configuration, for the journal."""
    predicted: Prediction | None = None
    """What it expects the latest configuration to measure, for the journal; None where it predicts nothing."""
    engine: str = ""
    """Which optimizer proposes, where the strategy has several; empty otherwise."""
    ended: str = ""
    """Why it has finished, as a clause that follows "because"; empty where it only has nothing left to try."""
    stopped: str = ""
    """Why it proposes no more although it has not finished, such as a server that is gone; empty otherwise."""

    def __init__(self, settings: Any, problem: Problem) -> None:
        self.settings = settings
        self.problem = problem

    @classmethod  # noqa: B027 - optional, nothing to check by default
    def check(cls, settings: Any) -> None:
        """See that a run with these settings can begin, before a model is touched: accounts, servers, packages.

        Raises:
            InputError: it cannot.
        """

    @abstractmethod
    def propose(self) -> Config | None:
        """The next configuration to measure.

        None while trials are pending: wait for one of them. None with none pending: the strategy has finished.
        """

    @abstractmethod
    def observe(self, trial: Trial) -> None:
        """Learn what came of a proposed configuration, in any order, failed ones included."""

    def close(self) -> None:  # noqa: B027 - optional, nothing to release by default
        """Release what the strategy holds; called once, at the end of a run or after an error."""


class StepwiseStrategy(Strategy):
    """A strategy written as one generator: ``trial = yield config``.

    Subclasses implement `steps`. Only one configuration is pending at a time. What follows a ``yield`` runs when the
    next configuration is asked for, so that a run which ends with a trial pays for nothing after it.
    """

    def __init__(self, settings: Any, problem: Problem) -> None:
        super().__init__(settings, problem)
        self._steps = self.steps()
        self._pending = False
        self._trial: Trial | None = None

    @abstractmethod
    def steps(self) -> Steps:
        """Yield configurations, receive their trials, return when finished."""

    def propose(self) -> Config | None:
        """See `Strategy.propose`."""
        if self._pending:
            return None
        try:
            config = self._steps.send(self._trial) if self._trial is not None else next(self._steps)
        except StopIteration:
            return None
        self._pending, self._trial = True, None
        return config

    def observe(self, trial: Trial) -> None:
        """See `Strategy.observe`."""
        self._pending, self._trial = False, trial
