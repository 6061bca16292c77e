"""The estimates that a strategy requests, computed with the engine as far as the run's time limit has time for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from nc_strategies.errors import EngineError, OutOfTimeError
from nc_strategies.measuring import latency_model
from nc_strategies.measuring.target import MeasurementTarget
from nc_strategies.problem import LatencyTerms
from nc_strategies.runtime.clock import Clock
from nc_strategies.space import Config
from nc_strategies.space.scheme import way as mode_of
from nc_strategies.study.estimates import Estimates, ask, one_by_one
from nc_strategies.study.study import Study, StudyListener
from nc_strategies.study.timebox import TimeBox

log = logging.getLogger(__name__)
T = TypeVar("T")
FIT_FACTOR = 2.0
"""Factor on the minimum seconds of fitting the latency model. It adds configurations until its error is small, and what
it has timed is lost if its time runs out."""


class Estimator:
    """Computes each estimate once, when a strategy requests it first.

    Args:
        study: Gets the estimates that reports show, and the seconds that they took.
        kept: The estimates that are on disk, also those of an earlier run.
        target: Computes estimates.
        box: Time budget of the run.
        listener: Notified of each estimate that begins, or for which there is no time.
        max_failures: Maximum number of consecutive failures, see `one_by_one`.
    """

    def __init__(
        self,
        study: Study,
        kept: Estimates,
        target: MeasurementTarget,
        box: TimeBox,
        listener: StudyListener,
        max_failures: int,
    ) -> None:
        self._study, self._kept, self._target, self._box, self._listener = study, kept, target, box, listener
        self._max_failures = max_failures
        self._unfitted: EngineError | None = None
        self._skipped: set[str] = set()

    def sensitivity(self, way: str = "") -> Mapping[str, float]:
        """See `Problem.sensitivity`; nothing where there is no time for it."""
        study, kept = self._study, self._kept
        if way:
            return self._mode_sensitivity(way)
        if study.sensitivity is None:
            study.sensitivity = kept.sensitivity
            self._listener.stage(
                "estimating sensitivity" if study.sensitivity is None else "reading sensitivity from the earlier run"
            )
        if study.sensitivity is None:
            groups, box = len(study.space.groups), self._box
            least = box.build_seconds + groups * box.sample_seconds  # one sample per operator at least
            try:
                with Clock(study.estimate_seconds, "sensitivity"):
                    kept.sensitivity = study.sensitivity = self._while_time("sensitivity", least, self._estimated)
            except OutOfTimeError:
                return {}
        return study.sensitivity

    def _mode_sensitivity(self, way: str) -> Mapping[str, float]:
        """Sensitivity of the operators that offer another quantization mode."""
        study, kept = self._study, self._kept
        found = study.mode_sensitivity.get(way) or kept.mode_sensitivity(way)
        if found is None:
            self._listener.stage(f"estimating sensitivity to {way} quantization")
            box = self._box
            groups = sum(any(mode_of(s) == way for s in study.space.schemes(group)) for group in study.space.groups)
            try:
                with Clock(study.estimate_seconds, "sensitivity"):
                    found = self._while_time(
                        "sensitivity",
                        box.build_seconds + groups * box.sample_seconds,
                        lambda: self._estimated(way),
                    )
            except OutOfTimeError:
                return {}
            kept.add_mode_sensitivity(way, found)
        study.mode_sensitivity[way] = found
        return found

    def _while_time(self, what: str, least: float, estimate: Callable[[], T]) -> T:
        """Compute an estimate if that leaves time for trials and the end of the run.

        Args:
            what: Name of the estimate.
            least: Minimum seconds that the estimate takes.
            estimate: Computes the estimate with the engine.

        Raises:
            OutOfTimeError: there is not enough time; the user has been notified.
        """
        target, box = self._target, self._box
        room = box.estimate_seconds_left()
        if what not in self._skipped and least <= room:
            target.until(box.after(room), box.patience)
            try:
                return estimate()
            except OutOfTimeError:
                least = room
            finally:
                target.until(0.0)
        if what not in self._skipped:
            self._skipped.add(what)
            self._listener.notice(
                f"{what} is not estimated: it takes more than {max(least, 0.1):.1f} s, and the trials "
                f"need the rest of tuning.timeout={box.timeout:g}; the strategy goes on without it"
            )
        raise OutOfTimeError(f"there is no time to estimate {what}")

    def _estimated(self, way: str = "") -> Mapping[str, float]:
        target = self._target
        try:
            return ask(lambda: target.sensitivity(way))
        except EngineError as error:
            log.warning("sensitivity is estimated operator by operator: %s", error)
            return one_by_one(target.divergence, self._study.space, self._max_failures, way)

    def latency_terms(self) -> LatencyTerms:
        """See `Problem.latency_terms`.

        Raises:
            EngineError: the terms cannot be fitted, or there is no time for it.
        """
        study, kept = self._study, self._kept
        if study.latency_terms is None:
            study.latency_terms = kept.terms
            self._listener.stage(
                "profiling" if study.latency_terms is None else "reading latency terms from the earlier run"
            )
        if study.latency_terms is None:
            if self._unfitted is not None:
                raise self._unfitted  # an engine that crashed during the fit would crash again
            try:
                run, build = self._box.run_seconds, self._box.build_seconds
                least = FIT_FACTOR * latency_model.least_seconds(study.space, run, build)
                brief = least > self._box.estimate_seconds_left()
                if brief:
                    least = FIT_FACTOR * latency_model.least_seconds(study.space, run, build, brief)
                with Clock(study.estimate_seconds, "profile"):
                    kept.terms = study.latency_terms = self._while_time(
                        "latency by operator", least, lambda: ask(lambda: self._target.latency_terms(brief))
                    )
            except OutOfTimeError as error:
                self._unfitted = EngineError(str(error))
                raise self._unfitted from None
            except EngineError as error:
                self._unfitted = error
                raise
        return study.latency_terms

    def hessian(self, draws: int) -> Mapping[str, float]:
        """See `Problem.hessian`; nothing where there is no time for it."""
        found = self._kept.hessian(draws)
        if found is None:
            self._listener.stage("estimating the Hessian's trace")
            least = self._box.build_seconds + draws * self._box.sample_seconds
            try:
                with Clock(self._study.estimate_seconds, "hessian"):
                    found = self._while_time(
                        "the Hessian's trace", least, lambda: ask(lambda: self._target.hessian(draws))
                    )
            except OutOfTimeError:
                return {}
            self._kept.add_hessian(draws, found)
        return found

    def divergence(self, config: Config, batches: int = 1) -> float:
        """See `Problem.divergence`.

        Raises:
            EngineError: the configuration cannot be built or run, or there is no time for it.
        """
        found = self._kept.divergence(config, batches)
        if found is None:
            with Clock(self._study.estimate_seconds, "divergence"):
                least = self._box.build_seconds + batches * self._box.sample_seconds
                try:
                    found = self._while_time(
                        "the noise of a configuration",
                        least,
                        lambda: ask(lambda: self._target.divergence(config, batches)),
                    )
                except OutOfTimeError as error:
                    raise EngineError(str(error)) from None
                self._kept.add_divergence(config, found, batches)
        return found
