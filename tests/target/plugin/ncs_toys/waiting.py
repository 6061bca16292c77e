"""A target for a worker process that does nothing but wait."""

import time

from nc_strategies.runtime import turns

STEP = 0.1


class Waiting:
    """Waits, and may say that it does."""

    def until(self, deadline, patience=0.0):
        """See `MeasurementTarget.until`."""

    def wait(self, seconds, told):
        """Wait; `told` says whether this is for a turn."""
        for _ in range(round(seconds / STEP)):
            time.sleep(STEP)
            if told:
                turns.waited(STEP)
        return "waited"


def make(settings):
    """The factory of the worker."""
    return Waiting()
