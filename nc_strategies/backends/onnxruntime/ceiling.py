"""How much faster than fp32 ONNX Runtime's int8 operators can be on this machine."""

from __future__ import annotations

import onnxruntime as ort

from nc_strategies.backends.base import Backend
from nc_strategies.backends.ceiling import Ceiling, cache_name, kept_or_measured, measure_ceiling
from nc_strategies.backends.onnx_cases import ceiling_cases
from nc_strategies.backends.onnxruntime.probe import saturates


def measured(backend: Backend, again: bool = False) -> Ceiling | None:
    """The ceiling of a backend with its settings and threads; see `Backend.ceiling`."""

    def measure() -> Ceiling:
        return measure_ceiling(
            lambda: type(backend)(backend.settings, backend.threads), ceiling_cases(), saturates(), backend.threads
        )

    return kept_or_measured(cache_name("onnxruntime", [ort.__version__], backend.threads), measure, again)
