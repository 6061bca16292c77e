"""The strategies ``tpe``, ``gp``, ``nsga2``, ``cmaes`` and ``optuna``."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from optuna.trial import FrozenTrial, TrialState, create_trial

from nc_strategies.api import Config, Problem, Strategy, Trial
from nc_strategies.api import TrialState as OurState
from nc_strategies_optuna import study as store
from nc_strategies_optuna.ask import Answer, ask, seed_of
from nc_strategies_optuna.estimate import estimate
from nc_strategies_optuna.known import KnownPoint, known_points, ladder
from nc_strategies_optuna.outcome import COST, LOSS, Outcome
from nc_strategies_optuna.parameters import Assignments, Parameters
from nc_strategies_optuna.refine import refinement, refining
from nc_strategies_optuna.samplers import choose
from nc_strategies_optuna.settings import SamplerSettings, TpeSettings
from nc_strategies_optuna.study import State, Study

log = logging.getLogger("nc_strategies.optuna")
MARK, NOTE, OPERATORS, TRIAL = "kind", "note", "int8_operators", "trial"
"""Attributes of a trial in the study."""
CONSTRAINTS = "constraints"
"""Start of the attributes in which Optuna keeps a trial's constraints, which follow from its outcome."""
MOST_REPEATS = 8
"""Suggestions in a row for configurations that were tried, after which a neighbour of the last is tried instead."""


@dataclass
class _Entry:
    """A trial of the study."""

    running: FrozenTrial
    config: Config
    outcome: Outcome | None = None

    @property
    def frozen(self) -> FrozenTrial:
        """As a sampler sees it."""
        return self.running if self.outcome is None else self.outcome.learnt(self.running)


@dataclass
class _Begun:
    """What needs the estimates."""

    parameters: Parameters
    study: Study
    first: Iterator[KnownPoint]
    earlier: deque[int]
    entries: list[_Entry] = field(default_factory=list)


class OptunaStrategy(Strategy):
    """Searches groups of operators with a sampler of Optuna, then single operators around the best.

    1. fp32 is told as it was measured. Int8 everywhere is tried, then what the estimates expect to be the best.
    2. The sampler suggests how many operators of each group, alike in loss for what they save, run in int8, and with
       which graph-wide choices. A suggestion for a configuration that was tried gets its outcome.
    3. In the last part of the budget, single operators change sides around the best trial, by prices learnt from all
       trials.

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
        baseline = Trial(0, problem.space.all_float(), OurState.OK, problem.baseline)
        self._trials: dict[str, Trial] = {baseline.config.fingerprint: baseline}
        self._waiting: dict[str, list[int]] = {}
        self._proposed = 0
        self._refined = 0
        self._begun: _Begun | None = None
        if self.settings.storage is not None and self.settings.study_name is not None:
            self._begin()

    def close(self) -> None:
        """See `Strategy.close`."""
        if self._begun is not None:
            self._begun.study.close()

    def propose(self) -> Config | None:
        """See `Strategy.propose`."""
        if self._begun is None and not self._proposed:
            config: Config | None = self.problem.space.default()
            self.note, self.stage = "int8 everywhere", "known"
        else:
            begun = self._begun or self._begin()
            number = self._replayed(begun)
            if number is None:
                number = self._next(begun)
            if number is None:
                self.ended = f"{self.engine} and the refinement suggest only configurations that were tried"
                return None
            entry = begun.entries[number]
            config, self.note = entry.config, entry.running.user_attrs[NOTE]
            self.stage = entry.running.user_attrs[MARK].split()[0]
        self._proposed += 1
        return config

    def observe(self, trial: Trial) -> None:
        """See `Strategy.observe`."""
        fingerprint = trial.config.fingerprint
        self._trials.setdefault(fingerprint, trial)
        for number in self._waiting.pop(fingerprint, []):
            self._finish(number, self._trials[fingerprint])

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
        else:
            parameters = Parameters.from_record(problem.space, state.parameters)
        if url is None and problem.state_dir is not None:
            url = f"sqlite:///{(problem.state_dir / store.DATABASE).absolute()}"
        names = [LOSS, COST] if self._choice.traits.two_objectives else [COST]
        about = {"strategy": settings.name, "sampler": self.engine, **problem.metadata}
        study = Study(url, state.study_name, state.mark, names, about, problem.notice)
        state.write(problem.state_dir)
        begun = self._begun = _Begun(parameters, study, self._opening(parameters), deque(range(len(study.stored))))
        begun.entries = [self._read(parameters, trial) for trial in study.stored]
        if not begun.entries:
            self._add(begun, "known fp32", "fp32 as it was measured", problem.space.all_float(), parameters.all_float())
        return begun

    def _opening(self, parameters: Parameters, skip: str = "") -> Iterator[KnownPoint]:
        """What is tried before the sampler suggests, behind the point that an earlier process tried last."""
        yield from known_points(parameters, self.problem, self._trials, skip)
        yield from ladder(parameters, self.problem, self._trials, skip)

    def _read(self, parameters: Parameters, stored: FrozenTrial) -> _Entry:
        """A trial that an earlier process has stored."""
        flags = stored.user_attrs[OPERATORS]
        config = parameters.compose(
            [i for i, flag in enumerate(flags) if flag == "1"],
            parameters.values_of(self._choice.assignments(parameters, stored.params)),
        )
        running = create_trial(
            state=TrialState.RUNNING,
            params=stored.params,
            distributions=stored.distributions,
            user_attrs=stored.user_attrs,
            system_attrs={k: v for k, v in stored.system_attrs.items() if not k.startswith(CONSTRAINTS)},
        )
        return _Entry(running, config)

    def _replayed(self, begun: _Begun) -> int | None:
        """What an earlier process suggested, in its order: finished trials, and those it left open."""
        while begun.earlier:
            number = begun.earlier.popleft()
            entry = begun.entries[number]
            mark = entry.running.user_attrs[MARK]
            if mark.startswith("known") and mark != "known fp32":
                begun.first = self._opening(begun.parameters, mark)
            self._refined += mark.startswith("refinement")
            if not self._expect(number):
                return number
        return None

    def _next(self, begun: _Begun) -> int | None:
        """Number of a new trial whose configuration was not tried; None where nothing new is found."""
        if refining(self.problem, self._proposed, self.settings.refine):
            number = self._refinement(begun)
            if number is not None:
                return number
        else:
            for point in begun.first:
                near = point.assignments or begun.parameters.nearest(point.config)
                number = self._add(begun, point.mark, point.note, point.config, near)
                if not self._known(begun, number):
                    return number
        for _ in range(MOST_REPEATS):
            number = self._suggestion(begun)
            if not self._known(begun, number):
                return number
        number = self._neighbour(begun)
        if number is None and self.settings.refine:
            number = self._refinement(begun)
        return number

    def _suggestion(self, begun: _Begun) -> int:
        answer = self._ask(begun)
        assignments = self._choice.assignments(begun.parameters, answer.params)
        config = begun.parameters.config(assignments)
        note = f"suggestion {len(begun.entries)} of {self.engine}"
        return self._add(begun, "suggestion", note, config, assignments, answer)

    def _neighbour(self, begun: _Begun) -> int | None:
        """A trial with one parameter changed, at random, of the latest trial that has such a neighbour left."""
        rng = np.random.default_rng([self._seed, len(begun.entries)])
        parameters = begun.parameters
        tops = parameters.tops()
        for place in reversed(range(len(begun.entries))):
            start = self._choice.assignments(parameters, begun.entries[place].running.params)
            changes = [(n, v) for n, top in tops.items() for v in range(top + 1) if v != start[n]]
            for name, value in (changes[i] for i in rng.permutation(len(changes))):
                assignments = {**start, name: value}
                config = parameters.config(assignments)
                if config.fingerprint not in self._trials and config.fingerprint not in self._waiting:
                    return self._add(begun, "neighbour", f"a neighbour of suggestion {place}", config, assignments)
        return None

    def _refinement(self, begun: _Begun) -> int | None:
        config = refinement(self.problem, begun.parameters, self._trials, self._waiting, self._refined)
        if config is None:
            return None
        self._refined += 1
        note = f"refinement {self._refined} around the best"
        return self._add(begun, f"refinement {self._refined}", note, config, begun.parameters.nearest(config))

    def _ask(self, begun: _Begun) -> Answer:
        seed = self._seed if self._choice.traits.one_seed else seed_of(self._seed, len(begun.entries))
        space = self._choice.space(begun.parameters)
        return ask(
            self._choice.make(seed, space),
            self._choice.directions(),
            space,
            [entry.frozen for entry in begun.entries],
            begun.study.attrs,
        )

    def _add(
        self,
        begun: _Begun,
        mark: str,
        note: str,
        config: Config,
        assignments: Assignments,
        answer: Answer | None = None,
    ) -> int:
        """A new trial of the study.

        Where the sampler works in generations, a trial that it did not suggest takes the place of one that it would
        have.
        """
        space = self._choice.space(begun.parameters)
        params = self._choice.params(begun.parameters, assignments)
        if answer is None:
            answer = self._ask(begun) if self._choice.traits.generations else Answer(params)
        inside = set(begun.parameters.int8_tied_ops(config))
        flags = "".join("1" if i in inside else "0" for i in range(len(begun.parameters.estimate.tied_ops)))
        running = create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=space,
            user_attrs={MARK: mark, NOTE: note, OPERATORS: flags},
            system_attrs=answer.trial_attrs,
        )
        number = len(begun.entries)
        begun.entries.append(_Entry(running, config))
        known = self._trials.get(config.fingerprint)
        if known is not None:
            self._settle(begun.entries[number], known)
        begun.study.add(self._shown(begun.entries[number]), answer.study_attrs)
        if known is None:
            self._waiting.setdefault(config.fingerprint, []).append(number)
        return number

    def _expect(self, number: int) -> bool:
        """Whether the outcome of a trial of an earlier process is known or awaited already."""
        assert self._begun is not None
        fingerprint = self._begun.entries[number].config.fingerprint
        if fingerprint in self._trials:
            self._finish(number, self._trials[fingerprint])
            return True
        self._waiting.setdefault(fingerprint, []).append(number)
        return len(self._waiting[fingerprint]) > 1

    def _known(self, begun: _Begun, number: int) -> bool:
        """Whether a trial's configuration was tried, or is being tried as another trial."""
        fingerprint = begun.entries[number].config.fingerprint
        return begun.entries[number].outcome is not None or self._waiting.get(fingerprint, [number])[0] != number

    def _finish(self, number: int, trial: Trial) -> None:
        assert self._begun is not None
        entry = self._begun.entries[number]
        self._settle(entry, trial)
        stored = self._begun.study.stored
        if number >= len(stored) or not stored[number].state.is_finished():
            self._begun.study.finish(number, self._shown(entry))

    def _settle(self, entry: _Entry, trial: Trial) -> None:
        entry.outcome = Outcome.of(self.problem, trial, self._choice.traits)
        entry.running.set_user_attr(TRIAL, trial.number)

    @staticmethod
    def _shown(entry: _Entry) -> FrozenTrial:
        return entry.running if entry.outcome is None else entry.outcome.frozen(entry.running)
