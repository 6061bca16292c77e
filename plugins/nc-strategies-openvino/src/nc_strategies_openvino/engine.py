"""OpenVINO itself: its import without telemetry, the options that models are compiled with, and a run."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from nc_strategies.api import EngineError

TELEMETRY = "openvino_telemetry"
"""The package that sends a report, and writes an identifier into the home folder, when OpenVINO is imported."""
DEVICE = "CPU"
PRECISION = "INFERENCE_PRECISION_HINT"
"""Name of the option that chooses the type of floating-point operators; bf16 by default where a processor has it."""


@cache
def openvino() -> Any:
    """The engine's package. Its telemetry finds no package to send with: it sends and writes nothing.

    Raises:
        ImportError: it is not installed.
    """
    if "openvino" not in sys.modules and TELEMETRY not in sys.modules:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment] # makes an import of it fail, as if it were missing
        try:
            return importlib.import_module("openvino")
        finally:
            del sys.modules[TELEMETRY]
    return importlib.import_module("openvino")


@cache
def core() -> Any:
    """The engine's entry point, one for the process. Compiled models are not cached on disk: nothing asks for it."""
    return openvino().Core()


def default_precision() -> str:
    """Type of floating-point operators where nobody asks for one: ``f32``, ``bf16`` or ``f16``."""
    return str(core().get_property(DEVICE, PRECISION).get_type_name())


def options(threads: int, profiling: bool = False) -> dict[str, Any]:
    """Options of a compiled model: one run at a time, floating-point operators in fp32.

    Args:
        threads: Threads for a run.
        profiling: Record the time of each node.
    """
    return {
        PRECISION: "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "PERF_COUNT": profiling,
    }


def first_line(error: BaseException) -> str:
    """What an error of the engine says: its messages begin with the places in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return (told or lines or [type(error).__name__])[0]


def read(model: bytes | Path) -> Any:
    """Read an ONNX model or OpenVINO IR.

    Args:
        model: A serialized ONNX model, or the path of a model file.

    Raises:
        EngineError: the engine refuses it.
    """
    try:
        return core().read_model(model if isinstance(model, bytes) else str(model))
    except RuntimeError as error:
        raise EngineError(f"OpenVINO refuses the model: {first_line(error)}") from error


def compiled(model: Any, chosen: Mapping[str, Any]) -> Any:
    """Compile a model that was read.

    Raises:
        EngineError: the engine refuses it.
    """
    try:
        return core().compile_model(model, DEVICE, dict(chosen))
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot compile the model: {first_line(error)}") from error


def run(request: Any, batch: Mapping[Any, Any]) -> None:
    """Run a model once.

    Raises:
        EngineError: the engine could not run it.
    """
    try:
        request.infer(dict(batch), share_inputs=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise EngineError(f"OpenVINO could not run the model: {first_line(error)}") from error
