from __future__ import annotations

import numpy as np
import pytest
from nc_strategies_litert import LiteRtSettings
from nc_strategies_litert.backend import LiteRtBackend
from nc_strategies_litert.convert import convert_in_child

from nc_strategies import samples
from nc_strategies.api import ModelSource, Space


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """A cache of the tests' own, in which kernels are tried once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """The bundled classifier, converted by TensorFlow in a child process."""
    pytest.importorskip("tensorflow")
    target = tmp_path_factory.mktemp("sample") / "fashion_cnn.tflite"
    convert_in_child(ModelSource("fashion_cnn", {"keras": samples.keras_model()}), target)
    return ModelSource("fashion_cnn", {"tflite": target})


@pytest.fixture(scope="session")
def images():
    """Pictures as the bundled classifier takes them."""
    with np.load(samples.calibration_images()) as arrays:
        pictures = arrays["x"][:32].astype(np.float32) * samples.SCALE + samples.OFFSET
    return pictures.reshape(len(pictures), 28, 28, 1)


@pytest.fixture(scope="session")
def ready(sample, images):
    """A calibrated backend that offers every mode, and its space."""
    backend = LiteRtBackend(LiteRtSettings(modes="all"))
    backend.load(sample)
    backend.calibrate([{"image": images}])
    return backend, Space(backend.capabilities())
