"""Keras models that are handed over as objects: written so that any process can read them.

A ``.keras`` file names the classes and functions of the model's author and does not hold them. A model with own code is
written as a SavedModel, which holds what they compute.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nc_strategies.errors import InputError, first_line

ORDER_FILE = Path("assets.extra") / "nc_strategies.json"
"""File in a SavedModel with what its signature does not keep: the order of inputs."""
OWN_CODE = frozenset({"Lambda", "__lambda__", "function"})
"""Class names in a Keras configuration that stand for code, not for a class of Keras."""


def write_keras(model: Any, stem: Path) -> tuple[str, Path]:
    """Write a Keras model.

    Args:
        model: The model.
        stem: The path without the suffix.

    Returns:
        The format, ``keras`` or ``saved_model``, and the path.

    Raises:
        InputError: it holds code of its author's and was not called yet, or cannot be traced.
    """
    if has_own_code(model) and _runs_on_tensorflow():
        try:
            return "saved_model", _export(model, stem)
        except InputError:
            raise
        except Exception as error:  # the author's code and Keras raise what they raise
            raise InputError(
                "model", f"cannot be traced ({first_line(error)})", "a model that Keras exports"
            ) from error
    path = stem.with_name(f"{stem.name}.keras")
    model.save(path)
    return "keras", path


def keras_digest(model: Any) -> str:
    """Hash of what a model computes: a file of it holds the time at which it was written.

    Own classes enter it by their source code, as far as that is known.
    """
    digest = hashlib.sha256((_config_text(model) or type(model).__qualname__).encode())
    for source in _own_sources(model):
        digest.update(source.encode())
    for weight in model.get_weights():
        array = np.ascontiguousarray(weight)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def has_own_code(model: Any) -> bool:
    """Whether a Keras model holds classes or functions which are not Keras's."""
    text = _config_text(model)
    return text is None or _names_own_code(json.loads(text))


def _config_text(model: Any) -> str | None:
    """The model's configuration as JSON; None if its author's code does not give one."""
    try:
        return str(model.to_json())
    except Exception:  # noqa: BLE001 - `get_config` may be the author's, and its result may be anything
        return None


def _names_own_code(part: Any) -> bool:
    if isinstance(part, list):
        return any(_names_own_code(item) for item in part)
    if not isinstance(part, dict):
        return False
    module, name = part.get("module"), part.get("class_name")
    if name in OWN_CODE or (isinstance(name, str) and isinstance(module, str) and not _is_keras(module)):
        return True
    registered = part.get("registered_name")
    if module is None and isinstance(registered, str) and isinstance(name, str):
        return True
    return any(_names_own_code(item) for item in part.values())


def _is_keras(module: str) -> bool:
    return module.split(".")[0] in ("keras", "tf_keras")


def _own_sources(model: Any) -> list[str]:
    """Source code of the classes in a model that are not Keras's, in the order of their names."""
    layers = model._flatten_layers() if hasattr(model, "_flatten_layers") else model.layers
    classes = {type(layer) for layer in (model, *layers)}
    own = sorted((c for c in classes if not _is_keras(c.__module__)), key=lambda c: f"{c.__module__}.{c.__qualname__}")
    sources = []
    for cls in own:
        try:
            sources.append(inspect.getsource(cls))
        except (OSError, TypeError):  # typed into a prompt
            sources.append(cls.__qualname__)
    return sources


def _runs_on_tensorflow() -> bool:
    import keras

    return bool(keras.backend.backend() == "tensorflow")


def _export(model: Any, path: Path) -> Path:
    import keras

    structures = _input_structures(model)
    flat = [spec for structure in structures for spec in keras.tree.flatten(structure)]

    def serve(*inputs: Any) -> Any:
        left = list(inputs)
        arguments = []
        for structure in structures:
            count = len(keras.tree.flatten(structure))
            arguments.append(keras.tree.pack_sequence_as(structure, left[:count]))
            del left[:count]
        return _named(model(*arguments, training=False), keras)

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, input_signature=flat)
    archive.write_out(str(path), verbose=False)
    side = path / ORDER_FILE
    side.parent.mkdir(exist_ok=True)
    side.write_text(json.dumps({"inputs": [spec.name for spec in flat]}) + "\n", encoding="utf-8")
    return path


def _named(outputs: Any, keras: Any) -> dict[str, Any]:
    if isinstance(outputs, Mapping):
        return {str(name): value for name, value in outputs.items()}
    return {f"output_{index}": value for index, value in enumerate(keras.tree.flatten(outputs))}


def _input_structures(model: Any) -> list[Any]:
    """What each argument of a model takes, as nested ``keras.InputSpec``.

    Raises:
        InputError: the model was never called, so that nothing says what it takes.
    """
    import keras

    def of_tensor(tensor: Any) -> Any:
        # A file of the model would have the name of the layer, which need not be that of its tensor.
        history = getattr(tensor, "_keras_history", None)
        name = tensor.name if history is None else history.operation.name
        return keras.InputSpec(shape=tensor.shape, dtype=tensor.dtype, name=name)

    structure = getattr(model, "_inputs_struct", None)
    if structure is None and isinstance(model, keras.Sequential) and model.built:
        structure = model.inputs[0]
    if structure is not None:
        return [keras.tree.map_structure(of_tensor, structure)]
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes:
        raise InputError("model", f"{type(model).__name__} does not define its inputs", "call it once on an array")
    names = [name.removesuffix("_shape") for name in shapes]
    if len(names) == 1:
        names = [next(iter(inspect.signature(model.call).parameters), names[0])]
    return [_of_shapes(shape, name, model) for name, shape in zip(names, shapes.values(), strict=True)]


def _of_shapes(shapes: Any, name: str, model: Any) -> Any:
    """The inputs of a subclassed model by the shapes of its first call, of any batch size."""
    import keras

    if isinstance(shapes, Mapping):
        return {key: _of_shapes(shape, str(key), model) for key, shape in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return keras.InputSpec(shape=(None, *shapes[1:]), dtype=model.input_dtype, name=name)
    return [_of_shapes(shape, f"{name}_{index}", model) for index, shape in enumerate(shapes)]
