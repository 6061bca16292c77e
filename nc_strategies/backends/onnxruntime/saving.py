"""Saved models, as a user of onnxruntime opens them."""

from __future__ import annotations

from pathlib import Path

import onnx

FILE = "model.onnx"


def save(model: onnx.ModelProto, folder: Path) -> Path:
    """Write a Q/DQ model. Its guards need no session option.

    Returns:
        The path of the file.

    Raises:
        OSError: the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    path.write_bytes(model.SerializeToString())
    return path
