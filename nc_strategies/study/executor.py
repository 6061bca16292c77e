"""Execution of trials: one at a time, and their evaluation by one or by several processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from nc_strategies.errors import InputError
from nc_strategies.runtime.machine import cores
from nc_strategies.runtime.process import be_expendable, die_with_parent

if TYPE_CHECKING:
    # The settings below are read at every start, also for ``--help``, which imports nothing heavy.
    from nc_strategies.measuring.shares import EvaluationPool

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass
class SerialSettings:
    """Settings of `SerialExecutor`, which has none beside its name."""

    name: str = "serial"


class SerialExecutor(Executor):
    """Runs one trial at a time, in this process, so that trials do not disturb each other's timings."""

    workers = 1

    def __init__(self, settings: Any = None) -> None:
        self.settings = settings

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run the function now; an interrupt is raised, and any other exception is stored in the future."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - a future stores any exception of its function
            future.set_exception(error)
        return future

    def evaluation_pool(self, threads: int) -> EvaluationPool | None:
        """Processes that evaluate a part of each trial's samples; None for no others.

        It is called in the process of the engine, once.

        Args:
            threads: Threads of the engine in each process.
        """
        return None

    @staticmethod
    def processes_that_fit(threads: int) -> int:
        """Number of processes for which this machine has processors; at least 1.

        Args:
            threads: Threads of the engine in each process.
        """
        return max(1, cores() // max(1, threads))


@dataclass
class ProcessesSettings:
    """Settings of `ProcessesExecutor`.

    Args:
        workers: Processes that evaluate, the one that measures included; 0 for as many as there are processors, divided
            by `measure.threads`.
    """

    name: str = "processes"
    workers: int = 0


class ProcessesExecutor(SerialExecutor):
    """Runs one trial at a time, and shares the evaluation of its samples among processes of this machine.

    Nothing is timed while the other processes run, so latencies are those of `SerialExecutor`, and so are the trials.

    Raises:
        InputError: the number of workers is negative.
    """

    settings: ProcessesSettings

    def __init__(self, settings: ProcessesSettings) -> None:
        super().__init__(settings)
        if settings.workers < 0:
            raise InputError("executor.workers", f"is {settings.workers}", "0 (as many as processors) or more")

    def evaluation_pool(self, threads: int) -> EvaluationPool | None:
        """See `SerialExecutor.evaluation_pool`."""
        count = self.settings.workers or self.processes_that_fit(threads)
        return _ProcessPool(count - 1) if count > 1 else None


class _ProcessPool:
    """See `EvaluationPool`. New processes are started, not forked: an engine's threads do not survive a fork."""

    same_files = True

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor = self._started()

    def _started(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.workers, context, _begin, (os.getpid(),))

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """See `EvaluationPool.submit`."""
        return self._executor.submit(function, *arguments)

    def share(self, data: bytes) -> bytes:
        """See `EvaluationPool.share`; not called, as the processes see the files of this one."""
        return data

    def alive(self) -> bool:
        """See `EvaluationPool.alive`: a process that has ended makes the executor end all calls with an error."""
        return True

    def restart(self) -> None:
        """See `EvaluationPool.restart`."""
        self.close()
        self._executor = self._started()

    def close(self) -> None:
        """See `EvaluationPool.close`: each process ends when it has finished its call."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _begin(parent: int) -> None:
    """Runs first in each process."""
    die_with_parent(parent)
    be_expendable()
