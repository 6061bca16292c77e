"""Settings of the ONNX Runtime backend. The engine is not imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class OnnxRuntimeSettings:
    """Settings of `OnnxRuntimeBackend`.

    Args:
        percentile: Percentile of the values to represent with the ``percentile`` algorithm, on either side, in percent.
        reduce_range: 7-bit weights: ``auto`` (if this processor's int8 kernels saturate), ``always`` or ``never``.
        equalize: Cross-layer equalization of channels before quantization: ``auto`` (if it clearly reduces the
            quantization noise of the all-int8 model on calibration data), ``always`` or ``never``.
        modes: Quantization modes that are offered for matrix products: ``static`` (int8 with calibrated ranges only),
            ``all`` (``dynamic`` and ``weight_only`` too), or ``auto`` (``all`` where matrix products are a good part of
            the model's work).
        fused_attention: Attention in floating point as one kernel of the engine: ``auto`` (if that is measured to be
            faster on calibration data), ``always`` or ``never``.
        recovery: Methods that make the quantized model less noisy (see `nc_strategies.calibration.recovery`): ``auto``
            (all, unless int8 everywhere has next to no noise), ``none``, or a list of names. Each is adopted only where
            it leaves less noise on calibration samples that it was not fitted on.
        provider: Execution provider that runs the operators, by a short name of one that the installed engine has, such
            as ``cuda`` for ``CUDAExecutionProvider``. The CPU runs those that it does not take.
        provider_options: Mapping of options of that provider, see the engine's documentation of it.
    """

    name: str = "onnxruntime"
    percentile: float = 99.99
    reduce_range: str = "auto"
    equalize: str = "auto"
    modes: str = "auto"
    fused_attention: str = "auto"
    recovery: Any = "auto"
    provider: str = "cpu"
    provider_options: Any = None
