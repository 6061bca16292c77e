"""A small trained perceptron and its data."""

from itertools import pairwise

import numpy as np
import pytest

CLASSES, FEATURES, WIDTH = 4, 8, 24


def train():
    """Four noisy clusters, and a perceptron of three layers fitted to them by gradient descent."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, FEATURES))
    y = rng.integers(CLASSES, size=1200)
    x = (centres[y] + rng.normal(size=(len(y), FEATURES)) * 0.6).astype(np.float32)
    sizes = [FEATURES, WIDTH, WIDTH, CLASSES]
    weights = [rng.normal(size=(a, b)) / np.sqrt(a) for a, b in pairwise(sizes)]
    biases = [np.zeros(b) for b in sizes[1:]]
    for _ in range(300):
        inputs = [x[:600]]
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            inputs.append(np.maximum(inputs[-1] @ w + b, 0))
        scores = inputs[-1] @ weights[-1] + biases[-1]
        odds = np.exp(scores - scores.max(1, keepdims=True))
        slope = (odds / odds.sum(1, keepdims=True) - np.eye(CLASSES)[y[:600]]) / 600
        for i in reversed(range(len(weights))):
            back = slope @ weights[i].T * (inputs[i] > 0)
            weights[i] -= 0.5 * inputs[i].T @ slope
            biases[i] -= 0.5 * slope.sum(0)
            slope = back
    model = {
        f"{kind}{i}": a.astype(np.float32) for kind, held in (("w", weights), ("b", biases)) for i, a in enumerate(held)
    }
    return model, x[600:], y[600:]


@pytest.fixture(scope="session")
def problem(tmp_path_factory):
    """Folder with ``model.npz`` and ``data.npz``."""
    folder = tmp_path_factory.mktemp("problem")
    model, x, y = train()
    np.savez(folder / "model.npz", **model)
    np.savez(folder / "data.npz", x=x, y=y)
    return folder
