"""Models whose weights stay in files: as few copies of them as possible are in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import nc_strategies
from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.session import OrtExecutable
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.measuring import baseline, reopening
from nc_strategies.measuring.latency import Timing
from nc_strategies.models import ModelSource
from nc_strategies.onnx_graph import block_weights, external
from nc_strategies.onnx_graph.block_weights import quantize_blocks
from nc_strategies.onnx_graph.header import read_without_large
from nc_strategies.space import FLOAT, Config

RNG = np.random.default_rng(3)


def products(path, transposed=False):
    """Two products with a Relu in between, one of them a Gemm; weights of 8 KB, biases of 128 bytes."""
    first = RNG.normal(size=(64, 32)).astype(np.float32) / 8
    second = RNG.normal(size=(8, 32) if transposed else (32, 8)).astype(np.float32) / 6
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["m"], "first"),
        helper.make_node("Relu", ["m"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w1", "b1"], ["y"], "second", transB=int(transposed)),
    ]
    constants = {"w0": first, "w1": second, "b1": RNG.normal(size=8).astype(np.float32)}
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def small_limits(monkeypatch):
    """Limits at which a model of some kilobytes takes the way of a large one."""
    monkeypatch.setattr(external, "LIMITS", replace(external.LIMITS, model_bytes=1000, tensor_bytes=256))


def loaded(path, modes="all"):
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings(modes=modes))
    backend.load(ModelSource("m", {"onnx": path}))
    return backend


def test_a_file_is_read_without_its_large_weights(tmp_path):
    path = products(tmp_path / "m.onnx")
    model, places = read_without_large(path, 256)
    whole, content = onnx.load(path), path.read_bytes()
    assert sorted(places) == [0, 1]
    for index, (offset, length) in places.items():
        assert content[offset : offset + length] == whole.graph.initializer[index].raw_data
        assert not model.graph.initializer[index].raw_data
        model.graph.initializer[index].raw_data = content[offset : offset + length]
    assert model == whole


def test_weights_of_one_large_file_are_not_in_the_graph(tmp_path, small_limits):
    backend = loaded(products(tmp_path / "m.onnx"))
    stored = {i.name: external.is_external(i) for i in backend.graph.model.graph.initializer}
    assert sum(stored.values()) == 2
    x = RNG.normal(size=(5, 64)).astype(np.float32)
    backend.calibrate([{"x": x}])
    given = backend.reference().predict({"x": x})[0]
    mine = backend.build(all_float(backend)).predict({"x": x})[0]
    np.testing.assert_allclose(mine, given, atol=1e-6)


def all_float(backend):
    return Config(tuple((op.name, FLOAT) for op in backend.capabilities().ops), (("reduce_range", False),))


def test_capabilities_do_not_depend_on_where_weights_are(tmp_path, monkeypatch):
    path = products(tmp_path / "m.onnx", transposed=True)
    plain = loaded(path).capabilities()
    monkeypatch.setattr(external, "LIMITS", replace(external.LIMITS, model_bytes=1000, tensor_bytes=256))
    backend = loaded(path)
    assert backend.capabilities() == plain
    assert any(scheme.mode == "weight_only" for op in plain.ops for scheme in op.schemes)
    # Nothing was quantized for them: no weight was written beside the model's own.
    assert not any(file.suffix == ".bin" and file.stat().st_size in (2048, 256) for file in folder_of(backend))


def folder_of(backend):
    return list(backend.graph.files.folder.iterdir())


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("mode", ["static", "dynamic", "weight_only"])
def test_every_mode_computes_the_same_with_weights_in_files(tmp_path, monkeypatch, mode, transposed):
    path = products(tmp_path / "m.onnx", transposed)
    batch = {"x": RNG.normal(size=(5, 64)).astype(np.float32)}

    def outputs():
        backend = loaded(path)
        backend.calibrate([batch])
        config = all_float(backend)
        schemes = {op.name: next(s for s in op.schemes if s.mode == mode) for op in backend.capabilities().ops}
        model = backend.build(config.with_ops(schemes))
        saved = backend.open(backend.save(config.with_ops(schemes), tmp_path / f"saved{len(list(tmp_path.iterdir()))}"))
        return model.predict(batch)[0], saved.predict(batch)[0]

    plain = outputs()
    monkeypatch.setattr(external, "LIMITS", replace(external.LIMITS, model_bytes=1000, tensor_bytes=256))
    for found, saved in (plain, outputs()):
        np.testing.assert_array_equal(found, plain[0])
        np.testing.assert_array_equal(saved, plain[0])


def test_a_model_saved_from_files_is_the_model_that_holds_its_weights(tmp_path, small_limits):
    backend = loaded(products(tmp_path / "m.onnx"))
    external.save(backend.graph.model, tmp_path / "saved.onnx")
    saved, whole = onnx.load(tmp_path / "saved.onnx"), external.inlined(backend.graph.model)
    onnx.checker.check_model(saved)
    stored = {i.name: i for i in saved.graph.initializer}
    assert stored == {i.name: i for i in whole.graph.initializer}
    assert list(saved.graph.node) == list(whole.graph.node)
    assert saved.opset_import == whole.opset_import


def test_a_wide_weight_is_quantized_in_parts_to_the_same_blocks(monkeypatch):
    weight = RNG.normal(size=(96, 50)).astype(np.float32)
    whole = quantize_blocks(weight, 4, 32)
    monkeypatch.setattr(block_weights, "CHUNK_BYTES", 96 * 4 * 7)
    parts = quantize_blocks(weight, 4, 32)
    np.testing.assert_array_equal(parts.packed, whole.packed)
    np.testing.assert_array_equal(parts.scales, whole.scales)


def test_of_a_large_model_one_float_form_and_one_other_are_open(tmp_path, monkeypatch):
    for module in (reopening, baseline):
        monkeypatch.setattr(module, "OPEN_RULES", reopening.OpenRules(large_bytes=1000))
    # Where the cache does not hold the int8 ceiling yet, it would be measured here, with models of its own.
    monkeypatch.setattr(OnnxRuntimeBackend, "ceiling", lambda self, again=False: None)
    x = RNG.normal(size=(200, 64)).astype(np.float32)
    path = products(tmp_path / "m.onnx")
    given = loaded(path).reference()
    y = given.predict({"x": x})[0].argmax(1)
    given.close()
    open_now, most, since_baseline = set(), [0], []
    start, close, fit = OrtExecutable._start, OrtExecutable.close, baseline.BaselineMeasurer.measure_baseline

    def started(self, probe):
        start(self, probe)
        open_now.add(id(self))
        if since_baseline:
            most[0] = max(most[0], len(open_now))

    def closed(self):
        close(self)
        open_now.discard(id(self))

    def measured(self, space):
        found = fit(self, space)
        since_baseline.append(len(open_now))
        return found

    monkeypatch.setattr(OrtExecutable, "_start", started)
    monkeypatch.setattr(OrtExecutable, "close", closed)
    monkeypatch.setattr(baseline.BaselineMeasurer, "measure_baseline", measured)
    study = nc_strategies.tune(
        path,
        (x, y),
        run_dir=tmp_path / "run",
        max_trials=3,
        latency_runs=20,
        final_runs=40,
        calibration_samples=20,
        backend={"name": "onnxruntime", "modes": "all"},
    )
    assert study.result["trials"]["total"] > 1
    assert since_baseline == [1]
    assert most[0] == 2


# Candidates that were timed in turn


def timing(speeds, sessions):
    """A timing of a reference and a model, whose times of each session are multiples of one another."""
    rows = [[pace, pace * ratio] for pace, ratio, runs in zip(*speeds, sessions, strict=True) for _ in range(runs)]
    return Timing(np.array(rows), tuple(sessions))


def test_candidates_timed_in_turn_keep_their_ratios_to_fp32():
    one = timing(([1.0, 1.2, 0.9, 1.1, 1.0], [0.5, 0.52, 0.48, 0.5, 0.5]), [20] * 5)
    slow = timing(([2.0, 2.4, 2.2, 1.9, 2.1], [0.7, 0.72, 0.68, 0.7, 0.7]), [20, 20, 25, 20, 20])
    joined = Timing.in_turn([one, slow])
    assert joined.sessions == (20,) * 5
    assert joined.ratio(1, 0) == pytest.approx(one.ratio(1, 0))
    assert joined.ratio(2, 0) == pytest.approx(slow.ratio(1, 0))
    assert joined.ratio_interval(2, 0) == pytest.approx(slow.ratio_interval(1, 0))
    assert joined.median_ms(0) == pytest.approx(one.median_ms(0))


def test_candidates_that_had_fewer_sessions_are_compared_in_those():
    one = timing(([1.0, 1.2, 0.9], [0.5] * 3), [10, 12, 11])
    late = timing(([1.0, 1.0], [0.8] * 2), [12, 10])
    joined = Timing.in_turn([one, late])
    assert joined.sessions == (10, 10)
    assert joined.ratio(1, 0) == pytest.approx(0.5)
    assert joined.ratio(2, 0) == pytest.approx(0.8)


def test_a_single_session_in_turn_has_parts_for_each_length():
    seconds = np.abs(RNG.normal(1, 0.01, (40, 2))) * [1.0, 0.6]
    whole = Timing(seconds, parts=(Timing(seconds / 2), Timing(seconds * 2)))
    joined = Timing.in_turn([whole, whole]).repeated([1.0, 1.5])
    assert joined.seconds.shape == (40, 4)
    assert joined.median_ms(1) == pytest.approx(1.5 * joined.median_ms(0))
    assert joined.parts[1].ratio(3, 0) == pytest.approx(whole.ratio(1, 0), rel=1e-6)
