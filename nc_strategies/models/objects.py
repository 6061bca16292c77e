"""Models that are handed over in Python: a path, or an object of the framework that made it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from nc_strategies.errors import InputError, first_line
from nc_strategies.models.keras_objects import keras_digest, write_keras
from nc_strategies.models.source import ModelSource, format_of

KEY = "model"
ALLOWED = (
    "the path of an .onnx, .keras, .h5 or frozen .pb file or of a SavedModel folder, an onnx.ModelProto, a "
    "Keras model, a GraphDef or a loaded SavedModel"
)


def model_source(model: Any, folder: Path, name: str = "") -> ModelSource:
    """A model on disk.

    Args:
        model: A path; an ``onnx.ModelProto``; a Keras model; a ``GraphDef``; an object with a SavedModel's signatures;
            or a `ModelSource`.
        folder: Where an object is written.
        name: For reports; the file's name or ``model`` when left out.

    Raises:
        InputError: it is nothing of the kind.
    """
    if isinstance(model, ModelSource):
        return model
    if isinstance(model, (str, Path)):
        return _from_path(Path(model).expanduser(), name)
    kinds = {f"{base.__module__}.{base.__name__}" for base in type(model).__mro__}
    if any(kind.startswith("torch.") for kind in kinds):
        raise InputError(KEY, "is a PyTorch model", "an ONNX model, exported with torch.onnx.export")
    try:
        written = _save(model, kinds, folder, name or "model")
    except (ValueError, TypeError, OSError) as error:
        raise InputError(KEY, f"cannot be written ({first_line(error)})", "save it and give its path") from error
    if written is None:
        raise InputError(KEY, f"is of type {type(model).__name__}", ALLOWED)
    return written


def _save(model: Any, kinds: set[str], folder: Path, name: str) -> ModelSource | None:
    """Write an object in its framework's own format; None where no framework knows it.

    An object in the caller's own process could have run its code there already: it is trusted with it.
    """
    if _named(kinds, "onnx", "ModelProto"):
        return _written(name, "onnx", folder / "model.onnx", model.SerializeToString())
    if _named(kinds, "tensorflow", "GraphDef"):
        return _written(name, "graph_def", folder / "model.pb", model.SerializeToString())
    if any(kind.startswith(("keras.", "tf_keras.")) for kind in kinds) and hasattr(model, "get_weights"):
        kind, path = write_keras(model, folder / "model")
        return ModelSource(name, {kind: path}, keras_digest(model), trust=True)
    if getattr(model, "signatures", None) and "tensorflow" in sys.modules:
        path = folder / "saved_model"
        # Whoever made the object has imported TensorFlow; nobody else needs it here.
        sys.modules["tensorflow"].saved_model.save(model, str(path), signatures=model.signatures)
        return ModelSource(name, {"saved_model": path}, trust=True)
    return None


def _named(kinds: set[str], package: str, name: str) -> bool:
    return any(kind.split(".")[0] == package and kind.endswith(f".{name}") for kind in kinds)


def _from_path(path: Path, name: str) -> ModelSource:
    if not path.exists():
        raise InputError(KEY, f"no such file: {path}", ALLOWED)
    kind = format_of(path)
    if kind is None:
        raise InputError(KEY, f"{path} has no known model format", ALLOWED)
    return ModelSource(name or path.stem, {kind: path})


def _written(name: str, kind: str, path: Path, data: bytes) -> ModelSource:
    path.write_bytes(data)
    return ModelSource(name, {kind: path}, trust=True)
