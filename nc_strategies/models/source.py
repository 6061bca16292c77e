"""Model loaders: they name the files, the backend opens them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nc_strategies.errors import InputError

FOLDERS = ("saved_model",)
"""Formats that are a folder, not a file."""
SUFFIXES = {".onnx": "onnx", ".keras": "keras", ".h5": "keras", ".pb": "graph_def"}
"""Formats that are a file, by the end of its name in lower case."""


def format_of(path: Path) -> str | None:
    """The format of a model on disk: by the end of a file's name, by what a folder holds; None for nothing known."""
    if path.is_dir():
        return "saved_model" if (path / "saved_model.pb").is_file() else None
    return SUFFIXES.get(path.suffix.lower())


@dataclass(frozen=True)
class ModelSource:
    """A trained fp32 model on disk.

    Args:
        name: For reports.
        files: Format (``onnx``, ``keras``, ``saved_model``, ``graph_def``) to the file or folder which holds it.
            Several formats must hold the same function.
        digest: Hash of the function, where the files are not written the same twice; else the files' own is taken.
        trust: Whether the model may run code of its own: Python in Keras layers, operators that reach beyond the graph.
        signature: The signature of a SavedModel that is meant; empty for its default.
        custom_objects: Names of the user's classes and functions in a Keras file to where they are defined, as
            ``file.py:Class`` or ``package.module:Class``.
    """

    name: str
    files: Mapping[str, Path]
    digest: str = ""
    trust: bool = False
    signature: str = ""
    custom_objects: Mapping[str, str] = field(default_factory=dict)

    def pick(self, accepted: tuple[str, ...], backend: str) -> tuple[str, Path]:
        """The first format that a backend accepts.

        Raises:
            InputError: none of the formats is accepted.
        """
        for kind in accepted:
            if kind in self.files:
                return kind, self.files[kind]
        raise InputError(
            "model",
            f"backend={backend} does not take a model of format {'/'.join(self.files)}",
            f"it takes: {', '.join(accepted)}",
        )

    def sha256(self, kind: str, companions: tuple[Path, ...] = ()) -> str:
        """Hash of the model in one format: of the file, or of all files of the folder and their names.

        Args:
            kind: The format.
            companions: Files beside it that hold a part of it.
        """
        digest = self.digest or files_sha256(self.files[kind], *companions)
        if not self.signature and not self.custom_objects:
            return digest
        whole = hashlib.sha256(f"{digest}\0{self.signature}".encode())
        for name, target in sorted(self.custom_objects.items()):
            whole.update(f"\0{name}\0{target}".encode())
            code = Path(target.rpartition(":")[0])
            if code.suffix == ".py" and code.is_file():
                whole.update(code.read_bytes())
        return whole.hexdigest()


def files_sha256(root: Path, *further: Path) -> str:
    """SHA-256 of a file, or of all files of a folder and their names; and of further files."""
    digest = hashlib.sha256()
    for path in [*(sorted(root.rglob("*")) if root.is_dir() else [root]), *further]:
        if path.is_file():
            digest.update(str(path.name if path in further else path.relative_to(root)).encode())
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


@dataclass
class FileModelSettings:
    """Settings of a model in a file of the user's.

    Args:
        name: The option's name.
        path: The file or folder.
        trust: Whether the model may run code of its own.
        signature: The signature of a SavedModel; empty for ``serving_default``, or the only one there is.
        custom_objects: Names of the user's classes and functions in a Keras file to where they are defined:
            ``path/to/file.py:Class`` or ``package.module:Class``. Their code is run.
    """

    name: str = "onnx"
    path: str = "???"
    trust: bool = False
    signature: str = ""
    custom_objects: dict[str, str] = field(default_factory=dict)


class FileModel:
    """A model file of the user's, in the format the option is named for.

    Raises:
        InputError: there is no such file.
    """

    def __init__(self, settings: FileModelSettings) -> None:
        self.settings = settings

    def load(self) -> ModelSource:
        """The model's place on disk."""
        path, kind = Path(self.settings.path).expanduser(), self.settings.name
        if not path.exists():
            raise InputError("model.path", f"no such file: {path}")
        if path.is_dir() != (kind in FOLDERS):
            is_, wanted = ("folder", "file") if path.is_dir() else ("file", "folder")
            raise InputError("model.path", f"{path} is a {is_}", f"model={kind} takes a {wanted}")
        if self.settings.signature and kind != "saved_model":
            raise InputError("model.signature", f"is given for model={kind}", "only a SavedModel has signatures")
        if self.settings.custom_objects and kind != "keras":
            raise InputError("model.custom_objects", f"is given for model={kind}", "only Keras files name classes")
        return ModelSource(
            path.stem,
            {kind: path},
            trust=self.settings.trust,
            signature=self.settings.signature,
            custom_objects={name: _absolute(target) for name, target in self.settings.custom_objects.items()},
        )


def _absolute(target: str) -> str:
    """The target with the whole path of its file: processes with another working directory import it as well."""
    place, colon, name = target.rpartition(":")
    return f"{Path(place).expanduser().resolve()}{colon}{name}" if place.endswith(".py") else target


@dataclass
class SampleModelSettings:
    """Settings of the bundled model: none."""

    name: str = "sample"


class SampleModel:
    """The bundled Fashion-MNIST classifier, in every format."""

    def __init__(self, settings: SampleModelSettings) -> None:
        self.settings = settings

    def load(self) -> ModelSource:
        """The model's place on disk."""
        return sample()


def sample() -> ModelSource:
    """The bundled classifier."""
    from nc_strategies import samples

    return ModelSource("fashion_cnn", {"onnx": samples.onnx_model(), "keras": samples.keras_model()})


@dataclass
class SampleTextModelSettings:
    """Settings of the bundled text model: none."""

    name: str = "sample_text"


class SampleTextModel:
    """The bundled language identifier, in every format."""

    def __init__(self, settings: SampleTextModelSettings) -> None:
        self.settings = settings

    def load(self) -> ModelSource:
        """The model's place on disk."""
        from nc_strategies import samples

        return ModelSource("text_encoder", {"onnx": samples.text_onnx_model(), "keras": samples.text_keras_model()})
