"""What is the OpenVINO backend's own: its graphs, what it counts, saves and refuses, and that telemetry stays off."""

import json
import math
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import openvino_models as models
import pytest
from nc_strategies_openvino import engine, probe
from nc_strategies_openvino.backend import OpenVinoBackend
from nc_strategies_openvino.executed import Operators, RuntimeNode, count, in_int8
from nc_strategies_openvino.settings import OpenVinoSettings

from nc_strategies.api import EngineError, InputError, ModelSource, Space
from nc_strategies.backends import onnx_backend
from nc_strategies.backends.ceiling import CeilingLimits, measure_ceiling

STOCK = """
import json, sys
import numpy as np
sys.modules["openvino_telemetry"] = None
import openvino
compiled = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
request = compiled.create_infer_request()
request.infer([np.load(sys.argv[2])])
np.save(sys.argv[3], request.get_output_tensor(0).data)
layers = ("Convolution", "FullyConnected", "Reduce", "Pooling", "MatMul")
infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
found = [info["layerType"].astype(str) for info in infos if info["runtimePrecision"].astype(str) in ("u8", "i8")]
print(json.dumps([layer for layer in found if layer in layers]))
"""
LAYERS = {"Conv": "Convolution", "Gemm": "FullyConnected", "GlobalAveragePool": "Reduce", "MaxPool": "Pooling"}


def ready(path, batches):
    backend = OpenVinoBackend(OpenVinoSettings())
    backend.load(ModelSource("model", {"onnx": path}))
    backend.capabilities()
    backend.calibrate(batches)
    return backend, Space(backend.capabilities())


@pytest.fixture(scope="module")
def sample(sample_path, sample_batches):
    return ready(sample_path, sample_batches)


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    path = tmp_path_factory.mktemp("residual") / "model.onnx"
    models.residual(path)
    rng = np.random.default_rng(0)
    return ready(path, [{"x": rng.normal(size=(10, 3, 16, 16)).astype(np.float32)}])


def test_stock_openvino_runs_the_saved_model_as_it_was_measured(sample, sample_batches, tmp_path):
    backend, space = sample
    config = space.fall_back(space.default(), "down")
    image = sample_batches[0]["image"][:2]
    np.save(tmp_path / "image.npy", image)
    files = [str(backend.save(config, tmp_path)), str(tmp_path / "image.npy"), str(tmp_path / "out.npy")]
    done = subprocess.run([sys.executable, "-c", STOCK, *files], capture_output=True, text=True, check=True)
    measured = backend.build(config)
    np.testing.assert_allclose(np.load(files[2]), measured.predict({"image": image})[0], atol=1e-6)
    int8 = {kind: number for kind, number in measured.executed().int8.items() if kind in LAYERS}
    assert Counter(json.loads(done.stdout)) == {LAYERS[kind]: number for kind, number in int8.items()}


def test_the_onnx_model_is_saved_beside_it_and_computes_the_same(sample, sample_batches, tmp_path):
    import onnxruntime

    backend, space = sample
    backend.save(space.default(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.onnx", "model.xml"]
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    wanted = backend.build(space.default()).predict(sample_batches[0])[0]
    assert np.abs(session.run(None, sample_batches[0])[0] - wanted).max() < 0.1


def test_a_projection_with_a_stride_runs_in_int8_and_so_does_its_sum(residual):
    backend, space = residual
    executed = backend.build(space.default()).executed()
    assert executed.int8_names == {"stem", "a", "b", "side", "sum", "c"}
    assert executed.by_type()["Add"] == {"int8": 1, "fp32": 0}


def test_a_sum_runs_in_float_where_its_result_is_read_in_float(residual):
    backend, space = residual
    executed = backend.build(space.fall_back(space.default(), "c")).executed()
    assert executed.int8_names == {"stem", "a", "b", "side"}
    assert "sum" not in space.ops


def test_float_operators_read_what_was_not_quantized(residual):
    backend, space = residual
    model, _ = backend.build_graph(space.fall_back(space.default(), "side"))
    side = next(node for node in model.graph.node if node.name == "side")
    assert list(side.input) == ["stem_out", "side_w", "side_b"]
    onnx.checker.check_model(model, full_check=True)


def test_a_fused_sum_counts_by_what_it_adds():
    operators = Operators(
        {"conv": "conv", "conv/bias": "conv", "add": "add"}, {"conv": "Conv", "add": "Add"}, frozenset({"conv", "add"})
    )

    def node(*inputs):
        return RuntimeNode("conv", "Convolution", "u8", ("conv", "add"), inputs, "u8", 1)

    assert in_int8(node("u8", "u8"), operators) == ["conv", "add"]
    assert in_int8(node("u8", "f32"), operators) == ["conv"]
    assert count([node("u8", "f32")], operators).by_type() == {
        "Add": {"int8": 0, "fp32": 1},
        "Conv": {"int8": 1, "fp32": 0},
    }


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    path = tmp_path_factory.mktemp("products") / "model.onnx"
    models.products(path)
    rng = np.random.default_rng(0)
    return ready(path, [{"x": rng.normal(size=(4, 7, 128)).astype(np.float32)}])


def weight_only(space, dtype, size):
    """A configuration with the weights of all products in blocks."""
    return space.default().with_ops(
        {
            name: next(
                s
                for s in op.schemes
                if (s.weight and s.weight.granularity) == f"per_block_{size}" and s.weight.dtype == dtype
            )
            for name, op in space.ops.items()
        }
    )


@pytest.mark.parametrize(("dtype", "size", "error"), [("int8", 32, 0.02), ("int8", 128, 0.02), ("int4", 32, 0.2)])
def test_compressed_weights_are_read_by_the_kernel_and_counted_by_their_mode(products, dtype, size, error):
    backend, space = products
    model = backend.build(weight_only(space, dtype, size))
    executed = model.executed()
    assert executed.int8_names == {"first", "second"}
    assert executed.by_type()["MatMul"] == {"int8": 2, "fp32": 0, "weight_only": 2}
    feed = {"x": np.random.default_rng(1).normal(size=(2, 5, 128)).astype(np.float32)}
    wanted, found = backend.reference().predict(feed)[0], model.predict(feed)[0]
    assert 0 < np.linalg.norm(found - wanted) < error * np.linalg.norm(wanted)


def test_static_modes_offer_no_compressed_weights(products, tmp_path):
    models.products(tmp_path / "model.onnx")
    backend = OpenVinoBackend(OpenVinoSettings(modes="static"))
    backend.load(ModelSource("model", {"onnx": tmp_path / "model.onnx"}))
    assert all(s.is_static or s.is_float for op in backend.capabilities().ops for s in op.schemes)


def test_names_with_commas_are_found():
    operators = Operators({"a,b": "a,b", "c": "c"}, {"a,b": "Conv", "c": "Add"})
    node = RuntimeNode("a", "Convolution", "u8", ("a", "b", "c"), ("u8",), "u8", 1)
    assert operators.computed(node) == ["a,b", "c"]


def test_names_that_the_engine_extended_are_found():
    operators = Operators({"gemm": "gemm"}, {"gemm": "Gemm"})
    name = "gemm/WithoutBiases/DequantizationMultiply"
    assert operators.computed(RuntimeNode(name, "FullyConnected", "i8", (name,), ("i8",), "f32", 1)) == ["gemm"]


def test_seven_bit_weights_are_a_choice_where_kernels_saturate(sample_path, monkeypatch):
    monkeypatch.setattr(probe, "saturates", lambda: True)
    backend = OpenVinoBackend(OpenVinoSettings())
    backend.load(ModelSource("model", {"onnx": sample_path}))
    assert dict(backend.capabilities().options)["reduce_range"] == (True, False)


def test_the_ceiling_is_measured_for_every_form(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # On a busy machine the usual time is short, and every run is disturbed.
    patient = CeilingLimits(seconds=60.0, build_share=0.9, most_rounds=5, most_disturbance=math.inf)
    monkeypatch.setattr(onnx_backend, "measure_ceiling", lambda *given: measure_ceiling(*given, limits=patient))
    found = OpenVinoBackend(OpenVinoSettings()).ceiling()
    assert set(found.ratios) <= {"Conv", "MatMul"}
    assert found.best is not None
    assert found.saturates == probe.saturates()


def test_a_default_other_than_fp32_is_told(sample, monkeypatch):
    backend, _ = sample
    monkeypatch.setattr(engine, "default_precision", lambda: "bf16")
    assert any("INFERENCE_PRECISION_HINT=f32" in text for text in backend.remarks())
    monkeypatch.setattr(engine, "default_precision", lambda: "f32")
    assert not any("INFERENCE_PRECISION_HINT" in text for text in backend.remarks())


@pytest.mark.parametrize(
    ("key", "value"), [("percentile", 50.0), ("reduce_range", "often"), ("equalize", "maybe"), ("modes", "some")]
)
def test_a_wrong_setting_is_refused(key, value):
    with pytest.raises(InputError, match=f"^backend.{key}: "):
        OpenVinoBackend(OpenVinoSettings(**{key: value}))


def test_a_model_that_openvino_refuses_is_an_input_error(sample_path, monkeypatch):
    def refuses(model):
        raise EngineError("OpenVINO refuses the model: no such operator")

    monkeypatch.setattr(engine, "read", refuses)
    with pytest.raises(InputError, match=r"^model\.path .*OpenVINO refuses the model"):
        OpenVinoBackend(OpenVinoSettings()).load(ModelSource("model", {"onnx": sample_path}))


def test_a_closed_model_says_so(sample, sample_batches):
    backend, space = sample
    model = backend.build(space.default())
    model.close()
    with pytest.raises(EngineError, match="closed"):
        model.predict(sample_batches[0])


def test_openvino_is_imported_when_chosen_and_its_telemetry_never(tmp_path):
    code = (
        "import sys\n"
        "from nc_strategies.registry import registry\n"
        "component = registry().get('backend', 'openvino')\n"
        "assert not any(name.partition('.')[0] == 'openvino' for name in sys.modules)\n"
        "registry().target(component)\n"
        "assert 'openvino' in sys.modules\n"
        "assert not any(name.partition('.')[0] == 'openvino_telemetry' for name in sys.modules)\n"
        "assert sys.modules['openvino.tools.ovc'].telemetry.__class__.__module__.endswith('telemetry_stub')\n"
    )
    home = {"HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=home)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "intel").exists()


def test_a_missing_openvino_is_one_line_with_the_command_to_install_it(tmp_path):
    (tmp_path / "openvino.py").write_text("raise ModuleNotFoundError(\"No module named 'openvino'\")\n")
    command = [sys.executable, "-m", "nc_strategies", "backend=openvino", "run_dir=out"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
    told = (done.stdout + done.stderr).strip().splitlines()
    assert done.returncode == 2
    assert len(told) == 1
    assert "backend=openvino" in told[0]
    assert "pip install 'nc-strategies-openvino'" in told[0]
    assert not (tmp_path / "out" / "result.json").exists()
