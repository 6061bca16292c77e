"""Outputs of single operators: the kernels' own values, against numpy and against the model that executes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.session import OrtExecutable
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.measuring.diagnosis import diagnose
from nc_strategies.models import ModelSource
from nc_strategies.space import Space

spec = importlib.util.spec_from_file_location("small_models", Path(__file__).with_name("models.py"))
models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(models)


def batch(count=12, size=16, seed=0):
    return {"x": np.random.default_rng(seed).normal(size=(count, 3, size, size)).astype(np.float32)}


def change(path, name, function):
    """Replace a weight of a saved model."""
    model = onnx.load(str(path))
    weight = next(w for w in model.graph.initializer if w.name == name)
    weight.CopyFrom(numpy_helper.from_array(function(numpy_helper.to_array(weight).copy()), name))
    onnx.save(model, str(path))
    return path


def opened(path, data=None, **settings):
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings(equalize="never", recovery="none", **settings))
    backend.load(ModelSource(path.stem, {"onnx": path}))
    backend.capabilities()
    backend.calibrate([data or batch()])
    return backend, Space(backend.capabilities())


def diagnosed(backend, space, data=None, config=None):
    data = data or batch()
    config = config or space.default()
    alone = config.with_ops({n: space.ops[n].schemes[0] for n in config.float_ops if not space.ops[n].opt_in})
    reader = backend.layers(config, alone)
    found, count = diagnose(reader, lambda size: cut(data, size), backend.largest_batch)
    reader.close()
    assert count == len(next(iter(data.values())))
    return {layer.name: layer for layer in found}


def cut(data, size):
    count = len(next(iter(data.values())))
    for start in range(0, count, size):
        yield {k: v[start : start + size] for k, v in data.items()}, min(size, count - start)


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    return opened(models.residual(tmp_path_factory.mktemp("layers") / "residual.onnx"))


@pytest.fixture(scope="module")
def found(ready):
    return diagnosed(*ready)


def values_of(backend, config, data):
    """All values that the reader gives in one run, by operator."""
    reader = backend.layers(config, config)
    values = dict(reader.reader([layer.name for layer in reader.layers])(data))
    layers = {layer.name: layer for layer in reader.layers}
    reader.close()
    return layers, values


def test_every_int8_operator_is_read_in_execution_order(ready, found):
    _, space = ready
    assert list(found) == list(space.default().int8_ops)
    assert all(20 < layer.alone_db < 120 for layer in found.values())


def test_accumulated_values_are_those_of_the_model_that_executes(ready):
    backend, space = ready
    config, data = space.default(), batch(5, seed=3)
    _, values = values_of(backend, config, data)
    logits = next(name for name in values if name.startswith("Gemm"))
    probabilities = backend.build(config).predict(data)[0]
    given = values[logits].accumulated
    own = np.exp(given - given.max(1, keepdims=True))
    np.testing.assert_allclose(own / own.sum(1, keepdims=True), probabilities, atol=1e-5)


def test_reading_changes_no_executed_operator(ready):
    backend, space = ready
    config = space.default()
    reader = backend.layers(config, config)
    reader.reader([layer.name for layer in reader.layers])
    model = onnx.load_from_string(reader.readable_model([layer.name for layer in reader.layers]))
    executed = OrtExecutable(model.SerializeToString(), 1, operators=backend._operators, probe=batch(1)).executed()
    plain = backend.build(config).executed()
    assert executed.int8_names == plain.int8_names
    assert dict(executed.int8) == dict(plain.int8)
    reader.close()


def test_a_convolution_alone_is_numpy_on_the_same_integers(ready):
    backend, space = ready
    data = batch(2, seed=5)
    layers, values = values_of(backend, space.default(), data)
    name = next(n for n in layers if n == "conv_c3")  # 1 x 1: a product over channels
    layer, read = layers[name], values[name]
    source, output = layer.tensors
    x = source.range.rounded(read.tensors[0])
    op = backend.graph.fused_ops[name]
    granularity = layer.scheme.weight.granularity
    w = backend.weights.dequantized(op, granularity, backend.reduce_range).astype(np.float64)[:, :, 0, 0]
    b = backend.graph.array(op.bias)
    expected = output.range.rounded(np.einsum("ncij,oc->noij", x, w) + b[:, None, None])
    # One step where the exact value lies between two integers, or where the bias is rounded.
    assert np.abs(read.alone - expected).max() <= 1.01 * output.range.step
    assert (np.abs(read.alone - expected) < 1e-3 * output.range.step).mean() > 0.98


def test_ranges_are_those_of_calibration(ready, found):
    output = found["conv_c1"].tensors[-1]
    assert output.range[0] == 0
    assert output.range[1] == pytest.approx(output.high, rel=1e-5)
    assert output.clipped == 0
    assert output.unused == pytest.approx(0, abs=1e-5)


def test_an_operator_with_one_channel_100_times_larger_is_worst(tmp_path):
    path = models.residual(tmp_path / "spoilt.onnx")

    def larger(weight):
        weight[5] *= 100
        return weight

    def smaller(weight):
        weight[:, 5] /= 100
        return weight

    change(path, "c3_w", larger)
    change(path, "c3_b", larger)
    change(path, "fc_w", lambda w: smaller(w.T).T.copy())
    found = diagnosed(*opened(path))
    worst = min(found.values(), key=lambda layer: layer.alone_db)
    assert worst.type == "Gemm"
    channels = {channel for tensor in worst.tensors for channel, _ in tensor.outlier_channels}
    assert channels == {5}
    assert found["conv_c3"].tensors[-1].outlier_channels[0][0] == 5


def test_a_dead_channel_is_named(tmp_path):
    path = models.residual(tmp_path / "dead.onnx")

    def dead(weight):
        weight[7] = -np.abs(weight[7]) if weight.ndim > 1 else -1e3
        return weight

    change(path, "c1_w", dead)
    change(path, "c1_b", dead)
    output = diagnosed(*opened(path))["conv_c1"].tensors[-1]
    assert 7 in output.dead_channels


def test_values_outside_the_calibrated_range_are_clipped(ready):
    backend, space = ready
    data = {"x": 3 * batch(4, seed=9)["x"]}
    found = diagnosed(backend, space, data)
    first = found["conv_c1"].tensors[0]
    low, high = first.range
    step = (high - low) / 255
    outside = (data["x"] < low - step / 2) | (data["x"] > high + step / 2)
    assert first.clipped == pytest.approx(outside.mean(), abs=1e-6)
    assert first.clipped > 0.05


def test_float_operators_have_an_error_alone_and_none_of_their_own(ready):
    backend, space = ready
    float_config = space.all_float()
    alone = float_config.with_ops({n: space.ops[n].schemes[0] for n in space.default().int8_ops})
    reader = backend.layers(float_config, alone)
    found, _ = diagnose(reader, lambda size: cut(batch(), size), None)
    reader.close()
    assert all(layer.accumulated_db > 100 for layer in found)
    assert all(layer.alone_db < 100 for layer in found)


def test_little_memory_gives_the_same_figures_in_several_passes(ready, found):
    from nc_strategies.backends.collection import MemoryLimits

    backend, space = ready
    config = space.default()
    reader = backend.layers(config, config)
    again, count = diagnose(
        reader, lambda size: cut(batch(), size), backend.largest_batch, limits=MemoryLimits(read_bytes=150_000)
    )
    reader.close()
    assert count == 12
    for layer in again:
        assert layer.alone_db == pytest.approx(found[layer.name].alone_db, abs=1e-3)
        assert layer.accumulated_db == pytest.approx(found[layer.name].accumulated_db, abs=1e-3)
        for tensor, before in zip(layer.tensors, found[layer.name].tensors, strict=True):
            assert (tensor.tensor, tensor.low, tensor.high) == (before.tensor, before.low, before.high)
            assert tensor.sqnr_db == pytest.approx(before.sqnr_db, abs=1e-3)


def test_products_are_read_in_every_mode(tmp_path):
    b = models.Builder(3)
    for name, shape in (("q_w", (96, 64)), ("o_w", (64, 32))):
        b.weight(name, *shape, scale=0.1)
    b.weight("q_b", 64, scale=0.1)
    x = b.node("Add", [b.node("MatMul", ["x", "q_w"], "q"), "q_b"], "biased")
    b.node("MatMul", [b.node("Relu", [x], "r"), "o_w"], "y")
    data = {"x": np.random.default_rng(2).normal(size=(12, 7, 96)).astype(np.float32)}
    backend, space = opened(b.save(tmp_path / "products.onnx", ["N", 7, 96], ["N", 7, 32]), data, modes="all")
    product = "MatMul_q"
    modes = {s.mode for s in space.ops[product].schemes if not s.is_float}
    assert modes == {"static", "dynamic", "weight_only"}
    of_mode = {s.mode: s for s in space.ops[product].schemes if not s.is_float}
    for scheme in of_mode.values():
        config = space.all_float().with_op(product, scheme=scheme)
        layer = diagnosed_alone(backend, config, data)[product]
        # Nothing before it is quantized, so both are the operator's own error; a bias may be in one of them.
        assert layer.alone_db == pytest.approx(layer.accumulated_db, abs=1.5)
        assert layer.weight.sqnr_db >= layer.alone_db - 3
        assert (layer.tensors[0].range is None) == (scheme.mode != "static")


def diagnosed_alone(backend, config, data):
    reader = backend.layers(config, config)
    found, _ = diagnose(reader, lambda size: cut(data, size), backend.largest_batch)
    reader.close()
    return {layer.name: layer for layer in found}
