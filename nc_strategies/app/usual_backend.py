"""The backend of a run for which the user names none."""

from __future__ import annotations

from collections.abc import Container

ONNXRUNTIME, TENSORFLOW = "onnxruntime", "tensorflow"


def usual_backend(formats: Container[str | None]) -> str:
    """The backend that is made for a model.

    Args:
        formats: Formats that the model is there in, see `nc_strategies.models.source.format_of`.
    """
    return ONNXRUNTIME if "onnx" in formats else TENSORFLOW
