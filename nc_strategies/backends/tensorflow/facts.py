"""What a Keras file or a SavedModel says about itself, read without building it."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from nc_strategies.errors import InputError, first_line
from nc_strategies.models.archive import check_archive
from nc_strategies.models.facts import ModelFacts, TensorFacts, size_of


def facts(kind: str, path: Path) -> ModelFacts:
    """What a model's file says.

    Args:
        kind: ``keras``, ``saved_model`` or ``graph_def``.
        path: The file or folder.

    Raises:
        InputError: it cannot be read, or is not of this format.
    """
    read = {"keras": _keras, "saved_model": _saved_model}.get(kind)
    if read is None:
        return ModelFacts(kind, size_of(path))
    try:
        return read(path)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - zipfile, h5py and protobuf raise classes of their own
        raise InputError("MODEL", f"{path} is not a {kind} model, or a truncated one ({first_line(error)})") from None


def _keras(path: Path) -> ModelFacts:
    check_archive("MODEL", path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            written = json.loads(archive.read("metadata.json"))
            config = json.loads(archive.read("config.json"))
        versions = {"Keras": str(written.get("keras_version", "")), "saved": str(written.get("date_saved", ""))}
    else:
        import h5py

        with h5py.File(path, "r") as file:
            stored = {name: _text(value) for name, value in file.attrs.items()}
        if "model_config" not in stored:
            raise InputError("MODEL", f"{path} holds no model", "weights alone are not enough: save the whole model")
        config = json.loads(stored["model_config"])
        versions = {"Keras": stored.get("keras_version", ""), "backend": stored.get("backend", "")}
    return ModelFacts(
        "keras",
        size_of(path),
        {name: text for name, text in versions.items() if text},
        operators=dict(Counter(_layers(config)).most_common()),
        counted="layers",
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _layers(config: Any) -> list[str]:
    """Class names of the layers of a model's configuration, those of models within it included."""
    found: list[str] = []
    inner = config.get("config") if isinstance(config, dict) else None
    layers = inner.get("layers") if isinstance(inner, dict) else inner
    for layer in layers if isinstance(layers, list) else []:
        found += _layers(layer) or [str(layer.get("class_name", "?"))]
    return found


def _saved_model(path: Path) -> ModelFacts:
    from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow

    tf = tensorflow()  # First: it keeps TensorFlow's messages off the terminal.
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0]
    signatures = {name: s for name, s in graph.signature_def.items() if not name.startswith("__")}
    chosen = signatures.get("serving_default") or next(iter(signatures.values()), None)

    def tensors(group: Any) -> tuple[TensorFacts, ...]:
        return tuple(
            TensorFacts(
                name,
                str(tf.as_dtype(info.dtype).name),
                None
                if info.tensor_shape.unknown_rank
                else tuple(d.size if d.size >= 0 else None for d in info.tensor_shape.dim),
            )
            for name, info in sorted(group.items())
        )

    return ModelFacts(
        "saved_model",
        size_of(path),
        {"TensorFlow": graph.meta_info_def.tensorflow_version},
        tensors(chosen.inputs) if chosen is not None else (),
        tensors(chosen.outputs) if chosen is not None else (),
        metadata={"signatures": ", ".join(sorted(signatures)) or "none"},
    )
