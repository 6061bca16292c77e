"""Measuring one configuration beside fp32."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace

from nc_strategies.backends.base import Executable
from nc_strategies.measuring.core import METRIC, MeasurerCore
from nc_strategies.measuring.latency import TIMING_RULES
from nc_strategies.measuring.lengths import rounds
from nc_strategies.measuring.sequential import STOPPING_RULES, PairedTest
from nc_strategies.metrics.base import Outputs
from nc_strategies.problem import Evaluation
from nc_strategies.space import Config

log = logging.getLogger(__name__)
PARTIAL_CAUTION = 1.5
"""Factor on the expected seconds of what still has to fit before the deadline of a partial measurement."""
REHEARSED_SHARE = 0.1
"""Share of the samples that a rehearsal reads to estimate the time of all of them."""


class _Cut:
    """Whether an evaluation is out of time, and whether it ever was."""

    def __init__(self, reached: Callable[[int], bool]) -> None:
        self._reached, self.happened = reached, False

    def __call__(self, read: int) -> bool:
        self.happened = self.happened or self._reached(read)
        return self.happened


class TrialMeasurer(MeasurerCore):
    """Measures configurations; the same executed graph is never measured twice."""

    def remember(self, evaluation: Evaluation) -> None:
        """Register an evaluation of an earlier run, so that its executed graph is not measured again."""
        self._graphs[evaluation.graph] = evaluation
        if "memory_bytes" in dict(evaluation.values):
            self._memory[evaluation.graph] = evaluation.value("memory_bytes")

    def measure(self, config: Config, partial: bool = False, complete: bool = False) -> Evaluation:
        """Measure a configuration; the same executed graph is never measured twice.

        Args:
            config: The configuration.
            partial: If the deadline leaves no time for all samples and timed runs, return what fits, as an estimate.
            complete: Evaluate all samples, whether or not the goal is out of reach, and compute the interval of the
                loss. A graph whose earlier measurement lacks either is measured again.

        Raises:
            EngineError: the engine cannot build or run it.
            OutOfTimeError: the deadline passed; with `partial`, before a single batch and a few timed runs.
        """
        start = time.perf_counter()
        model = self.backend.build(config)
        built = time.perf_counter() - start
        try:
            known = self._graphs.get(model.fingerprint)
            if known is not None and not (complete and self._incomplete(known)):
                log.info("the same executed graph was measured before")
                return replace(known, seconds=(("build", built),))
            evaluation = self._measure(model, config, partial, complete)
        finally:
            model.close()
        # Listing the executed operators, closing the session and the run for peak memory count as building.
        measured = sum(took for _, took in evaluation.seconds)
        seconds = (("build", time.perf_counter() - start - measured), *evaluation.seconds)
        self._graphs[model.fingerprint] = evaluation = replace(evaluation, seconds=seconds)
        return evaluation

    def _incomplete(self, known: Evaluation) -> bool:
        """Whether an evaluation lacks samples, or the interval of its loss although there can be one."""
        return known.samples < self.samples or (bool(self.baseline.kept) and known.loss_ci95 is None)

    def _measure(self, model: Executable, config: Config, partial: bool, complete: bool) -> Evaluation:
        start = time.perf_counter()
        cut = _Cut(self._lacks_time(start))
        test = None if complete else self._paired_test()
        found = self._finite(self._score(model, config, test, cut if partial else None))
        evaluated = time.perf_counter() - start
        self.timer.prepare([model], self.deadline.check)
        start = time.perf_counter()
        runs = self.settings.latency_runs if found.samples == self.samples else TIMING_RULES.least_runs
        if partial:
            runs = min(runs, self._runs_in_time(evaluated / max(found.samples, 1)))
        timing = self._time_trial([self.baseline.reference, model], runs)
        seconds = (("accuracy", evaluated), ("latency", time.perf_counter() - start))
        evaluation = self._evaluation(
            model, model.executed(), timing, 1, 0, found, seconds, self._peak(config, model.fingerprint)
        )
        evaluation = self._with_loss_interval(evaluation, found, complete)
        return replace(evaluation, samples=found.samples, partial=cut.happened)

    def _lacks_time(self, start: float) -> Callable[[int], bool]:
        """Whether the next batch would not leave time for a short timing, from the batches since `start`."""

        def reached(read: int) -> bool:
            if read >= len(self.data):
                return False
            sample = (time.perf_counter() - start) / read
            timing = self._timing_seconds(TIMING_RULES.least_blocks, sample)
            return self.deadline.left < PARTIAL_CAUTION * (sample * self.data.window(self._batch_size) + timing)

        return reached

    def _timing_seconds(self, runs: int, sample_seconds: float) -> float:
        """Expected seconds to time a model beside fp32.

        Args:
            runs: Timed runs of each of the two.
            sample_seconds: The model's seconds per sample.
        """
        fp32 = self.baseline.evaluation.run_ms / 1e3
        once, lengths = fp32 + max(fp32, sample_seconds * self.settings.batch_size), len(self.timed)
        timed = rounds(runs, lengths) * lengths if runs else 0
        return once * (TIMING_RULES.warm_up_runs * lengths + 2 * timed)

    def _runs_in_time(self, sample_seconds: float) -> int:
        """Timed runs that end before the deadline, at least one per block."""
        left = self.deadline.left / PARTIAL_CAUTION
        least = self._timing_seconds(TIMING_RULES.least_runs, sample_seconds)
        if least <= left:
            return self.settings.latency_runs
        warm = self._timing_seconds(0, sample_seconds)
        per_run = (least - warm) / TIMING_RULES.least_runs
        return max(TIMING_RULES.least_blocks, math.floor((left - warm) / per_run))

    def rehearse(self, config: Config) -> dict[str, float]:
        """Estimate the seconds by stage of measuring a configuration, from a part of its samples and timed runs.

        Raises:
            EngineError: the engine cannot build or run it.
        """
        seconds: dict[str, float] = {}
        start = time.perf_counter()
        model = self.backend.build(config)
        try:
            self.timer.prepare([model], self.deadline.check)
            seconds["build"] = time.perf_counter() - start
            model.predict(self.batch)
            start, read = time.perf_counter(), 0

            def enough(outputs: Outputs) -> bool:
                nonlocal read
                read += len(outputs[0]) if isinstance(outputs, tuple) else len(outputs)
                return read >= REHEARSED_SHARE * len(self.data)

            self._predict([model], enough)
            seconds["accuracy"] = (time.perf_counter() - start) * len(self.data) / read
            start = time.perf_counter()
            self._time([self.baseline.reference, model], TIMING_RULES.least_runs)
            spent = (time.perf_counter() - start) * self.settings.latency_runs / TIMING_RULES.least_runs
            # A timing stops at its limit, but not before its minimum number of runs.
            limit = min(self.settings.latency_timeout or spent, self.allowance.timing_seconds)
            least = spent * TIMING_RULES.least_runs / self.settings.latency_runs
            seconds["latency"] = min(spent, max(limit, least))
        finally:
            model.close()
        return seconds

    def _paired_test(self) -> PairedTest | None:
        """The test that stops a trial early; None if early stopping is off or the metric has no bounded scores."""
        if self.limit is None:
            return None
        base = self.baseline
        scores = self.metric.paired_scores(base.kept[0], self.labels_of(self.metric)) if base.kept else None
        if scores is None:
            return None
        value = base.evaluation.metric(METRIC)
        test = PairedTest(
            scores,
            self.metric.paired_limit(value, self.limit(value)),
            self.metric.score_range,
            self.higher_is_better,
            least=math.ceil(STOPPING_RULES.least_share * len(self.data)),
        )
        return test if test.possible else None
