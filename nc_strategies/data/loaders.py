"""Where samples come from."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.dataset import Raw
from nc_strategies.data.settings import NpzSettings, SampleDataSettings
from nc_strategies.errors import InputError, first_line


class NpzData:
    """Samples in ``.npz`` files: ``x`` (or an array an input, named for it) and ``y``.

    Without a calibration file, calibration samples come from the head and are left out of the evaluation.
    """

    def __init__(self, settings: NpzSettings) -> None:
        self.settings = settings
        if settings.calibration_samples < 1:
            raise InputError("data.calibration_samples", f"is {settings.calibration_samples}", "at least 1")

    def load(self) -> tuple[Raw, Raw]:
        """Evaluation and calibration samples.

        Raises:
            InputError: a file is missing, not an ``.npz``, or holds something else.
        """
        wanted = self.settings.calibration_samples
        evaluation = read_npz("data.path", self.settings.path)
        if self.settings.calibration_path is not None:
            calibration = read_npz("data.calibration_path", self.settings.calibration_path)
            return evaluation, calibration.take(0, wanted)
        if len(evaluation) <= wanted:
            raise InputError("data.calibration_samples", f"takes {wanted} of {len(evaluation)} samples",
                             "some must be left to evaluate; give data.calibration_path or fewer")
        return evaluation.take(wanted, len(evaluation)), evaluation.take(0, wanted)


class SampleData:
    """The bundled Fashion-MNIST pictures."""

    def __init__(self, settings: SampleDataSettings) -> None:
        from nc_strategies import samples

        self._files = NpzData(NpzSettings(
            path=str(samples.evaluation_images()), calibration_path=str(samples.calibration_images()),
            calibration_samples=settings.calibration_samples))

    def load(self) -> tuple[Raw, Raw]:
        """Evaluation and calibration samples."""
        return self._files.load()


def read_npz(key: str, path: str) -> Raw:
    """Read one file; pickled objects are refused.

    Raises:
        InputError: it is missing or not such a file.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(key, f"no such file: {file}")
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with file.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(key, f"{file} is not an .npz archive", "arrays x and y saved by numpy.savez")
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zipfile.LargeZipFile,
            zlib.error) as error:
        raise InputError(key, f"{file} cannot be read as .npz ({first_line(error)})",
                         "arrays x and y saved by numpy.savez") from None
    labels = arrays.pop("y", None)
    if not arrays:
        raise InputError(key, f"{file} holds no input array", "x, or an array for each input of the model")
    if any(array.ndim == 0 for array in arrays.values()) or (labels is not None and labels.ndim == 0):
        raise InputError(key, f"{file} holds a single number where samples are expected")
    return Raw(key, arrays, labels)
