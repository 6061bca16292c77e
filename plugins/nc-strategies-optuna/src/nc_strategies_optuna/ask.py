"""One suggestion of an Optuna sampler, from nothing but the trials it may know."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

_SHARED: Any = type("SharedTrial", (FrozenTrial,), {"__deepcopy__": lambda self, memo: copy(self)})


def shared(trial: FrozenTrial) -> FrozenTrial:
    """The same trial, whose deep copies share its values.

    A storage in memory copies each trial that it is given, which takes longer than a suggestion.

    Args:
        trial: It must not change any more.
    """
    made: FrozenTrial = _SHARED.__new__(_SHARED)
    made.__dict__.update(trial.__dict__)
    return made


@dataclass(frozen=True)
class Answer:
    """What a sampler suggests.

    Args:
        params: Value of each parameter.
        trial_attrs: What the sampler notes about the trial and reads from it later, such as its generation.
        study_attrs: What the sampler has noted about the study so far.
    """

    params: dict[str, Any]
    trial_attrs: dict[str, Any] = field(default_factory=dict)
    study_attrs: dict[str, Any] = field(default_factory=dict)


def ask(
    sampler: BaseSampler,
    directions: Sequence[str],
    space: Mapping[str, BaseDistribution],
    trials: Sequence[FrozenTrial],
    study_attrs: Mapping[str, Any] | None = None,
) -> Answer:
    """The next suggestion.

    A function of its arguments, so that a restarted process goes on where the killed one was: the sampler works on a
    study in memory that holds these trials.

    Args:
        sampler: A sampler that has suggested nothing yet.
        directions: ``minimize`` or ``maximize``, one an objective.
        space: The parameters.
        trials: The trials so far, in their order; running ones count where the sampler looks at them.
        study_attrs: What earlier answers noted about the study.
    """
    with quiet():
        storage = InMemoryStorage()
        study = optuna.create_study(storage=storage, directions=list(directions), sampler=sampler)
        number = storage.get_study_id_from_name(study.study_name)
        for key, value in (study_attrs or {}).items():
            storage.set_study_system_attr(number, key, value)
        study.add_trials([shared(trial) for trial in trials])
        params = dict(study.ask(dict(space)).params)
        made = storage.get_all_trials(number, deepcopy=False)[-1]
        return Answer(params, dict(made.system_attrs), dict(storage.get_study_system_attrs(number)))


def seed_of(*parts: object) -> int:
    """A seed of 32 bits that follows from some values."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, parts)).encode()).digest()[:4], "little")


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's messages to the terminal about what a run does not decide: experimental arguments, studies."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
