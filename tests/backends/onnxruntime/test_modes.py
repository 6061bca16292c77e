"""Dynamic and weight-only quantization of matrix products: what is asked for executes, and is saved as it ran."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.modes import SCHEMES
from nc_strategies.backends.onnxruntime.probe_modes import executed_schemes, product_error
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.calibration.noise import noise_to_signal
from nc_strategies.models import ModelSource
from nc_strategies.onnx_graph.block_weights import quantize_blocks
from nc_strategies.space import FLOAT, Overrides, Space

DEPTH = 96


def feed_forward(path, rng):
    """Two products that read one input, their sum, an activation, and a Gemm with bias and transposed weight."""

    def weight(name, *shape):
        return numpy_helper.from_array((rng.normal(size=shape) / np.sqrt(DEPTH)).astype(np.float32), name)

    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"], name="query"),
        helper.make_node("MatMul", ["x", "wk"], ["k"], name="key"),
        helper.make_node("Add", ["q", "k"], ["s"], name="sum"),
        helper.make_node("Relu", ["s"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "wo", "bo"], ["y"], name="out", transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [None, DEPTH])],
        [value("y", TensorProto.FLOAT, [None, 48])],
        [weight("wq", DEPTH, 64), weight("wk", DEPTH, 64), weight("wo", 48, 64), weight("bo", 48)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("modes") / "model.onnx"
    feed_forward(path, rng)
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings())
    backend.load(ModelSource("model", {"onnx": path}))
    batch = {"x": rng.normal(size=(40, DEPTH)).astype(np.float32)}
    space = Space(backend.capabilities())
    backend.calibrate([batch])
    return backend, space, batch, path


def products(space):
    return [name for name, op in space.ops.items() if op.type in ("MatMul", "Gemm")]


def ran(model):
    executed = model.executed()
    model.close()
    return executed


def test_every_mode_that_is_offered_was_seen_to_run_rightly(loaded):
    _, space, _, _ = loaded
    assert executed_schemes() == {s for s in SCHEMES if product_error(s) < 0.2}
    assert any(s.mode == "dynamic" for s in executed_schemes())
    for name in products(space):
        assert executed_schemes() <= set(space.ops[name].schemes)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_products_run_in_the_mode_that_was_asked_for(loaded, scheme, tmp_path):
    backend, space, batch, _ = loaded
    if scheme not in executed_schemes():
        pytest.skip("this engine has no such kernel")
    names = products(space)
    config = space.all_float().with_op(*names, scheme=scheme)
    model, plain = backend.build(config), backend.build(space.all_float())
    output, exact = np.array(model.predict(batch)[0]), np.array(plain.predict(batch)[0])
    plain.close()
    executed = ran(model)
    assert executed.int8_names == set(names)
    assert sum(executed.modes[scheme.mode].values()) == len(names)
    assert noise_to_signal(exact, output) < (0.05 if scheme.weight.dtype == "int4" else 0.001)
    saved = ort.InferenceSession(str(backend.save(config, tmp_path)), providers=["CPUExecutionProvider"])
    options = saved.run(None, batch)[0]
    assert np.allclose(options, output, atol=1e-5)


def test_mixtures_of_all_modes_execute_as_configured(loaded):
    backend, space, batch, _ = loaded
    rng = np.random.default_rng(1)
    for _ in range(12):
        config = space.sample(rng)
        model = backend.build(config)
        assert np.isfinite(model.predict(batch)[0]).all()
        executed = ran(model)
        assert executed.int8_names == set(config.int8_ops)
        for mode in ("dynamic", "weight_only"):
            wanted = sum(s.mode == mode for _, s in config.ops)
            assert sum(executed.modes.get(mode, {}).values()) == wanted


def test_overrides_reach_the_engine(loaded):
    backend, space, batch, _ = loaded
    only = Overrides(op_type_dict={"MatMul|Gemm": {"activation": {"dtype": ["uint8"], "quant_mode": ["dynamic"]}}})
    narrowed = Space(space.capabilities, only)
    model = backend.build(narrowed.default())
    model.predict(batch)
    assert sum(ran(model).modes["dynamic"].values()) == len(products(space))


def test_the_noise_of_one_product_is_estimated_in_every_mode(loaded):
    from nc_strategies.measuring.sensitivity import output_noise

    backend, space, batch, _ = loaded
    plain = backend.build(space.all_float())
    signal = np.array(plain.predict(batch)[0])
    plain.close()
    for way in {s.mode + (f" {s.weight.dtype}" if s.mode == "weight_only" else "") for s in executed_schemes()}:
        noise = output_noise(backend, space, batch, signal, wanted=way)
        assert set(noise) == set(products(space))
        assert all(0 < value < 0.05 for value in noise.values())


@pytest.mark.parametrize(("modes", "offered"), [("static", False), ("all", True)])
def test_the_setting_modes_limits_what_is_offered(loaded, modes, offered):
    path = loaded[3]
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings(modes=modes))
    backend.load(ModelSource("model", {"onnx": path}))
    found = {s.mode for op in backend.capabilities().ops for s in op.schemes if s != FLOAT}
    assert ("dynamic" in found) == offered


@pytest.mark.parametrize(("bits", "block", "limit"), [(4, 32, 0.1), (4, 128, 0.12), (8, 32, 0.008)])
def test_weights_in_blocks_are_near_the_given_ones(bits, block, limit):
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(100, 7)).astype(np.float32)
    made = quantize_blocks(weight, bits, block)
    blocks = -(-100 // block)
    assert made.packed.shape == (7, blocks, block * bits // 8)
    assert made.scales.shape == (7, blocks)
    codes = made.packed if bits == 8 else np.stack([made.packed & 15, made.packed >> 4], -1).reshape(7, blocks, block)
    values = (codes.astype(np.float32) - (1 << (bits - 1))) * made.scales[..., None]
    back = values.reshape(7, -1)[:, :100].T
    assert np.linalg.norm(back - weight) < limit * np.linalg.norm(weight)
