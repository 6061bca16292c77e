"""Latency by interleaved runs, and what can be said of a ratio."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import OutOfTimeError
from nc_strategies.measuring.deadline import Check, unlimited
from nc_strategies.measuring.student import t_95


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
    """Parts at least: with 3 degrees of freedom, the 95 % quantile of Student's t is 3.2."""
    runs_per_block: int = 10
    """Runs of a part at least, where there are enough for `least_blocks`."""
    least_sessions: int = 4
    """Sessions from which on their own ratios give the interval in place of `blocks`, for the same reason."""


TIMING_RULES = TimingRules()


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
        """Latency of a model in milliseconds: the geometric mean of its blocks' medians.

        The quotient of two models' is their `ratio`, so that latencies and speed-up agree where they stand side by
        side. The median of all runs together has not that property.
        """
        return float(np.exp(self._log_medians(model).mean()) * 1e3)

    def interval_ms(self, model: int) -> tuple[float, float]:
        """95 % interval of `median_ms`, by the method of `ratio_interval`."""
        low, high = _interval(self._log_medians(model))
        return low * 1e3, high * 1e3

    def _blocks(self) -> list[NDArray[np.float64]]:
        rules = TIMING_RULES
        if len(self.sessions) >= rules.least_sessions:
            return np.split(self.seconds, np.cumsum(self.sessions)[:-1])
        count = min(rules.blocks, max(rules.least_blocks, self.runs // rules.runs_per_block))
        return np.array_split(self.seconds, count)

    def _log_medians(self, model: int) -> NDArray[np.float64]:
        return np.array([np.log(np.median(block[:, model])) for block in self._blocks()])

    def _log_ratios(self, model: int, reference: int) -> NDArray[np.float64]:
        return self._log_medians(model) - self._log_medians(reference)

    def ratio(self, model: int, reference: int) -> float:
        """Latency of a model relative to a reference's, below 1 is faster: ratio of medians, block by block.

        The machine's speed drifts; within a block of consecutive runs both models have met the same speed.
        """
        return float(np.exp(self._log_ratios(model, reference).mean()))

    def standard_error(self, model: int, reference: int) -> float:
        """Standard error of the logarithm of `ratio`."""
        return _standard_error(self._log_ratios(model, reference))

    def ratio_interval(self, model: int, reference: int) -> tuple[float, float]:
        """95 % interval of `ratio`.

        The runs are cut into consecutive blocks, or into sessions; each gives the log ratio of its medians, and
        Student's t over the blocks gives the interval: the method of batch means (Law, "Simulation Modeling and
        Analysis", ch. 9), which holds where neighbouring runs are correlated, as they are on a shared machine.
        """
        return _interval(self._log_ratios(model, reference))


def _standard_error(logs: NDArray[np.float64]) -> float:
    return float(logs.std(ddof=1) / np.sqrt(len(logs)))


def _interval(logs: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the geometric mean by Student's t, given the blocks' logarithms."""
    reach = t_95(len(logs) - 1) * _standard_error(logs)
    return float(np.exp(logs.mean() - reach)), float(np.exp(logs.mean() + reach))


def interleave(
    runs: Sequence[Callable[[], object]],
    count: int,
    rng: np.random.Generator,
    limit: float = 0.0,
    clock: Callable[[], float] | None = None,
    check: Check = unlimited,
) -> Timing:
    """Time several callables side by side, in a new random order each round, each warm from a run of its own.

    Args:
        runs: What to time.
        count: Rounds.
        rng: Shuffles the order.
        limit: Seconds after which to stop, once there were 20 rounds; 0 for none.
        clock: Gives the seconds that are counted; `time.perf_counter` when left out.
        check: Called before each run of a model's turn.

    Raises:
        OutOfTimeError: `check` raised it.
    """
    ended = threading.Event()

    def checked() -> None:
        if ended.is_set():
            raise OutOfTimeError("the timing was interrupted")
        check()

    # In a thread of its own, to which the C library gives memory apart from what the process has used and freed before:
    # in that, what a run allocates would lie the more scattered the longer the process lives.
    with ThreadPoolExecutor(1) as thread:
        timing = thread.submit(_interleave, runs, count, rng, limit, clock or time.perf_counter, checked)
        try:
            return timing.result()
        except BaseException:
            ended.set()  # an interrupt arrives here: without this, the thread would be waited for to its end
            raise


def _interleave(
    runs: Sequence[Callable[[], object]],
    count: int,
    rng: np.random.Generator,
    limit: float,
    clock: Callable[[], float],
    check: Check,
) -> Timing:
    for run in runs:
        for _ in range(TIMING_RULES.warm_up_runs):
            check()
            run()
    seconds = np.zeros((count, len(runs)))
    start = time.perf_counter()
    for index in range(count):
        for model in rng.permutation(len(runs)):
            check()
            # Once untimed: the run before was another model's, and left the caches full of its weights.
            runs[model]()
            before = clock()
            runs[model]()
            seconds[index, model] = clock() - before
        if limit and index + 1 >= TIMING_RULES.least_runs and time.perf_counter() - start > limit:
            return Timing(seconds[: index + 1])
    return Timing(seconds)
