"""Workers on a simulated clock, and a target whose trials cost no time of this machine."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

import numpy as np

from nc_strategies.measuring.local_target import LocalTarget
from nc_strategies.problem import Evaluation, LatencyTerms
from nc_strategies.space import FLOAT, Config
from nc_strategies.testing.toy import SCHEMES, ToyOp


class SimulatedClock:
    """Seconds of a run in which the tuner works in real time and a trial takes as long as it is said to take.

    The tuner's time is the processor's time of this process, so that other processes of the machine do not count.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        self._held = 0.0
        self._began = time.process_time()

    def __call__(self) -> float:
        """Seconds since the start."""
        return time.process_time() - self._began - self._held + self._ahead

    def move_to(self, when: float) -> None:
        """Move on to a time; nothing if it has passed: the tuner was busy then."""
        self._ahead += max(0.0, when - self())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stop the clock, for what happens on a worker."""
        begin = time.process_time()
        try:
            yield
        finally:
            self._held += time.process_time() - begin


class SimulatedWorkers(Executor):
    """An executor whose trials end in the order of the simulated clock.

    Args:
        workers: Number of workers.
        clock: The clock.
        seconds: Mean seconds of a trial.
        spread: Half-width of the uniform distribution of the seconds, relative to the mean.
        seed: Seed of the seconds.
    """

    def __init__(self, workers: int, clock: SimulatedClock, seconds: float, spread: float = 0.2, seed: int = 0) -> None:
        self.workers = workers
        self.settings = None
        self._clock, self._seconds, self._spread = clock, seconds, spread
        self._rng = np.random.default_rng(seed)
        self._running: list[tuple[float, int, Future[Any], Callable[[], Any]]] = []
        self.spans: list[tuple[float, float]] = []
        """Begin and end of each trial, in seconds of the clock."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a trial on a free worker."""
        if len(self._running) >= self.workers:
            raise RuntimeError("all workers are busy")
        begin = self._clock()
        end = begin + self._seconds * (1 + self._spread * (2 * float(self._rng.random()) - 1))
        future: Future[Any] = Future()
        heapq.heappush(self._running, (end, len(self.spans), future, lambda: fn(*args, **kwargs)))
        self.spans.append((begin, end))
        return future

    def next_ended(self, ended: Any) -> Future[Any]:
        """See `TrialLoop`: the next trial ends, now or, if the tuner was busy then, some time ago."""
        if ended.empty():
            end, _, future, call = heapq.heappop(self._running)
            self._clock.move_to(end)
            with self._clock.held():
                try:
                    result = call()
                except Exception as error:  # noqa: BLE001 - a future stores any exception of its function
                    future.set_exception(error)
                else:
                    future.set_result(result)
        found: Future[Any] = ended.get()
        return found

    def evaluation_pool(self, threads: int) -> None:
        """See `SerialExecutor.evaluation_pool`: none."""

    @property
    def idle(self) -> float | None:
        """Share of the workers' time without a trial, from the first start to the last.

        After the last start there is nothing left to do, which no tuner can help. None if no worker had a second trial.
        """
        begin, last = self.spans[0][0], max(start for start, _ in self.spans)
        if len(self.spans) <= self.workers:
            return None
        busy = sum(min(end, last) - start for start, end in self.spans)
        return 1 - busy / (self.workers * (last - begin))

    @property
    def throughput(self) -> float:
        """Trials per second, relative to workers that start at once and are never idle before the end of all."""
        took = max(end for _, end in self.spans) - self.spans[0][0]
        work = sum(end - start for start, end in self.spans)
        return work / min(self.workers, len(self.spans)) / took


class SimulatedTarget(LocalTarget):
    """The toy backend's target with known estimates and measurements: neither takes time of the machine.

    Args:
        ops: The model.
        clock: Stops while a worker or an estimate is at work.
        noise: Standard deviation of a measured latency, relative.
    """

    def simulate(self, ops: Sequence[ToyOp], clock: SimulatedClock, noise: float) -> None:
        """Take the model's true values from now on."""
        self._ops, self._held, self._noise_sd = ops, clock.held, noise
        self._draws = np.random.default_rng(1)
        self._loss = np.array([op.loss for op in ops])
        self._fp32_us = np.array([op.time_us for op in ops])
        self._int8_us = np.array([op.int8_time_us for op in ops])

    def measure(self, config: Config, partial: bool = False, complete: bool = False) -> Evaluation:
        """See `MeasurementTarget.measure`: as `toy_evaluation`, with noise, and in a fraction of its time."""
        codes = np.frombuffer(config.codes.encode("utf-32-le"), np.uint32)
        factors = np.zeros(int(codes.max()) + 1)
        for code in set(config.codes):
            scheme = config.scheme_of(code)
            if scheme.weight is not None and not scheme.is_float:
                factors[ord(code)] = 1.5 if scheme.weight.granularity == "per_tensor" else 1.0
        int8 = np.frombuffer(config.int8_flags, np.uint8).astype(bool)
        factor = 1 + self._noise_sd * float(self._draws.standard_normal())
        seconds = 1e-6 * float(np.where(int8, self._int8_us, self._fp32_us).sum())
        ratio = factor * seconds / (1e-6 * float(self._fp32_us.sum()))
        count = int(int8.sum())
        return Evaluation(
            (("accuracy", 0.9 - float(self._loss @ factors[codes])),),
            (("latency_ms", 1e3 * seconds * factor), ("duration_s", seconds * factor), ("size_bytes", 1000.0)),
            (("latency", ratio),),
            (("latency", 2 * self._noise_sd),),
            self.measurer.samples,
            count,
            len(int8) - count,
            (("build", 0.1), ("accuracy", 0.8), ("latency", 0.1)),
            config.fingerprint,
        )

    def sensitivity(self, way: str = "") -> dict[str, float]:
        """See `MeasurementTarget.sensitivity`: each operator's loss, wrong by a factor of about 1.6."""
        with self._held():
            wrong = np.random.default_rng(2).lognormal(0.0, 0.5, len(self._ops))
            return {op.name: op.loss * float(factor) for op, factor in zip(self._ops, wrong, strict=True)}

    def latency_terms(self, brief: bool = False) -> LatencyTerms:
        """See `MeasurementTarget.latency_terms`: the model's times."""
        with self._held():
            whole = sum(op.time_us for op in self._ops)
            ops = {
                op.name: {FLOAT: op.time_us / whole, **dict.fromkeys(SCHEMES, op.int8_time_us / whole)}
                for op in self._ops
            }
            return LatencyTerms(0.0, ops, error=self._noise_sd)

    def divergence(self, config: Config, batches: int = 1) -> float:
        """See `MeasurementTarget.divergence`: the sum of the losses of the operators in int8."""
        with self._held():
            loss: Mapping[str, float] = {op.name: op.loss for op in self._ops}
            return sum(loss[name] for name in config.int8_ops)
