"""Measuring fp32, once per run."""

from __future__ import annotations

import math

import numpy as np

from nc_strategies.backends.base import Executable
from nc_strategies.errors import EngineError, InputError
from nc_strategies.measuring.core import FLOAT_TOLERANCE, Baseline, MeasurerCore
from nc_strategies.problem import Evaluation
from nc_strategies.runtime.clock import Clock
from nc_strategies.space import Space


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
        with Clock(spent, "accuracy"):
            try:
                found = self._score(as_given, None)
            except EngineError as error:
                raise InputError("model", f"as given, in fp32, it cannot be evaluated ({error})") from error
            self._check_equal(as_given, all_float)
        for place, (_, value) in enumerate(found.metrics):
            if not math.isfinite(value):
                key = "accuracy" if place == 0 else f"constraints[{place - 1}]"
                raise InputError(f"metrics.{key}.name", f"the metric is {value} for fp32 on this data")
        with Clock(spent, "latency"):
            timing = self._time([as_given, all_float], self.settings.latency_runs)
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
                *peak,
            ),
            ratios=tuple((name, 1.0) for name in self.metrics.objectives),
            samples=self.samples,
            int8_ops=executed.int8_count,
            fp32_ops=executed.fp32_count,
            seconds=tuple(spent.items()),
            graph=reference.fingerprint,
        )
        self._baseline = Baseline(as_given, all_float, reference, found.kept, evaluation, timing.interval_ms(faster))
        return self._baseline

    def _check_equal(self, as_given: Executable, all_float: Executable) -> None:
        for a, b in zip(as_given.predict(self.batch), all_float.predict(self.batch), strict=True):
            scale = max(1.0, float(np.abs(a).max(initial=0.0)))
            if not np.allclose(a, b, atol=FLOAT_TOLERANCE * scale, rtol=0, equal_nan=True):
                raise EngineError(
                    "the backend's all-float graph does not compute what the model as given computes: "
                    f"outputs differ by {float(np.abs(a - b).max()):.2g}"
                )
