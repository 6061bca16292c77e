"""Where a run is recorded beside its own folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Tracker:
    """Records a run elsewhere: on a server, in a database.

    A subclass implements observer hooks (``ncs_study_started``, ``ncs_trial_finished``, ``ncs_study_finished``) as
    methods marked with `hookimpl`; those of the tracker that is chosen are called for that run. One that raises is
    logged and never breaks the run; one that waits makes the run wait.

    Args:
        settings: The tracker's own settings, an instance of the schema it is registered with.
    """

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def close(self) -> None:
        """Called once at the end, however the run has ended."""


@dataclass
class NoTrackerSettings:
    """Settings of `NoTracker`: none."""

    name: str = "none"


class NoTracker(Tracker):
    """Records nothing."""
