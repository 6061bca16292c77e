"""Measuring with the user's own function as the accuracy metric."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from nc_strategies.backends.base import Executable
from nc_strategies.measuring.core import METRIC, Scored
from nc_strategies.measuring.measurer import Measurer
from nc_strategies.measuring.sequential import PairedTest
from nc_strategies.metrics.objects import UserEvaluation
from nc_strategies.problem import Trial
from nc_strategies.space import Config


class FunctionMeasurer(Measurer):
    """A `Measurer` whose accuracy is the value of a `UserEvaluation`.

    Latency is measured as usual. The function is called once for fp32 and once per executed graph. It returns no
    outputs per sample, so the loss has no interval.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.samples = 0

    def _fit_samples(self, model: Executable) -> None:
        """A user's function evaluates on its own samples: there is nothing to choose."""

    def _score(
        self,
        model: Executable,
        config: Config | None,
        test: PairedTest | None = None,
        out_of_time: Callable[[int], bool] | None = None,
    ) -> Scored:
        native = self.backend.native(config)
        self.deadline.check()
        start = time.perf_counter()
        value = cast(UserEvaluation, self.metric).evaluate(native)
        return Scored(((METRIC, value),), time.perf_counter() - start, self.samples)

    def _compare(self, fp32: Executable, int8: Executable, trial: Trial) -> tuple[Scored, Scored, None]:
        assert trial.evaluation is not None
        before, after = self.baseline.evaluation, trial.evaluation
        return (
            Scored(before.metrics, before.value("duration_s"), self.samples),
            Scored(after.metrics, after.value("duration_s"), self.samples),
            None,
        )
