"""The suite that every backend passes, on the bundled classifier."""

from __future__ import annotations

import pytest
from nc_strategies_litert import LiteRtSettings
from nc_strategies_litert.backend import LiteRtBackend

from nc_strategies.testing import BackendSuite


class TestLiteRt(BackendSuite):
    expected_int8 = 9

    @pytest.fixture(autouse=True)
    def _model(self, sample, images):
        self._sample, self._images = sample, images

    def make(self):
        return LiteRtBackend(LiteRtSettings(modes="all"))

    def source(self):
        return self._sample

    def batches(self):
        return [{"image": self._images[:16]}, {"image": self._images[16:]}]


del BackendSuite
