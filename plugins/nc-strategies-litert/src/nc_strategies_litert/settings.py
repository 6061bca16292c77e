"""Settings of the LiteRT backend and of its model format. The engine is not imported here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LiteRtSettings:
    """Settings of `LiteRtBackend`.

    Args:
        name: The name that selects the backend.
        percentile: Percentile of the values to represent with the ``percentile`` algorithm, on either side, in percent.
        modes: Quantization modes that are offered: ``static`` (int8 with calibrated ranges only), ``auto`` (``dynamic``
            too, where the engine's delegate executes it) or ``all`` (``weight_only`` too, which makes the file smaller
            and computes in floating point).
        int8_io: Whether floating-point inputs and outputs of the model become int8, if any operator is in static int8.
            Scale and zero point are in the file.
    """

    name: str = "litert"
    percentile: float = 99.99
    modes: str = "auto"
    int8_io: bool = False


@dataclass
class TfliteModelSettings:
    """Settings of a floating-point ``.tflite`` file.

    Args:
        name: The option's name.
        path: The file.
    """

    name: str = "tflite"
    path: str = "???"
