"""The interface of a strategy, and a base class for strategies written as one generator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nc_strategies.problem import Prediction, Problem, Trial
from nc_strategies.space import Config, Space


@dataclass(frozen=True)
class Several:
    """Proposals of a `StepwiseStrategy` that need not wait for each other: any number of them may be open.

    Args:
        configs: The configurations. The next one is taken when a trial can start, so that it may depend on the trials
            observed until then. None means that the next one depends on an open trial.
        observe: Called with each trial, in the order in which they end, before another configuration is taken.
    """

    configs: Iterator[Config | None]
    observe: Callable[[Trial], None]


Steps = Generator[Config | Several, Trial, None]
"""Return type of `StepwiseStrategy.steps`: a generator that yields configurations and is sent their trials. After
`Several`, it continues once all of their trials were observed."""


class Strategy(ABC):
    """Proposes configurations and observes their trials.

    Args:
        settings: The strategy's own settings, an instance of the schema it is registered with.
        problem: The tuning problem.

    A strategy must be deterministic given its observed trials and ``problem.rng``: a resumed run shows it the finished
    trials again, in the same order and between the same proposals, and expects the same proposals. A strategy may
    propose a configuration twice. The second proposal is answered from the history, or with the open trial of that
    configuration, and costs nothing.

    Up to ``problem.workers`` proposals may be open at a time: `propose` is called again before their trials are
    observed, and these are observed in the order in which they end.
    """

    stage: str = ""
    """Current stage of the strategy in one or two words, for the progress line."""
    note: str = ""
    """Reason for the latest proposal, for the journal."""
    predicted: Prediction | None = None
    """Predicted measurement of the latest proposal, for the journal; None without a prediction."""
    engine: str = ""
    """Name of the optimizer that proposes, where the strategy has several; empty otherwise."""
    ended: str = ""
    """Why the strategy has finished, as a clause that follows "because"; empty where nothing is left to try."""
    stopped: str = ""
    """Why the strategy stopped before it finished, such as a lost server; empty otherwise."""

    def __init__(self, settings: Any, problem: Problem) -> None:
        self.settings = settings
        self.problem = problem

    @classmethod  # noqa: B027 - optional, nothing to check by default
    def check(cls, settings: Any) -> None:
        """Check accounts, servers and packages that a run with these settings needs, before the model is opened.

        Raises:
            InputError: the run cannot begin.
        """

    @classmethod  # noqa: B027 - optional, nothing to check by default
    def check_model(cls, settings: Any, space: Space, gradients: Callable[[], bool]) -> None:
        """Check that a strategy with these settings can tune this model, before anything is calibrated or measured.

        Args:
            settings: The strategy's own settings.
            space: The search space, as it is before calibration, which may leave fewer choices.
            gradients: Returns whether `Problem.hessian` is available.

        Raises:
            InputError: the run cannot begin.
        """

    @abstractmethod
    def propose(self) -> Config | None:
        """The next configuration to measure.

        None while trials are pending means that the strategy waits for one of them; it is asked again when one was
        observed. None without pending trials means that the strategy has finished.
        """

    @abstractmethod
    def observe(self, trial: Trial) -> None:
        """Learn from the trial of a proposed configuration. Trials come in any order and include failed ones."""

    def front(self, count: int = 20) -> Sequence[Config]:
        """Configurations spread over the strategy's own Pareto front of cost and loss, measured or predicted.

        Called at the end of the search, before `close`, if the user asks for a measured front (``tuning.front``). Gaps
        that these configurations leave are filled by the integer program of ``ilp``, with what the trials have shown.

        Args:
            count: Number of configurations that are useful; fewer or more may be returned.

        Returns:
            The configurations; empty for a strategy without a front.
        """
        return ()

    def close(self) -> None:  # noqa: B027 - optional, nothing to release by default
        """Release resources; called once, at the end of a run or after an error."""


class StepwiseStrategy(Strategy):
    """A strategy written as one generator: ``trial = yield config``.

    Subclasses implement `steps`. One configuration is pending at a time, except where `steps` yields `Several`. The
    code after a ``yield`` runs when the next proposal is requested, so that a run which ends with a trial does no work
    after it.
    """

    def __init__(self, settings: Any, problem: Problem) -> None:
        super().__init__(settings, problem)
        self._steps = self.steps()
        self._several: Several | None = None
        self._open = 0
        self._unseen: list[Trial] = []

    @abstractmethod
    def steps(self) -> Steps:
        """Yield configurations, receive their trials, and return when finished."""

    def propose(self) -> Config | None:
        """See `Strategy.propose`."""
        while True:
            if self._several is not None:
                config = self._next_of(self._several)
                if config is not None or self._open:
                    return config
                self._several = None
            elif self._open:
                return None
            trials = self._take_unseen()
            try:
                step = self._steps.send(trials[-1]) if trials else next(self._steps)
            except StopIteration:
                return None
            if isinstance(step, Several):
                self._several = step
            else:
                self._open = 1
                return step

    def _next_of(self, several: Several) -> Config | None:
        """The next of several proposals; None where it depends on an open trial, or where there is none left."""
        for trial in self._take_unseen():
            several.observe(trial)
        config = next(several.configs, None)
        self._open += config is not None
        return config

    def _take_unseen(self) -> list[Trial]:
        """Trials that were observed since the last proposal."""
        trials, self._unseen = self._unseen, []
        return trials

    def observe(self, trial: Trial) -> None:
        """See `Strategy.observe`."""
        self._open -= 1
        self._unseen.append(trial)
