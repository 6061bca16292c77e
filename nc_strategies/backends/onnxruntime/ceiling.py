"""How much faster than fp32 ONNX Runtime's int8 operators can be on this machine."""

from __future__ import annotations

import onnxruntime as ort

from nc_strategies.backends.base import Backend
from nc_strategies.backends.ceiling import Ceiling, cache_name, kept_or_measured, measure_ceiling
from nc_strategies.backends.onnx_cases import ceiling_cases
from nc_strategies.backends.onnxruntime.probe import saturates
from nc_strategies.backends.onnxruntime.providers import CPU, Provider


def measured(backend: Backend, again: bool = False, provider: Provider = CPU) -> Ceiling | None:
    """The ceiling of a backend with its settings, threads and execution provider; see `Backend.ceiling`."""

    def measure() -> Ceiling:
        return measure_ceiling(
            lambda: type(backend)(backend.settings, backend.threads),
            ceiling_cases(),
            saturates(provider),
            backend.threads,
        )

    return kept_or_measured(
        cache_name("onnxruntime", [ort.__version__, *map(str, provider.cache_key())], backend.threads), measure, again
    )
