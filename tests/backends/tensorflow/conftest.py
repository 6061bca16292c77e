"""Backends with a loaded and calibrated model, one a model and session."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow")

from nc_strategies.backends.tensorflow.backend import TensorFlowBackend
from nc_strategies.backends.tensorflow.settings import TensorFlowSettings
from nc_strategies.models import ModelSource

spec = importlib.util.spec_from_file_location("small_tensorflow_models", Path(__file__).with_name("small_models.py"))
assert spec is not None
assert spec.loader is not None
small_models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small_models)


@pytest.fixture(scope="session")
def batch() -> Callable[..., dict[str, Any]]:
    """`small_models.batch`."""
    return small_models.batch


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """From a name in `models.BUILDERS` to the saved model."""
    folder, made = tmp_path_factory.mktemp("models"), {}

    def path(name: str) -> Path:
        if name not in made:
            made[name] = small_models.save(name, folder)
        return made[name]

    return path


@pytest.fixture(scope="session")
def loaded(model_path: Callable[[str], Path]) -> Callable[[str], tuple[TensorFlowBackend, Any]]:
    """From a model's name to a backend that has loaded and calibrated it, and the model's info."""
    made: dict[str, tuple[TensorFlowBackend, Any]] = {}

    def backend(name: str) -> tuple[TensorFlowBackend, Any]:
        if name not in made:
            made[name] = load(ModelSource(name, {"keras": model_path(name)}))
        return made[name]

    return backend


def load(source: ModelSource) -> tuple[TensorFlowBackend, Any]:
    """Load and calibrate."""
    backend = TensorFlowBackend(TensorFlowSettings(), 1)
    info = backend.load(source)
    backend.calibrate([small_models.batch(info, 16, seed) for seed in (1, 2)])
    return backend, info
