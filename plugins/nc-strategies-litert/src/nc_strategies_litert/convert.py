"""Conversion of a TensorFlow model to a floating-point ``.tflite`` model, in a child process that imports TensorFlow.

The process that measures never holds TensorFlow's memory, nor its threads.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from nc_strategies.api import InputError, ModelSource, export_saved_model, run_child, serve
from nc_strategies_litert.graph import order_outputs

FORMATS = ("keras", "saved_model", "graph_def", "h5")
KEY = "model.path"


def convert_in_child(source: ModelSource, target: Path) -> None:
    """Convert a model to a floating-point ``.tflite`` file.

    Args:
        source: A model in one of `FORMATS`.
        target: The file to write.

    Raises:
        InputError: TensorFlow is missing, or the model cannot be loaded or converted.
    """
    kind, path = source.pick(FORMATS, "litert")
    request = {
        "name": source.name,
        "kind": kind,
        "path": str(path),
        "target": str(target),
        "options": {
            "trust": source.trust,
            "signature": source.signature,
            "custom_objects": dict(source.custom_objects),
        },
    }
    run_child(__name__, request, KEY, f"the conversion of {path.name} to .tflite")


def _convert(request: dict[str, Any]) -> dict[str, Any]:
    path = Path(request["path"])
    source = ModelSource(request["name"], {request["kind"]: path}, **request["options"])
    with tempfile.TemporaryDirectory(prefix="ncs-litert-") as folder:
        saved = Path(folder) / "saved"
        signature, outputs = export_saved_model(source, saved)
        import tensorflow as tf

        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved), signature_keys=[signature])
        try:
            content = converter.convert()
        except Exception as error:  # the converter raises a class of its own, and what MLIR raises
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise InputError(
                KEY, f"{path.name} cannot be converted to .tflite: {(lines or [type(error).__name__])[0]}"
            ) from error
    part = Path(f"{request['target']}.part")
    part.write_bytes(order_outputs(content, outputs))
    os.replace(part, request["target"])
    return {}


if __name__ == "__main__":
    serve(_convert)
