"""What the engine fuses, and what is fused for it: the forms compute the same, and operators stay choices."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nc_strategies.backends.onnxruntime import build, probe_fusions
from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.modes import SCHEMES
from nc_strategies.backends.onnxruntime.probe_modes import executed_schemes
from nc_strategies.backends.onnxruntime.session import optimize
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.calibration.noise import noise_to_signal
from nc_strategies.models import ModelSource
from nc_strategies.space import Space

WIDTH = 32


def saved(path, nodes, constants, inputs, opset=17):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def opened(path, batch, **settings):
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings(modes="all", **settings))
    backend.load(ModelSource("model", {"onnx": path}))
    space = Space(backend.capabilities())
    backend.calibrate([batch])
    return backend, space


def output(model, batch):
    values = np.array(model.predict(batch)[0])
    executed = model.executed()
    model.close()
    return values, executed


def feed_forward(path, rng, bias_first=False, shape=(WIDTH,), size=(None, None)):
    """A product, its bias as an Add of its own, and a normalization of the sum with the input."""
    bias = ["b", "p"] if bias_first else ["p", "b"]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
        helper.make_node("Add", bias, ["h"], name="bias"),
        helper.make_node("Add", ["h", "x"], ["s"], name="residual"),
        helper.make_node("LayerNormalization", ["s", "scale", "shift"], ["y"], name="norm"),
    ]
    constants = {
        "w": (rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32),
        "b": rng.normal(size=shape).astype(np.float32),
        "scale": np.ones(WIDTH, np.float32),
        "shift": np.zeros(WIDTH, np.float32),
    }
    return saved(path, nodes, constants, {"x": [*size, WIDTH]})


@pytest.mark.parametrize("bias_first", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_kernels_of_other_modes_add_the_bias_behind_a_product(tmp_path, scheme, bias_first):
    if scheme not in executed_schemes():
        pytest.skip("this engine has no such kernel")
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(4, 5, WIDTH)).astype(np.float32)}
    backend, space = opened(feed_forward(tmp_path / "m.onnx", rng, bias_first), batch)
    exact, plain = output(backend.build(space.all_float()), batch)
    quantized, executed = output(backend.build(space.all_float().with_op("product", scheme=scheme)), batch)
    assert plain.fp32["Add"] == 2
    assert executed.fp32["Add"] == 1
    assert executed.int8_names == {"product"}
    assert 0 < noise_to_signal(exact, quantized) < 0.05


def test_a_bias_in_static_int8_stays_an_operator_of_its_own(tmp_path):
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(4, 5, WIDTH)).astype(np.float32)}
    backend, space = opened(feed_forward(tmp_path / "m.onnx", rng), batch)
    dynamic = next(s for s in executed_schemes() if s.mode == "dynamic")
    static = next(s for s in space.ops["bias"].schemes if s.is_static)
    config = space.all_float().with_op("product", scheme=dynamic).with_op("bias", scheme=static)
    _, executed = output(backend.build(config), batch)
    assert executed.int8_names == {"product", "bias"}


def test_a_bias_that_varies_by_row_stays_an_operator_of_its_own(tmp_path):
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(4, 5, WIDTH)).astype(np.float32)}
    backend, space = opened(feed_forward(tmp_path / "m.onnx", rng, shape=(5, WIDTH)), batch)
    dynamic = next(s for s in executed_schemes() if s.mode == "dynamic")
    exact, _ = output(backend.build(space.all_float()), batch)
    quantized, executed = output(backend.build(space.all_float().with_op("product", scheme=dynamic)), batch)
    assert executed.fp32["Add"] == 2
    assert noise_to_signal(exact, quantized) < 0.05


@pytest.mark.parametrize("slow", [True, False])
def test_a_sum_is_kept_from_a_fusion_only_where_that_is_slower(tmp_path, monkeypatch, slow):
    monkeypatch.setattr(build, "slow_fusions", lambda: frozenset({"LayerNormalization"} if slow else ()))
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(4, 5, WIDTH)).astype(np.float32)}
    backend, space = opened(feed_forward(tmp_path / "m.onnx", rng, size=(4, 5)), batch)
    kinds = [n.op_type for n in optimize(backend.native(space.all_float()).SerializeToString()).graph.node]
    assert ("SkipLayerNormalization" in kinds) != slow
    assert ("LayerNormalization" in kinds) == slow


def test_fused_and_separate_forms_of_the_probe_compute_the_same():
    rng = np.random.default_rng(0)
    feed = {name: rng.normal(size=(1, 3, probe_fusions.PROBE.width)).astype(np.float32) for name in ("x", "other")}
    fused, separate = (
        probe_fusions.run(probe_fusions.start(probe_fusions._model(kind, form), probe_fusions.options(1)), feed)[0]
        for kind in probe_fusions.FUSED_SUMS
        for form in (True, False)
    )
    assert np.allclose(fused, separate, atol=1e-5)
