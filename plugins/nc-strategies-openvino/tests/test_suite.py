"""The suite that every backend must pass, on the bundled model."""

import pytest
from nc_strategies_openvino.backend import OpenVinoBackend
from nc_strategies_openvino.settings import OpenVinoSettings

from nc_strategies.api import ModelSource
from nc_strategies.testing import BackendSuite


class TestOpenVino(BackendSuite):
    expected_int8 = 7
    random_configs = 30

    @pytest.fixture(autouse=True)
    def _sample(self, sample_path, sample_batches):
        type(self).path, type(self).feeds = sample_path, sample_batches

    def make(self):
        return OpenVinoBackend(OpenVinoSettings())

    def source(self):
        return ModelSource("sample", {"onnx": self.path})

    def batches(self):
        return self.feeds
