"""What every loader must do, for those that need no package of their own."""

from __future__ import annotations

import numpy as np
import pytest

from nc_strategies.data.loaders import NpzData, PythonData, SampleData
from nc_strategies.data.settings import (
    CsvSettings,
    ImageFolderSettings,
    ImageForm,
    NpzSettings,
    PythonDataSettings,
    SampleDataSettings,
)
from nc_strategies.data.table import CsvData
from nc_strategies.testing import DataSuite

CODE = """
import numpy as np

def batches():
    rng = np.random.default_rng(0)
    for _ in range(5):
        yield rng.random((6, 3)), rng.integers(2, size=6)
"""


@pytest.fixture(scope="class", autouse=True)
def _folder(request, tmp_path_factory):
    request.cls.folder = tmp_path_factory.mktemp("data")


class TestNpz(DataSuite):
    calibration_samples = 5

    def make(self):
        np.savez(self.folder / "d.npz", x=np.arange(40.0).reshape(20, 2), y=np.arange(20))
        return NpzData(NpzSettings(path=str(self.folder / "d.npz"), calibration_samples=5))


class TestSample(DataSuite):
    calibration_samples = 30

    def make(self):
        return SampleData(SampleDataSettings(calibration_samples=30))


class TestCsv(DataSuite):
    calibration_samples = 4

    def make(self):
        lines = [f"{i},{i / 3},{i * i}" for i in range(20)]
        (self.folder / "d.csv").write_text("\n".join(["a,b,target", *lines]))
        return CsvData(CsvSettings(path=str(self.folder / "d.csv"), calibration_samples=4))


class TestPython(DataSuite):
    calibration_samples = 7

    def make(self):
        (self.folder / "own.py").write_text(CODE)
        return PythonData(PythonDataSettings(target=f"{self.folder / 'own.py'}:batches", calibration_samples=7))


class TestImageFolder(DataSuite):
    calibration_samples = 4

    def make(self):
        image = pytest.importorskip("PIL.Image", reason="needs nc-strategies[images]")
        from nc_strategies.data.pictures import ImageFolderData

        rng = np.random.default_rng(0)
        for name in ("cat", "dog"):
            (self.folder / name).mkdir(exist_ok=True)
            for number in range(8):
                picture = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
                image.fromarray(picture).save(self.folder / name / f"{number}.png")
        return ImageFolderData(
            ImageFolderSettings(path=str(self.folder), calibration_samples=4, image=ImageForm([16], [12, 12]))
        )
