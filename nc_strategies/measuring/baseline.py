"""Measuring fp32, once per run."""

from __future__ import annotations

import logging
import math
import time

import numpy as np

from nc_strategies.backends.base import Executable
from nc_strategies.errors import EngineError, InputError
from nc_strategies.measuring.core import METRIC, Baseline, MeasurerCore, Scored, comparable
from nc_strategies.measuring.extent import EXTENT_RULES
from nc_strategies.measuring.outputs import FLOAT_TOLERANCE, close
from nc_strategies.measuring.phases import run_ms
from nc_strategies.measuring.reopening import OPEN_RULES, Reopening
from nc_strategies.measuring.selection import sentence
from nc_strategies.metrics.base import Metric, Outputs
from nc_strategies.problem import Evaluation
from nc_strategies.runtime.clock import Clock
from nc_strategies.space import Space

log = logging.getLogger(__name__)


class BaselineMeasurer(MeasurerCore):
    """Measures fp32 as given and as the backend's all-float graph; the faster of the two is the reference."""

    def measure_baseline(self, space: Space) -> Baseline:
        """Measure fp32, as given and as the backend's all-float graph.

        Raises:
            EngineError: the two do not give the same outputs.
        """
        self._all_float = space.all_float()
        spent: dict[str, float] = {}
        with Clock(spent, "build"):
            as_given, all_float = self.backend.reference(), self.backend.build(self._all_float)
            self.timer.prepare([as_given, all_float], self.deadline.check)
        self._check_lengths(as_given)
        with Clock(spent, "accuracy"):
            try:
                self._fit_samples(as_given)
                found = self._score(as_given, None)
            except EngineError as error:
                raise InputError("model", f"as given, in fp32, it cannot be evaluated ({error})") from error
            self._check_equal(as_given, all_float)
        for place, (_, value) in enumerate(found.metrics):
            if not math.isfinite(value):
                key = "accuracy" if place == 0 else f"constraints[{place - 1}]"
                raise InputError(f"metrics.{key}.name", f"the metric is {value} for fp32 on this data")
        self._refuse_worthless(found)
        with Clock(spent, "latency"):
            timing = self._time_trial([as_given, all_float], self.settings.latency_runs)
        faster = int(np.argmin([timing.median_ms(0), timing.median_ms(1)]))
        reference = (as_given, all_float)[faster]
        with Clock(spent, "build"):
            executed = reference.executed()
            peak = self._peak(self._all_float, all_float.fingerprint)
        evaluation = Evaluation(
            metrics=found.metrics,
            values=(
                ("latency_ms", timing.median_ms(faster)),
                ("duration_s", found.seconds),
                ("size_bytes", float(as_given.size_bytes)),
                ("as_given_latency_ms", timing.median_ms(0)),
                ("all_float_latency_ms", timing.median_ms(1)),
                *run_ms(timing, self.timed, faster),
                *peak,
            ),
            ratios=tuple((name, 1.0) for name in self.metrics.objectives),
            samples=self.samples,
            int8_ops=executed.int8_count,
            fp32_ops=executed.fp32_count,
            seconds=tuple(spent.items()),
            graph=reference.fingerprint,
        )
        large = as_given.size_bytes >= OPEN_RULES.large_bytes
        if large:
            (all_float, as_given)[faster].close()
            reference = Reopening(self._references()[faster], reference)
        self._baseline = Baseline(
            as_given, all_float, reference, found.kept, evaluation, timing.interval_ms(faster), large, self.readings()
        )
        return self._baseline

    def _check_lengths(self, model: Executable) -> None:
        """Check that the model runs at the lengths, or the context lengths, that the user names.

        Raises:
            InputError: it does not, for example because it has no embeddings of positions that far.
        """
        named = [name for name in ("lengths", "context_lengths") if getattr(self.settings, name) is not None]
        for timed in self.timed if named else ():
            try:
                model.predict(timed.batch)
            except EngineError as error:
                where = f"at which {timed.phase} fails" if timed.phase else "which the model cannot run"
                raise InputError(
                    f"measure.{named[0]}", f"holds {timed.length}, {where} ({error})", "other lengths"
                ) from error

    def _fit_samples(self, model: Executable) -> None:
        """Choose how many samples are used, from the time that fp32 takes for a few runs."""
        if not self.allowance.limited:
            return
        model.predict(self.batch)  # the first run of a session allocates its memory
        runs = []
        for _ in range(EXTENT_RULES.timed_runs_of_estimate):
            self.deadline.check()
            start = time.perf_counter()
            model.predict(self.batch)
            runs.append(time.perf_counter() - start)
        seconds = float(np.median(runs)) / self.settings.batch_size
        self._batch_size = self.allowance.batch_size(self.settings.evaluation_batch_size, seconds)
        count = self.allowance.evaluation_samples(len(self.data), seconds)
        if count < len(self.data):
            log.info("fp32 takes about %.3g s per sample: %d of %d samples are used", seconds, count, len(self.data))
            self.data.limit(count)
            self.samples = count

    def _check_equal(self, as_given: Executable, all_float: Executable) -> None:
        tolerance = self.backend.float_tolerance
        both = zip(as_given.predict(self.batch), all_float.predict(self.batch), strict=True)
        for place, (a, b) in enumerate(both):
            if not comparable(a, tolerance > FLOAT_TOLERANCE) or not comparable(b):
                continue
            if close(a, b, max(tolerance, FLOAT_TOLERANCE)):
                continue
            differ = f"{float(np.abs(a - b).max()):.2g}" if np.shape(a) == np.shape(b) else "their shapes"
            if self._layouts is not None and self._layouts.outputs[place].axis is None:
                # As many rows as objects: a box at a threshold comes and goes with the rounding of one score.
                log.warning("output %d of the all-float graph differs from the model's as given by %s", place, differ)
                continue
            raise EngineError(
                "the backend's all-float graph does not compute what the model as given computes: "
                f"outputs differ by {differ}"
            )

    def _refuse_worthless(self, found: Scored) -> None:
        """Check that fp32 is better than trivial answers: no goal can be relative to a worthless value.

        Raises:
            InputError: a metric of fp32 is 0, or no better than a trivial answer's; 0 on the few samples that a short
                time limit leaves is blamed on that limit.
        """
        if self.metrics.allow_poor_baseline:
            return
        readings = dict(self.readings())
        kept = found.kept or (None,) * len(found.metrics)
        for (name, value), request, outputs in zip(found.metrics, self._requests(), kept, strict=True):
            why = self._worthless(request.metric, name, value, outputs)
            if why:
                read = f" ({sentence('it', readings[name])})" if name in readings else ""
                shown = self.metrics.accuracy["name"] if name == METRIC else name
                counted = f" on {self.samples} samples" if self.samples else ""
                if self._cut:
                    raise InputError(
                        "tuning.timeout",
                        f"it leaves time for {self.samples} evaluation samples, on which fp32 has {shown} {value:.4f}",
                        "more time (0 for no limit)",
                    )
                raise InputError(
                    request.key,
                    f"fp32 has {shown} {value:.4f}{counted}{read}, {why}",
                    "check labels, preprocessing and metrics.accuracy.output; metrics.allow_poor_baseline=true tunes "
                    "the model nevertheless",
                )

    @property
    def _cut(self) -> bool:
        """Whether a short time limit has cut the data to a few samples, which say nothing about chance."""
        # A user's function counts no samples.
        return 0 < self.samples < min(len(self.data.raw), EXTENT_RULES.least_samples)

    def _worthless(self, metric: Metric, name: str, value: float, outputs: Outputs | None) -> str:
        """Why a value of fp32 is worthless; empty if it is not. `outputs` are None for a function of the model."""
        higher = self.higher_is_better if name == METRIC else metric.higher_is_better
        why = "" if outputs is None or self._cut else metric.no_better(outputs, self.labels_of(metric))
        if why:
            return f"no better than {why}"
        if value == 0 and higher and (outputs is None or not metric.zero_is_good(outputs, self.labels_of(metric))):
            return "from which nothing can be lost"
        return ""
