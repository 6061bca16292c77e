"""Where models are timed: in this process, or on the machine that they are for."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from nc_strategies.backends.base import Backend, Executable
from nc_strategies.measuring.deadline import Check, unlimited
from nc_strategies.measuring.latency import Timing
from nc_strategies.measuring.lengths import TimedBatch, interleave_batches
from nc_strategies.measuring.memory import peak_bytes
from nc_strategies.models.info import Batch
from nc_strategies.runtime.turns import turn
from nc_strategies.space import Config

LEAST_TIMING_SECONDS = 1e-3
"""Time limit of a timing when no time is left: a limit of 0 would mean no limit."""


def unending() -> float:
    """Seconds that are left where there is no deadline."""
    return math.inf


class Timer(Protocol):
    """Times models side by side, and says where else a model is measured."""

    def time(
        self,
        models: Sequence[Executable],
        batches: Sequence[TimedBatch],
        runs: int,
        rng: np.random.Generator,
        limit: float = 0.0,
        check: Check = unlimited,
        left: Callable[[], float] = unending,
    ) -> Timing:
        """Time models; see `interleave_batches`.

        Args:
            models: See `interleave_batches`.
            batches: See `interleave_batches`.
            runs: See `interleave_batches`.
            rng: See `interleave_batches`.
            limit: See `interleave_batches`.
            check: See `interleave_batches`.
            left: Seconds until the timing has to stop, with the runs that it has then. Waiting for a turn counts.

        Raises:
            OutOfTimeError: `check` raised it.
            EngineError: the engine could not run a model.
            TargetError: the machine that times cannot be reached.
        """

    def prepare(self, models: Sequence[Executable], check: Check = unlimited) -> None:
        """Bring models to where they are timed, if they are not there; this counts as building them.

        Raises:
            OutOfTimeError: `check` raised it.
            TargetError: the machine that times cannot be reached.
        """

    def evaluated(self, models: Sequence[Executable]) -> list[Executable]:
        """The same models where accuracy is evaluated."""

    def peak_bytes(self, backend: Backend, config: Config, batch: Batch) -> int:
        """Peak memory of a configuration's run in bytes; see `nc_strategies.measuring.memory`."""


class LocalTimer:
    """Times models in this process; see `Timer`.

    Args:
        backend: The engine, for its clock.
        take_turns: Whether to wait until no other run is timing on this machine. A simulated clock needs no turn.
    """

    def __init__(self, backend: Backend, take_turns: bool = True) -> None:
        self._backend, self._take_turns = backend, take_turns

    def time(
        self,
        models: Sequence[Executable],
        batches: Sequence[TimedBatch],
        runs: int,
        rng: np.random.Generator,
        limit: float = 0.0,
        check: Check = unlimited,
        left: Callable[[], float] = unending,
    ) -> Timing:
        """See `Timer.time`."""
        with self._turn(check):
            rest = left()
            if rest < math.inf:  # stop at the deadline without an error: enough runs before it are a valid timing
                limit = max(min(limit or rest, rest), LEAST_TIMING_SECONDS)
            return interleave_batches(models, batches, runs, rng, limit, self._backend.clock, check)

    def _turn(self, check: Check) -> contextlib.AbstractContextManager[None]:
        real = self._backend.clock is time.perf_counter
        return turn(check) if self._take_turns and real else contextlib.nullcontext()

    def prepare(self, models: Sequence[Executable], check: Check = unlimited) -> None:
        """See `Timer.prepare`: they are here."""

    def evaluated(self, models: Sequence[Executable]) -> list[Executable]:
        """See `Timer.evaluated`."""
        return list(models)

    def peak_bytes(self, backend: Backend, config: Config, batch: Batch) -> int:
        """See `Timer.peak_bytes`."""
        with tempfile.TemporaryDirectory(prefix="ncs-memory-") as folder:
            path = backend.save(config, Path(folder) / "model")
            return peak_bytes(backend, path, batch)
