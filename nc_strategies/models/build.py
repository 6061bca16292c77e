"""The process in which models are built; see `nc_strategies.models.built`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nc_strategies.errors import InputError, first_line
from nc_strategies.models.keras_objects import keras_digest, write_keras
from nc_strategies.models.source import SUFFIXES, format_of
from nc_strategies.runtime.child import serve
from nc_strategies.runtime.lazy_target import call_target, guarded


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Build the model that settings ask for.

    Returns:
        Its ``name``, ``format``, ``path`` and ``digest``, a hash of what it computes where the file's own would differ
        each time.

    Raises:
        InputError: it cannot be built.
    """
    settings, folder = request["settings"], Path(request["folder"])
    maker = {"keras_applications": _keras_applications, "huggingface": _huggingface, "python": _python}
    return maker[settings["name"]](settings, folder)


def _keras() -> Any:
    try:
        import keras
    except ImportError as error:
        raise InputError(
            "model=keras_applications",
            f"a package is missing ({first_line(error)})",
            "pip install 'nc-strategies[tensorflow]'",
        ) from None
    return keras


def _keras_applications(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    keras = _keras()
    name, weights = settings["architecture"], settings["weights"]
    known = sorted(n for n in dir(keras.applications) if n[0].isupper())
    if name not in known:
        raise InputError("model.architecture", f"keras.applications has no {name!r}", f"it has: {', '.join(known)}")
    keras.utils.set_random_seed(settings["seed"])
    shape = settings["input_shape"]
    try:
        model = getattr(keras.applications, name)(
            weights="imagenet" if weights == "imagenet" else None,
            classes=settings["classes"],
            input_shape=tuple(shape) if shape else None,
            **settings["options"],
        )
    except Exception as error:  # Keras raises what its own code and its downloads raise
        key = "model.weights" if weights == "imagenet" and "fetch" in str(error) else "model"
        raise InputError(key, f"Keras cannot build {name} ({first_line(error)})") from error
    if weights not in (None, "imagenet"):
        _load_weights(keras, model, Path(weights).expanduser())
    return _save_keras(model, name, folder)


def _load_weights(keras: Any, model: Any, path: Path) -> None:
    try:
        if path.suffix == ".keras":
            model.set_weights(keras.models.load_model(path, compile=False, safe_mode=True).get_weights())
        else:
            model.load_weights(path)
    except Exception as error:  # as above
        raise InputError("model.weights", f"{path} does not fit the architecture ({first_line(error)})") from error


def _save_keras(model: Any, name: str, folder: Path) -> dict[str, Any]:
    kind, path = write_keras(model, folder / name)
    # The function of the user that made the model has run already: a model with own code is trusted as it is.
    trust = kind == "saved_model"
    return {"name": name, "format": kind, "path": str(path), "digest": keras_digest(model), "trust": trust}


def _huggingface(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    try:
        from optimum.exporters.onnx import main_export
    except ImportError as error:
        raise InputError(
            "model=huggingface",
            f"a package is missing ({first_line(error)})",
            "pip install 'nc-strategies[huggingface]'",
        ) from None
    model = settings["model"]
    try:
        main_export(
            model,
            output=folder,
            task=settings["task"],
            opset=settings["opset"],
            revision=settings["revision"],
            do_validation=False,
        )
    except Exception as error:  # optimum and transformers raise what they meet
        raise InputError("model.model", f"{model} cannot be exported to ONNX ({first_line(error)})") from error
    files = sorted(folder.glob("*.onnx"))
    if len(files) != 1:
        raise InputError(
            "model.model",
            f"{model} becomes {len(files)} ONNX files ({', '.join(file.name for file in files)})",
            "a model of one graph; see model.task",
        )
    return {"name": model.rstrip("/").rsplit("/", 1)[-1], "format": "onnx", "path": str(files[0]), "digest": ""}


def _python(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    key, target = "model.target", settings["target"]
    name = target.rpartition(":")[2]
    made = call_target(key, target)
    if isinstance(made, str | Path):
        path = Path(made).expanduser().resolve()
        kind = format_of(path)
        if not path.exists() or kind is None:
            problem = (
                f"{target} returned the path {made}, which {'is not a model' if path.exists() else 'does not exist'}"
            )
            raise InputError(key, problem, f"a SavedModel folder or a file ending in {', '.join(SUFFIXES)}")
        return {"name": name, "format": kind, "path": str(path), "digest": ""}
    if hasattr(made, "SerializeToString") and hasattr(made, "graph"):
        path = folder / f"{name}.onnx"
        path.write_bytes(made.SerializeToString(deterministic=True))
        return {"name": name, "format": "onnx", "path": str(path), "digest": ""}
    if hasattr(made, "get_weights") and hasattr(made, "to_json"):
        saved: dict[str, Any] = guarded(key, target, lambda: _save_keras(made, name, folder))
        return saved
    raise InputError(
        key,
        f"{target} returned a {type(made).__name__}",
        "expected a Keras model, an onnx.ModelProto or the path of a model",
    )


if __name__ == "__main__":
    serve(build)
