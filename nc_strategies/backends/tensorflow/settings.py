"""Settings of the TensorFlow backend. TensorFlow itself is not imported here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TensorFlowSettings:
    """Settings of the TensorFlow backend.

    Args:
        name: The name that selects the backend.
        percentile: Percentile of the values to represent with the ``percentile`` algorithm, on either side, in percent.
        equalize: Cross-layer equalization of channels before quantization: ``auto`` (if it clearly reduces the
            quantization noise of the all-int8 model on calibration data), ``always`` or ``never``.
    """

    name: str = "tensorflow"
    percentile: float = 99.99
    equalize: str = "auto"
