"""The int8 ceiling on the real kernels: those that run here are measured; how fast, is the machine's business."""

import math

import pytest

from nc_strategies.backends.ceiling import CeilingLimits, measure_ceiling
from nc_strategies.backends.tensorflow import ceiling, probe
from nc_strategies.backends.tensorflow.backend import TensorFlowBackend
from nc_strategies.backends.tensorflow.settings import TensorFlowSettings


def made():
    return TensorFlowBackend(TensorFlowSettings(), 1)


@pytest.fixture
def patient(monkeypatch):
    """Every form is measured on a busy machine too, however much other work disturbs it."""
    limits = CeilingLimits(seconds=120.0, build_share=0.9, most_rounds=5, most_disturbance=math.inf)
    monkeypatch.setattr(ceiling, "measure_ceiling", lambda *given: measure_ceiling(*given, limits=limits))


def test_every_form_whose_kernel_runs_here_is_measured_and_kept(monkeypatch, tmp_path, patient):
    kernels = probe.kernels()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = made().ceiling()
    expected = {
        kind: {
            f"{dtype} sym, int8 {weight}"
            for dtype in probe.DTYPES
            if kernels.runs(kind, dtype)
            for weight in ("per_channel", "per_tensor")
        }
        for kind in ceiling.SHAPES
    }
    assert {kind: set(each) for kind, each in found.ratios.items()} == {k: v for k, v in expected.items() if v}
    assert all(0 < ratio < math.inf for each in found.ratios.values() for ratio in each.values())
    assert found.saturates == any(kernels.saturates(kind, dtype) for kind in ceiling.SHAPES for dtype in probe.DTYPES)
    monkeypatch.setattr(ceiling, "measure_ceiling", lambda *_: pytest.fail("measured again"))
    assert made().ceiling() == found
