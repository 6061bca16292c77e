"""Latency from interleaved runs, and intervals of latency ratios."""

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
    """Numbers of runs, blocks and sessions for interleaved timings and their intervals."""

    warm_up_runs: int = 5
    """Untimed runs of each model before the first timed run."""
    least_runs: int = 20
    """Minimum number of timed runs per model before a time limit applies. Between two equal models, the log ratio of
    medians had a standard deviation of 7 % with 10 interleaved runs and of 1.6 % with 100."""
    blocks: int = 10
    """Maximum number of blocks of consecutive runs per session; the ratios of the blocks give the interval."""
    least_blocks: int = 4
    """Minimum number of blocks per session. With 3 degrees of freedom, the two-sided 95 % quantile of Student's t is
    3.2."""
    runs_per_block: int = 10
    """Minimum number of runs per block, if there are enough runs for `least_blocks`."""
    least_sessions: int = 4
    """Minimum number of sessions for an interval from the ratios of the sessions instead of the ratios of blocks; the
    reason is that of `least_blocks`."""


TIMING_RULES = TimingRules()


@dataclass(frozen=True)
class Timing:
    """Latencies from interleaved runs.

    Args:
        seconds: Latency of each run in seconds, shape (runs, models).
        sessions: Number of runs of each session, if the models were reopened; empty for a single session.
        parts: Timings of the same runs at each of several lengths, of which `seconds` is the weighted sum.
    """

    seconds: NDArray[np.float64]
    sessions: tuple[int, ...] = ()
    parts: tuple[Timing, ...] = ()

    @staticmethod
    def joined(timings: Sequence[Timing]) -> Timing:
        """Join the timings of several sessions of the same models.

        Depending on where the engine places a graph in memory, all runs of a session are faster or slower by a few
        percent. With at least four sessions, the interval of a ratio therefore comes from the ratios of the sessions.
        """
        parts = tuple(Timing.joined(same) for same in zip(*(t.parts for t in timings), strict=True))
        return Timing(np.concatenate([t.seconds for t in timings]), tuple(t.runs for t in timings), parts)

    @staticmethod
    def in_turn(timings: Sequence[Timing]) -> Timing:
        """Join timings of single models, each beside the same reference, to one of the reference and all models.

        Args:
            timings: Each has the columns (reference, model).

        Returns:
            A timing with the columns (reference, first model, second model, ...). The times of each block are scaled to
            the reference's speed in that block of the first timing, so that ratios to the reference are those of the
            timings.
        """
        sessions = min(len(timing.sessions) or 1 for timing in timings)
        parts = [np.split(t.seconds, np.cumsum(t.sessions)[:-1])[:sessions] for t in timings]
        lengths = tuple(min(map(len, session)) for session in zip(*parts, strict=True))
        even = [
            Timing(np.concatenate([p[:n] for p, n in zip(part, lengths, strict=True)]), lengths if sessions > 1 else ())
            for part in parts
        ]
        columns = [even[0].seconds[:, 0]]
        for timing in even:
            pace = [
                np.full(len(own), np.median(first[:, 0]) / np.median(own[:, 0]))
                for first, own in zip(even[0]._blocks(), timing._blocks(), strict=True)
            ]
            columns.append(timing.seconds[:, 1] * np.concatenate(pace))
        same = zip(*(timing.parts for timing in timings), strict=True)
        return Timing(np.stack(columns, 1), even[0].sessions, tuple(map(Timing.in_turn, same)))

    def repeated(self, factors: Sequence[float]) -> Timing:
        """A timing in whose place of the first column are several: it, times each of the factors."""
        columns = [self.seconds[:, 0] * factor for factor in factors]
        parts = tuple(part.repeated(factors) for part in self.parts)
        return Timing(np.column_stack([*columns, self.seconds[:, 1:]]), self.sessions, parts)

    @property
    def runs(self) -> int:
        """Number of timed runs per model."""
        return len(self.seconds)

    def median_ms(self, model: int) -> float:
        """Latency of a model in milliseconds: the geometric mean of its blocks' medians.

        The quotient of two models' latencies equals their `ratio`, so that reported latencies and speed-up agree. The
        median of all runs lacks this property.
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
        """Latency of a model relative to a reference's (below 1 is faster): geometric mean of the blocks' ratios.

        The ratio of a block is that of the medians. The machine's speed drifts, but both models see nearly the same
        speed within a block of consecutive runs.
        """
        return float(np.exp(self._log_ratios(model, reference).mean()))

    def standard_error(self, model: int, reference: int) -> float:
        """Standard error of the logarithm of `ratio`."""
        return _standard_error(self._log_ratios(model, reference))

    def ratio_interval(self, model: int, reference: int) -> tuple[float, float]:
        """95 % interval of `ratio`.

        The runs are split into consecutive blocks, or into sessions. Each block gives the log ratio of its medians, and
        Student's t over the blocks gives the interval. This is the method of batch means (Law, "Simulation Modeling and
        Analysis", ch. 9). It is valid if neighbouring runs are correlated, as they are on a shared machine.
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
    least: int = TIMING_RULES.least_runs,
) -> Timing:
    """Time several callables side by side, in a new random order per round; an untimed run precedes each timed run.

    Args:
        runs: Callables to time.
        count: Number of rounds.
        rng: Shuffles the order.
        limit: Seconds after which the timing stops, once there were `least` rounds; 0 for no limit.
        clock: Clock in seconds; `time.perf_counter` by default.
        check: Called before each callable's turn in a round, and before each warm-up run.
        least: Least number of rounds before the limit applies.

    Raises:
        OutOfTimeError: `check` raised it.
    """
    ended = threading.Event()

    def checked() -> None:
        if ended.is_set():
            raise OutOfTimeError("the timing was interrupted")
        check()

    # The C library gives a new thread its own memory arena. In the memory that the process has used and freed before,
    # the allocations of a run would be scattered, the more so the longer the process has lived.
    with ThreadPoolExecutor(1) as thread:
        timing = thread.submit(_interleave, runs, count, rng, limit, clock or time.perf_counter, checked, least)
        try:
            return timing.result()
        except BaseException:
            ended.set()  # an interrupt reaches only this thread; the executor waits until the other one has ended
            raise


def _interleave(
    runs: Sequence[Callable[[], object]],
    count: int,
    rng: np.random.Generator,
    limit: float,
    clock: Callable[[], float],
    check: Check,
    least: int,
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
            # Untimed: the previous run was another model's and left its weights in the caches.
            runs[model]()
            before = clock()
            runs[model]()
            seconds[index, model] = clock() - before
        if limit and index + 1 >= least and time.perf_counter() - start > limit:
            return Timing(seconds[: index + 1])
    return Timing(seconds)
