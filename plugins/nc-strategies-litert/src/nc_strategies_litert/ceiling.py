"""How much faster than fp32 LiteRT's int8 operators can be on this machine."""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path

from nc_strategies.api import (
    Backend,
    Ceiling,
    CeilingCase,
    ModelSource,
    ceiling_cache_name,
    kept_or_measured_ceiling,
    measure_ceiling,
)
from nc_strategies_litert import probe
from nc_strategies_litert.model import FORMAT

SHAPES = {"CONV_2D": (14, 256, 256), "FULLY_CONNECTED": (11, 1024, 1024)}
"""Operator to size, input channels and output channels of `probe.operator_model`: 116 and 127 million multiplications.
"""


def measured(backend: Backend, again: bool = False) -> Ceiling | None:
    """The ceiling of a backend with its settings and threads; see `Backend.ceiling`."""

    def measure() -> Ceiling:
        probe.held()  # Tried in child processes first, which is no part of the time that is measured in.
        cases = [CeilingCase(kind, _shape(kind), functools.partial(_write, kind)) for kind in SHAPES]
        make = functools.partial(type(backend), backend.settings, backend.threads)
        # Kernels that overflow on the largest products are not offered.
        return measure_ceiling(make, cases, False, backend.threads)

    versions = [importlib.metadata.version(name) for name in probe.ENGINES]
    return kept_or_measured_ceiling(ceiling_cache_name("litert", versions, backend.threads), measure, again)


def _shape(kind: str) -> tuple[int, ...]:
    size, depth, _ = SHAPES[kind]
    return (size * size, depth) if kind == "FULLY_CONNECTED" else (1, size, size, depth)


def _write(kind: str, folder: Path) -> ModelSource:
    size, depth, channels = SHAPES[kind]
    content, _ = probe.operator_model(kind, 1, size, depth, channels)
    path = folder / "model.tflite"
    path.write_bytes(content)
    return ModelSource(kind, {FORMAT: path})
