"""A real engine on a simulated clock, for tests of what follows from latency: it is the same on any machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from nc_strategies.backends.base import Backend, Executable
from nc_strategies.models.info import Batch
from nc_strategies.testing.toy import SIMULATED

FP32_SECONDS, INT8_SECONDS = 40e-6, 15e-6
"""What an operator takes: as `ToyOp` does."""


@contextmanager
def simulated_time(*backends: type[Backend]) -> Iterator[None]:
    """Within the block, each run of a model takes 40 microseconds an fp32 operator and 15 an int8 one.

    The engine builds and runs its graphs as ever; what is counted is what it says it executes. Only runs in this
    process count, not those of a worker (``isolation=process``).

    Args:
        backends: Classes of backends.

    Example:
        ::

            with simulated_time(OnnxRuntimeBackend):
                study = nc_strategies.tune(model, eval_func=evaluate)
    """
    with ExitStack() as stack:
        for backend in backends:
            stack.enter_context(patch.object(backend, "clock", SIMULATED))
            for name in ("reference", "build", "open"):
                stack.enter_context(patch.object(backend, name, _timed(getattr(backend, name))))
        yield


def _timed(make: Callable[..., Executable]) -> Callable[..., Executable]:
    """Makes the same model, which moves the clock when it runs."""

    def timed(self: Backend, *args: Any) -> Executable:
        model = make(self, *args)
        executed, predict = model.executed(), model.predict
        seconds = executed.fp32_count * FP32_SECONDS + executed.int8_count * INT8_SECONDS

        def run(batch: Batch) -> Any:
            SIMULATED.advance(seconds)
            return predict(batch)

        model.predict = run  # type: ignore[method-assign]
        return model

    return timed
