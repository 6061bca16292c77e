"""Settings of the TensorFlow backend. TensorFlow itself is not imported here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TensorFlowSettings:
    """Settings of the TensorFlow backend.

    Args:
        name: The name it is chosen by.
        percentile: Percentile of the values that the ``percentile`` algorithm keeps, in percent.
        equalize: Cross-layer equalization of channels before anything is quantized: ``auto`` (where it makes int8
            everywhere clearly less noisy on calibration data), ``always`` or ``never``.
    """

    name: str = "tensorflow"
    percentile: float = 99.99
    equalize: str = "auto"
