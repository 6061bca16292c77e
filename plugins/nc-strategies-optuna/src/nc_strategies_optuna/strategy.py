"""The strategies ``tpe``, ``gp``, ``nsga2``, ``cmaes`` and ``optuna``."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from nc_strategies.api import Config, Problem, Strategy, Trial, TrialState
from nc_strategies_optuna import study as store
from nc_strategies_optuna.estimate import estimate
from nc_strategies_optuna.known import KnownPoint, ladder, opening
from nc_strategies_optuna.outcome import COST, LOSS
from nc_strategies_optuna.parameters import Parameters
from nc_strategies_optuna.refine import Refinements, refining
from nc_strategies_optuna.samplers import choose
from nc_strategies_optuna.search import Search
from nc_strategies_optuna.settings import SamplerSettings, TpeSettings
from nc_strategies_optuna.study import State, Study

MOST_REPEATS = 4
"""Suggestions in a row for configurations that were tried, after which a neighbour of the last is tried instead."""
BASELINE = "known fp32"


@dataclass
class _Begun:
    """What needs the estimates: the search, points of our own, numbers of the trials of an earlier process."""

    search: Search
    first: Iterator[KnownPoint | None]
    earlier: deque[int]


class OptunaStrategy(Strategy):
    """Searches groups of operators with a sampler of Optuna, then single operators around the best.

    1. fp32 is told as it was measured. Int8 everywhere is tried, then what the estimates expect to be the best.
    2. The sampler suggests how many operators of each group, alike in loss for what they save, run in int8, and with
       which graph-wide choices. A suggestion for a configuration that was tried gets its outcome.
    3. In the last part of the budget, single operators change sides around the best trial, by prices learnt from all
       trials.

    Any number of trials may be open. The samplers `TPESampler` and `GPSampler` suggest apart from these, the others do
    not see them; a suggestion for a configuration that is being tried gets its outcome.

    A metric's threshold is a constraint where the sampler takes one; else what is missing adds to the cost.

    Source: Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD 2019; grouping by
    sensitivity, because per-operator parameters leave a usual budget within the sampler's random opening.

    Raises:
        InputError: see `choose` and `Study`.
    """

    settings: SamplerSettings

    @classmethod
    def check(cls, settings: SamplerSettings) -> None:
        """See that a run can begin, before a model is touched.

        Raises:
            InputError: the sampler or the storage cannot be used.
        """
        choose(settings)
        # The storage's modules take seconds to import: before a run's time begins.
        store.connect(store.url_of(settings) or "sqlite://").remove_session()

    def __init__(self, settings: SamplerSettings | None, problem: Problem) -> None:
        super().__init__(settings or TpeSettings(), problem)
        self._choice = choose(self.settings)
        self.engine = self._choice.name
        self._seed = int(problem.rng.integers(2**31))
        baseline = Trial(0, problem.space.all_float(), TrialState.OK, problem.baseline)
        self._trials: dict[str, Trial] = {baseline.config.fingerprint: baseline}
        self._proposed = 0
        self._refined = 0
        self._refinements: Refinements | None = None
        self._begun: _Begun | None = None
        if self.settings.storage is not None and self.settings.study_name is not None:
            # A name that is taken is refused before anything is measured.
            self._begin()

    def close(self) -> None:
        """See `Strategy.close`."""
        if self._begun is not None:
            self._begun.search.study.close()

    def propose(self) -> Config | None:
        """See `Strategy.propose`."""
        if self._begun is None and not self._proposed:
            config = self.problem.space.default()
            self.note, self.stage = "int8 everywhere", "known"
        else:
            begun = self._begun or self._begin()
            number = self._replayed(begun)
            if number is None:
                number = self._next(begun)
            if number is None:
                self.ended = f"{self.engine} and the refinement suggest only configurations that were tried"
                return None
            entry = begun.search.entries[number]
            config, self.note, self.stage = entry.config, entry.note, entry.mark.split()[0]
        self._proposed += 1
        return config

    def observe(self, trial: Trial) -> None:
        """See `Strategy.observe`."""
        known = self._trials.setdefault(trial.config.fingerprint, trial)
        if self._begun is not None:
            self._begun.search.observe(known)

    def _begin(self) -> _Begun:
        """Ask for the estimates, and make the study or find it again."""
        problem, settings = self.problem, self.settings
        state = State.read(problem.state_dir)
        url = store.url_of(settings)
        if state is None:
            mark = store.new_mark()
            model = problem.metadata.get("model", "model")
            name = settings.study_name or f"{model}-{settings.name}" + (f"-{mark[:8]}" if url else "")
            groups = settings.groups or self._choice.traits.groups
            parameters = Parameters(problem.space, estimate(problem), groups)
            state = State(mark, name, parameters.record())
            # Before the study, which a process that is killed here could not claim otherwise.
            state.write(problem.state_dir)
        else:
            parameters = Parameters.from_record(problem.space, state.parameters)
        if url is None and problem.state_dir is not None:
            url = store.file_url(problem.state_dir / store.DATABASE)
        names = [LOSS, COST] if self._choice.traits.two_objectives else [COST]
        about = {"strategy": settings.name, "sampler": self.engine, **problem.metadata}
        study = Study(url, state.study_name, state.mark, names, about, problem.notice)
        first = problem.space.default().fingerprint
        pending = {first} if self._proposed and first not in self._trials else set()
        search = Search(problem, self._choice, parameters, study, self._seed, self._trials, pending)
        self._begun = _Begun(search, self._opening(parameters), deque(range(len(search.entries))))
        if not search.entries:
            search.add(BASELINE, "fp32 as it was measured", problem.space.all_float(), parameters.all_float())
        return self._begun

    def _opening(self, parameters: Parameters, skip: str = "") -> Iterator[KnownPoint | None]:
        """What is tried before the sampler suggests, behind the point that an earlier process tried last.

        None while the next point depends on an open trial: the sampler suggests meanwhile.
        """
        yield from opening(parameters, self.problem, self._trials, skip)
        yield from ladder(parameters, self.problem, self._trials, skip)

    def _replayed(self, begun: _Begun) -> int | None:
        """What an earlier process suggested, in its order: finished trials, and those it left open."""
        while begun.earlier:
            number = begun.earlier.popleft()
            mark = begun.search.entries[number].mark
            if mark.startswith("known") and mark != BASELINE:
                begun.first = self._opening(begun.search.parameters, mark)
            self._refined += mark.startswith("refinement")
            if begun.search.expect(number):
                return number
        return None

    def _next(self, begun: _Begun) -> int | None:
        """Number of a new trial whose configuration was not tried; None where nothing new is found."""
        search = begun.search
        if refining(self.problem, self._proposed, self.settings.refine):
            number = self._refinement(search)
            if number is not None:
                return number
        else:
            for point in begun.first:
                if point is None:
                    break
                number = search.add(point.mark, point.note, point.config, point.assignments)
                if search.is_new(number):
                    return number
        for _ in range(MOST_REPEATS):
            number = search.suggest()
            if search.is_new(number):
                return number
        number = search.neighbour()
        if number is None and self.settings.refine:
            number = self._refinement(search)
        return number

    def _refinement(self, search: Search) -> int | None:
        """See `Refinements`."""
        if self._refinements is None:
            self._refinements = Refinements(self.problem, search.parameters)
        config = self._refinements.next(self._trials, search.waiting, self._refined)
        if config is None:
            return None
        self._refined += 1
        return search.add(f"refinement {self._refined}", f"refinement {self._refined} around the best", config)
