"""The best model of a run with a time limit, saved before the end: a worker that dies late takes no model with it."""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from nc_strategies.measuring.target import Finish, MeasurementTarget
from nc_strategies.problem import Trial
from nc_strategies.runtime.files import PARTIAL
from nc_strategies.study.timebox import TimeBox

log = logging.getLogger(__name__)
FOLDER, NEXT = f".model{PARTIAL}", f".next_model{PARTIAL}"


@dataclass(frozen=True)
class _Kept:
    finish: Finish
    path: Path


class Keeper:
    """Saves the best trial's model into a hidden folder, where that is cheap beside the trials.

    Args:
        target: Builds and saves.
        run_dir: The run's folder.
        box: Told what saving takes.
    """

    def __init__(self, target: MeasurementTarget, run_dir: Path, box: TimeBox) -> None:
        self._target, self._folder, self._box = target, run_dir / FOLDER, box
        self._kept: _Kept | None = None
        self._spent, self._begin = 0.0, time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds that saving early took so far."""
        return self._spent

    @property
    def finish(self) -> Finish | None:
        """The trial that was saved, as it was measured; None for none."""
        return self._kept.finish if self._kept else None

    def holds(self, trial: Trial) -> bool:
        """Whether a trial's model is saved."""
        return self._kept is not None and self._kept.finish.final.trial.config == trial.config

    def due(self, best: Trial | None) -> bool:
        """Whether the best trial is to be saved before the next one.

        The first is in any case, and the first that did not stop early; others are where it is cheap.
        """
        if best is None or self.holds(best):
            return False
        if self._kept is None or (best.ok and not self._kept.finish.final.trial.ok):
            return True
        return self._box.may_save(self._spent, time.monotonic() - self._begin)

    def save(self, best: Trial) -> None:
        """Save the best trial's model.

        Raises:
            EngineError: it cannot be saved as it was measured.
            OutOfTimeError: the run's time ended before.
        """
        begin = time.monotonic()
        finish = self._target.settle(best)
        beside = self._folder.with_name(NEXT)
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
        """Move a trial's model to where the run leaves it; None where it was not saved."""
        if self._kept is None or not self.holds(trial):
            return None
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(self._folder, folder)
        path = folder / self._kept.path.relative_to(self._folder)
        self._kept = None
        return path

    def close(self) -> None:
        """Remove what was saved and is not used."""
        remove_leftovers(self._folder.parent)
        self._kept = None


def remove_leftovers(run_dir: Path) -> None:
    """Remove what a `Keeper` has saved into a run's folder, also that of a run which was killed."""
    for name in (FOLDER, NEXT):
        shutil.rmtree(run_dir / name, ignore_errors=True)
