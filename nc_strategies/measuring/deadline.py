"""The moment at which measuring ends by itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from nc_strategies.errors import OutOfTimeError

Check = Callable[[], None]
"""Called between two steps of a measurement; raises `OutOfTimeError` once its time is over."""


def unlimited() -> None:
    """A `Check` that never raises."""


class Deadline:
    """A moment that measuring looks at between two batches and between two timed runs.

    Whoever measures stays alive, with fp32's measurement and the calibration in memory: that is the difference to
    ending its process.

    Args:
        clock: Seconds that `at` is counted in; `time.monotonic` when left out.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or time.monotonic
        self.at = 0.0

    @property
    def left(self) -> float:
        """Seconds left; infinite without a deadline."""
        return self.at - self._clock() if self.at else math.inf

    def check(self) -> None:
        """Go on, or not.

        Raises:
            OutOfTimeError: the moment has passed.
        """
        if self.left <= 0:
            raise OutOfTimeError("the time that was left for this measurement is over")
