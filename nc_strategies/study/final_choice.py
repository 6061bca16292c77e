"""The choice of the model that a run returns: the best trials, measured again as thoroughly as time allows."""

from __future__ import annotations

import logging
from dataclasses import replace
from operator import itemgetter

from nc_strategies.errors import OutOfTimeError
from nc_strategies.measuring.finalists import FINALISTS
from nc_strategies.measuring.target import Finish, MeasurementTarget
from nc_strategies.problem import Trial, TrialState
from nc_strategies.runtime.clock import add_seconds
from nc_strategies.study.keeper import Keeper
from nc_strategies.study.study import Study, StudyListener
from nc_strategies.study.timebox import TimeBox

log = logging.getLogger(__name__)
CANDIDATES = 6
"""Maximum number of trials that are timed side by side again because each may be the fastest within timing noise."""
FINAL_TIE = 0.015
"""Relative difference in latency that counts as none between finalists, which get at least 300 timed runs."""


class FinalChoice:
    """Measures the best trials of a study again, and chooses among them.

    Args:
        study: The study; gets the final measurements, and the seconds that they took.
        target: Measures the models.
        box: The run's time budget.
        listener: Notified of the measurement, or of a model that cannot be saved in time.
        keeper: Has saved the best trial early; None if nothing is saved early.
    """

    def __init__(
        self, study: Study, target: MeasurementTarget, box: TimeBox, listener: StudyListener, keeper: Keeper | None
    ) -> None:
        self._study, self._target, self._box, self._listener, self._keeper = study, target, box, listener, keeper
        self._finishes: list[Finish] = []

    def chosen(self) -> Finish | None:
        """The model that the run returns, measured now unless `confirm` has measured it; None without a model."""
        study = self._study
        if study.stop_reason == "met":
            return self._finishes[-1]
        rest = _unconfirmed(study)
        finish, best = self._preferred(rest)
        if best is None:
            return finish
        if study.stop_reason == "interrupted":
            return self._settle(best)
        try:
            self._measure_again(self._finalists(best, rest))
        except OutOfTimeError as error:
            log.warning("the best trial is not measured again: %s", error)
            return self._settle(best)
        return self._preferred([])[0]

    def _settle(self, best: Trial) -> Finish | None:
        """The best trial as it was measured, or the best saved one if there is no time to build another model."""
        kept = self._keeper.finish if self._keeper is not None else None
        if self._keeper is not None and self._keeper.holds(best):
            return kept
        target, box = self._target, self._box
        if target.prepared() and kept is None:
            return target.settle(best)
        if not box.limited or box.settling_fits(target.prepared()):
            target.until(box.end, box.patience)
            try:
                return target.settle(best)
            except OutOfTimeError as error:
                log.warning("trial %d cannot be saved: %s", best.number, error)
            finally:
                target.until(0.0)
        saved = "no model" if kept is None else f"trial {kept.final.trial.number}, which was saved before,"
        self._listener.notice(
            f"{saved} is returned: building the model of trial {best.number}, the best, needs more time than is left "
            f"of tuning.timeout={box.timeout:g}; with more, the same command goes on from here"
        )
        return kept

    def _preferred(self, trials: list[Trial]) -> tuple[Finish | None, Trial | None]:
        """The best of the final measurements so far and of some trials: a measurement, a trial, or neither."""
        finals = [replace(f.final.trial, state=TrialState.OK, evaluation=f.final.evaluation) for f in self._finishes]
        best = self._study.goal.best([*finals, *trials])
        at = next((i for i, trial in enumerate(finals) if trial is best), None)
        return (None, best) if at is None else (self._finishes[at], None)

    def confirm(self) -> bool:
        """Measure the best trial and its equals as at the end of a run.

        Returns:
            Whether the chosen model meets the goal.

        Raises:
            OutOfTimeError: there is no time to measure them.
        """
        study = self._study
        rest = _unconfirmed(study)
        best = study.goal.best(rest)
        assert best is not None, "there are candidates"
        final = self._measure_again(self._finalists(best, rest)).final
        met = study.goal.met(final.evaluation)
        log.info("trial %d, measured again, %s the goal", final.trial.number, "meets" if met else "does not meet")
        return met

    def _measure_again(self, finalists: list[Trial]) -> Finish:
        """Measure finalists as thoroughly as time allows.

        Raises:
            OutOfTimeError: there is no time to measure them.
        """
        study, target, box, ending = self._study, self._target, self._box, None
        if box.limited:
            ending = box.ending(len(finalists), not finalists[0].ok, target.prepared())
            if ending is None:
                raise OutOfTimeError(f"tuning.timeout={box.timeout:g} leaves no time for it")
            log.info(
                "the end has time for %d finalists, %d timed runs%s",
                ending.finalists,
                ending.runs,
                "" if ending.compare else ", no evaluation beside fp32",
            )
        self._listener.stage("measuring the best again")
        target.until(box.deadline, box.patience)
        try:
            finish = target.finish(finalists, study.goal, FINAL_TIE, ending)
        finally:
            target.until(0.0)
        add_seconds(study.seconds, finish.final.seconds)
        study.workers = target.workers()
        self._finishes.append(finish)
        study.confirmed.update(finish.final.finalists)
        return finish

    def _finalists(self, best: Trial, trials: list[Trial]) -> list[Trial]:
        """The best of some trials, and the trials that their timings cannot distinguish from it."""
        study = self._study
        assert best.evaluation is not None
        if not best.ok:
            # Every trial was stopped early: those estimated closest to the goal are evaluated on all samples.
            pruned = [(study.goal.violation(t.evaluation), t) for t in trials if t.evaluation is not None]
            return [t for _, t in sorted(pruned, key=itemgetter(0))[:FINALISTS]]
        if study.goal.violation(best.evaluation) > 0:
            return [best]
        cost = study.goal.cost(best.evaluation) * (1 + study.goal.tie)
        level = [
            t
            for t in trials
            if t.ok
            and t.evaluation is not None
            and study.goal.feasible(t.evaluation)
            and study.goal.cost(t.evaluation) <= cost * (1 + study.goal.spread(t.evaluation))
        ]
        unique: dict[str, Trial] = {}
        for trial in [best, *sorted(level, key=lambda t: study.goal.cost(t.evaluation))]:  # type: ignore[arg-type]
            assert trial.evaluation is not None
            unique.setdefault(trial.evaluation.graph, trial)
        return list(unique.values())[:CANDIDATES]


def _unconfirmed(study: Study) -> list[Trial]:
    """Measured trials whose executed graph has no final measurement."""
    return [t for t in study.trials if t.evaluation is not None and t.evaluation.graph not in study.confirmed]
