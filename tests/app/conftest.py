"""The command line in a process of its own, and the bundled model and pictures as a Python caller has them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from nc_strategies import samples

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def command():
    """Runs a command line: its status, and what it wrote to standard output and to standard error."""

    def run(*arguments, cwd):
        done = subprocess.run(
            [sys.executable, "-m", "nc_strategies", *map(str, arguments)],
            cwd=cwd,
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        )
        return done.returncode, done.stdout, done.stderr

    return run


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
