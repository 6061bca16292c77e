"""The SigOpt strategy."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nc_strategies_optuna.estimate import Estimate, estimate
from nc_strategies_optuna.known import KnownPoint, opening
from nc_strategies_optuna.parameters import EVENT as PARAMETERS
from nc_strategies_optuna.parameters import Parameters
from nc_strategies_optuna.refine import PARALLEL, Refinements, refining

from nc_strategies.api import Config, InputError, Problem, Space, Strategy, Trial, TrialState
from nc_strategies_sigopt import access, form
from nc_strategies_sigopt.lines import Lines
from nc_strategies_sigopt.proposal import EVENT, Proposal
from nc_strategies_sigopt.session import HTTP, STATE, Report, Session
from nc_strategies_sigopt.settings import SigOptSettings

log = logging.getLogger("nc_strategies.sigopt")
MOST_REPEATS = 30
"""Suggestions in a row that stand for known configurations, after which the engine has run dry."""
PATIENT_REPEATS = 10
"""Such suggestions in a row after which single operators change instead, where that promises something."""
BASELINE = "fp32"
MOST_GROUPS = 10
"""Groups of operators at most, where many workers need more suggestions than fewer groups have."""
ROOM_PER_WORKER = 4
"""Least number of assignments per worker: suggestions that are open together have to differ."""


@dataclass
class _Begun:
    """What needs the estimates: the parameters, the experiment, points of our own, proposals of an earlier process."""

    parameters: Parameters
    session: Session
    first: Iterator[KnownPoint | None]
    earlier: deque[dict[str, Any]]


class SigOptStrategy(Strategy):
    """Searches groups of operators with SigOpt, then single operators around the best.

    1. fp32 is reported as it was measured; int8 everywhere is tried; then what the estimates expect to be the best:
       less int8 where the goal is missed, and where it is met, none where fp32 is expected to be faster. In this
       process int8 everywhere comes before any estimate, which a run that stops there does not need; with a server
       the experiment comes first, so that what it refuses is said before anything is measured.
    2. SigOpt suggests which groups of operators, alike in loss for what they save, run in int8, and with which
       graph-wide choices. Every suggestion gets one observation, also a failed one.
    3. In the last 40 % of the budget, single operators change sides around the best trial, by prices learnt from
       all trials; where int8 everywhere keeps the goal, the graph-wide choices change with it instead.

    As many suggestions as the run has workers may be open: the experiment's ``parallel_bandwidth``.

    `engine` says who suggests: ``http`` (a SigOpt server), ``local`` (the same API in this process) or ``lite``
    (SigOpt's own optimizer in this process).

    Source: grouping as in "SigOpt", Intel Neural Compressor's documentation of tuning strategies, which has one
    parameter an operator; groups are what lets the optimizer leave its random opening within a usual budget.

    Raises:
        InputError: the token or the project is missing or refused.
    """

    settings: SigOptSettings
    stopped: str = ""
    """Why no more is proposed, when a server has failed and the settings say to stop."""

    @classmethod
    def check(cls, settings: SigOptSettings) -> None:
        """See that a run can begin, before a model is touched.

        Raises:
            InputError: the token or the project is missing or refused.
        """
        access.check(settings)

    def __init__(self, settings: SigOptSettings | None, problem: Problem) -> None:
        super().__init__(settings or SigOptSettings(), problem)
        self._seed = int(problem.rng.integers(2**31))
        baseline = Trial(0, problem.space.all_float(), TrialState.OK, problem.baseline)
        self._trials: dict[str, Trial] = {baseline.config.fingerprint: baseline}
        self._waiting: dict[str, list[Proposal]] = {}
        self._proposed = 0
        self._refined = 0
        self._refinements: Refinements | None = None
        self._dry_until = 0
        self._begun: _Begun | None = None
        self._engine = access.chosen_driver(self.settings)
        if self._engine == HTTP:
            self._begin()

    @property
    def engine(self) -> str:  # type: ignore[override]
        """Who suggests now."""
        return self._begun.session.engine if self._begun else self._engine

    @property
    def suggested(self) -> dict[str, int]:
        """Suggestions of the engine's ``opening`` and of its ``optimizer``, repeated ones included."""
        return dict(self._begun.session.suggested) if self._begun else {}

    def _begin(self) -> _Begun:
        """Ask for the estimates, and make the experiment or find it again."""
        problem = self.problem
        state = Lines(problem.state_dir / STATE if problem.state_dir else None)
        parameters = self._make_parameters(state)
        session = Session(self.settings, problem, parameters, self._seed, state)
        self._begun = _Begun(
            parameters,
            session,
            opening(parameters, problem, self._trials),
            deque(r for r in session.state.records if r["event"] == EVENT),
        )
        known = form.values(problem, problem.baseline, baseline=True)
        if known is not None:
            told = {"values": known, "metadata": {"trial": BASELINE}}
            session.report(Report(BASELINE, parameters.all_float(), told, answered=True))
        return self._begun

    def _make_parameters(self, state: Lines) -> Parameters:
        """The parameters of the stored experiment, else new ones.

        Raises:
            InputError: the folder has an experiment, but not what its parameters stand for.
        """
        space = self.problem.space
        found = next((r for r in state.records if r["event"] == PARAMETERS), None)
        if found is not None:
            return Parameters.from_record(space, found)
        if state.records:
            raise InputError(
                "run_dir",
                "holds a SigOpt experiment of an earlier version of nc-strategies-sigopt",
                "use another run_dir",
            )
        made = _wide_enough(space, estimate(self.problem), self.problem.workers)
        state.append(made.record())
        return made

    def close(self) -> None:
        """See `Strategy.close`."""
        if self._begun is not None:
            self._begun.session.close()

    @property
    def _session(self) -> Session:
        return (self._begun or self._begin()).session

    @property
    def _parameters(self) -> Parameters:
        return (self._begun or self._begin()).parameters

    def propose(self) -> Config | None:
        """See `Strategy.propose`."""
        if self._begun is None and not self._proposed:
            proposal: Proposal | None = self._opening()
        else:
            begun = self._begun or self._begin()
            proposal = self._replayed(begun)
            if proposal is None and not begun.session.stopped:
                proposal = self._next(begun)
        if proposal is None:
            self.note = self.stage = self.stopped = self._session.stopped
            return None
        self._proposed += 1
        self.note = proposal.note
        self.stage = proposal.kind
        return proposal.config

    def _opening(self) -> Proposal:
        """Int8 everywhere. The experiment learns of it when there is one: it is the first of the known points."""
        proposal = Proposal("known int8", self.problem.space.default(), "int8 everywhere")
        self._waiting[proposal.config.fingerprint] = [proposal]
        return proposal

    def observe(self, trial: Trial) -> None:
        """See `Strategy.observe`."""
        fingerprint = trial.config.fingerprint
        self._trials.setdefault(fingerprint, trial)
        for proposal in self._waiting.pop(fingerprint, []):
            self._tell(proposal, self._trials[fingerprint])

    def _replayed(self, begun: _Begun) -> Proposal | None:
        """What an earlier process proposed, in its order: finished trials, and those it left open."""
        while begun.earlier:
            proposal = Proposal.from_record(begun.earlier.popleft(), self.problem.space.ops)
            if proposal.kind == "known":
                begun.first = opening(begun.parameters, self.problem, self._trials, proposal.mark)
            self._refined += proposal.kind == "refinement"
            if not self._expect(proposal):
                return proposal
        return None

    def _next(self, begun: _Begun) -> Proposal | None:
        if refining(self.problem, self._proposed):
            proposal = self._refinement()
            if proposal is not None:
                return proposal
        else:
            for point in begun.first:
                if point is None:
                    break
                proposal = Proposal.of(point)
                if not self._keep(proposal):
                    return proposal
        if len(self._trials) < self._dry_until and (proposal := self._refinement()) is not None:
            return proposal
        for repeats in range(MOST_REPEATS):
            if repeats == PATIENT_REPEATS:
                # With many workers, the engine would be asked as often again before any trial has ended.
                self._dry_until = len(self._trials) + self.problem.workers // PARALLEL.workers_per_trial
                proposal = self._refinement()
                if proposal is not None:
                    return proposal
            suggestion = self._session.suggest()
            if suggestion is None:
                return None
            owner, number = self._session.owner, suggestion.number
            proposal = Proposal(
                f"suggestion {owner[:8]} {number}",
                self._parameters.config(suggestion.assignments),
                f"suggestion {number}" + (f" ({suggestion.source})" if suggestion.source else ""),
                suggestion.assignments,
                number,
                owner,
            )
            if not self._keep(proposal):
                return proposal
        return self._refinement()

    def _keep(self, proposal: Proposal) -> bool:
        """Note a proposal before it is made; whether its configuration is known already."""
        self._session.state.append(proposal.record())
        return self._expect(proposal)

    def _expect(self, proposal: Proposal) -> bool:
        fingerprint = proposal.config.fingerprint
        known = self._trials.get(fingerprint)
        if known is not None:
            log.info("%s stands for the configuration of trial %d: answered from there", proposal.mark, known.number)
            self._tell(proposal, known, answered=True)
            return True
        waiting = self._waiting.setdefault(fingerprint, [])
        waiting.append(proposal)
        return len(waiting) > 1

    def _tell(self, proposal: Proposal, trial: Trial, answered: bool = False) -> None:
        if proposal.assignments is None:
            return
        self._session.report(
            Report(
                proposal.mark,
                proposal.assignments,
                form.outcome(self.problem, trial),
                proposal.suggestion,
                proposal.owner,
                answered,
            )
        )

    def _refinement(self) -> Proposal | None:
        """See `Refinements`."""
        if self._refinements is None:
            self._refinements = Refinements(self.problem, self._parameters)
        config = self._refinements.next(self._trials, self._waiting, self._refined)
        if config is None:
            return None
        self._refined += 1
        proposal = Proposal(f"refinement {self._refined}", config, f"refinement {self._refined} around the best")
        self._keep(proposal)
        return proposal


def _wide_enough(space: Space, guess: Estimate, workers: int) -> Parameters:
    """Parameters with the fewest groups of operators that have enough assignments for some workers; one for one."""
    made = Parameters(space, guess)
    for count in range(2, MOST_GROUPS + 1 if workers > 1 else 0):
        if math.prod(top + 1 for top in made.tops().values()) >= ROOM_PER_WORKER * workers:
            break
        made = Parameters(space, guess, count)
    return made
