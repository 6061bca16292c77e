"""Final timing of the points of a measured Pareto front, side by side with fp32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from nc_strategies.measuring.ending import REFERENCES, front_patience
from nc_strategies.measuring.finalists import FINALISTS, FinalistMeasurer
from nc_strategies.measuring.latency import Timing
from nc_strategies.measuring.lengths import by_length
from nc_strategies.measuring.phases import run_ms
from nc_strategies.problem import Evaluation, Trial


class FrontMeasurer(FinalistMeasurer):
    """Times points of a front as finalists are timed: interleaved, in several sessions."""

    def time_front(self, trials: Sequence[Trial], runs: int) -> tuple[Evaluation, ...]:
        """Time completely measured trials and fp32 in one interleaved timing.

        Of a large model, each trial is timed beside fp32 on its own, because no more than two models are open.

        Args:
            trials: Trials with an evaluation of all samples.
            runs: Timed runs per model.

        Returns:
            The trials' evaluations with the new latencies and their intervals, in the order of the trials.

        Raises:
            EngineError: the engine cannot build or run one of them.
            OutOfTimeError: the deadline passed before the first session ended.
        """
        makers = [partial(self._built, trial) for trial in trials]
        patience = front_patience(len(makers), FINALISTS)
        if self.baseline.large:
            timing = self._in_turn(makers, runs, patience)
        else:
            timing = self._sessions([*self._references(), *makers], runs, patience)
        faster = int(np.argmin([timing.median_ms(0), timing.median_ms(1)]))
        return tuple(
            self._timed_again(trial, timing, column, faster) for column, trial in enumerate(trials, REFERENCES)
        )

    def _timed_again(self, trial: Trial, timing: Timing, column: int, faster: int) -> Evaluation:
        """A trial's evaluation with a new timing."""
        done = trial.evaluation
        assert done is not None
        ratio = timing.ratio(column, faster)
        low, high = timing.ratio_interval(column, faster)
        latency, fp32 = timing.interval_ms(column), timing.interval_ms(faster)
        values = {
            "latency_ms": timing.median_ms(column),
            "fp32_latency_ms": timing.median_ms(faster),
            "latency_low_ms": latency[0],
            "latency_high_ms": latency[1],
            "fp32_latency_low_ms": fp32[0],
            "fp32_latency_high_ms": fp32[1],
            **dict(run_ms(timing, self.timed, column)),
        }
        reach = max(high / ratio, ratio / low) - 1
        return replace(
            done,
            values=tuple({**dict(done.values), **values}.items()),
            ratios=tuple({**dict(done.ratios), "latency": ratio, "throughput": ratio}.items()),
            spread=tuple({**dict(done.spread), "latency": reach, "throughput": reach}.items()),
            latency_by_length=by_length(timing, self.timed, column, faster),
        )
