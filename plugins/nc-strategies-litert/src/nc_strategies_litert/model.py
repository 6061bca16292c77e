"""The model format ``tflite``."""

from __future__ import annotations

from pathlib import Path

from nc_strategies.api import InputError, ModelSource
from nc_strategies_litert.settings import TfliteModelSettings

FORMAT = "tflite"


class TfliteModel:
    """A floating-point ``.tflite`` file of the user's."""

    def __init__(self, settings: TfliteModelSettings) -> None:
        self.settings = settings

    def load(self) -> ModelSource:
        """The model's place on disk.

        Raises:
            InputError: there is no such file.
        """
        path = Path(self.settings.path).expanduser()
        if not path.is_file():
            problem = f"{path} is a folder" if path.is_dir() else f"no such file: {path}"
            raise InputError("model.path", problem, "model=tflite takes a .tflite file")
        return ModelSource(path.stem, {FORMAT: path})
