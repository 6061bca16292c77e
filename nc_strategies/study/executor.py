"""Execution of trials."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


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
