"""Hooks that a plugin may implement. Each hook is optional."""

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
"""Marks a function of a plugin as the implementation of the hook with the same name."""


@hookspec
def ncs_components() -> list[Component]:  # type: ignore[empty-body]
    """Return the components of this distribution. It is called at every start, so it must import no heavy package."""


@hookspec
def ncs_config_paths() -> list[str]:  # type: ignore[empty-body]
    """Return search paths of Hydra configuration files, such as ``pkg://my_package.conf``."""


@hookspec
def ncs_study_started(study: Any, config: Mapping[str, Any], notice: Callable[[str], None]) -> None:
    """Called after fp32 is measured, before the first trial.

    Args:
        study: The `nc_strategies.study.Study` at its start.
        config: The run's whole configuration.
        notice: Shows one sentence to the user at once.
    """


@hookspec
def ncs_trial_finished(study: Any, trial: Trial) -> None:
    """Called after a trial was measured or failed and was written to the journal; `study` is the study so far."""


@hookspec
def ncs_study_finished(study: Any) -> None:
    """Called after a run has ended and its result is written."""
