"""Execution providers: which are taken, that every session is opened on the chosen one, and what it hands back.

The stock wheel has ``AzureExecutionProvider``, which takes no operator of a model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from nc_strategies import samples
from nc_strategies.backends.onnxruntime import probe_fusions, probe_modes, providers
from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.executed import read_profile
from nc_strategies.backends.onnxruntime.probe import saturates
from nc_strategies.backends.onnxruntime.providers import CPU, Provider
from nc_strategies.backends.onnxruntime.session import optimize
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.errors import EngineError, InputError
from nc_strategies.models import ModelSource
from nc_strategies.onnx_graph import interpreter
from nc_strategies.report.fallback import fallback_sentence, operator_counts
from nc_strategies.space import Space
from nc_strategies.testing import BackendSuite

AZURE = "AzureExecutionProvider"
needs_azure = pytest.mark.skipif(
    AZURE not in ort.get_available_providers(), reason="the installed onnxruntime has no provider beside the CPU"
)


def pictures(count=40):
    return [{"input": x} for x in np.split(np.load(samples.evaluation_images())["x"][:count] / 127.5 - 1, 2)]


@pytest.fixture
def opened(monkeypatch):
    """The providers that each session is opened with."""
    seen = []

    class Watched(ort.InferenceSession):
        def __init__(self, model, sess_options=None, providers=None, **kwargs):
            seen.append(providers)
            super().__init__(model, sess_options, providers=providers, **kwargs)

    monkeypatch.setattr(ort, "InferenceSession", Watched)
    return seen


def feeds():
    name = ort.InferenceSession(str(samples.onnx_model()), providers=["CPUExecutionProvider"]).get_inputs()[0].name
    return [{name: next(iter(batch.values())).astype(np.float32)} for batch in pictures()]


def test_the_cpu_is_the_default_and_needs_no_check(opened):
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings())
    backend.provider.check()
    assert backend.provider == CPU
    assert opened == []
    assert CPU.for_session() == [("CPUExecutionProvider", {})]


@pytest.mark.parametrize("name", ["cuda", "CUDA", "CUDAExecutionProvider"])
def test_a_provider_has_the_engine_s_name_or_a_short_one(name):
    found = providers.chosen(name, {}, ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert (found.name, found.short) == ("CUDAExecutionProvider", "cuda")
    assert found.for_session() == [("CUDAExecutionProvider", {}), "CPUExecutionProvider"]


def test_options_of_a_provider_are_text_for_the_engine():
    found = providers.chosen("CUDA", {"device_id": 1, "use_tf32": False}, ["CUDAExecutionProvider"])
    assert found.for_session()[0] == ("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})


@pytest.mark.parametrize("given", ["device_id", [1], 3])
def test_options_that_are_no_mapping_are_refused(given):
    with pytest.raises(InputError, match="a mapping of option to value"):
        OnnxRuntimeBackend(OnnxRuntimeSettings(provider_options=given))


def test_a_provider_that_is_not_installed_is_refused_with_those_that_are():
    with pytest.raises(InputError) as error:
        OnnxRuntimeBackend(OnnxRuntimeSettings(provider="nope"))
    assert error.value.key == "backend.provider"
    assert "cpu" in error.value.allowed
    assert "\n" not in str(error.value)


def test_a_provider_that_does_not_start_is_refused(monkeypatch):
    class Fallen:
        def get_providers(self):
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(providers, "open_session", lambda *_: Fallen())
    with pytest.raises(InputError, match="does not start on this machine"):
        Provider("CUDAExecutionProvider").check()


def test_options_that_the_provider_refuses_are_named(monkeypatch):
    def refuse(*_):
        raise RuntimeError("unknown option 'nope'\nand a second line")

    monkeypatch.setattr(providers, "open_session", refuse)
    with pytest.raises(InputError) as error:
        Provider("CUDAExecutionProvider", (("nope", "1"),)).check()
    assert error.value.key == "backend.provider_options"
    assert "unknown option 'nope'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_provider_that_compiles_operators_together_is_refused(monkeypatch):
    def refuse(*_):
        raise RuntimeError("Unable to serialize model as it contains compiled nodes. Please disable them.")

    from nc_strategies.backends.onnxruntime import session

    monkeypatch.setattr(session, "open_session", refuse)
    with pytest.raises(InputError, match="compiles operators together"):
        optimize(b"", Provider("OpenVINOExecutionProvider"))
    with pytest.raises(EngineError):
        optimize(b"", CPU)


def event(name, kind, provider, kinds=("float",)):
    shapes = [{one: [1]} for one in kinds]
    args = {"op_name": kind, "provider": provider, "input_type_shape": shapes}
    return {"cat": "Node", "name": f"{name}_kernel_time", "args": args}


def test_what_another_provider_ran_was_handed_back():
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    events = [
        event("a", "Conv", cuda),
        event("b", "Conv", cpu),
        event("c", "QLinearConv", cpu, ("uint8",)),
        event("d", "Reshape", cpu),
        event("e", "QuantizeLinear", cpu),
        event("f", "Softmax", cuda),
    ]
    found = read_profile(events, {}, Provider(cuda))
    assert (found.provider, dict(found.fallback), found.fallback_count) == ("cuda", {"Conv": 2}, 2)
    assert (found.int8_count, found.fp32_count) == (1, 3)
    plain = read_profile([event("b", "Conv", cpu)], {})
    assert (plain.provider, plain.fallback_count) == ("", 0)


def test_reports_count_what_was_handed_back():
    tuned = {"int8_ops": 10, "fp32_ops": 2, "provider": "cuda", "fallback_ops": 3, "fallback": {"Conv": 2, "Add": 1}}
    assert fallback_sentence({"tuned": tuned}) == "3 of 12 operators ran on the CPU instead of cuda (1 Add, 2 Conv)"
    assert operator_counts(tuned) == "10/2, 3 on the CPU instead"
    assert fallback_sentence({"tuned": {**tuned, "fallback_ops": 0}}) == ""
    assert operator_counts({"int8_ops": 10, "fp32_ops": 2}) == "10/2"
    assert fallback_sentence({"tuned": None}) == ""


@needs_azure
def test_probes_of_a_provider_are_kept_apart_from_those_of_the_cpu(tmp_path, monkeypatch, opened):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    azure = Provider(AZURE)
    for probe in (probe_fusions.slow_fusions, saturates):
        probe.cache_clear()
        assert {tuple(map(str, seen)) for seen in opened} == set()
        probe(azure)
        assert all(AZURE in str(seen) for seen in opened)
        assert opened
        opened.clear()
        probe(CPU)
        assert not any(AZURE in str(seen) for seen in opened)
        opened.clear()
        probe.cache_clear()
    assert probe_modes._key("MatMul", azure) != probe_modes._key("MatMul", CPU) == probe_modes._key("MatMul")
    assert len(list((tmp_path / "nc_strategies").glob("fusions-*.json"))) == 2


@needs_azure
def test_every_session_is_opened_on_the_provider(tmp_path, opened):
    batches = feeds()
    opened.clear()
    settings = OnnxRuntimeSettings(provider="azure", modes="all", equalize="always", recovery=["bias_correction"])
    backend = OnnxRuntimeBackend(settings)
    backend.load(ModelSource("sample", {"onnx": samples.onnx_model()}))
    # Folding and shape evaluation need no provider: they are the same for every engine that takes ONNX.
    opened.clear()
    backend.capabilities()
    backend.calibrate(batches)
    space = Space(backend.capabilities())
    for model in (backend.reference(), backend.build(space.default()), backend.build(space.all_float())):
        model.predict(batches[0])
        model.profile(batches[0], 2)
    both = backend.dual_precision_session(space.default())
    assert both is not None
    backend.open(backend.save(space.default(), tmp_path / "model"))
    assert len(opened) > 10
    assert [given for given in opened if given != [(AZURE, {}), "CPUExecutionProvider"]] == []
    assert interpreter.PROVIDERS == ["CPUExecutionProvider"]


@needs_azure
class TestSampleOnAzure(BackendSuite):
    """The shared suite on a provider that takes nothing."""

    expected_int8 = 8
    random_configs = 2

    def make(self):
        return OnnxRuntimeBackend(OnnxRuntimeSettings(provider="azure"))

    def source(self):
        return ModelSource("sample", {"onnx": samples.onnx_model()})

    def batches(self):
        return feeds()

    def test_all_operators_are_handed_back(self):
        backend, space = self.ready()
        for config in (space.default(), space.all_float()):
            found = backend.build(config).executed()
            assert found.provider == "azure"
            assert found.fallback_count == found.int8_count + found.fp32_count > 0


@needs_azure
def test_a_run_says_what_ran_on_the_cpu_and_how_to_open_the_model(tmp_path):
    data = np.load(samples.evaluation_images())
    np.savez(tmp_path / "eval.npz", x=data["x"][:200], y=data["y"][:200])
    command = [sys.executable, "-m", "nc_strategies", "model=onnx", f"model.path={samples.onnx_model()}"]
    command += ["data=npz", f"data.path={tmp_path / 'eval.npz'}", "data.calibration_samples=20"]
    command += ["data.preprocess.scale=0.00784313725490196", "data.preprocess.offset=-1"]
    command += ["tuning.max_trials=1", "measure.latency_runs=20", "measure.final_runs=20", "strategy=basic"]
    options = ["backend=onnxruntime", "backend.provider=azure", "backend.provider_options={anything: 1}"]
    done = subprocess.run(
        [*command, *options, "run_dir=out"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 3), done.stderr
    tuned = json.loads((tmp_path / "out" / "result.json").read_text())["tuned"]
    assert tuned["provider"] == "azure"
    assert tuned["fallback_ops"] == tuned["int8_ops"] + tuned["fp32_ops"] == sum(tuned["fallback"].values())
    assert f"all {tuned['fallback_ops']} operators ran on the CPU instead of azure" in done.stdout
    remarks = json.loads((tmp_path / "out" / "analysis.json").read_text())["remarks"]
    assert any(
        "providers=[('AzureExecutionProvider', {'anything': '1'}), 'CPUExecutionProvider']" in r for r in remarks
    )
    refused = subprocess.run(
        [*command, "backend=onnxruntime", "backend.provider=nope", "run_dir=no"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "backend.provider: is 'nope'" in refused.stderr
    assert not Path(tmp_path / "no").exists() or not list((tmp_path / "no").glob("*.json"))
