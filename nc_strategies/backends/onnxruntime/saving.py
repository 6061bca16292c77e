"""Models as the engine's users open them."""

from __future__ import annotations

from pathlib import Path

import onnx

FILE = "model.onnx"


def save(model: onnx.ModelProto, folder: Path) -> Path:
    """Write a Q/DQ model, whose guards need no session option.

    Returns:
        The file.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    path.write_bytes(model.SerializeToString())
    return path
