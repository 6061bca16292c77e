"""Settings of the backend; imports no engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class OnnxRuntimeSettings:
    """Settings of `OnnxRuntimeBackend`.

    Args:
        percentile: For the ``percentile`` algorithm: the share of values kept on either side, in percent.
        reduce_range: 7-bit weights: ``auto`` (where this processor's int8 kernels saturate), ``always`` or ``never``.
        equalize: Cross-layer equalization of channels before anything is quantized: ``auto`` (where it makes int8
            everywhere clearly less noisy on calibration data), ``always`` or ``never``.
    """

    name: str = "onnxruntime"
    percentile: float = 99.99
    reduce_range: str = "auto"
    equalize: str = "auto"
