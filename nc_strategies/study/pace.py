"""Rules for when trials may start: always, or as long as they fit into the run's time budget."""

from __future__ import annotations

import logging
from collections.abc import Callable

from nc_strategies.errors import EngineError, OutOfTimeError
from nc_strategies.measuring.target import MeasurementTarget
from nc_strategies.problem import Trial
from nc_strategies.study.keeper import Keeper
from nc_strategies.study.study import Study
from nc_strategies.study.timebox import TimeBox

log = logging.getLogger(__name__)


class Pace:
    """Trials may start at any time."""

    def room(self) -> bool:
        """Whether there is time for another trial."""
        return True

    def prepare(self) -> bool:
        """Prepare for a proposed trial; False if there is no longer time for it."""
        return True

    def finished(self, trial: Trial) -> None:
        """Notify of a trial that has ended or was taken from an earlier run."""


class BoxedPace(Pace):
    """A trial may start if the trial and the end of the run are expected to fit into the time budget.

    Args:
        box: The run's time budget.
        target: Receives the deadline of each trial.
        study: Its best trial is saved before another one starts.
        keeper: Saves the best trial; None if the engine runs in the run's own process.
        thinking: Returns the seconds that the strategy takes per proposal.
    """

    def __init__(
        self,
        box: TimeBox,
        target: MeasurementTarget,
        study: Study,
        keeper: Keeper | None,
        thinking: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._box, self._target, self._study, self._keeper = box, target, study, keeper
        self._thinking = thinking

    def room(self) -> bool:
        """See `Pace.room`."""
        self._box.thinking = self._thinking()
        best = self._study.best
        save = self._keeper is not None and self._keeper.due(best)
        return self._box.trial_fits(best is not None, self._target.prepared(), save)

    def prepare(self) -> bool:
        """See `Pace.prepare`."""
        if not self.room():
            return False
        self._target.until(self._box.deadline, self._box.patience)
        return self._save_best() and self.room()

    def _save_best(self) -> bool:
        """Save the best trial if it is due; False if the deadline passed before."""
        best = self._study.best
        if self._keeper is not None and best is not None and self._keeper.due(best):
            try:
                self._keeper.save(best)
            except OutOfTimeError:
                return False
            except EngineError as error:
                log.warning("trial %d could not be saved early: %s", best.number, error)
        return True

    def finished(self, trial: Trial) -> None:
        """See `Pace.finished`."""
        if trial.evaluation is not None:
            self._box.trial_measured(trial.evaluation)
        # The best trial is saved while the engine still has its graph: an estimate that exceeds its time ends the
        # engine's process, and a new one may need more time than is left only to get so far again.
        if trial.ok and self._box.limited and self._target.prepared():
            self._target.until(self._box.deadline, self._box.patience)
            self._save_best()
