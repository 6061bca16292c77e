"""Recording of a run outside its own folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Tracker:
    """Records a run elsewhere, for example on a server or in a database.

    A subclass implements observer hooks (``ncs_study_started``, ``ncs_trial_finished``, ``ncs_study_finished``) as
    methods marked with `hookimpl`. A run calls the hooks of the configured tracker. An exception in a hook is logged
    and does not end the run; a hook that blocks makes the run wait.

    Args:
        settings: The tracker's settings, an instance of the schema that the tracker is registered with.
    """

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def close(self) -> None:
        """Called once after the run, however it has ended."""


@dataclass
class NoTrackerSettings:
    """Settings of `NoTracker`, which has none beside its name."""

    name: str = "none"


class NoTracker(Tracker):
    """Records nothing."""
