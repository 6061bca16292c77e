"""Measuring the Pareto front of a run: trials that fill its gaps, and the final timing of its points."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nc_strategies.errors import EngineError, first_line
from nc_strategies.measuring.final import Final
from nc_strategies.measuring.target import MeasurementTarget
from nc_strategies.problem import Evaluation, Problem, Trial, TrialState
from nc_strategies.runtime.secrets import redact
from nc_strategies.space import Config
from nc_strategies.study.front import (
    Front,
    FrontPoint,
    Scale,
    ordered,
    read_earlier,
    spread,
    tied,
    write,
)
from nc_strategies.study.journal import Journal
from nc_strategies.study.study import Study, StudyListener
from nc_strategies.study.timebox import TimeBox

if TYPE_CHECKING:
    from nc_strategies.strategies.ilp.search import Point, Search

log = logging.getLogger(__name__)
NOTE = "front: "
"""Beginning of the note of a trial that was measured for the front."""


@dataclass(frozen=True)
class FrontRules:
    """How much is measured for a front.

    Args:
        trials_per_point: Maximum number of trials per point asked for. Some turn out to be dominated.
        limits_per_point: Limits on the loss for which the integer program is solved, per point asked for.
        max_limits: Maximum number of such limits.
        gap_share: Distance of a candidate from the nearest measured point, relative to an even spread, from which it
            fills a gap once there are as many points as asked for.
        undecided_gap_share: The same while some of the points are only there because the losses are within the noise.
        optimism_sd: Standard deviations by which a candidate may be faster than predicted. One that measured points
            dominate even then is not measured.
        least_distance: Distance from which it is a point of its own, in the unit square of `Scale`.
        timings: Maximum number of final timings: points that turn out to be dominated in one are replaced in the next.
        open_bytes: Size of the models that are open at the same time in a timing. More of them are timed in groups,
            with fp32 in each. An engine takes about twice a model's size.
    """

    trials_per_point: int = 2
    limits_per_point: int = 3
    max_limits: int = 20
    gap_share: float = 0.6
    undecided_gap_share: float = 0.3
    optimism_sd: float = 2.0
    least_distance: float = 0.04
    timings: int = 3
    open_bytes: int = 2**30


FRONT_RULES = FrontRules()


@dataclass(frozen=True)
class _Candidate:
    """A configuration that was not measured completely, with its predicted cost and loss.

    Args:
        config: The configuration.
        cost: Predicted cost.
        least_cost: The cost that it may have at best, by the prediction's standard deviation.
        loss: Predicted loss.
        source: What proposes it, for the trial's note.
    """

    config: Config
    cost: float
    least_cost: float
    loss: float
    source: str


def _candidate(point: Point, source: str) -> _Candidate:
    least = point.cost - FRONT_RULES.optimism_sd * point.cost_sd
    return _Candidate(point.config, point.cost, least, point.loss, source)


class FrontSearch:
    """Measures a front of a study.

    Args:
        study: The study; trials are added to it.
        target: Measures the models.
        journal: Records each trial.
        box: The run's time budget.
        listener: Notified of stages and trials.
        asked: Number of points, with fp32 and the chosen model.
        tie: Relative difference in cost that counts as none with the runs of a final measurement.
        metric: Name of the accuracy metric, for the file.
        candidates: Number of trials that the final measurement times at most, for the time that it needs.
    """

    def __init__(
        self,
        study: Study,
        target: MeasurementTarget,
        journal: Journal,
        box: TimeBox,
        listener: StudyListener,
        asked: int,
        tie: float,
        metric: str,
        candidates: int,
    ) -> None:
        self.study, self.target, self.journal, self.box, self.listener = study, target, journal, box, listener
        self.asked, self.tie, self.metric, self._candidates = asked, tie, metric, candidates
        self._number = max((trial.number for trial in study.trials), default=0)
        self._timed = read_earlier(study.run_dir)
        self._short_of_time = self._unfilled = False
        self._broken: dict[str, str] = {}

    def fill(self, problem: Problem, own: Sequence[Config], seed: int) -> None:
        """Measure trials where the front has gaps.

        Args:
            problem: The tuning problem; estimates are made where no strategy has requested them.
            own: The strategy's own front, see `Strategy.front`.
            seed: Seed of the integer program.
        """
        left = FRONT_RULES.trials_per_point * self.asked
        search: Search | None = None
        while left > 0:
            points = self._spread(self.tie_of_trials)
            if not self._room(len(points) + 1):
                self._unfilled = True
                return
            search = search or self._search(problem, seed)
            candidate = self._next(points, self._options(own, search))
            if candidate is None:
                return
            trial = self._trial(candidate.config, candidate.source)
            left -= 1
            if search is not None:
                search.tell(trial)

    @property
    def tie_of_trials(self) -> float:
        """Relative difference in cost that counts as none between two trials."""
        return self.study.goal.tie

    def _room(self, points: int) -> bool:
        self.target.until(self.box.deadline, self.box.patience)
        return self.box.front_trial_fits(points, self._candidates, self.target.prepared())

    def _search(self, problem: Problem, seed: int) -> Search | None:
        """The integer program on what the trials have shown; None if its estimates cannot be made."""
        # Imported here: a run without a front needs no solver, and importing it takes a second.
        from nc_strategies.strategies.ilp.search import Search
        from nc_strategies.strategies.ilp.settings import IlpSettings

        try:
            search = Search(IlpSettings(), problem, seed, {})
        except EngineError as error:
            log.warning("the gaps of the front are not filled: %s", error)
            return None
        # A configuration that was stopped early first counts with its complete measurement.
        for trial in sorted(self.study.trials, key=lambda t: t.ok):
            search.tell(trial)
        return search

    def _options(self, own: Sequence[Config], search: Search | None) -> Iterator[_Candidate]:
        """Configurations that were neither measured completely nor failed: the strategy's own, then the program's."""
        done = {t.config.fingerprint for t in self.study.trials if t.ok or t.state is TrialState.FAILED}
        all_float = self.study.space.all_float().fingerprint
        if search is None:
            return
        search.fit()
        for config in own:
            if config.fingerprint not in done and config.fingerprint != all_float:
                point = search.point(search.columns.row(config))
                yield _candidate(point, "by the strategy's own front")
        count = min(FRONT_RULES.max_limits, FRONT_RULES.limits_per_point * self.asked)
        for point in search.sweep(count):
            if point.config.fingerprint not in done and point.config.int8_ops:
                yield _candidate(point, "by the integer program")

    def _next(self, points: Sequence[FrontPoint], candidates: Iterator[_Candidate]) -> _Candidate | None:
        """The candidate that is farthest from the points, if it fills a gap; candidates that they dominate do not."""
        scale = Scale.of(points, self.study.limit)
        least = FRONT_RULES.least_distance
        if len(points) >= self.asked:
            decided = not any(p.within_noise for p in points)
            share = FRONT_RULES.gap_share if decided else FRONT_RULES.undecided_gap_share
            least = share * math.sqrt(2) / (self.asked - 1)
        best, farthest = None, least
        for candidate in candidates:
            if any(p.cost <= candidate.least_cost and p.loss + p.loss_reach < candidate.loss for p in points):
                continue
            distance = scale.distance(candidate.cost, candidate.loss, points)
            if distance > farthest:
                best, farthest = candidate, distance
        return best

    def _trial(self, config: Config, source: str) -> Trial:
        """Measure a configuration completely, and record it as a trial."""
        self._number += 1
        note = f"{NOTE}{source}"
        self.listener.trial_started(self._number, "front")
        try:
            found = self.target.measure(config, complete=True)
            trial = Trial(self._number, config, TrialState.OK, found, note=note)
        except EngineError as error:
            log.warning("trial %d failed: %s", self._number, error)
            trial = Trial(self._number, config, TrialState.FAILED, error=redact(first_line(error)), note=note)
        self.journal.append(trial)
        self.study.trials.append(trial)
        if trial.evaluation is not None:
            self.box.trial_measured(trial.evaluation)
        self.listener.trial_finished(self.study, trial)
        return trial

    def _points(self) -> list[FrontPoint]:
        """fp32, and all complete measurements, each graph once: its final timing if there is one."""
        goal, final = self.study.goal, self.study.final
        points: dict[str, FrontPoint] = {}
        # A trial of an earlier run without a front has no interval of its loss; if it was measured again, that counts.
        for trial in sorted(self.study.trials, key=lambda t: t.evaluation is None or t.evaluation.loss_ci95 is None):
            done = trial.evaluation
            if trial.ok and done is not None and done.graph not in self._broken:
                latest = self._timed.get(done.graph)
                point = FrontPoint.of_trial(replace(trial, evaluation=latest or done), goal)
                # A trial's interval may be so wide that it equals all others: the final timing has to tell them apart.
                points.setdefault(done.graph, point if latest is not None else replace(point, reach=0.0))
        if final is not None:
            trial = replace(final.trial, state=TrialState.OK, evaluation=self._chosen(final, points))
            points[final.evaluation.graph] = FrontPoint.of_trial(trial, goal, chosen=True)
        return [FrontPoint.of_fp32(self.study.baseline, goal), *points.values()]

    def _chosen(self, final: Final, points: Mapping[str, FrontPoint]) -> Evaluation:
        """Measurement of the chosen model: that beside the other points, otherwise the final one."""
        done = final.evaluation
        if done.graph in self._timed:
            return self._timed[done.graph]
        interval = final.accuracy_loss_ci95
        if interval is None and done.graph in points:
            interval = points[done.graph].evaluation.loss_ci95
        return done if interval is None else done.with_loss_ci95(interval)

    def _spread(self, tie: float, only_timed: bool = False) -> list[FrontPoint]:
        points = [p for p in self._points() if not only_timed or p.fixed or self._is_timed(p)]
        return spread(points, self.asked, self.study.limit, tie)

    def measure(self) -> Iterator[Front]:
        """Time the points of the front as finalists are timed; yield the front after each timing, and at the end.

        Points that turn out to be dominated are replaced by others, if there are others.

        Raises:
            OutOfTimeError: the run's deadline passed during a timing; what was yielded before stays valid.
        """
        self.listener.stage("measuring the front")
        for _ in range(FRONT_RULES.timings):
            todo = [p for p in self._spread(self.tie) if p.trial is not None and not self._is_timed(p)]
            for group in self._groups(self._with_intervals(todo)):
                if not self._time(group):
                    self._short_of_time = True
                yield self._front()
                if self._short_of_time:
                    break
            if not todo or self._short_of_time:
                break
        yield self._front(ended=True)

    def _is_timed(self, point: FrontPoint) -> bool:
        return point.evaluation.graph in self._timed

    def _with_intervals(self, points: Sequence[FrontPoint]) -> list[FrontPoint]:
        """Points with the interval of their loss: those of an earlier run without a front are evaluated again."""
        found = []
        for point in points:
            done, trial = point.evaluation, point.trial
            # A user's function that evaluates models counts no samples, and gives no interval.
            missing = done.loss_ci95 is None and done.samples > 0 and not point.chosen
            if trial is not None and missing and self._room(len(points) + 1):
                again = self._trial(trial.config, f"the interval of trial {trial.number}'s loss")
                if not again.ok:
                    continue
                point = FrontPoint.of_trial(again, self.study.goal)
            found.append(point)
        return found

    def _groups(self, points: Sequence[FrontPoint]) -> Iterator[list[FrontPoint]]:
        """Points whose models may be open at the same time. The chosen model is in the first group."""
        fp32 = 2 * self.study.baseline.value("size_bytes")
        group: list[FrontPoint] = []
        for point in sorted(points, key=lambda p: not p.chosen):
            size = fp32 + sum(p.evaluation.value("size_bytes") for p in [*group, point])
            if group and size > FRONT_RULES.open_bytes:
                yield group
                group = []
            group.append(point)
        if group:
            yield group

    def _time(self, points: Sequence[FrontPoint]) -> bool:
        """Time some points side by side with fp32; False if there is no time for all of them."""
        extent = self.box.front_extent(len(points), self.target.prepared())
        if extent is None:
            return False
        count, runs = extent
        trials = [p.trial for p in points[:count] if p.trial is not None]
        if self.box.limited:
            log.info("there is time for %d of %d points of the front, %d timed runs", count, len(points), runs)
            self.target.until(self.box.end - self.box.patience, self.box.patience)
        self._time_trials(trials, runs)
        return count == len(points)

    def _time_trials(self, trials: Sequence[Trial], runs: int) -> None:
        """Time trials together; one by one after an error of the engine, which is that of one of them."""
        try:
            found = self.target.time_front(trials, runs)
        except EngineError as error:
            if len(trials) == 1:
                self._drop(trials[0], error)
                return
            log.warning("%d points are timed one by one: %s", len(trials), error)
            for trial in trials:
                self._time_trials([trial], runs)
            return
        for evaluation in found:
            self._timed[evaluation.graph] = evaluation

    def _drop(self, trial: Trial, error: EngineError) -> None:
        """Leave out a point that the engine cannot time; the chosen model stays with its final measurement."""
        assert trial.evaluation is not None
        text = f"trial {trial.number} could not be timed beside fp32 again: {redact(first_line(error))}"
        log.warning("%s", text)
        self._broken[trial.evaluation.graph] = text

    def _front(self, ended: bool = False) -> Front:
        """The front of what is timed so far; written to ``front.json``."""
        points = tuple(ordered(self._spread(self.tie, only_timed=True)))
        front = Front(self.asked, points, tuple(self._notes(points)) if ended else ("the run was still going on",))
        write(self.study.run_dir, front, self.study.goal, self.metric)
        return front

    def _notes(self, points: Sequence[FrontPoint]) -> Iterator[str]:
        yield from self._broken.values()
        chosen = next((p for p in points if p.chosen), None)
        for number, point in enumerate(points, 1):
            if chosen is None or point.trial is None or point.cost >= chosen.cost or tied(point, chosen, self.tie):
                continue
            if self.study.goal.met(point.evaluation):
                yield (
                    f"point {number} of the front meets the goal too and is faster than the chosen model: "
                    f"nc-strategies export RUN_DIR --point {number} --to PATH"
                )
        if len(points) >= self.asked:
            return
        have = f"the front has {len(points)} of {self.asked} points: "
        if self._short_of_time or self._unfilled:
            yield f"{have}tuning.timeout={self.box.timeout:g} left no time for more"
        else:
            yield (
                f"{have}every other configuration that was measured is as fast as one of them within the noise, or "
                "surely less accurate than a faster one"
            )
