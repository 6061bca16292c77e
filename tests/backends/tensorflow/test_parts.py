"""The parts that need no whole model: folding, weights, what a probe's answer leads to."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from nc_strategies.backends.tensorflow import probe
from nc_strategies.backends.tensorflow.capabilities import limits
from nc_strategies.backends.tensorflow.executed import source_type
from nc_strategies.backends.tensorflow.export import export_onnx
from nc_strategies.backends.tensorflow.fold import simplify
from nc_strategies.backends.tensorflow.graph import Graph
from nc_strategies.backends.tensorflow.matrix_products import static_types
from nc_strategies.backends.tensorflow.probe import Kernels
from nc_strategies.backends.tensorflow.weights import FULL, REDUCED, quantize
from nc_strategies.errors import InputError
from nc_strategies.models import ModelSource


def test_batchnorm_is_folded_and_nothing_is_left_of_it(loaded):
    backend, _ = loaded("cnn")
    ops = {node.op for node in backend._context.graph.nodes.values()}
    assert not ops & {"Mul", "Sub", "Rsqrt", "FusedBatchNormV3", "Identity"}


def test_batchnorm_with_another_reader_is_not_folded(loaded):
    backend, _ = loaded("unfoldable")
    assert "Mul" in {node.op for node in backend._context.graph.nodes.values()}


def test_types_are_inferred_through_large_weights_and_small_constants_alike():
    import tensorflow as tf

    imported = tf.Graph()
    with imported.as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, 64), "x")
        product = tf.matmul(x, tf.constant(np.ones((64, 32), np.float32)), name="product")
        tf.reshape(product, tf.constant([-1, 4, 8]), name="reshaped")
    shapes, dtypes = static_types(Graph.from_def(imported.as_graph_def()))
    assert shapes["product"] == (None, 32)
    assert shapes["reshaped"] == (None, 4, 8)
    assert dtypes["product"] == tf.float32


def test_all_readers_of_a_folded_batchnorm_read_the_bias():
    import tensorflow as tf

    graph = Graph()
    graph.add("Placeholder", "x", [], dtype=tf.float32, shape=tf.TensorShape((None, 4, 4, 3)))
    graph.constant("weight", np.ones((1, 1, 3, 2), np.float32))
    graph.constant("scale", np.array([2.0, 3.0], np.float32))
    graph.add("Conv2D", "conv", ["x", "weight"], T=tf.float32, strides=[1, 1, 1, 1], padding="SAME", data_format="NHWC")
    graph.add("Mul", "scaled", ["conv", "scale"], T=tf.float32)
    graph.add("Relu", "one", ["scaled"], T=tf.float32)
    graph.add("Neg", "other", ["scaled"], T=tf.float32)
    folded, ends = simplify(graph, ["x"], ["one", "other"])
    read = {folded.nodes[folded.nodes[ends[name]].input[0]].op for name in ("one", "other")}
    assert read == {"BiasAdd"}


def test_products_written_as_einsum_get_the_int8_kernel(loaded):
    backend, _ = loaded("transformer")
    capabilities = backend.capabilities()
    assert len([op for op in capabilities.ops if op.type == "MatMul"]) == 7


def test_quantized_weights_are_symmetric_and_within_half_a_step():
    weight = np.random.default_rng(0).normal(0, 1, (3, 3, 4, 8)).astype(np.float32)
    for limit in (FULL, REDUCED):
        for granularity, shape in (("per_channel", (8,)), ("per_tensor", ())):
            largest, values = quantize(weight, 3, granularity, limit)
            assert largest.shape == shape
            assert np.abs(values).max() == limit
            assert np.abs(values * (largest / limit) - weight).max() <= np.max(largest) / limit / 2 + 1e-6


def test_an_all_zero_channel_gives_zeros():
    largest, values = quantize(np.zeros((4, 2), np.float32), 1, "per_channel")
    assert np.isfinite(largest).all()
    assert not values.any()


def test_weights_are_reduced_only_where_products_saturate():
    kernels = Kernels({"Conv2D/uint8": "saturates", "Conv2D/int8": "exact", "MatMul/int8": "saturates"})
    assert limits(kernels, True)("Conv2D", "uint8") == REDUCED
    assert limits(kernels, False)("Conv2D", "uint8") == FULL
    assert limits(kernels, True)("Conv2D", "int8") == FULL
    assert limits(kernels, False)("MatMul", "int8") == REDUCED
    assert limits(kernels, False)("Sum", "int8") == FULL
    assert not Kernels({"Conv2D/uint8": "wrong"}).runs("Conv2D", "uint8")


def test_a_signed_sum_that_saturates_keeps_half_of_its_range_whatever_weights_have():
    saturating = Kernels({probe.SIGNED_SUM: "saturates"})
    assert [limits(saturating, reduce_range)("Sum", "int8") for reduce_range in (True, False)] == [REDUCED, REDUCED]


def test_a_processor_without_saturation_is_offered_no_reduced_range(loaded, monkeypatch):
    backend, _ = loaded("cnn")
    exact = Kernels({f"{kind}/{dtype}": "exact" for kind in probe.KINDS for dtype in probe.DTYPES})
    monkeypatch.setattr(probe, "kernels", lambda: exact)
    assert backend.capabilities().options == ()


def test_kernels_that_do_not_run_are_not_offered_and_none_at_all_is_said(loaded, monkeypatch):
    backend, _ = loaded("cnn")
    monkeypatch.setattr(probe, "kernels", lambda: Kernels({"Conv2D/uint8": "exact"}, {}))
    assert {op.type for op in backend.capabilities().ops} == {"Conv2D"}
    monkeypatch.setattr(probe, "kernels", lambda: Kernels({}, {"Conv2D/uint8": "not registered"}))
    with pytest.raises(InputError, match="do not run on this machine \\(not registered\\)"):
        backend.capabilities()


def test_a_kernel_that_aborts_its_process_is_left_out_and_the_others_are_tried(monkeypatch, tmp_path):
    (tmp_path / "aborting_probe.py").write_text(
        "import json, os, sys\n"
        "for case in ('a', 'b', 'c'):\n"
        "    if case in sys.argv: continue\n"
        "    print(json.dumps({'begin': case}), flush=True)\n"
        "    if case == 'b': os.abort()\n"
        "    print(json.dumps({'case': case, 'result': 'exact'}), flush=True)\n"
        "print(json.dumps({'end': True}))\n"
    )
    monkeypatch.setattr(probe, "MODULE", "aborting_probe")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    found = probe.Probe().result()
    assert found.results == {"a": "exact", "c": "exact"}
    assert "aborts" in found.failures["b"]


CASES = [*probe.CASES]


def test_a_probe_of_its_own_imports_no_more_than_a_worker():
    code = (
        "import runpy, sys;"
        f"sys.argv = ['probe', *{CASES[1:]}]; runpy.run_module({probe.MODULE!r}, run_name='__main__');"
        "print(sorted({'keras', 'matplotlib', 'pandas', 'sklearn'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert json.loads(lines[1])["case"] == CASES[0]
    assert lines[-1] == "['keras']"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """A probe whose child says what it is told to; how often one was started, and its cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "telling_probe.py").write_text(
        "import json, os, pathlib, sys\n"
        "here = pathlib.Path(__file__).parent\n"
        "with (here / 'asked').open('a') as log: log.write('x')\n"
        f"for case in {CASES!r}:\n"
        "    if case in sys.argv: continue\n"
        "    print(json.dumps({'begin': case}), flush=True)\n"
        "    if case == 'MatMul/int8' and (here / 'abort').exists(): os.abort()\n"
        "    print(json.dumps({'case': case, 'result': 'saturates'}), flush=True)\n"
        "print(json.dumps({'end': True}))\n"
    )
    monkeypatch.setattr(probe, "MODULE", "telling_probe")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def count():
        log = tmp_path / "asked"
        return len(log.read_text()) if log.exists() else 0

    return count


def test_what_a_child_found_is_kept_and_no_child_is_asked_again(asked):
    first = probe.Probe("kept.json").result()
    assert (asked(), set(first.results), first.saturates("Conv2D", "uint8")) == (1, set(CASES), True)
    assert probe.Probe("kept.json").result() == first
    assert asked() == 1
    assert probe.Probe("other.json").result() == first
    assert asked() == 2
    probe.Probe().result()
    assert asked() == 3


def test_what_an_aborted_child_leaves_is_not_kept(asked, tmp_path):
    (tmp_path / "abort").touch()
    found = probe.Probe("kept.json").result()
    assert ("MatMul/int8" in found.failures, asked()) == (True, 2)
    (tmp_path / "abort").unlink()
    assert probe.Probe("kept.json").result().failures == {}
    assert asked() == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"results": 1, "failures": {}}',
        '{"results": {"Conv2D/uint8": "exact"}, "failures": {}}',
        '{"results": {CASES: "surely"}, "failures": {}}',
    ],
)
def test_what_makes_no_sense_in_the_cache_is_asked_again(asked, tmp_path, text):
    sure = ", ".join(f'"{case}": "surely"' for case in CASES)
    (tmp_path / "cache" / "nc_strategies").mkdir(parents=True)
    (tmp_path / "cache" / "nc_strategies" / "kept.json").write_text(text.replace('CASES: "surely"', sure))
    assert set(probe.Probe("kept.json").result().results.values()) == {"saturates"}
    assert asked() == 1


def test_another_processor_library_or_setting_has_an_answer_of_its_own(monkeypatch, tmp_path):
    here = probe._name()
    assert probe._name() == here
    names = [here]
    for variable, value in (("TF_ENABLE_ONEDNN_OPTS", "0"), ("ONEDNN_MAX_CPU_ISA", "AVX2")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            names.append(probe._name())
    with monkeypatch.context() as patch:
        (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name : another\nflags : sse2\n")
        patch.setattr(probe, "CPUINFO", tmp_path / "cpuinfo")
        names.append(probe._name())
        (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name : another\nflags : sse2 avx2\n")
        names.append(probe._name())
    with monkeypatch.context() as patch:
        (tmp_path / "tensorflow").mkdir()
        (tmp_path / "tensorflow" / "__init__.py").write_text("")
        patch.setattr(sys, "path", [str(tmp_path)])
        patch.delitem(sys.modules, "tensorflow", raising=False)
        names.append(probe._name())
    with monkeypatch.context() as patch:
        (tmp_path / "probe.py").write_text("# another version of the backend")
        patch.setattr(probe, "__file__", str(tmp_path / "probe.py"))
        names.append(probe._name())
    assert len(set(names)) == 7
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    monkeypatch.setenv("TF_API_TOKEN", "no setting of an engine")
    assert probe._name() == here


@pytest.mark.parametrize(
    ("kernel", "op"),
    [
        ("_MklNativeFusedConv2D", "Conv2D"),
        ("_FusedQuantizedConv2D", "Conv2D"),
        ("_QuantizedMatMul", "MatMul"),
        ("_FusedQuantizedDepthwiseConv2D", "DepthwiseConv2dNative"),
        ("QuantizedMaxPool", "MaxPool"),
        ("_MklMatMul", "MatMul"),
        ("_FusedMatMul", "MatMul"),
        ("Relu", "Relu"),
    ],
)
def test_kernels_count_as_the_operator_they_compute(kernel, op):
    assert source_type(kernel) == op


@pytest.mark.parametrize("name", ["cnn", "two_by_two", "transformer"])
def test_exported_onnx_has_the_signature_and_the_outputs_of_the_original(loaded, model_path, batch, tmp_path, name):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    backend, info = loaded(name)
    path = export_onnx(ModelSource(name, {"keras": model_path(name)}), tmp_path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == [spec.name for spec in info.inputs]
    assert [value.name for value in session.get_outputs()] == [spec.name for spec in info.outputs]
    for count in (1, 5):
        data = batch(info, count)
        for one, other in zip(session.run(None, data), backend.reference().predict(data), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


def test_argmax_and_the_sign_of_zero_are_exported_to_what_onnxruntime_runs(tmp_path):
    """Keras takes -0 to be below 0, which it reads off the bits; ONNX has no operator for these."""
    import keras

    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    x = keras.Input((4,), name="x")
    outputs = [keras.ops.argmax(keras.layers.Dense(5)(x), axis=-1), keras.ops.argmax(x, axis=-1), keras.ops.signbit(x)]
    model = keras.Model(x, outputs)
    model.save(tmp_path / "signs.keras")
    path = export_onnx(ModelSource("signs", {"keras": tmp_path / "signs.keras"}), tmp_path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    data = np.array(
        [[-0.0, 0.0, -1.0, -0.0], [0.0, -0.0, -1.0, -np.inf], [-1e-30, 1e-30, 1.0, np.inf], [-0.0, -0.0, -2.0, -3.0]],
        np.float32,
    )
    _, highest, signs = session.run(None, {"x": data})
    assert highest.tolist() == [1, 0, 3, 0]
    assert signs.tolist() == np.signbit(data).tolist()
    np.testing.assert_array_equal(highest, keras.ops.convert_to_numpy(model(data)[1]))


def test_an_operator_that_onnx_does_not_have_is_named(tmp_path):
    import tensorflow as tf

    pytest.importorskip("tf2onnx")
    module = tf.Module()
    call = tf.function(
        lambda x: {"words": tf.bitcast(x, tf.int32)}, input_signature=[tf.TensorSpec((None, 3), tf.float32, name="x")]
    )
    tf.saved_model.save(module, str(tmp_path / "words"), signatures=call.get_concrete_function())
    with pytest.raises(InputError, match=r"words cannot be converted to ONNX, which has no operator for Bitcast \("):
        export_onnx(ModelSource("words", {"saved_model": tmp_path / "words"}), tmp_path)
