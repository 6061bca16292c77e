"""Embeddings with weights of few bits, and dynamic LSTMs: what is asked for executes, and is saved as it ran."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import nc_strategies
from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.other_ops import LEAST_EMBEDDING
from nc_strategies.backends.onnxruntime.probe_modes import CANDIDATES, executed_schemes, operator_error
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.calibration.noise import noise_to_signal
from nc_strategies.measuring.sensitivity import output_noise
from nc_strategies.models import ModelSource
from nc_strategies.space import FLOAT, Space

WORDS, UNITS, ROWS, CLASSES = 1100, 12, 6, 5


def recurrent(path, width=64, directions=1, state=False, words=WORDS, classifies=True, **attributes):
    """Token numbers, an embedding, an LSTM, and a classifier of its last output or that output itself."""
    rng = np.random.default_rng(0)

    def weight(name, *shape, scale=1.0):
        return numpy_helper.from_array((scale * rng.normal(size=shape)).astype(np.float32), name)

    last = directions * UNITS
    lstm = ["e", "w", "r", "b", *(["", "h", "h"] if state else [])]
    nodes = [
        helper.make_node("Gather", ["words", "x"], ["rows"], name="embedding"),
        helper.make_node("Transpose", ["rows"], ["e"], name="turn", perm=[1, 0, 2]),
        helper.make_node("LSTM", lstm, ["all", "end"], name="lstm", hidden_size=UNITS, **attributes),
        helper.make_node("Transpose", ["end"], ["t"], name="back", perm=[1, 0, 2]),
        helper.make_node("Reshape", ["t", "shape"], ["flat"], name="flat"),
        helper.make_node("MatMul", ["flat", "o"], ["y"], name="out"),
    ]
    if not classifies:
        nodes[-2:] = [helper.make_node("Reshape", ["t", "shape"], ["y"], name="flat")]
    constants = [
        weight("words", words, width),
        weight("w", directions, 4 * UNITS, width, scale=width**-0.5),
        weight("r", directions, 4 * UNITS, UNITS, scale=UNITS**-0.5),
        weight("b", directions, 8 * UNITS, scale=0.1),
        weight("o", last, CLASSES),
        numpy_helper.from_array(np.array([-1, last], np.int64), "shape"),
        numpy_helper.from_array(np.full((directions, 1, UNITS), 0.5, np.float32), "h"),
    ]
    value = helper.make_tensor_value_info
    batch = 1 if state else None
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.INT64, [batch, ROWS])],
        [value("y", TensorProto.FLOAT, [batch, CLASSES if classifies else last])],
        [c for c in constants if (c.name != "h" or state) and (c.name != "o" or classifies)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def opened(path, count=8, **settings):
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings(**settings))
    backend.load(ModelSource("model", {"onnx": path}))
    batch = {"x": np.random.default_rng(1).integers(0, WORDS, (count, ROWS))}
    space = Space(backend.capabilities())
    backend.calibrate([batch])
    return backend, space, batch


def output(model, batch):
    values = np.array(model.predict(batch)[0])
    executed = model.executed()
    model.close()
    return values, executed


def test_schemes_of_embeddings_and_lstms_were_seen_to_run_rightly():
    for kind in ("Gather", "LSTM"):
        assert executed_schemes(kind) == {s for s in CANDIDATES[kind] if operator_error(kind, s) < 0.2}


@pytest.mark.parametrize("scheme", CANDIDATES["Gather"], ids=str)
def test_an_embedding_has_weights_of_few_bits_where_asked(tmp_path, scheme):
    if scheme not in executed_schemes("Gather"):
        pytest.skip("this engine has no such kernel")
    backend, space, batch = opened(recurrent(tmp_path / "m.onnx", 128))
    assert space.ops["embedding"].schemes[0] == FLOAT
    config = space.all_float().with_op("embedding", scheme=scheme)
    exact, plain = output(backend.build(space.all_float()), batch)
    few, executed = output(backend.build(config), batch)
    assert not plain.int8_count
    assert executed.int8_names == {"embedding"}
    assert executed.modes["weight_only"] == {"Gather": 1}
    assert 0 < noise_to_signal(exact, few) < (0.05 if scheme.weight.dtype == "int4" else 0.001)
    path = backend.save(config, tmp_path / "saved")
    assert path.stat().st_size < (tmp_path / "m.onnx").stat().st_size * (0.35 if scheme.weight.dtype == "int4" else 0.5)
    assert np.allclose(backend.open(path).predict(batch)[0], few, atol=1e-6)


def test_blocks_that_do_not_divide_the_rows_of_an_embedding_are_not_offered(tmp_path):
    _, space, _ = opened(recurrent(tmp_path / "m.onnx", 64))
    sizes = {s.weight.granularity for s in space.ops["embedding"].schemes if not s.is_float}
    assert sizes == {"per_block_32"}


@pytest.mark.parametrize(("width", "words"), [(50, 2000), (64, 40)])
def test_an_embedding_without_a_kernel_or_of_no_size_is_no_choice(tmp_path, width, words):
    path = recurrent(tmp_path / "m.onnx", width, words=words)
    assert (words * width >= LEAST_EMBEDDING) == (width == 50)
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings())
    backend.load(ModelSource("model", {"onnx": path}))
    assert "embedding" not in {op.name for op in backend.capabilities().ops}


FORMS = {
    "plain": {},
    "two directions": {"directions": 2, "direction": "bidirectional"},
    "reverse": {"direction": "reverse"},
    "initial state": {"state": True},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_an_lstm_runs_dynamically_where_asked(tmp_path, form):
    backend, space, batch = opened(recurrent(tmp_path / "m.onnx", **form), 1 if "state" in form else 8)
    (dynamic,) = (s for s in space.ops["lstm"].schemes if not s.is_float)
    config = space.all_float().with_op("lstm", scheme=dynamic)
    given, _ = output(backend.reference(), batch)
    exact, _ = output(backend.build(space.all_float()), batch)
    ours, executed = output(backend.build(config), batch)
    assert np.allclose(given, exact, atol=1e-5)
    assert executed.int8_names == {"lstm"}
    assert executed.modes["dynamic"] == {"LSTM": 1}
    assert 0 < noise_to_signal(exact, ours) < 0.01
    assert np.allclose(backend.open(backend.save(config, tmp_path / "saved")).predict(batch)[0], ours, atol=1e-6)


def test_a_model_without_any_static_operator_is_quantized(tmp_path):
    backend, space, batch = opened(recurrent(tmp_path / "m.onnx", classifies=False))
    assert set(space.ops) == {"embedding", "lstm"}
    chosen = {name: next(s for s in op.schemes if not s.is_float) for name, op in space.ops.items()}
    exact, _ = output(backend.reference(), batch)
    ours, executed = output(backend.build(space.all_float().with_ops(chosen)), batch)
    assert executed.int8_names == {"embedding", "lstm"}
    assert 0 < noise_to_signal(exact, ours) < 0.01


def test_reduce_range_applies_to_a_dynamic_lstm(tmp_path):
    backend, space, _ = opened(recurrent(tmp_path / "m.onnx"), reduce_range="always")
    (dynamic,) = (s for s in space.ops["lstm"].schemes if not s.is_float)
    model = backend.native(space.all_float().with_op("lstm", scheme=dynamic))
    node = next(n for n in model.graph.node if n.op_type == "DynamicQuantizeLSTM")
    (weight,) = (numpy_helper.to_array(i) for i in model.graph.initializer if i.name == node.input[1])
    assert np.abs(weight).max() == 64


def test_static_mode_offers_neither(tmp_path):
    _, space, _ = opened(recurrent(tmp_path / "m.onnx"), modes="static")
    assert not {"embedding", "lstm"} & set(space.ops)


def test_noise_is_estimated_for_operators_without_static_int8(tmp_path):
    backend, space, batch = opened(recurrent(tmp_path / "m.onnx"))
    signal, _ = output(backend.build(space.all_float()), batch)
    noise = output_noise(backend, space, batch, signal)
    assert noise["lstm"] > 0
    assert noise["embedding"] > 0


@pytest.mark.parametrize("strategy", ["basic", "ilp"])
def test_a_search_for_a_small_model_takes_the_embedding_with_few_bits(tmp_path, strategy):
    path = recurrent(tmp_path / "m.onnx")
    x = np.random.default_rng(1).integers(0, WORDS, (60, ROWS))
    scores, _ = output(opened(path)[0].reference(), {"x": x})
    study = nc_strategies.tune(
        path,
        (x, scores.argmax(1)),
        strategy=strategy,
        objectives="size",
        tolerable_loss=0.1,
        max_trials=4,
        latency_runs=20,
        calibration_samples=16,
        run_dir=tmp_path / "run",
    )
    assert study.best is not None
    assert not study.best.config.schemes["embedding"].is_float


@pytest.mark.parametrize("unused", [False, True])
def test_an_embedding_and_an_lstm_are_read_alone_and_accumulated(tmp_path, unused):
    path = recurrent(tmp_path / "m.onnx")
    if unused:
        model = onnx.load(path)
        next(node for node in model.graph.node if node.op_type == "LSTM").output[0] = ""
        onnx.save(model, path)
    backend, space, batch = opened(path, modes="all", equalize="never", recovery="none")
    int8 = {name: next(s for s in op.schemes if not s.is_float) for name, op in space.ops.items()}
    config = space.default().with_ops(int8)
    reader = backend.layers(config, config)
    names = [layer.name for layer in reader.layers]
    read = dict(reader.reader(names)(batch))
    reader.close()
    assert {"embedding", "lstm"} <= set(names)
    ratios = {name: noise_to_signal(values.reference, values.alone) for name, values in read.items()}
    assert all(0 < ratio < 0.01 for ratio in ratios.values()), ratios
    executable = backend.build(config)
    np.testing.assert_allclose(read["out"].accumulated, executable.predict(batch)[0], atol=1e-5)
