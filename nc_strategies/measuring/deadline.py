"""Deadline at which a measurement stops itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from nc_strategies.errors import OutOfTimeError

Check = Callable[[], None]
"""Callback between two steps of a measurement; it raises `OutOfTimeError` once the deadline has passed."""


def unlimited() -> None:
    """A `Check` that never raises."""


class Deadline:
    """Deadline that measurements check between two batches and between two timed runs.

    A measurement that stops itself keeps fp32's measurement and the calibration in memory. Killing its process would
    lose both.

    Attributes:
        at: The deadline on the clock of `time.monotonic`; 0 for none.
    """

    def __init__(self) -> None:
        self.at = 0.0

    @property
    def left(self) -> float:
        """Seconds left; infinite without a deadline."""
        return self.at - time.monotonic() if self.at else math.inf

    def check(self) -> None:
        """Raise an error once the deadline has passed.

        Raises:
            OutOfTimeError: the deadline has passed.
        """
        if self.left <= 0:
            raise OutOfTimeError("the time that was left for this measurement is over")
