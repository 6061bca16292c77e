"""Early saving of the best model of a run with a time limit: a worker that crashes late does not lose the model."""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from nc_strategies.measuring.target import Finish, MeasurementTarget
from nc_strategies.problem import Goal, Trial
from nc_strategies.runtime.files import PARTIAL
from nc_strategies.study.timebox import TimeBox

log = logging.getLogger(__name__)
SAVED_FOLDER, NEXT_FOLDER = f".model{PARTIAL}", f".next_model{PARTIAL}"
"""Hidden folders of the saved model, and of the model that is being saved to replace it."""


@dataclass(frozen=True)
class _Kept:
    finish: Finish
    path: Path


class Keeper:
    """Saves the best trial's model into a hidden folder if that takes little time compared with the trials.

    Args:
        target: Builds and saves models.
        run_dir: The run's folder.
        box: Time budget that records the seconds of saving.
        goal: Tells which trials keep the constraints.
    """

    def __init__(self, target: MeasurementTarget, run_dir: Path, box: TimeBox, goal: Goal) -> None:
        self._target, self._folder, self._box, self._goal = target, run_dir / SAVED_FOLDER, box, goal
        self._kept: _Kept | None = None
        self._spent, self._begin = 0.0, time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds spent on saving early so far."""
        return self._spent

    @property
    def finish(self) -> Finish | None:
        """The saved trial, as it was measured; None if no trial is saved."""
        return self._kept.finish if self._kept else None

    def holds(self, trial: Trial) -> bool:
        """Whether a trial's model is saved."""
        return self._kept is not None and self._kept.finish.final.trial.config == trial.config

    def due(self, best: Trial | None) -> bool:
        """Whether to save the best trial before the next one starts.

        The first trial, the first that did not stop early and the first that keeps the constraints are always saved.
        Others are saved if that takes little time.
        """
        if best is None or self.holds(best):
            return False
        if self._kept is None or (best.ok and not self._kept.finish.final.trial.ok):
            return True
        if self._goal.kept_by(best) and not self._goal.kept_by(self._kept.finish.final.trial):
            return True
        return self._box.may_save(self._spent, time.monotonic() - self._begin)

    def save(self, best: Trial) -> None:
        """Save the best trial's model.

        Raises:
            EngineError: the model cannot be saved as it was measured.
            OutOfTimeError: the run's deadline passed before the model was saved.
        """
        begin = time.monotonic()
        finish = self._target.settle(best)
        beside = self._folder.with_name(NEXT_FOLDER)
        shutil.rmtree(beside, ignore_errors=True)
        start = time.monotonic()
        path = self._target.save(finish.final, beside)
        self._box.saved(time.monotonic() - start)
        shutil.rmtree(self._folder, ignore_errors=True)
        os.replace(beside, self._folder)
        self._kept = _Kept(finish, self._folder / path.relative_to(beside))
        self._spent += time.monotonic() - begin
        log.info("trial %d is saved, in case that the engine's process is lost", best.number)

    def move(self, trial: Trial, folder: Path) -> Path | None:
        """Move a trial's model to its final folder; None if it was not saved."""
        if self._kept is None or not self.holds(trial):
            return None
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(self._folder, folder)
        path = folder / self._kept.path.relative_to(self._folder)
        self._kept = None
        return path

    def close(self) -> None:
        """Remove saved models that the run does not use."""
        remove_leftovers(self._folder.parent)
        self._kept = None


def remove_leftovers(run_dir: Path) -> None:
    """Remove the models that a `Keeper` has saved into a run's folder, also those of a killed run."""
    for name in (SAVED_FOLDER, NEXT_FOLDER):
        shutil.rmtree(run_dir / name, ignore_errors=True)
