"""What the engine fuses, and what is fused for it: the forms compute the same, and operators stay choices."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nc_strategies.backends.onnxruntime import attention, build, choose_attention, probe_fusions
from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.modes import SCHEMES
from nc_strategies.backends.onnxruntime.probe_modes import executed_schemes
from nc_strategies.backends.onnxruntime.session import optimize
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.calibration.noise import noise_to_signal
from nc_strategies.errors import InputError
from nc_strategies.models import ModelSource
from nc_strategies.onnx_graph import external
from nc_strategies.space import Space

spec = importlib.util.spec_from_file_location("encoders", Path(__file__).with_name("encoders.py"))
encoders = importlib.util.module_from_spec(spec)
spec.loader.exec_module(encoders)
Encoder = encoders.Encoder
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
    monkeypatch.setattr(build, "slow_fusions", lambda *_: frozenset({"LayerNormalization"} if slow else ()))
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


FORMS = {
    "masked": {},
    "without a mask": {"masked": False},
    "keys transposed twice": {"swapped": True},
    "without a mask, keys transposed twice": {"masked": False, "swapped": True},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_attention_in_floating_point_becomes_one_kernel_that_computes_the_same(tmp_path, form):
    encoder = Encoder(**form)
    batch = encoder.batch()
    backend, space = opened(encoder.save(tmp_path / "m.onnx", 2), batch, fused_attention="always")
    given, _ = output(backend.reference(), batch)
    fused, executed = output(backend.build(space.all_float()), batch)
    assert executed.fp32["MultiHeadAttention"] == 2
    assert executed.fp32["MatMul"] == 2 * 6
    assert "Softmax" not in executed.fp32
    assert np.allclose(fused, given, atol=1e-4)
    longer = encoder.batch(2, 11)
    assert np.allclose(
        output(backend.build(space.all_float()), longer)[0], output(backend.reference(), longer)[0], atol=1e-4
    )
    saved_model = backend.open(backend.save(space.all_float(), tmp_path / "saved"))
    assert np.allclose(saved_model.predict(batch)[0], fused, atol=1e-6)
    saved_model.close()


def test_int8_between_the_heads_takes_attention_apart_again(tmp_path):
    encoder = Encoder()
    batch = encoder.batch()
    backend, space = opened(encoder.save(tmp_path / "m.onnx", 2), batch, fused_attention="always")
    scores = "encoder/layer.0/attention/scores"
    static = next(s for s in space.ops[scores].schemes if s.is_static)
    _, executed = output(backend.build(space.all_float().with_op(scores, scheme=static)), batch)
    assert executed.int8_names == {scores}
    assert executed.fp32["MultiHeadAttention"] == 1


def test_dynamic_projections_feed_the_fused_attention(tmp_path):
    encoder = Encoder()
    batch = encoder.batch()
    backend, space = opened(encoder.save(tmp_path / "m.onnx", 2), batch, fused_attention="always")
    dynamic = next(s for s in executed_schemes() if s.mode == "dynamic")
    names = [name for name, op in space.ops.items() if dynamic in op.schemes]
    exact, _ = output(backend.reference(), batch)
    quantized, executed = output(backend.build(space.all_float().with_op(*names, scheme=dynamic)), batch)
    assert executed.int8_names == set(names)
    assert len(names) == 2 * 6
    assert executed.fp32["MultiHeadAttention"] == 2
    # The sums before the normalizations, which the engine may fuse with these: biases are added by the kernels.
    assert executed.fp32.get("Add", 0) + executed.fp32.get("SkipLayerNormalization", 0) == 2 * 2
    assert noise_to_signal(exact, quantized) < 0.01


@pytest.mark.parametrize("form", [{"softmax_axis": 2}, {"outputs": ("encoder/layer.0/attention/scores_out",)}])
def test_steps_that_are_no_plain_attention_stay_as_they_are(tmp_path, form):
    encoder = Encoder(softmax_axis=form.get("softmax_axis", -1))
    batch = encoder.batch()
    path = encoder.save(tmp_path / "m.onnx", 1, form.get("outputs", ()))
    backend, space = opened(path, batch, fused_attention="always")
    given, _ = output(backend.reference(), batch)
    built, executed = output(backend.build(space.all_float()), batch)
    assert "MultiHeadAttention" not in executed.fp32
    assert np.allclose(built, given, atol=1e-4)


@pytest.mark.parametrize(("ratio", "fused"), [(0.9, True), (1.0, False)])
def test_attention_is_fused_where_that_was_measured_to_be_faster(tmp_path, monkeypatch, ratio, fused):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(choose_attention._Comparison, "_ratio", lambda *_: ratio)
    encoder = Encoder(masked=False)
    batch = encoder.batch()
    backend, space = opened(encoder.save(tmp_path / "m.onnx"), batch)
    _, executed = output(backend.build(space.all_float()), batch)
    assert ("MultiHeadAttention" in executed.fp32) == fused
    assert any("MultiHeadAttention" in remark for remark in backend.remarks()) == fused


@pytest.mark.parametrize("reworked", [True, False])
def test_of_models_in_files_the_smaller_ones_are_compared_too(tmp_path, monkeypatch, reworked):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(choose_attention._Comparison, "_ratio", lambda *_: 0.9)
    limits = replace(external.LIMITS, model_bytes=1000, tensor_bytes=256)
    monkeypatch.setattr(external, "LIMITS", limits if reworked else replace(limits, reworked_bytes=2000))
    encoder = Encoder(masked=False)
    batch = encoder.batch()
    backend, space = opened(encoder.save(tmp_path / "m.onnx"), batch)
    assert backend.graph.files is not None
    _, executed = output(backend.build(space.all_float()), batch)
    assert ("MultiHeadAttention" in executed.fp32) == reworked
    assert (backend.recovery != ()) == reworked


def test_an_attention_kernel_that_computes_something_else_is_dropped_with_a_remark(tmp_path, monkeypatch):
    kernel = attention._kernel

    def wrong(core, mask):
        core.scale *= 2
        return kernel(core, mask)

    monkeypatch.setattr(attention, "_kernel", wrong)
    encoder = Encoder()
    batch = encoder.batch()
    backend, space = opened(encoder.save(tmp_path / "m.onnx"), batch, fused_attention="always")
    _, executed = output(backend.build(space.all_float()), batch)
    assert "MultiHeadAttention" not in executed.fp32
    assert any("does not compute" in remark for remark in backend.remarks())


def test_a_wrong_setting_of_the_fusion_is_named():
    with pytest.raises(InputError, match="fused_attention"):
        OnnxRuntimeBackend(OnnxRuntimeSettings(fused_attention="sometimes"))
