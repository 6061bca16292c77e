"""Settings, in a module that imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from nc_strategies.api import InputError

KEY = "strategy"
ENVIRONMENT, VARIABLE = "environment", "OPTUNA_STORAGE"
"""Value of `SamplerSettings.storage` that stands for the URL in an environment variable; the variable is Optuna's."""
PASSWORD_URL = re.compile(r"://[^/\s@]*:[^/\s@]*@|[?&][^=&]*(password|passwd|pwd|secret|token)[^=&]*=", re.IGNORECASE)
"""A URL with a password, before its host or in its query."""
LONGEST_STUDY_NAME = 512
"""Characters of a study's name that Optuna's tables hold."""
MOST_GROUPS = 64


@dataclass
class SamplerSettings:
    """Settings that all strategies of this plugin share.

    Args:
        sampler_options: Arguments of the sampler's class, by name.
        groups: Number of groups of operators, each a parameter; 0 for the number that suits the sampler.
        refine: Share of the budget, its last, in which single operators change around the best instead; 0 for none.
        storage: URL of the study's storage; ``environment`` for the URL in the variable ``OPTUNA_STORAGE``, which may
            hold a password; None for the file ``optuna.db`` in the run's folder.
        study_name: Name of the study; None to make one of the model's and the strategy's names.

    Raises:
        InputError: a value that is not allowed.
    """

    name: str = "tpe"
    sampler_options: dict[str, Any] = field(default_factory=dict)
    groups: int = 0
    refine: float = 0.4
    storage: str | None = None
    study_name: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.groups <= MOST_GROUPS:
            raise InputError(f"{KEY}.groups", f"is {self.groups}", f"0 to {MOST_GROUPS}")
        if not 0 <= self.refine < 1:
            raise InputError(f"{KEY}.refine", f"is {self.refine}", "0 or more, below 1")
        if self.storage is not None:
            self._check_storage(self.storage)
        if self.study_name is not None and not 0 < len(self.study_name) <= LONGEST_STUDY_NAME:
            raise InputError(
                f"{KEY}.study_name", f"has {len(self.study_name)} characters", f"1 to {LONGEST_STUDY_NAME}"
            )
        for taken, instead in (("seed", "tuning.seed"), ("constraints_func", "the goal, see tuning.tolerable_loss")):
            if taken in self.sampler_options:
                raise InputError(f"{KEY}.sampler_options.{taken}", "is set by the run", f"use {instead}")

    def _check_storage(self, url: str) -> None:
        if PASSWORD_URL.search(url):
            raise InputError(
                f"{KEY}.storage",
                "a URL with a password is refused here, where the run's own files would show it",
                f"set {VARIABLE} in the environment and {KEY}.storage={ENVIRONMENT}",
            )
        if url != ENVIRONMENT and "://" not in url:
            raise InputError(f"{KEY}.storage", f"{url!r} is no URL", "such as sqlite:///studies.db")


@dataclass
class TpeSettings(SamplerSettings):
    """Settings of ``tpe``."""

    name: str = "tpe"


@dataclass
class GpSettings(SamplerSettings):
    """Settings of ``gp``."""

    name: str = "gp"


@dataclass
class Nsga2Settings(SamplerSettings):
    """Settings of ``nsga2``."""

    name: str = "nsga2"


@dataclass
class CmaEsSettings(SamplerSettings):
    """Settings of ``cmaes``."""

    name: str = "cmaes"


@dataclass
class OptunaSettings(SamplerSettings):
    """Settings of ``optuna``.

    Args:
        sampler: Name of a class in ``optuna.samplers``, with or without its ending ``Sampler``.
    """

    name: str = "optuna"
    sampler: str = "TPESampler"
