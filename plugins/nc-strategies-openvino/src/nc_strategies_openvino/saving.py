"""Saved models: OpenVINO IR, and the ONNX model beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nc_strategies_openvino import engine

SUFFIX = ".xml"
FILE, ONNX_FILE = f"model{SUFFIX}", "model.onnx"


def save_ir(model: Any, path: Path) -> None:
    """Write OpenVINO IR, with its weights in a ``.bin`` file beside it; floating-point weights stay in fp32.

    Args:
        model: An ``openvino.Model``.
        path: The ``.xml`` file.

    Raises:
        OSError: a file cannot be written.
    """
    # For the reader: the engine takes this option from a caller only.
    model.set_rt_info("f32", ["runtime_options", engine.PRECISION])
    try:
        engine.openvino().save_model(model, str(path), compress_to_fp16=False)
    except RuntimeError as error:
        raise OSError(f"{path} cannot be written: {engine.first_line(error)}") from error


def weights_of(path: Path) -> Path:
    """The file with the weights of OpenVINO IR."""
    return path.with_suffix(".bin")


def ir_bytes(path: Path) -> int:
    """Size of OpenVINO IR, without the ONNX model beside it."""
    return path.stat().st_size + weights_of(path).stat().st_size
