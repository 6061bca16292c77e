"""Time of a run by stage."""

from __future__ import annotations

import time
from collections.abc import Iterable


class Clock:
    """Adds the duration of a ``with`` block to a stage.

    Args:
        seconds: Seconds by stage; changed in place.
        stage: The stage.
    """

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self.seconds, self.stage = seconds, stage

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + time.perf_counter() - self.start


def add_seconds(seconds: dict[str, float], spent: Iterable[tuple[str, float]]) -> None:
    """Add seconds to their stages.

    Args:
        seconds: Seconds by stage; changed in place.
        spent: Pairs (stage, seconds).
    """
    for stage, took in spent:
        seconds[stage] = seconds.get(stage, 0.0) + took
