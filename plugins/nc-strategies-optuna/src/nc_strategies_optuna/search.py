"""The trials of a search as a sampler and a storage see them, and what is suggested next."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from optuna.trial import FrozenTrial, TrialState, create_trial

from nc_strategies.api import Config, InputError, Problem, Trial
from nc_strategies_optuna.ask import Answer, ask, seed_of
from nc_strategies_optuna.outcome import Outcome
from nc_strategies_optuna.parameters import Assignments, Parameters
from nc_strategies_optuna.samplers import Choice
from nc_strategies_optuna.study import Study

MARK, NOTE, OPERATORS, TRIAL = "kind", "note", "int8_operators", "trial"
"""Attributes of a trial in the study."""
CONSTRAINTS = "constraints"
"""Start of the attributes in which Optuna keeps a trial's constraints, which follow from its outcome."""


@dataclass
class Entry:
    """A trial of the study.

    Args:
        running: The trial without its outcome.
        config: Its configuration.
        outcome: What came of it; None while it is running.
    """

    running: FrozenTrial
    config: Config
    outcome: Outcome | None = None
    _learnt: FrozenTrial | None = field(default=None, init=False, repr=False)

    @property
    def mark(self) -> str:
        """Its kind and what tells it apart: ``known int8``, ``suggestion``, ``refinement 2``."""
        return str(self.running.user_attrs[MARK])

    @property
    def note(self) -> str:
        """Why it was proposed."""
        return str(self.running.user_attrs[NOTE])

    @property
    def shown(self) -> FrozenTrial:
        """As the storage holds it."""
        return self.running if self.outcome is None else self.outcome.frozen(self.running)

    @property
    def learnt(self) -> FrozenTrial:
        """As a sampler sees it."""
        if self.outcome is None:
            return self.running
        if self._learnt is None:
            self._learnt = self.outcome.learnt(self.running)
        return self._learnt


class Search:
    """Trials of a study, in the order of their suggestion.

    Args:
        problem: What is to be solved.
        choice: The sampler.
        parameters: What it searches.
        study: Where trials are stored; those of an earlier process are read from it.
        seed: Seed of the run.
        trials: Finished trials by fingerprint, to which the strategy adds.
        pending: Fingerprints of configurations that are being tried since before the search began.

    Raises:
        InputError: the study has trials that no run of this strategy has stored.
    """

    def __init__(
        self,
        problem: Problem,
        choice: Choice,
        parameters: Parameters,
        study: Study,
        seed: int,
        trials: Mapping[str, Trial],
        pending: Collection[str] = (),
    ) -> None:
        self.problem, self.choice, self.parameters, self.study = problem, choice, parameters, study
        self._seed, self._trials, self._pending = seed, trials, pending
        self._space = choice.space(parameters)
        self.waiting: dict[str, list[int]] = {}
        """Numbers of the trials that wait for a configuration's outcome, by its fingerprint."""
        self.entries = [self._read(trial) for trial in study.stored]

    def _read(self, stored: FrozenTrial) -> Entry:
        """A trial that an earlier process has stored."""
        if not {MARK, NOTE, OPERATORS} <= set(stored.user_attrs):
            raise InputError(
                "run_dir", f"its Optuna study holds a trial of another program, number {stored.number}", "use another"
            )
        config = self.parameters.compose(
            [place for place, flag in enumerate(stored.user_attrs[OPERATORS]) if flag == "1"],
            self.parameters.values_of(self.choice.assignments(self.parameters, stored.params)),
        )
        running = create_trial(
            state=TrialState.RUNNING,
            params=stored.params,
            distributions=stored.distributions,
            user_attrs=stored.user_attrs,
            system_attrs={k: v for k, v in stored.system_attrs.items() if not k.startswith(CONSTRAINTS)},
        )
        return Entry(running, config)

    def suggest(self) -> int:
        """Number of a trial that the sampler suggests."""
        answer = self._ask()
        assignments = self.choice.assignments(self.parameters, answer.params)
        note = f"suggestion {len(self.entries)} of {self.choice.name}"
        return self.add("suggestion", note, self.parameters.config(assignments), assignments, answer)

    def neighbour(self) -> int | None:
        """Number of a trial with one parameter changed, at random, of the latest that has such a neighbour left."""
        rng = np.random.default_rng([self._seed, len(self.entries)])
        tops = self.parameters.tops()
        for place in reversed(range(len(self.entries))):
            start = self.choice.assignments(self.parameters, self.entries[place].running.params)
            changes = [(n, v) for n, top in tops.items() for v in range(top + 1) if v != start[n]]
            for name, value in (changes[i] for i in rng.permutation(len(changes))):
                assignments = {**start, name: value}
                config = self.parameters.config(assignments)
                if config.fingerprint not in self._trials and config.fingerprint not in self.waiting:
                    return self.add("neighbour", f"a neighbour of trial {place} of the study", config, assignments)
        return None

    def add(
        self, mark: str, note: str, config: Config, assignments: Assignments | None = None, answer: Answer | None = None
    ) -> int:
        """Number of a new trial; where its configuration was tried, with that outcome.

        Where the sampler works in generations, a trial that it did not suggest takes the place of one that it would
        have.

        Args:
            mark: See `Entry.mark`.
            note: See `Entry.note`.
            config: The configuration.
            assignments: The same in the parameters; None where these may not be able to express it.
            answer: What the sampler noted about it; None of a trial that it did not suggest.
        """
        chosen = self.parameters.nearest(config) if assignments is None else assignments
        if answer is None:
            answer = self._ask() if self.choice.traits.generations else Answer({})
        inside = set(self.parameters.int8_tied_ops(config))
        flags = "".join("1" if i in inside else "0" for i in range(len(self.parameters.estimate.tied_ops)))
        running = create_trial(
            state=TrialState.RUNNING,
            params=self.choice.params(self.parameters, chosen),
            distributions=self._space,
            user_attrs={MARK: mark, NOTE: note, OPERATORS: flags},
            system_attrs=answer.trial_attrs,
        )
        number, entry = len(self.entries), Entry(running, config)
        self.entries.append(entry)
        known = self._trials.get(config.fingerprint)
        if known is None:
            self.waiting.setdefault(config.fingerprint, []).append(number)
        else:
            self._settle(entry, known)
        self.study.add(entry.shown, answer.study_attrs)
        return number

    def is_new(self, number: int) -> bool:
        """Whether a trial's configuration is neither tried nor being tried as another trial."""
        entry = self.entries[number]
        fingerprint = entry.config.fingerprint
        return entry.outcome is None and fingerprint not in self._pending and self.waiting[fingerprint][0] == number

    def expect(self, number: int) -> bool:
        """Wait for the outcome of a trial of an earlier process, or take the known one; whether it is new."""
        fingerprint = self.entries[number].config.fingerprint
        if fingerprint in self._trials:
            self._finish(number, self._trials[fingerprint])
            return False
        self.waiting.setdefault(fingerprint, []).append(number)
        return self.is_new(number)

    def observe(self, trial: Trial) -> None:
        """Tell the outcome of a trial to all that wait for it."""
        for number in self.waiting.pop(trial.config.fingerprint, []):
            self._finish(number, trial)

    def _finish(self, number: int, trial: Trial) -> None:
        entry, stored = self.entries[number], self.study.stored
        self._settle(entry, trial)
        if number >= len(stored) or not stored[number].state.is_finished():
            self.study.finish(number, entry.shown)

    def _settle(self, entry: Entry, trial: Trial) -> None:
        entry.outcome = Outcome.of(self.problem, trial, self.choice.traits)
        entry.running.set_user_attr(TRIAL, trial.number)

    def _ask(self) -> Answer:
        seed = self._seed if self.choice.traits.one_seed else seed_of(self._seed, len(self.entries))
        return ask(
            self.choice.make(seed, self._space),
            self.choice.directions(),
            self._space,
            [entry.learnt for entry in self.entries],
            self.study.attrs,
        )
