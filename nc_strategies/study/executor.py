"""Where trials run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class SerialSettings:
    """Settings of `SerialExecutor`: none."""

    name: str = "serial"


class SerialExecutor(Executor):
    """Runs each trial at once, in this process: the only way to time without disturbing oneself."""

    workers = 1

    def __init__(self, settings: Any = None) -> None:
        self.settings = settings

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run now; an interrupt passes through, any other exception is the future's."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - a future carries whatever its function raised
            future.set_exception(error)
        return future
