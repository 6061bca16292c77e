"""Saved models: OpenVINO IR, and the ONNX model beside it."""

from __future__ import annotations

from pathlib import Path

from nc_strategies_openvino import engine

FILE, ONNX_FILE = "model.xml", "model.onnx"


def save_ir(model: bytes, path: Path) -> None:
    """Write OpenVINO IR, with its weights in a ``.bin`` file beside it; floating-point weights stay in fp32.

    Args:
        model: A serialized ONNX model.
        path: The ``.xml`` file.

    Raises:
        EngineError: the engine refuses the model.
        OSError: a file cannot be written.
    """
    read = engine.read(model)
    # For the reader: the engine takes this option from a caller only.
    read.set_rt_info("f32", ["runtime_options", engine.PRECISION])
    try:
        engine.openvino().save_model(read, str(path), compress_to_fp16=False)
    except RuntimeError as error:
        raise OSError(f"{path} cannot be written: {engine.first_line(error)}") from error


def ir_bytes(path: Path) -> int:
    """Size of a saved model, without the ONNX model beside it."""
    return path.stat().st_size + (path.with_suffix(".bin").stat().st_size if path.suffix == ".xml" else 0)
