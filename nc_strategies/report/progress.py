"""Progress of a run on a terminal."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nc_strategies.problem import Trial
from nc_strategies.report.workers import short
from nc_strategies.study.study import Study, StudyListener

REDRAW_SECONDS = 0.1
"""Least seconds between two lines of trials: drawing takes a millisecond, and trials may end more often than a reader
can follow."""


class ProgressLine(StudyListener):
    """Stage, finished trials, best so far and time left, in one line on standard error.

    Events redraw the line. A thread of its own would disturb timing.
    """

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[best]}"),
            console=Console(file=sys.stderr),
            transient=True,
            auto_refresh=False,
        )
        self._task = self._progress.add_task("starting", total=None, left="", best="", workers="")
        self._limit = 0
        self._drawn = -math.inf
        self._stage: str | None = None
        self._shared = False

    def __enter__(self) -> ProgressLine:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _show(self, **changes: Any) -> None:
        self._progress.update(self._task, refresh=True, **changes)
        self._drawn = time.monotonic()

    def _is_due(self) -> bool:
        return time.monotonic() - self._drawn >= REDRAW_SECONDS

    def stage(self, text: str) -> None:
        """See `StudyListener.stage`."""
        self._show(description=text, left="")

    def notice(self, text: str) -> None:
        """See `StudyListener.notice`. The notice is a permanent line above the progress line."""
        self._progress.console.print(f"warning: {text}", markup=False, highlight=False)

    def started(self, study: Study, max_trials: int, timeout: float) -> None:
        """See `StudyListener.started`."""
        self._limit = max_trials
        self._show(total=max_trials or None)

    def trial_started(self, number: int, stage: str) -> None:
        """See `StudyListener.trial_started`."""
        if self._is_due() or stage != self._stage:
            self._stage = stage
            self._show(description=stage or "tuning")

    def trial_finished(self, study: Study, trial: Trial) -> None:
        """See `StudyListener.trial_finished`."""
        if not self._is_due() and len(study.trials) != self._limit:
            return
        self._show(completed=len(study.trials), left=self._left(study), best=_best(study))

    def workers(self, study: Study) -> None:
        """See `StudyListener.workers`."""
        if not self._shared:
            self._shared = True
            self._progress.columns = (*self._progress.columns, TextColumn("{task.fields[workers]}"))
        self._show(workers=short(study.workers))

    def _left(self, study: Study) -> str:
        if study.box is None:
            return ""
        left = study.box.remaining(max(0, self._limit - len(study.trials)) if self._limit else None)
        return f"at most {_clock(left)} left" if math.isfinite(left) else ""


def _best(study: Study) -> str:
    best = study.best
    done = study.latest(best) if best is not None else None
    if done is None:
        return ""
    mark = "met" if study.goal.met(done) else "not met"
    return f"best: {done.metric('accuracy'):.4f} at {1 / done.ratio('latency'):.2f}x ({mark})"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
