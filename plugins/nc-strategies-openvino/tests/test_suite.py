"""The suite that every backend must pass, on the bundled model and on two that have what it lacks."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import openvino_models as models
import pytest
from nc_strategies_openvino.backend import OpenVinoBackend
from nc_strategies_openvino.settings import OpenVinoSettings

from nc_strategies.api import ModelSource
from nc_strategies.testing import BackendSuite


class OpenVinoSuite(BackendSuite):
    path: ClassVar[Path]
    feeds: ClassVar[list]

    def make(self):
        return OpenVinoBackend(OpenVinoSettings())

    def source(self):
        return ModelSource("model", {"onnx": self.path})

    def batches(self):
        return self.feeds


class TestSample(OpenVinoSuite):
    expected_int8 = 9
    random_configs = 30

    @pytest.fixture(autouse=True)
    def _sample(self, sample_path, sample_batches):
        type(self).path, type(self).feeds = sample_path, sample_batches


class TestResidual(OpenVinoSuite):
    expected_int8 = 6
    random_configs = 10

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _model(cls, tmp_path_factory):
        cls.path = tmp_path_factory.mktemp("residual") / "model.onnx"
        models.residual(cls.path)
        rng = np.random.default_rng(0)
        cls.feeds = [{"x": rng.normal(size=(10, 3, 16, 16)).astype(np.float32)} for _ in range(2)]


class TestProducts(OpenVinoSuite):
    expected_int8 = 2
    random_configs = 10

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _model(cls, tmp_path_factory):
        cls.path = tmp_path_factory.mktemp("products") / "model.onnx"
        models.products(cls.path)
        rng = np.random.default_rng(0)
        cls.feeds = [{"x": rng.normal(size=(4, 7, 128)).astype(np.float32)} for _ in range(2)]
