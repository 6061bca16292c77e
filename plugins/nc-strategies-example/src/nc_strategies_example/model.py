"""The model format ``mlp``: where the file is. The backend opens it."""

from __future__ import annotations

from pathlib import Path

from nc_strategies.api import InputError, ModelSource
from nc_strategies_example.settings import MlpSettings


class MlpModel:
    """An ``.npz`` file with the arrays ``w0``, ``b0``, ``w1``, ``b1``, ...

    Args:
        settings: Names the file.
    """

    def __init__(self, settings: MlpSettings) -> None:
        self.settings = settings

    def load(self) -> ModelSource:
        """The model's place on disk.

        Raises:
            InputError: there is no such file.
        """
        path = Path(self.settings.path).expanduser()
        if not path.is_file():
            raise InputError("model.path", f"no such file: {path}")
        return ModelSource(path.stem, {"mlp": path})
