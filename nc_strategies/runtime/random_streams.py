"""Streams of random numbers of a run. They follow from its seed, and what is drawn from one moves no other."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What random numbers are drawn for. A number that changes gives the same seed another run."""

    STRATEGY = 0
    TIMING = 1
    EVALUATION_ORDER = 2
    LATENCY_MODEL = 3
    CALIBRATION_ORDER = 4
    BATCHES = 5


def generator(seed: int, stream: Stream) -> np.random.Generator:
    """The generator of a stream, at its beginning.

    Args:
        seed: The run's seed.
        stream: The stream.
    """
    return np.random.default_rng([seed, int(stream)])
