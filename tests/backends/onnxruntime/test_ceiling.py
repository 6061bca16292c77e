"""The int8 ceiling on the real engine: what it offers is measured; how fast it is, is the machine's business."""

import math

import pytest

from nc_strategies.backends import onnx_backend
from nc_strategies.backends.ceiling import CeilingLimits, measure_ceiling
from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.probe import saturates
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings


def made():
    return OnnxRuntimeBackend(OnnxRuntimeSettings(), 1)


@pytest.fixture
def patient(monkeypatch):
    """Every form is measured on a busy machine too, however much other work disturbs it."""
    limits = CeilingLimits(seconds=60.0, build_share=0.9, most_rounds=5, most_disturbance=math.inf)
    monkeypatch.setattr(onnx_backend, "measure_ceiling", lambda *given: measure_ceiling(*given, limits=limits))


def test_every_form_that_the_engine_executes_is_measured_and_kept(monkeypatch, tmp_path, patient):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = made().ceiling()
    forms = {
        f"{activation}, int8 {weight}"
        for activation in ("uint8 asym", "int8 sym")
        for weight in ("per_channel", "per_tensor")
    }
    assert {kind: set(each) for kind, each in found.ratios.items()} == {"Conv": forms, "MatMul": forms}
    assert all(0 < ratio < math.inf for each in found.ratios.values() for ratio in each.values())
    assert found.saturates == saturates()
    kept = {path.name.rpartition("-")[0] for path in (tmp_path / "nc_strategies").iterdir()}
    assert kept - {"modes", "timing"} == {"ceiling-onnxruntime"}
    monkeypatch.setattr(onnx_backend, "measure_ceiling", lambda *_: pytest.fail("measured again"))
    assert made().ceiling() == found
