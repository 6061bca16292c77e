"""The bundled image model as ONNX, and calibration batches."""

import sys
from pathlib import Path

import numpy as np
import pytest

import nc_strategies.samples

sys.path.insert(0, str(Path(__file__).resolve().parent))

SAMPLES = Path(nc_strategies.samples.__file__).parent


@pytest.fixture(scope="session")
def sample_path():
    return SAMPLES / "fashion_cnn.onnx"


@pytest.fixture(scope="session")
def sample_batches():
    with np.load(SAMPLES / "fashion_calibration.npz") as data:
        images = data["x"].astype(np.float32) / 255
    return [{"image": images[start : start + 32]} for start in (0, 32)]
