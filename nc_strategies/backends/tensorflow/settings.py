"""Settings of the TensorFlow backend. TensorFlow itself is not imported here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TensorFlowSettings:
    """Settings of the TensorFlow backend.

    Args:
        name: The name it is chosen by.
        percentile: Percentile of the values that the ``percentile`` algorithm keeps, in percent.
    """

    name: str = "tensorflow"
    percentile: float = 99.99
