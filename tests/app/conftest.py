"""The bundled model and some of its pictures, as a Python caller holds them."""

import numpy as np
import onnx
import onnxruntime
import pytest

from nc_strategies import samples


@pytest.fixture(scope="session")
def pictures():
    """Samples as the model takes them, and their classes."""
    with np.load(samples.evaluation_images()) as file:
        return file["x"][:600].astype(np.float32) * np.float32(samples.SCALE) + samples.OFFSET, file["y"][:600]


@pytest.fixture
def proto():
    return onnx.load(str(samples.onnx_model()))


@pytest.fixture
def calibration(pictures):
    """Batches (input, label)."""
    x, y = pictures
    return [(x[i : i + 25], y[i : i + 25]) for i in range(0, 100, 25)]


class Evaluate:
    """A user's evaluation of an ONNX model, which keeps what it saw."""

    def __init__(self, x, y):
        self.x, self.y = x, y
        self.seen, self.gave = [], []

    def __call__(self, model):
        self.seen.append(type(model))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs = session.run(None, {session.get_inputs()[0].name: self.x})[0]
        self.gave.append(float((outputs.argmax(1) == self.y).mean()))
        return self.gave[-1]


@pytest.fixture
def evaluate(pictures):
    return Evaluate(pictures[0][100:], pictures[1][100:])
