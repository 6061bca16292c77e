"""What a plugin may implement. Each hook is optional."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

from nc_strategies.registry.component import Component

if TYPE_CHECKING:
    from nc_strategies.problem import Trial

GROUP = "nc_strategies"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)
"""Marks a function of a plugin as the implementation of the hook of its name."""


@hookspec
def ncs_components() -> list[Component]:  # type: ignore[empty-body]
    """Components this distribution offers; called at every start, so it imports nothing heavy."""


@hookspec
def ncs_config_paths() -> list[str]:  # type: ignore[empty-body]
    """Places of Hydra configuration files to search, such as ``pkg://my_package.conf``."""


@hookspec
def ncs_study_started(study: Any, config: Mapping[str, Any], notice: Callable[[str], None]) -> None:
    """fp32 is measured, trials begin; `config` is all the run was told, `notice` tells the user one sentence now."""


@hookspec
def ncs_trial_finished(study: Any, trial: Trial) -> None:
    """A trial was measured or failed, and is in the journal; `study` is the `nc_strategies.study.Study` so far."""


@hookspec
def ncs_study_finished(study: Any) -> None:
    """A run has ended and its result is written."""
