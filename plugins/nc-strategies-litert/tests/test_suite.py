from __future__ import annotations

import numpy as np
import pytest
from nc_strategies_litert import LiteRtSettings
from nc_strategies_litert.backend import LiteRtBackend

from nc_strategies import samples
from nc_strategies.api import Batch, ModelSource
from nc_strategies.testing import BackendSuite

pytest.importorskip("tensorflow")
SAMPLE = ModelSource("fashion_cnn", {"keras": samples.keras_model()})


def sample_batches(count: int = 2, size: int = 16) -> list[Batch]:
    """Calibration batches of the bundled classifier."""
    with np.load(samples.calibration_images()) as arrays:
        images = arrays["x"][: count * size].astype(np.float32) * samples.SCALE + samples.OFFSET
    images = images.reshape(len(images), 28, 28, 1)
    return [{"image": images[start : start + size]} for start in range(0, len(images), size)]


class TestLiteRtOnTheSample(BackendSuite):
    expected_int8 = 9

    def make(self) -> LiteRtBackend:
        return LiteRtBackend(LiteRtSettings(modes="all"))

    def source(self) -> ModelSource:
        return SAMPLE

    def batches(self) -> list[Batch]:
        return sample_batches()
