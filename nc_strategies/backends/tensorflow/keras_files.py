"""Keras files: own classes of the user, and files that Keras 2 wrote."""

from __future__ import annotations

import inspect
import io
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nc_strategies.backends.tensorflow.import_tensorflow import reason, tensorflow
from nc_strategies.errors import InputError
from nc_strategies.runtime.lazy_target import load_target

KEY = "model.path"
OBJECTS_KEY = "model.custom_objects"
NEUTRAL: Mapping[str, tuple[Any, ...] | None] = {
    "groups": (1, None),
    "time_major": (False, None),
    "input_length": None,
    "input_dtype": None,
    "renorm": (False, None),
    "renorm_clipping": (None, {}),
    "renorm_momentum": None,
    "virtual_batch_size": (None,),
    "adjustment": (None,),
    "fused": None,
    "synchronized": (False, None),
    "ragged": (False, None),
    "sparse": (False, None),
    "autocast": None,
    "experimental_autocast": None,
    "batch_input_shape": None,
}
"""Arguments that layers of Keras 2 had and layers of today may not have: the values with which leaving them out changes
nothing; None where no value changes what is computed."""


def load_model(path: Path, trust: bool, custom_objects: Mapping[str, str]) -> Any:
    """Load a ``.keras`` or ``.h5`` file.

    Args:
        path: The file.
        trust: Whether Python code in it (a Lambda layer) may run.
        custom_objects: See `nc_strategies.models.source.ModelSource`.

    Raises:
        InputError: Keras cannot load it; the message gives the reason.
    """
    tf = tensorflow()
    objects = {name: load_target(OBJECTS_KEY, target) for name, target in custom_objects.items()}
    with tempfile.TemporaryDirectory(prefix="ncs-keras-") as folder:
        try:
            read = _for_keras_3(path, Path(folder), set(objects))
            return tf.keras.models.load_model(read, custom_objects=objects, compile=False, safe_mode=not trust)
        except Exception as error:
            raise _refusal(path, error) from error


def input_specs(model: Any) -> Any:
    """The inputs of a model as TensorSpecs, in its own structure; None if it was never called."""
    tf = tensorflow()
    structure = _input_structure(model)
    if structure is not None:
        return tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype, name=t.name), structure)
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes or len(shapes) != 1:
        return None
    first = next(iter(inspect.signature(model.call).parameters), "inputs")
    return _specs_of_shapes(next(iter(shapes.values())), first, getattr(model, "input_dtype", "float32"))


def _input_structure(model: Any) -> Any:
    """The inputs of the model as KerasTensors; None for a subclassed one."""
    for attribute in ("input", "inputs"):
        try:
            inputs = getattr(model, attribute)
        except (AttributeError, ValueError):
            continue
        if inputs is None:
            continue
        return inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else inputs
    return None


def _specs_of_shapes(shapes: Any, name: str, dtype: str) -> Any:
    """The inputs of a subclassed model by the shapes of its first call, of any batch size."""
    if isinstance(shapes, Mapping):
        return {key: _specs_of_shapes(shape, str(key), dtype) for key, shape in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return tensorflow().TensorSpec((None, *shapes[1:]), dtype, name=name)
    return [_specs_of_shapes(shape, f"{name}_{index}", dtype) for index, shape in enumerate(shapes)]


def _refusal(path: Path, error: Exception) -> InputError:
    text = str(error)
    if isinstance(error, InputError):
        return error
    if "safe_mode" in text or "deserialization of a `Lambda`" in text:
        return InputError(
            KEY, f"{path.name} holds Python code (a Lambda layer)", "if you trust its author: model.trust=true"
        )
    unknown = _unknown_class(error)
    if unknown:
        return InputError(
            OBJECTS_KEY,
            f"{path.name} holds {unknown!r}, a class or function of its author's",
            f"say where it is: 'model.custom_objects={{{unknown}: path/to/file.py:{unknown}}}'",
        )
    return InputError(KEY, f"Keras cannot load {path.name}: {reason(error)}")


def _unknown_class(error: BaseException | None) -> str:
    """The name that Keras did not find, from an error or the errors behind it; empty for other errors."""
    while error is not None:
        found = re.search(
            r"Could not locate (?:class|function|object) '([^']+)'|Unknown (?:layer|\w+): '?(\w+)'?", str(error)
        )
        if found:
            return found.group(1) or found.group(2)
        error = error.__cause__ or error.__context__
    return ""


def _for_keras_3(path: Path, folder: Path, own: set[str]) -> Path:
    """The file, or a copy of it in which layers have no argument that Keras 2 knew and the Keras of today does not.

    Args:
        path: The file.
        folder: Where a copy is written.
        own: Names of the user's classes, which are left alone.
    """
    if zipfile.is_zipfile(path):
        return _archive_for_keras_3(path, folder, own)
    import h5py

    if not h5py.is_hdf5(path):
        return path
    with h5py.File(path, "r") as file:
        text = file.attrs.get("model_config")
    if text is None:
        return path
    config = json.loads(text.decode() if isinstance(text, bytes) else text)
    if not _modernize(config, own):
        return path
    copy = folder / path.name
    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as file:
        file.attrs["model_config"] = json.dumps(config)
    return copy


def _archive_for_keras_3(path: Path, folder: Path, own: set[str]) -> Path:
    with zipfile.ZipFile(path) as archive:
        if "config.json" not in archive.namelist():
            return path
        config = json.loads(archive.read("config.json"))
        if not _modernize(config, own):
            return path
        copy = folder / path.name
        with zipfile.ZipFile(copy, "w") as written:
            for member in archive.infolist():
                if member.filename == "config.json":
                    written.writestr(member, json.dumps(config))
                    continue
                with archive.open(member) as source, written.open(member, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target, io.DEFAULT_BUFFER_SIZE)
    return copy


def _modernize(part: Any, own: set[str]) -> bool:
    """Drop arguments that layers do not have any more, in place; return whether there was any."""
    changed = False
    if isinstance(part, list):
        for item in part:
            changed |= _modernize(item, own)
    elif isinstance(part, dict):
        name, config = part.get("class_name"), part.get("config")
        if isinstance(name, str) and isinstance(config, dict) and name not in own:
            changed |= _name_input_shape(name, config)
            changed |= _drop_unknown_arguments(name, config)
        for item in part.values():
            changed |= _modernize(item, own)
    return changed


def _drop_unknown_arguments(name: str, config: dict[str, Any]) -> bool:
    layer = getattr(tensorflow().keras.layers, name, None)
    if not inspect.isclass(layer):
        return False
    accepted = _arguments(layer)
    axis = config.get("axis")
    if name == "BatchNormalization" and isinstance(axis, list) and len(axis) == 1:
        config["axis"] = axis[0]
    surplus = [key for key in config if key in NEUTRAL and key not in accepted]
    for key in surplus:
        values = NEUTRAL[key]
        if values is not None and config[key] not in values:
            raise InputError(KEY, f"a layer {name} of Keras 2 has {key}={config[key]!r}, which Keras 3 does not have")
        del config[key]
    return bool(surplus) or config.get("axis") != axis


def _name_input_shape(name: str, config: dict[str, Any]) -> bool:
    """Put the shape of the inputs of a Sequential, which its first layer used to carry, in front as an InputLayer."""
    layers = config.get("layers")
    if name != "Sequential" or not isinstance(layers, list) or not layers:
        return False
    first = layers[0]
    shape = first.get("config", {}).get("batch_input_shape")
    if first.get("class_name") == "InputLayer" or shape is None:
        return False
    inner = first["config"].get("dtype")
    dtype = inner if first.get("class_name") != "Embedding" and isinstance(inner, str) else "float32"
    layer = {"batch_input_shape": shape, "dtype": dtype, "name": f"{first['config'].get('name', 'layer')}_input"}
    layers.insert(0, {"class_name": "InputLayer", "config": layer})
    return True


def _arguments(layer: Any) -> set[str]:
    """The arguments that a layer's class and its bases accept by name, and those that Keras reads for old files."""
    accepted = {"batch_input_shape"} if layer.__name__ == "InputLayer" else set()
    for base in layer.__mro__:
        if base is not object and "__init__" in vars(base):
            accepted |= set(inspect.signature(base.__init__).parameters)
    return accepted
