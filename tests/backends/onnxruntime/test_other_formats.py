"""A Keras model on ONNX Runtime: exported once, in a process of its own."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime as ort
import pytest

from nc_strategies import samples
from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.errors import InputError
from nc_strategies.models import ModelSource


def test_a_keras_model_is_exported_and_the_export_kept(tmp_path):
    loaded_before = "tensorflow" in sys.modules
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings())
    backend.load(ModelSource("fashion", {"keras": samples.keras_model()}))
    assert ("tensorflow" in sys.modules) == loaded_before
    backend.keep(tmp_path)
    picture = np.random.default_rng(0).normal(size=(4, 28, 28, 1)).astype(np.float32)
    scores = [
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": picture})[0]
        for path in (tmp_path / "fashion.onnx", samples.onnx_model())
    ]
    np.testing.assert_allclose(*scores, atol=1e-4)


def test_a_file_that_is_no_keras_model_is_one_line(tmp_path):
    path = tmp_path / "wrong.keras"
    path.write_text("hello")
    with pytest.raises(InputError) as caught:
        OnnxRuntimeBackend(OnnxRuntimeSettings()).load(ModelSource("wrong", {"keras": path}))
    assert str(caught.value).startswith("model.path: ")
    assert "\n" not in str(caught.value)
