"""The suite that every backend passes, on the bundled classifier and on a model with every int8 kernel."""

from __future__ import annotations

import numpy as np
import pytest

from nc_strategies import samples
from nc_strategies.backends.tensorflow.backend import TensorFlowBackend
from nc_strategies.backends.tensorflow.settings import TensorFlowSettings
from nc_strategies.models import ModelSource
from nc_strategies.testing import BackendSuite


class TensorFlowSuite(BackendSuite):
    kind = ""

    @pytest.fixture(autouse=True)
    def _models(self, model_path, loaded, batch):
        self._path = model_path
        self._batch, self._loaded = batch, loaded

    def make(self):
        return TensorFlowBackend(TensorFlowSettings(), 1)

    def source(self):
        return ModelSource(self.kind, {"keras": self._path(self.kind)})

    def batches(self):
        info = self._loaded(self.kind)[1]
        return [self._batch(info, 16, seed) for seed in (1, 2)]


class TestOperators(TensorFlowSuite):
    kind = "cnn"
    expected_int8 = 8


class TestBundled(TensorFlowSuite):
    expected_int8 = 2

    def source(self):
        return ModelSource("fashion_cnn", {"keras": samples.keras_model()})

    def batches(self):
        rng = np.random.default_rng(0)
        info = self.make().load(self.source())
        shape = info.inputs[0].shape[1:]
        return [{info.inputs[0].name: rng.uniform(0, 1, (32, *shape)).astype(np.float32)}]


del TensorFlowSuite, BackendSuite
