"""Cross-layer equalization: the same function to the bit, in int8 with less noise."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.errors import InputError
from nc_strategies.models import ModelSource
from nc_strategies.onnx_graph import equalize
from nc_strategies.onnx_graph.graph import prepare, read
from nc_strategies.space import Space

spec = importlib.util.spec_from_file_location("small_models", Path(__file__).with_name("models.py"))
models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(models)


def network(path, spread):
    """Plain, depthwise and grouped convolutions and two fully connected layers, channels `spread` apart in range."""
    b = models.Builder(7)
    x = b.node("Relu", [b.conv("x", "c1", 3, 16)], "r1")
    x = b.node("Relu", [b.conv(x, "dw", 16, 16, group=16)], "r2")
    x = b.node("Relu", [b.conv(x, "gr", 16, 16, group=4, bias=False)], "r3")
    x = b.node("GlobalAveragePool", [b.conv(x, "c2", 16, 24)], "gap")
    x = b.node("Flatten", [x], "flat")
    b.weight("f1_w", 24, 12)
    b.weight("f2_w", 5, 12)
    x = b.node("Relu", [b.node("Gemm", [x, "f1_w"], "f1")], "r4")
    b.node("Gemm", [x, "f2_w"], "y", transB=1)
    weights = {w.name: w for w in b.weights}

    def scale(name, axis, factors):
        values = numpy_helper.to_array(weights[name])
        shape = [1] * values.ndim
        shape[axis] = -1
        weights[name].CopyFrom(numpy_helper.from_array((values * factors.reshape(shape)).astype(np.float32), name))

    for first, second, count, in_axis in (("c1", "dw", 16, 0), ("dw", "gr", 16, None), ("gr", "c2", 16, 1)):
        factors = b.rng.lognormal(0, spread, count)
        scale(f"{first}_w", 0, factors)
        if f"{first}_b" in weights:
            scale(f"{first}_b", 0, factors)
        if in_axis is None:
            values = numpy_helper.to_array(weights[f"{second}_w"]).reshape(4, 4, 4, 3, 3)
            values = values / factors.reshape(4, 1, 4, 1, 1)
            weights[f"{second}_w"].CopyFrom(
                numpy_helper.from_array(values.reshape(16, 4, 3, 3).astype(np.float32), f"{second}_w")
            )
        else:
            scale(f"{second}_w", in_axis, 1 / factors)
    return b.save(path, ["N", 3, 12, 12], ["N", 5])


def calibrated(path, when="auto"):
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings(equalize=when))
    backend.load(ModelSource("small", {"onnx": path}))
    space = Space(backend.capabilities())
    rng = np.random.default_rng(0)
    backend.calibrate([{"x": rng.normal(size=(10, 3, 12, 12)).astype(np.float32)} for _ in range(4)])
    return backend, space, {"x": rng.normal(size=(20, 3, 12, 12)).astype(np.float32)}


def noise(backend, config, batch):
    fp32, int8 = (model.predict(batch)[0] for model in (backend.reference(), backend.build(config)))
    return float(np.square(int8 - fp32).sum() / np.square(fp32).sum())


def test_every_tensor_between_two_weighted_operators_is_found(tmp_path):
    graph = prepare(read(network(tmp_path / "m.onnx", 1.5)))
    assert sorted((p.first.name, p.second.name, p.channels) for p in equalize.pairs(graph)) == [
        ("Gemm_f1", "Gemm_y", 12),
        ("conv_c1", "conv_dw", 16),
        ("conv_dw", "conv_gr", 16),
        ("conv_gr", "conv_c2", 16),
    ]


def test_tensors_with_another_reader_or_a_bounded_activation_are_left_alone(tmp_path):
    graph = prepare(read(models.residual(tmp_path / "m.onnx")))
    # c1's output is also added, the depthwise one's is clipped at six, c2's is added, c3's is pooled.
    assert equalize.pairs(graph) == []


def test_a_tensor_that_a_branch_reads_from_outside_is_left_alone(tmp_path):
    model = onnx.load(str(network(tmp_path / "m.onnx", 1.5)))
    branches = []
    for name in ("then", "else"):
        output = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        node = onnx.helper.make_node("ReduceMax" if name == "then" else "ReduceMin", ["r1"], [name], keepdims=0)
        branches.append(onnx.helper.make_graph([node], name, [], [output]))
    # Decided by the data, so that the engine cannot fold it.
    model.graph.node.extend(
        [
            onnx.helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
            onnx.helper.make_node("Cast", ["top"], ["choice"], to=onnx.TensorProto.BOOL),
            onnx.helper.make_node("If", ["choice"], ["extreme"], then_branch=branches[0], else_branch=branches[1]),
        ]
    )
    model.graph.output.append(onnx.helper.make_tensor_value_info("extreme", onnx.TensorProto.FLOAT, None))
    onnx.save(model, str(tmp_path / "branches.onnx"))
    found = {pair.tensor for pair in equalize.pairs(prepare(read(tmp_path / "branches.onnx")))}
    alone = {pair.tensor for pair in equalize.pairs(prepare(read(tmp_path / "m.onnx")))}
    assert (alone - found, found - alone) == ({"r1"}, set())


def test_fp32_gives_the_same_outputs_to_the_bit(tmp_path):
    backend, space, batch = calibrated(network(tmp_path / "m.onnx", 1.5), "always")
    plain, _, _ = calibrated(tmp_path / "m.onnx", "never")
    np.testing.assert_array_equal(
        backend.build(space.all_float()).predict(batch)[0], plain.build(space.all_float()).predict(batch)[0]
    )
    assert any(not np.array_equal(backend.graph.array(n), plain.graph.array(n)) for n in plain.graph.initializers)


def test_where_channels_differ_in_range_int8_is_much_less_noisy_and_says_why(tmp_path):
    path = network(tmp_path / "m.onnx", 2.0)
    auto, space, batch = calibrated(path)
    plain, _, _ = calibrated(path, "never")
    assert noise(auto, space.default(), batch) < 0.3 * noise(plain, space.default(), batch)
    (remark,) = auto.remarks()
    assert remark.startswith("The channels of 4 tensors were equalized. This reduces the quantization noise ")
    assert plain.remarks() == ()


def test_what_is_saved_is_what_was_measured(tmp_path):
    backend, space, batch = calibrated(network(tmp_path / "m.onnx", 2.0))
    measured, opened = backend.build(space.default()), backend.open(backend.save(space.default(), tmp_path / "out"))
    np.testing.assert_array_equal(measured.predict(batch)[0], opened.predict(batch)[0])
    assert onnx.load(str(tmp_path / "out" / "model.onnx")).graph.node


def test_an_even_model_is_left_as_it_is_and_a_second_calibration_decides_alike(tmp_path):
    backend, _, _ = calibrated(network(tmp_path / "even.onnx", 0.0))
    assert backend.remarks() == ()
    uneven, space, batch = calibrated(network(tmp_path / "uneven.onnx", 2.0))
    first = noise(uneven, space.default(), batch)
    rng = np.random.default_rng(0)
    uneven.calibrate([{"x": rng.normal(size=(10, 3, 12, 12)).astype(np.float32)} for _ in range(4)])
    assert noise(uneven, space.default(), batch) == first
    assert len(uneven.remarks()) == 1


@pytest.mark.parametrize(("when", "done"), [("auto", False), ("always", True)])
def test_a_cautious_calibration_runs_no_int8_to_find_out(tmp_path, when, done, monkeypatch):
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings(equalize=when))
    backend.cautious = True
    monkeypatch.setattr(backend, "_noise", lambda batch: pytest.fail("ran int8"))
    backend.load(ModelSource("small", {"onnx": network(tmp_path / "m.onnx", 1.5)}))
    backend.calibrate([{"x": np.random.default_rng(0).normal(size=(10, 3, 12, 12)).astype(np.float32)}])
    assert bool(backend.remarks()) == done


class InTime(list):
    """Batches whose first pass leaves no time, or enough."""

    enough = False

    def expect_passes(self, count):
        pass

    def leaves(self, seconds):
        assert seconds > 0
        return self.enough


@pytest.mark.parametrize(
    ("when", "enough", "done"), [("auto", False, False), ("auto", True, True), ("always", False, True)]
)
def test_without_time_for_it_equalization_is_not_tried_and_that_is_said(tmp_path, when, enough, done):
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings(equalize=when))
    backend.load(ModelSource("small", {"onnx": network(tmp_path / "m.onnx", 2.0)}))
    batches = InTime([{"x": np.random.default_rng(0).normal(size=(10, 3, 12, 12)).astype(np.float32)}])
    batches.enough = enough
    backend.calibrate(batches)
    (remark,) = backend.remarks()
    assert ("were equalized" if done else "no time") in remark


def test_another_value_of_the_setting_is_refused():
    with pytest.raises(InputError, match=r"backend\.equalize.*auto, always, never"):
        OnnxRuntimeBackend(OnnxRuntimeSettings(equalize="sometimes"))
