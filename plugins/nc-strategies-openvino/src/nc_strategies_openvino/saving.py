"""Saved models: OpenVINO IR, and the ONNX model beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nc_strategies_openvino import engine

FILE, ONNX_FILE = "model.xml", "model.onnx"


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


def ir_bytes(path: Path) -> int:
    """Size of a saved model, without the ONNX model beside it."""
    return path.stat().st_size + (path.with_suffix(".bin").stat().st_size if path.suffix == ".xml" else 0)
