"""Latency by interleaved runs, and what can be said of a ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TimingRules:
    """How models are timed side by side, and what intervals come from."""

    warm_up_runs: int = 5
    """Untimed runs of each model before all others."""
    least_runs: int = 20
    """Timed runs of each model before a limit of time counts. Between two equal models the log ratio of medians had a
    standard deviation of 7 % with 10 interleaved runs, of 1.6 % with 100."""
    blocks: int = 10
    """Consecutive parts of the runs of one session, at most, whose ratios give the interval."""
    least_blocks: int = 4
    """Parts at least: `T_95` begins with 3 degrees of freedom."""
    runs_per_block: int = 10
    """Runs of a part at least, where there are enough for `least_blocks`."""
    least_sessions: int = 4
    """Sessions from which on their own ratios give the interval in place of `blocks`, for the same reason."""


TIMING_RULES = TimingRules()
T_95 = {3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228, 11: 2.201}
"""Two-sided 95 % quantiles of Student's t by degrees of freedom."""


@dataclass(frozen=True)
class Timing:
    """Seconds of interleaved runs, shape (runs, models).

    Args:
        seconds: The seconds.
        sessions: Runs of each session, where the models were opened anew several times; empty for one.
    """

    seconds: NDArray[np.float64]
    sessions: tuple[int, ...] = ()

    @staticmethod
    def joined(timings: Sequence[Timing]) -> Timing:
        """The timings of several sessions of the same models as one.

        Where an engine puts a graph's memory makes all runs of a session faster or slower by some per cent. With at
        least four sessions, the interval of a ratio is that of their own ratios.
        """
        return Timing(np.concatenate([t.seconds for t in timings]), tuple(t.runs for t in timings))

    @property
    def runs(self) -> int:
        """Runs of each model."""
        return len(self.seconds)

    def median_ms(self, model: int) -> float:
        """Median latency of a model in milliseconds."""
        return float(np.median(self.seconds[:, model]) * 1e3)

    def interval_ms(self, model: int) -> tuple[float, float]:
        """95 % interval of the median: order statistics by the normal approximation to the binomial."""
        ordered = np.sort(self.seconds[:, model]) * 1e3
        reach = 0.98 * np.sqrt(len(ordered))
        low = int(max(0, np.floor(len(ordered) / 2 - reach)))
        high = int(min(len(ordered) - 1, np.ceil(len(ordered) / 2 + reach)))
        return float(ordered[low]), float(ordered[high])

    def _log_ratios(self, model: int, reference: int) -> NDArray[np.float64]:
        if len(self.sessions) >= TIMING_RULES.least_sessions:
            blocks = np.split(self.seconds, np.cumsum(self.sessions)[:-1])
        else:
            count = min(TIMING_RULES.blocks, max(TIMING_RULES.least_blocks, self.runs // TIMING_RULES.runs_per_block))
            blocks = np.array_split(self.seconds, count)
        return np.array([np.log(np.median(b[:, model]) / np.median(b[:, reference])) for b in blocks])

    def ratio(self, model: int, reference: int) -> float:
        """Latency of a model relative to a reference's, below 1 is faster: ratio of medians, block by block.

        The machine's speed drifts; within a block of consecutive runs both models have met the same speed.
        """
        return float(np.exp(self._log_ratios(model, reference).mean()))

    def standard_error(self, model: int, reference: int) -> float:
        """Standard error of the logarithm of `ratio`."""
        logs = self._log_ratios(model, reference)
        return float(logs.std(ddof=1) / np.sqrt(len(logs)))

    def ratio_interval(self, model: int, reference: int) -> tuple[float, float]:
        """95 % interval of `ratio`.

        The runs are cut into consecutive blocks, or into sessions; each gives the log ratio of its medians, and
        Student's t over the blocks gives the interval: the method of batch means (Law, "Simulation Modeling and
        Analysis", ch. 9), which holds where neighbouring runs are correlated, as they are on a shared machine.
        """
        logs = self._log_ratios(model, reference)
        reach = T_95[len(logs) - 1] * self.standard_error(model, reference)
        return float(np.exp(logs.mean() - reach)), float(np.exp(logs.mean() + reach))


def interleave(
    runs: Sequence[Callable[[], object]],
    count: int,
    rng: np.random.Generator,
    limit: float = 0.0,
    clock: Callable[[], float] | None = None,
) -> Timing:
    """Time several callables side by side, in a new random order each round, each warm from a run of its own.

    Args:
        runs: What to time.
        count: Rounds.
        rng: Shuffles the order.
        limit: Seconds after which to stop, once there were 20 rounds; 0 for none.
        clock: Gives the seconds that are counted; `time.perf_counter` when left out.
    """
    # In a thread of its own, to which the C library gives memory apart from what the process has used and freed before:
    # in that, what a run allocates would lie the more scattered the longer the process lives.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_interleave, runs, count, rng, limit, clock or time.perf_counter).result()


def _interleave(
    runs: Sequence[Callable[[], object]], count: int, rng: np.random.Generator, limit: float, clock: Callable[[], float]
) -> Timing:
    for run in runs:
        for _ in range(TIMING_RULES.warm_up_runs):
            run()
    seconds = np.zeros((count, len(runs)))
    start = time.perf_counter()
    for index in range(count):
        for model in rng.permutation(len(runs)):
            # Once untimed: the run before was another model's, and left the caches full of its weights.
            runs[model]()
            before = clock()
            runs[model]()
            seconds[index, model] = clock() - before
        if limit and index + 1 >= TIMING_RULES.least_runs and time.perf_counter() - start > limit:
            return Timing(seconds[: index + 1])
    return Timing(seconds)
