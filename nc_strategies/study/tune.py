"""A whole run: load, calibrate, measure fp32, tune, measure the best trials again, save the chosen model."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from nc_strategies.errors import EngineError, InputError, OutOfTimeError, first_line
from nc_strategies.measuring import resolution
from nc_strategies.measuring.core import METRIC
from nc_strategies.measuring.extent import Allowance
from nc_strategies.measuring.remote.agreement import sentence as disagreement
from nc_strategies.measuring.selection import sentences
from nc_strategies.measuring.target import Measured
from nc_strategies.problem import Evaluation, Prediction, Problem, Trial, TrialState
from nc_strategies.runtime.clock import Clock, add_seconds
from nc_strategies.runtime.random_streams import Stream, generator
from nc_strategies.runtime.secrets import redact
from nc_strategies.space import Config, Space
from nc_strategies.space.space import magnitude
from nc_strategies.strategies.base import Strategy
from nc_strategies.study.estimates import Estimates
from nc_strategies.study.estimator import Estimator
from nc_strategies.study.final_choice import CANDIDATES, FINAL_TIE, FinalChoice
from nc_strategies.study.folder import RunFolder
from nc_strategies.study.front_search import FrontSearch
from nc_strategies.study.journal import Journal
from nc_strategies.study.keeper import Keeper, remove_leftovers
from nc_strategies.study.loop import TrialLoop
from nc_strategies.study.machine import TIMED, find_machine
from nc_strategies.study.pace import BoxedPace, Pace
from nc_strategies.study.setup import Setup, choose_metric, identity, make_box, make_goal, make_space
from nc_strategies.study.study import Status, Study, StudyListener

log = logging.getLogger(__name__)
T = TypeVar("T")
UNFINISHED_FACTOR = 2.0
"""Factor on the seconds of a preparation that did not end in time: trials and the end take about as long again."""


def tune(
    setup: Setup, folder: RunFolder, listener: StudyListener | None = None, on_folder: Callable[[], None] = lambda: None
) -> Study:
    """Run a study and leave its model, journal and configuration in a folder.

    Args:
        setup: Components of the run.
        folder: Folder of the run; the folder of an interrupted run resumes that run.
        listener: Notified of the run's events.
        on_folder: Called once the folder exists.

    Raises:
        InputError: model, data, overrides and settings do not fit each other; no files are left behind.
    """
    with folder.lock():
        return _Run(setup, folder, listener or StudyListener(), on_folder).run()


class _Run:
    def __init__(self, setup: Setup, folder: RunFolder, listener: StudyListener, on_folder: Callable[[], None]) -> None:
        self.setup, self.folder, self.listener, self.on_folder = setup, folder, listener, on_folder
        self.config = setup.config
        self.begin = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.box = make_box(self.config)
        self._keeper: Keeper | None = None
        self._front: FrontSearch | None = None

    def run(self) -> Study:
        setup, config, target = self.setup, self.config, self.setup.target
        config.validate()
        space = self._load()
        chosen = choose_metric(setup)
        facts = identity(setup, space.fingerprint)
        self.folder.check(facts)
        target.allow(self._allowance())
        self.listener.stage("calibrating")
        with self._clock("calibrate"):
            space = make_space(config, self._in_time("it was calibrated", target.calibrate))
        self.listener.stage("measuring fp32")
        baseline = self._in_time("fp32 was measured", lambda: target.baseline(space))
        self.box.fp32_measured(baseline.evaluation)
        journal = Journal(self.folder.path, METRIC, tuple(space.ops))
        finished = journal.read() if self.folder.resumes else []
        self._refuse_small_box(finished)
        add_seconds(self.seconds, baseline.evaluation.seconds)
        versions = dict(target.versions())
        earlier = self.folder.changed_versions(versions) if self.folder.resumes else {}
        reduced = self.box.limited or self.folder.extent is not None
        self.folder.start(setup.resolved, facts, versions, baseline.extent if reduced else None)
        self.on_folder()
        for name, version in earlier.items():
            log.warning(
                "trials of the earlier run were measured with %s %s, these are with %s", name, version, versions[name]
            )
        target.keep(self.folder.path)
        study = self._study(space, baseline, facts, versions, earlier)
        if chosen:
            self._notice(study, chosen)
        if study.extent.text(self.box.timeout):
            self._notice(study, study.extent.text(self.box.timeout))
        self._resolve(study, baseline)
        try:
            self._find_machine(study)
            self._finish(study, self._search(study, journal, finished))
        finally:
            if self._keeper is not None:
                self._keeper.close()
        return study

    def _study(
        self,
        space: Space,
        baseline: Measured,
        facts: Mapping[str, Any],
        versions: dict[str, str],
        earlier: dict[str, str],
    ) -> Study:
        """The study before its first trial, whose target reports to it from here on.

        Args:
            space: Search space.
            baseline: fp32's measurement.
            facts: Identity of the run.
            versions: Versions of the software that measures.
            earlier: Other versions, with which trials of the earlier run were measured.
        """
        config, target = self.config, self.setup.target
        study = Study(
            self.folder.path,
            space,
            make_goal(config, baseline),
            baseline.evaluation,
            baseline.latency_ci95,
            facts,
            seconds=self.seconds,
            model=str(target.facts()["model_name"]),
        )
        study.workers = target.workers()
        target.watch(partial(self._watched, study))
        study.box = self.box
        study.extent = baseline.extent
        study.versions, study.earlier_versions = versions, earlier
        first = str(config.metrics.accuracy["name"])
        study.outputs = {first if name == METRIC else name: found for name, found in baseline.outputs}
        study.remarks = (*sentences(study.outputs), *target.remarks())
        study.recovery = target.recovery()
        for remark in study.remarks:
            log.info("%s", remark)
        return study

    def _watched(self, study: Study, workers: Mapping[str, Any]) -> None:
        study.workers = workers
        self.listener.workers(study)

    def _in_time(self, done: str, call: Callable[[], T]) -> T:
        """Make a call that precedes the first trial.

        Raises:
            InputError: the run's deadline passed during the call.
        """
        target, box = self.setup.target, self.box
        target.until(box.end)
        try:
            found = call()
        except OutOfTimeError:
            raise self._too_small(f"ended before {done}", UNFINISHED_FACTOR * box.timeout) from None
        finally:
            target.until(0.0)
        if box.left <= 0:
            raise self._too_small(f"ended before {done}", UNFINISHED_FACTOR * box.spent)
        return found

    def _refuse_small_box(self, finished: Sequence[Trial]) -> None:
        """Check that there is time for a trial.

        Raises:
            InputError: there is no time for one.
        """
        shortage = self.box.shortage(any(trial.evaluation is not None for trial in finished))
        if shortage is not None:
            raise self._too_small(f"is too short for fp32, one trial and the end: {shortage.text()}", shortage.needed)

    def _too_small(self, problem: str, needed: float) -> InputError:
        return InputError(
            "tuning.timeout",
            f"{self.box.timeout:g} s {problem}",
            f"give the run more than {math.ceil(needed)} s (0 for no limit), or fewer evaluation samples",
        )

    def _load(self) -> Space:
        self.listener.stage("loading the model")
        with self._clock("load"):
            space = make_space(self.config, self._in_time("the model was loaded", self.setup.target.load))
        self.setup.check_model(space, self.setup.target.gradients)
        log.info("%d operators can be chosen, %s configurations", len(space.ops), magnitude(space.size()))
        return space

    def _allowance(self) -> Allowance:
        """How much may be read; a run that resumes another uses the samples of the earlier trials."""
        allowed, before = self.box.allowance(), self.folder.extent
        if not self.folder.resumes:
            return allowed
        if before is None:
            return Allowance(
                timing_seconds=allowed.timing_seconds,
                noise_seconds=allowed.noise_seconds,
                recovery_seconds=allowed.recovery_seconds,
            )
        return allowed.fixed(before)

    def _resolve(self, study: Study, baseline: Measured) -> None:
        study.resolution = resolution.assumed(study.baseline.samples, study.limit, baseline.score_range)
        if study.resolution is not None and not study.resolution.enough:
            self.listener.notice(f"the goal is finer than the data: {study.resolution.text()}")

    def _find_machine(self, study: Study) -> None:
        self.listener.stage("measuring what int8 can gain here")
        with self._clock("ceiling"):
            study.machine = find_machine(self.setup.target, self.config.measure.threads)
        words = study.machine.sentences(str(self.config.backend["name"]))
        for sentence in words:
            log.info("%s", sentence)
        apart = disagreement(study.machine.agreement, self.config.measure.accuracy_on)
        for text in (apart, study.machine.other_versions(study.versions)):
            if text:
                self._notice(study, text)
        if study.machine.low and set(TIMED) & set(self.config.metrics.objectives):
            self.listener.notice(" ".join(words))

    def _search(self, study: Study, journal: Journal, finished: list[Trial]) -> FinalChoice:
        """Run the strategy; return the choice among its trials."""
        config = self.config.tuning
        remove_leftovers(self.folder.path)
        for trial in finished:
            if trial.evaluation is not None and not trial.evaluation.partial:
                self.setup.target.remember(trial.evaluation)
        problem = self._problem(study)
        self.listener.started(study, config.max_trials, config.timeout)
        with self._clock("strategy"):
            strategy = _Timed(self.setup.make_strategy(problem))
        study.engine = strategy.inner.engine
        if self.box.limited and self.config.isolation == "process":
            self._keeper = Keeper(self.setup.target, self.folder.path, self.box, study.goal)
        choice = FinalChoice(study, self.setup.target, self.box, self.listener, self._keeper)
        try:
            tuner = TrialLoop(
                study,
                strategy,
                lambda config: self._measure(study, config),
                journal,
                self.setup.executor,
                self.setup.executor.workers,
                config,
                self.listener,
                finished,
                str(self.config.strategy["name"]),
                self._pace(study, strategy),
                choice.confirm,
                getattr(self.setup.executor, "next_ended", SimpleQueue.get),
            )
            study.stop_reason = tuner.run()
            study.stop_note = _stop_note(study.stop_reason, strategy)
            self._fill_front(study, problem, strategy.inner, journal)
        finally:
            self.setup.target.until(0.0)
            strategy.close()
            study.engine = strategy.inner.engine
        self.seconds["strategy"] += strategy.seconds  # includes the estimates that the strategy requested
        for trial in study.trials:
            if trial.evaluation is not None and not trial.resumed:
                add_seconds(self.seconds, trial.evaluation.seconds)
        return choice

    def _problem(self, study: Study) -> Problem:
        """What the strategy gets. Its estimates are made when it requests them."""
        config = self.config.tuning
        estimator = Estimator(
            study,
            Estimates(self.folder.path, study.space, self.folder.resumes),
            self.setup.target,
            self.box,
            self.listener,
            config.max_consecutive_failures,
        )
        return Problem(
            study.space,
            study.goal,
            study.baseline,
            generator(config.seed, Stream.STRATEGY),
            config.max_trials,
            self.setup.executor.workers,
            estimator.sensitivity,
            lambda config: estimator.latency_terms()(config),
            estimator.latency_terms,
            estimator.divergence,
            state_dir=self.folder.path,
            metadata={
                "model": study.model,
                "data": str(study.metadata["data_sha256"])[:16],
                "space": study.space.fingerprint,
            },
            time_used=lambda: self.box.used,
            seconds_left=lambda: self.box.spare_seconds,
            notice=lambda text: self._notice(study, text),
            hessian=estimator.hessian if self.setup.target.gradients() else None,
        )

    def _fill_front(self, study: Study, problem: Problem, strategy: Strategy, journal: Journal) -> None:
        """Measure trials where the front has gaps, if the user asks for a front and the search has ended by itself."""
        tuning = self.config.tuning
        if not tuning.front or study.stop_reason == "interrupted" or study.best is None:
            return
        metric = str(self.config.metrics.accuracy["name"])
        tie = min(study.goal.tie, FINAL_TIE)
        self._front = FrontSearch(
            study, self.setup.target, journal, self.box, self.listener, tuning.front, tie, metric, CANDIDATES
        )
        self.listener.stage("filling the front")
        start, count = time.perf_counter(), len(study.trials)
        try:
            self._front.fill(problem, strategy.front(tuning.front), tuning.seed)
        except KeyboardInterrupt:
            log.warning("interrupted: the trial under way is dropped, what was measured is kept")
            study.stop_reason = "interrupted"
        except OutOfTimeError as error:
            log.info("the front is not filled any further: %s", error)
        finally:
            # As a strategy's, its time includes the estimates that it requested, but not the trials.
            measured = [trial.evaluation for trial in study.trials[count:] if trial.evaluation is not None]
            took = time.perf_counter() - start - sum(seconds for done in measured for _, seconds in done.seconds)
            self.seconds["strategy"] = self.seconds.get("strategy", 0.0) + max(0.0, took)

    def _measure_front(self, study: Study) -> None:
        """Time the points of the front, after the chosen model was saved; an interrupt keeps what was timed."""
        if self._front is None or study.stop_reason == "interrupted":
            return
        with self._clock("front"):
            try:
                for study.front in self._front.measure():
                    log.info("%d points of the front are timed", len(study.front.points))
            except KeyboardInterrupt:
                log.warning("interrupted: the timing under way is dropped, what was measured is kept")
                study.stop_reason = "interrupted"
            except (EngineError, OutOfTimeError) as error:
                self._notice(study, f"the front ended early: {first_line(error)}")
            finally:
                self.setup.target.until(0.0)
        for note in study.front.notes if study.front is not None else ():
            self._notice(study, note)

    def _measure(self, study: Study, config: Config) -> Evaluation:
        """Measure a trial; the first one of a run with a time limit returns what was measured when its time ends."""
        if self.box.limited and study.best is None:
            return self.setup.target.measure(config, partial=True)
        return self.setup.target.measure(config)

    def _pace(self, study: Study, strategy: _Timed) -> Pace:
        """Rules for when trials may start."""
        if not self.box.limited:
            return Pace()
        return BoxedPace(
            self.box,
            self.setup.target,
            study,
            self._keeper,
            lambda: strategy.thinking(sum(study.estimate_seconds.values())),
        )

    def _notice(self, study: Study, text: str) -> None:
        """Tell the user what the strategy says, now and in what the run leaves."""
        text = redact(text)
        study.notices.append(text)
        self.listener.notice(text)

    def _finish(self, study: Study, choice: FinalChoice) -> None:
        finish = choice.chosen()
        if finish is None:
            study.status, study.error = Status.FAILED, self._why_no_model(study)
            self.seconds["total"] = time.perf_counter() - self.begin
            return
        study.final = finish.final
        study.baseline, study.baseline_ci95 = finish.baseline.evaluation, finish.baseline.latency_ci95
        if study.final.accuracy_loss_ci95 is not None:
            study.resolution = (
                resolution.observed(study.baseline.samples, study.limit, study.final.accuracy_loss_ci95)
                or study.resolution
            )
        study.status = Status.MISSED if study.shortfall else Status.MET
        self.listener.stage("saving")
        with self._clock("save"):
            target = self.folder.path / "model"
            moved = self._keeper.move(study.final.trial, target) if self._keeper else None
            study.model_path = moved or self.setup.target.save(study.final, target)
        if self._keeper is not None:
            add_seconds(self.seconds, [("save", self._keeper.spent)])
        self._measure_front(study)
        self.seconds["total"] = time.perf_counter() - self.begin

    def _why_no_model(self, study: Study) -> str:
        """Reason why a run that has ended has no model, in one line."""
        failed = Counter(t.error for t in study.trials if t.error).most_common(1)
        if failed:
            count = sum(t.state is TrialState.FAILED for t in study.trials)
            return f"no configuration could be measured: {failed[0][0]} ({failed[0][1]} of {count} failed trials)"
        if study.stop_reason == "timeout":
            measured = any(trial.evaluation is not None for trial in study.trials)
            when = "before the best model was measured again and saved" if measured else "during the first trial"
            needed = self.box.spent + self.box.least_trial + self.box.least_end
            return (
                f"tuning.timeout: {self.box.timeout:g} s ended {when}; give the run more than "
                f"{math.ceil(needed)} s (0 for no limit), or fewer evaluation samples"
            )
        return ""

    def _clock(self, stage: str) -> Clock:
        return Clock(self.seconds, stage)


def _stop_note(reason: str, strategy: Strategy) -> str:
    """The strategy's reason for its end; empty if the strategy did not end the run."""
    return {"finished": strategy.ended, "stopped": strategy.stopped}.get(reason, "")


class _Timed(Strategy):
    """Wrapper of a strategy that counts the strategy's time."""

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner
        self.seconds = 0.0
        self._proposals = 0

    def thinking(self, estimating: float) -> float:
        """Mean seconds per proposal, without the time of the estimates that the strategy requested."""
        return max(0.0, self.seconds - estimating) / max(self._proposals, 1)

    @property
    def stage(self) -> str:  # type: ignore[override]
        return self.inner.stage

    @property
    def note(self) -> str:  # type: ignore[override]
        return self.inner.note

    @property
    def predicted(self) -> Prediction | None:  # type: ignore[override]
        return self.inner.predicted

    @property
    def ended(self) -> str:  # type: ignore[override]
        return self.inner.ended

    @property
    def stopped(self) -> str:  # type: ignore[override]
        return self.inner.stopped

    def propose(self) -> Config | None:
        self._proposals += 1
        start = time.perf_counter()
        try:
            return self.inner.propose()
        finally:
            self.seconds += time.perf_counter() - start

    def observe(self, trial: Trial) -> None:
        start = time.perf_counter()
        try:
            self.inner.observe(trial)
        finally:
            self.seconds += time.perf_counter() - start

    def close(self) -> None:
        self.inner.close()
