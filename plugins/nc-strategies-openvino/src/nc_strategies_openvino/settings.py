"""Settings of the OpenVINO backend. The engine is not imported here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class OpenVinoSettings:
    """Settings of `OpenVinoBackend`.

    Args:
        percentile: Percentile of the values to represent with the ``percentile`` algorithm, on either side, in percent.
        reduce_range: 7-bit weights: ``auto`` (if this processor's int8 kernels saturate), ``always`` or ``never``.
        equalize: Cross-layer equalization of channels before quantization: ``auto`` (if it clearly reduces the
            quantization noise of the all-int8 model on calibration data), ``always`` or ``never``.
        modes: Quantization modes that are offered for matrix products: ``static`` (int8 with calibrated ranges only),
            ``all`` (``weight_only`` too), or ``auto`` (``all`` where matrix products are a good part of the model's
            work).
    """

    name: str = "openvino"
    percentile: float = 99.99
    reduce_range: str = "auto"
    equalize: str = "auto"
    modes: str = "auto"
