"""Data sets of hubs. Only a child process imports the packages that read them."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nc_strategies.data.dataset import Raw
from nc_strategies.data.loaders import check_samples, split
from nc_strategies.data.settings import HuggingFaceDataSettings, TfdsSettings
from nc_strategies.data.spool import kept
from nc_strategies.runtime.child import run_child

FETCH = "nc_strategies.data.fetch"


class _HubData:
    """A data set that a child process writes to disk, and this process maps into memory."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        check_samples(settings.calibration_samples)

    def load(self) -> tuple[Raw, Raw]:
        """Evaluation and calibration samples.

        Raises:
            InputError: there is no such data set, split or feature, or a package is missing.
        """
        settings = self.settings
        evaluation = self._fetch(settings.split, 0)
        calibration = None
        if settings.calibration_split is not None:
            calibration = self._fetch(settings.calibration_split, settings.calibration_samples)
        return split(evaluation, calibration, settings.calibration_samples, "data.calibration_split")

    def _fetch(self, part: str, wanted: int) -> Raw:
        folder = Path(tempfile.mkdtemp(prefix="ncs-data-"))
        try:
            request = {"settings": asdict(self.settings), "split": part, "wanted": wanted, "folder": str(folder)}
            answer = run_child(FETCH, request, "data.dataset", "reading the data set")
            # A mapped file stays readable after it is deleted; its space is freed when the mapping ends.
            arrays = {
                name: kept(folder, name, tuple(shape), dtype) for name, (shape, dtype) in answer["arrays"].items()
            }
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        labels = arrays.pop("y", None)
        return Raw("data.dataset", arrays, labels)


class TfdsData(_HubData):
    """A data set of TensorFlow Datasets."""

    def __init__(self, settings: TfdsSettings) -> None:
        super().__init__(settings)


class HuggingFaceData(_HubData):
    """A data set of the Hugging Face hub, or of a folder in the hub's format."""

    def __init__(self, settings: HuggingFaceDataSettings) -> None:
        super().__init__(settings)
