"""Models that code builds. They are built in a child process, so that the run's process imports no other engine."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nc_strategies.errors import InputError
from nc_strategies.models.settings import HuggingFaceModelSettings, KerasApplicationsSettings, PythonModelSettings
from nc_strategies.models.source import ModelSource
from nc_strategies.runtime.child import run_child

BUILD = "nc_strategies.models.build"


class _BuiltModel:
    """A model that a child process writes into a folder. The folder exists as long as the `ModelSource`."""

    key = "model"

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def load(self) -> ModelSource:
        """Build the model.

        Raises:
            InputError: the model cannot be built; the message gives the reason.
        """
        folder = Path(tempfile.mkdtemp(prefix="ncs-model-"))
        try:
            answer = run_child(
                BUILD, {"settings": asdict(self.settings), "folder": str(folder)}, self.key, "building the model"
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        files = {answer["format"]: Path(answer["path"])}
        source = ModelSource(answer["name"], files, answer["digest"], trust=answer.get("trust", False))
        weakref.finalize(source, shutil.rmtree, folder, ignore_errors=True)
        return source


class KerasApplicationsModel(_BuiltModel):
    """An architecture of ``keras.applications``.

    Raises:
        InputError: the file of weights does not exist.
    """

    key = "model.architecture"

    def __init__(self, settings: KerasApplicationsSettings) -> None:
        super().__init__(settings)
        weights = settings.weights
        if weights and weights != "imagenet" and not Path(weights).expanduser().is_file():
            raise InputError(
                "model.weights",
                f"no such file: {weights}",
                "imagenet, a .weights.h5 or .keras file, or null for random weights",
            )


class HuggingFaceModel(_BuiltModel):
    """A model of transformers, exported to ONNX by optimum."""

    key = "model.model"

    def __init__(self, settings: HuggingFaceModelSettings) -> None:
        super().__init__(settings)


class PythonModel(_BuiltModel):
    """A model that a function of the user returns."""

    key = "model.target"

    def __init__(self, settings: PythonModelSettings) -> None:
        super().__init__(settings)
