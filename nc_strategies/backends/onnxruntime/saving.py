"""Saved models, as a user of onnxruntime opens them."""

from __future__ import annotations

from pathlib import Path

import onnx

from nc_strategies.onnx_graph import external

FILE = "model.onnx"


def save(model: onnx.ModelProto, folder: Path) -> Path:
    """Write a Q/DQ model. Its guards need no session option. The weights of a model over 2 GB are external data.

    Returns:
        The path of the file.

    Raises:
        OSError: the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    external.save(model, path)
    return path
