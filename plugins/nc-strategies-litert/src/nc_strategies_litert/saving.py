"""Saved models, as a user of LiteRT opens them."""

from __future__ import annotations

import os
from pathlib import Path

FILE = "model.tflite"


def save(content: bytes, folder: Path) -> Path:
    """Write a model.

    Returns:
        The path of the file.

    Raises:
        OSError: the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    part = folder / f"{FILE}.part"
    part.write_bytes(content)
    os.replace(part, path)
    return path
