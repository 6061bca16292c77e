"""The ONNX Runtime backend on real models: what it offers executes, what it saves is what it measured."""

from __future__ import annotations

import importlib.util
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from nc_strategies import samples
from nc_strategies.backends.base import FEW_PROFILED_RUNS
from nc_strategies.backends.onnxruntime import node_timing, session
from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.node_timing import KernelTimes
from nc_strategies.backends.onnxruntime.probe import saturates
from nc_strategies.backends.onnxruntime.session import OrtExecutable, optimize
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.errors import EngineError, InputError
from nc_strategies.models import ModelSource
from nc_strategies.onnx_graph import external
from nc_strategies.onnx_graph.graph import prepare, read
from nc_strategies.space import Overrides, Space
from nc_strategies.testing import BackendSuite

ENGINE = tuple(int(part) for part in ort.__version__.split(".")[:2])
spec = importlib.util.spec_from_file_location("small_models", Path(__file__).with_name("models.py"))
models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(models)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    return Path(tmp_path_factory.mktemp("models"))


class OnnxSuite(BackendSuite):
    """The shared suite on a model of this module."""

    build = None
    shape = (3, 16, 16)

    def make(self):
        return OnnxRuntimeBackend(OnnxRuntimeSettings())

    def source(self):
        path = Path(self.__class__.folder) / f"{self.__class__.__name__}.onnx"
        if not path.exists():
            self.__class__.build(path)
        return ModelSource("small", {"onnx": path})

    @pytest.fixture(autouse=True)
    def place(self, folder):
        type(self).folder = folder

    def batches(self):
        rng = np.random.default_rng(0)
        return [{"x": rng.normal(size=(10, *self.shape)).astype(np.float32)} for _ in range(4)]


class TestResidual(OnnxSuite):
    build = staticmethod(models.residual)
    expected_int8 = 7


class TestSqueezeAndExcite(OnnxSuite):
    build = staticmethod(models.squeeze_and_excite)
    shape = (3, 12, 12)
    expected_int8 = 8
    random_configs = 15


class TestHardGates(OnnxSuite):
    build = staticmethod(models.hard_gates)
    shape = (3, 12, 12)
    expected_int8 = 8
    random_configs = 15


class TestConcatAndAverage(OnnxSuite):
    build = staticmethod(models.concat_and_average)
    shape = (3, 12, 12)
    expected_int8 = 7


class TestAttention(OnnxSuite):
    build = staticmethod(models.attention)
    shape = (6, 32)
    expected_int8 = 5


class TestTransformer(OnnxSuite):
    build = staticmethod(models.transformer)
    shape = (6, 32)
    expected_int8 = 4


class TestKerasBlock(OnnxSuite):
    build = staticmethod(models.keras_block)
    shape = (6, 32)
    expected_int8 = 3


class TestChain(OnnxSuite):
    build = staticmethod(models.chain)
    shape = (3, 10, 10)
    expected_int8 = 6
    random_configs = 15


class TestSample(OnnxSuite):
    expected_int8 = 6

    def source(self):
        return ModelSource("sample", {"onnx": samples.onnx_model()})

    def batches(self):
        x = np.load(samples.calibration_images())["x"][:40].astype(np.float32) / 127.5 - 1
        return [{"image": x[i : i + 10]} for i in range(0, 40, 10)]


def ready(path, batches, settings=None):
    backend = OnnxRuntimeBackend(settings or OnnxRuntimeSettings())
    backend.load(ModelSource("small", {"onnx": path}))
    space = Space(backend.capabilities())
    backend.calibrate(batches)
    return backend, space


def pictures(count=20, shape=(3, 16, 16), seed=0):
    return [{"x": np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)}]


def test_half_the_convs_excluded_leaves_just_those_in_fp32_in_a_plain_session(tmp_path):
    path = models.chain(tmp_path / "chain.onnx", convs=8)
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings())
    backend.load(ModelSource("chain", {"onnx": path}))
    override = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}
    space = Space(backend.capabilities(), Overrides(op_name_dict={"conv_c[1357]": override}))
    backend.calibrate(pictures(shape=(3, 10, 10)))
    saved = backend.save(space.default(), tmp_path / "model")
    kinds = Counter(n.op_type for n in optimize(saved.read_bytes()).graph.node)
    assert kinds["QLinearConv"] == 4
    assert kinds["Conv"] + kinds["FusedConv"] == 4
    executed = backend.build(space.default()).executed()
    assert (executed.int8["Conv"], executed.fp32["Conv"]) == (4, 4)


def test_without_the_repeated_scales_the_engine_would_quantize_an_excluded_conv(tmp_path, monkeypatch):
    """The trap is real: take the guard away and the excluded convs run in int8."""
    from nc_strategies.backends.onnxruntime import build

    backend, space = ready(models.chain(tmp_path / "chain.onnx"), pictures(shape=(3, 10, 10)))
    config = space.fall_back(space.default(), "conv_c2")
    assert "conv_c2" not in backend.build(config).executed().int8_names
    monkeypatch.setattr(build, "REQUANTIZED_WEIGHTS", set())
    assert "conv_c2" in backend.build(config).executed().int8_names


def test_the_profile_counts_what_the_optimized_graph_holds(tmp_path):
    backend, space = ready(models.residual(tmp_path / "r.onnx"), pictures())
    config = space.fall_back(space.default(), "conv_c2", "Add_sum")
    executed = backend.build(config).executed()
    nodes = optimize(backend.save(config, tmp_path / "model").read_bytes()).graph.node
    kinds = Counter(n.op_type for n in nodes)
    assert executed.int8["Conv"] == kinds["QLinearConv"] == 3
    assert executed.fp32["Conv"] == kinds["Conv"] + kinds["FusedConv"] == 1
    assert (executed.int8["Add"], executed.fp32["Add"]) == (0, 1)


@pytest.mark.parametrize("act", ["Relu", "Clip"])
def test_a_pad_before_a_max_pool_becomes_part_of_it(tmp_path, act):
    path = models.padded_pool(tmp_path / "m.onnx", act)
    backend, space = ready(path, pictures())
    assert "Pad" not in {n.op_type for n in backend.graph.model.graph.node}
    plain, own = (
        ort.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, pictures(seed=1)[0])[0]
        for m in (str(path), backend.graph.model.SerializeToString())
    )
    assert np.array_equal(plain, own)
    saved = backend.save(space.default(), tmp_path / "model")
    executed = Counter(n.op_type for n in optimize(saved.read_bytes()).graph.node)
    assert executed["NhwcMaxPool"] == 1
    assert executed["Pad"] == 0
    assert executed["QuantizeLinear"] == 1
    assert executed["DequantizeLinear"] == 1


@pytest.mark.parametrize(
    "other", [{"act": None}, {"act": "LeakyRelu"}, {"value": -1.0}, {"kernel": 1}, {"channels": 1}, {"ceil_mode": 1}]
)
def test_a_pad_that_the_pool_cannot_do_stays(tmp_path, other):
    path = models.padded_pool(tmp_path / "m.onnx", **other)
    if ENGINE < (1, 32) and not {"value", "channels"} & set(other):
        pytest.skip("onnxruntime before 1.32 merges the Pad itself, with wrong results, or refuses the model")
    backend, _ = ready(path, pictures())
    assert "Pad" in {n.op_type for n in backend.graph.model.graph.node}


def test_what_an_exporter_writes_for_nothing_is_not_executed_in_int8(tmp_path):
    """Reshapes of one pixel, one number added behind a convolution, multiplications by a constant."""
    path = models.squeeze_and_excite(tmp_path / "m.onnx")
    backend, space = ready(path, pictures(shape=(3, 12, 12)))
    saved = backend.save(space.default(), tmp_path / "model")
    executed = Counter(n.op_type for n in optimize(saved.read_bytes()).graph.node)
    assert executed == {
        "QuantizeLinear": 1,
        "QLinearConv": 4,
        "QLinearAdd": 1,
        "QLinearMul": 2,
        "Transpose": 2,
        "QLinearGlobalAveragePool": 1,
        "DequantizeLinear": 1,
    }
    fp32, int8 = (
        model.predict(pictures(shape=(3, 12, 12), seed=1)[0])[0]
        for model in (backend.reference(), backend.build(space.default()))
    )
    assert np.linalg.norm(int8 - fp32) < 0.05 * np.linalg.norm(fp32)
    assert len(backend.build(space.all_float()).profile(pictures(shape=(3, 12, 12))[0], 5).other_nodes or ()) < 4


def test_a_profile_tells_whose_result_a_conversion_converts(tmp_path):
    path = models.squeeze_and_excite(tmp_path / "m.onnx")
    backend, space = ready(path, pictures(shape=(3, 12, 12)))
    capabilities = backend.capabilities()
    for name in space.default().int8_ops:
        config = space.fall_back(space.default(), name)
        found = backend.build(config).profile(pictures(count=1, shape=(3, 12, 12))[0], 5)
        assert len(found.converted) == len(found.conversions)
        # What the one in fp32 reads is dequantized, and what it gives quantized.
        around = {a for a, b in capabilities.edges if b == name} | {a for a, b in capabilities.edges if a == name}
        assert around <= set(found.converted)
    assert None in found.converted


def test_kernels_are_timed_alone_and_each_once(tmp_path):
    path = models.squeeze_and_excite(tmp_path / "m.onnx")
    backend, space = ready(path, pictures(shape=(3, 12, 12)))
    graph = optimize(backend.save(space.default(), tmp_path / "model").read_bytes())
    batch, times = pictures(count=1, shape=(3, 12, 12))[0], KernelTimes(1)
    found = times(graph, batch)
    assert set(found) == {node.name for node in graph.graph.node}
    assert all(0 <= seconds < 1e-3 for seconds in found.values())
    convolutions = [found[n.name] for n in graph.graph.node if n.op_type == "QLinearConv"]
    assert max(convolutions) > 1e-7
    assert times(graph, batch) == found  # a second timing would differ
    # Sixteen times the pictures are another kernel, which takes longer.
    more = times(graph, {name: array.repeat(16, 0) for name, array in batch.items()})
    assert sum(more.values()) > 2 * sum(found.values())


@pytest.mark.parametrize("disturbed", [0, 3])
def test_a_node_takes_what_its_copies_take_more_while_the_machine_is_calm(tmp_path, monkeypatch, disturbed):
    """5 us a run and 2 us a node, twice as long while others use the machine, as they do for the first rounds."""
    bursts, burst, held = Counter(), node_timing._burst, []

    def slow(opened):
        return 2.0 if 0 < bursts[id(opened)] <= disturbed else 1.0

    def seconds(opened, feed):
        name = opened.get_outputs()[0].name
        if name == "b":  # the product
            return 1e-5 * state["pace"]
        return state["pace"] * (5e-6 + 2e-6 * (int(name.split("/")[0]) + 1))

    def counted(one, several, feed):
        held.append(several)
        bursts[id(several)] += 1
        state["pace"] = slow(several)
        return burst(one, several, feed)

    state = {"pace": 1.0}
    monkeypatch.setattr(node_timing, "_seconds", seconds)
    monkeypatch.setattr(node_timing, "_burst", counted)
    path = models.squeeze_and_excite(tmp_path / "m.onnx")
    backend, space = ready(path, pictures(shape=(3, 12, 12)))
    graph = optimize(backend.save(space.default(), tmp_path / "model").read_bytes())
    times = KernelTimes(1)
    times._pace()
    found = times(graph, pictures(count=1, shape=(3, 12, 12))[0])
    assert list(found.values()) == pytest.approx([2e-6] * len(graph.graph.node))
    # The machine is looked at before and after: the round behind the last slow one still begins slowly.
    assert max(bursts.values()) == (disturbed + 2 if disturbed else 1)


def test_a_node_without_its_first_result_is_timed_and_one_with_branches_is_not():
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in (("w", (1, 32, 8)), ("r", (1, 32, 8)))
    ]
    branch = [
        helper.make_graph(
            [helper.make_node("Identity", ["h"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 2, 8))],
        )
        for name in "ab"
    ]
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["", "h"], "lstm", hidden_size=8),
        helper.make_node("If", ["yes"], ["y"], "if", then_branch=branch[0], else_branch=branch[1]),
    ]
    weights.append(numpy_helper.from_array(np.array(True), "yes"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (4, 2, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2, 8))],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = KernelTimes(1)(model, {"x": rng.normal(size=(4, 2, 8)).astype(np.float32)})
    assert set(found) == {"lstm"}
    assert found["lstm"] > 0


def test_what_cannot_run_alone_is_told_by_the_profiler(tmp_path, monkeypatch):
    path = models.squeeze_and_excite(tmp_path / "m.onnx")
    backend, space = ready(path, pictures(shape=(3, 12, 12)))
    batch = pictures(count=1, shape=(3, 12, 12))[0]
    model = backend.save(space.default(), tmp_path / "model").read_bytes()
    known = dict.fromkeys([n.name for n in optimize(model).graph.node], 0.0)
    runs, profiled = [], session._profiled
    monkeypatch.setattr(session, "_profiled", lambda *args: runs.append(args[3]) or profiled(*args))
    executable = OrtExecutable(model, 1, "", backend._operators, kernel_times=lambda graph, batch: known)
    assert not any(executable.profile(batch, 30).ops.values())
    assert max(runs) == 2  # no more than the shapes need
    assert any(executable.profile(batch, FEW_PROFILED_RUNS).ops.values())  # as the profiler tells them
    assert max(runs) == FEW_PROFILED_RUNS + 1
    known.pop(next(iter(known)))
    profile = executable.profile(batch, 30)
    assert max(runs) == 31
    told = [*profile.ops.values(), profile.other, *(seconds for _, seconds in profile.conversions)]
    assert sum(seconds > 0 for seconds in told) == 1


def test_a_closed_model_says_so_and_leaves_no_thread(tmp_path):
    backend, space = ready(models.residual(tmp_path / "r.onnx"), pictures())
    before = set(threading.enumerate())
    model = backend.build(space.default())
    assert len(set(threading.enumerate()) - before) == 1
    model.close()
    model.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(EngineError, match="was closed"):
        model.predict(pictures()[0])


@pytest.mark.parametrize(("alpha", "beta"), [(1 / 6, 0.5), (0.2, 0.5), (1.0, 2.0)])
def test_a_hard_sigmoid_is_a_sum_in_int8_and_one_operator_in_fp32(tmp_path, alpha, beta):
    path = models.hard_gates(tmp_path / "m.onnx", alpha, beta)
    batches = [{"x": 4 * pictures(shape=(3, 12, 12))[0]["x"]}]
    backend, space = ready(path, batches)
    assert sorted(op.type for op in space.ops.values()) == [
        "AveragePool",
        "Conv",
        "Conv",
        "Conv",
        "GlobalAveragePool",
        "HardSigmoid",
        "HardSigmoid",
        "Mul",
        "Mul",
    ]
    kinds = Counter(
        n.op_type for n in optimize(backend.save(space.default(), tmp_path / "model").read_bytes()).graph.node
    )
    assert (kinds["QLinearAdd"], kinds["QLinearMul"], kinds["HardSigmoid"], kinds["Add"]) == (2, 2, 0, 0)
    floats = Counter(n.op_type for n in prepare(read(path)).model.graph.node)
    # The gate behind its convolution is that one's bias and range.
    assert (floats["HardSigmoid"], floats["Add"], floats["Clip"]) == (2, 0, 1)
    fp32, int8 = (model.predict(batches[0])[0] for model in (backend.reference(), backend.build(space.default())))
    assert np.linalg.norm(int8 - fp32) < 0.06 * np.linalg.norm(fp32)


@pytest.mark.parametrize(
    ("ends", "shape"),
    [([1, 1], (1, 6, 1, 1)), ([4, 1], (1, 6, 4, 1)), ([1, 4], ()), ([4, 4], ()), (["H", 1], ()), ([20_000, 1], ())],
)
def test_a_hard_sigmoid_adds_no_scalar_where_the_engine_takes_elements_one_by_one(tmp_path, ends, shape):
    """Behind a tensor whose last dimensions are 1, a scalar costs some 20 ns an element."""
    b = models.Builder(3)
    a = b.node("AveragePool", ["x"], "pooled", kernel_shape=[1, 1])
    b.node("HardSigmoid", [a], "y", alpha=0.25, beta=0.5)
    path = b.save(tmp_path / "m.onnx", ["N", 6, *ends], ["N", 6, *ends])
    batch = {
        "x": 3 * np.random.default_rng(0).normal(size=(5, 6, *(4 if e == "H" else e for e in ends))).astype(np.float32)
    }
    backend, space = ready(path, [batch])
    served = optimize(backend.save(space.default(), tmp_path / "model").read_bytes())
    (added,) = (node for node in served.graph.node if node.op_type == "QLinearAdd")
    constants = {i.name: tuple(i.dims) for i in served.graph.initializer}
    assert constants[added.input[3]] == shape
    fp32, int8 = (model.predict(batch)[0] for model in (backend.reference(), backend.build(space.default())))
    assert np.abs(int8 - fp32).max() < 0.02


def test_hard_sigmoids_of_tensors_of_other_shapes_add_constants_of_their_own(tmp_path):
    b = models.Builder(3)
    a = b.node("AveragePool", ["x"], "pooled", kernel_shape=[1, 1])
    h = b.node("HardSigmoid", [a], "wide", alpha=0.25, beta=0.5)
    g = b.node("AveragePool", [h], "narrow", kernel_shape=[2, 1], strides=[2, 1])
    b.node("HardSigmoid", [g], "y", alpha=0.25, beta=0.5)
    path = b.save(tmp_path / "m.onnx", ["N", 6, 4, 1], ["N", 6, 2, 1])
    batch = {"x": 3 * np.random.default_rng(0).normal(size=(5, 6, 4, 1)).astype(np.float32)}
    backend, space = ready(path, [batch])
    served = optimize(backend.save(space.default(), tmp_path / "model").read_bytes())
    constants = {i.name: tuple(i.dims) for i in served.graph.initializer}
    added = [constants[node.input[3]] for node in served.graph.node if node.op_type == "QLinearAdd"]
    assert added == [(1, 6, 4, 1), (1, 6, 2, 1)]
    fp32, int8 = (model.predict(batch)[0] for model in (backend.reference(), backend.build(space.default())))
    assert np.abs(int8 - fp32).max() < 0.02


def test_a_hard_sigmoid_in_int8_saturates_where_the_function_does(tmp_path):
    b = models.Builder(3)
    a = b.node("AveragePool", ["x"], "pooled", kernel_shape=[1, 1])
    b.node("HardSigmoid", [a], "y", alpha=0.25, beta=0.5)
    path = b.save(tmp_path / "m.onnx", ["N", 1, 1, 401], ["N", 1, 1, 401])
    line = np.linspace(-8, 8, 401, dtype=np.float32).reshape(1, 1, 1, -1)
    backend, space = ready(path, [{"x": line}])
    assert set(space.default().int8_ops) == {"AveragePool_pooled", "HardSigmoid_y"}
    # With its zero in the middle, a scheme would not saturate at zero.
    assert {x.activation.scheme for x in space.ops["HardSigmoid_y"].schemes if not x.is_float} == {"asym"}
    found = backend.build(space.default()).predict({"x": line})[0]
    assert backend.build(space.default()).executed().int8_names == {"AveragePool_pooled", "HardSigmoid_y"}
    # One step of x is 16/255 wide, which is a quarter of that here.
    np.testing.assert_allclose(found, np.clip(0.25 * line + 0.5, 0, 1), atol=0.5 * 16 / 255 * 0.25 + 0.5 / 255 + 1e-6)


@pytest.mark.parametrize(
    ("axes", "keepdims", "opset", "kinds"),
    [
        ([2, 3], 1, 14, ["GlobalAveragePool"]),
        ([-1, -2], 0, 14, ["GlobalAveragePool", "Squeeze"]),
        ([3, 2], 0, 18, ["GlobalAveragePool", "Squeeze"]),
        ([1, 2], 1, 14, ["ReduceMean"]),
        ([2], 1, 18, ["ReduceMean"]),
    ],
)
def test_a_mean_over_the_picture_is_a_pooling_which_runs_in_int8(tmp_path, axes, keepdims, opset, kinds):
    b = models.Builder(3)
    given = {"keepdims": keepdims, **({"axes": axes} if opset < 18 else {})}
    inputs = [b.conv("x", "c1", 3, 8), *([b.constant("axes", axes, np.int64)] if opset >= 18 else [])]
    b.node("Sigmoid", [b.node("ReduceMean", inputs, "mean", **given)], "y")
    path = b.save(tmp_path / "m.onnx", ["N", 3, 6, 6], [None] * (2 if keepdims == 0 else 4), opset)
    backend, space = ready(path, pictures(shape=(3, 6, 6)))
    assert [n.op_type for n in backend.graph.model.graph.node] == ["Conv", *kinds, "Sigmoid"]
    feed = pictures(shape=(3, 6, 6), seed=1)[0]
    np.testing.assert_allclose(
        backend.build(space.all_float()).predict(feed)[0], backend.reference().predict(feed)[0], atol=1e-5
    )
    executed = backend.build(space.default()).executed()
    assert executed.int8["GlobalAveragePool"] == ("GlobalAveragePool" in kinds)


@pytest.mark.parametrize("other", ["low", "high", "shift", "factor"])
def test_steps_that_are_no_hard_sigmoid_stay(tmp_path, other):
    values = {"low": 0.0, "high": 6.0, "shift": 3.0, "factor": 1 / 6}
    values[other] += 0.5
    b = models.Builder(3)
    for name, value in values.items():
        b.constant(name, value)
    a = b.node("AveragePool", ["x"], "pooled", kernel_shape=[1, 1])
    c = b.node("Clip", [b.node("Add", [a, "shift"], "sum"), "low", "high"], "clipped")
    b.node("Mul", [c, "factor"], "y")
    kinds = kinds_of(b.save(tmp_path / "m.onnx", ["N", 3, 8, 8], ["N", 3, 8, 8]))
    assert kinds["HardSigmoid"] == (other == "shift")


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        ([-1, 8, 1, 1], False),
        ([0, 8, -1, 1], False),
        ([0, 0, 0, 0], False),
        ([1, 8, 1, 1], True),
        ([-1, 8, 1], True),
        ([-1, 4, 2, 1], True),
        ([0, 1, -1, 1], True),
    ],
)
def test_a_reshape_goes_only_if_it_changes_no_shape(tmp_path, target, kept):
    b = models.Builder()
    b.constant("target", target, np.int64)
    b.node("Reshape", [b.node("GlobalAveragePool", [b.conv("x", "c1", 3, 8)], "gap"), "target"], "moved")
    b.nodes.append(onnx.helper.make_node("Relu", ["moved"], ["y"], name="last"))
    path = b.save(tmp_path / "m.onnx", ["N", 3, 8, 8], [None] * len(target))
    assert ("Reshape" in {n.op_type for n in prepare(read(path)).model.graph.node}) == kept


@pytest.mark.parametrize(("pixel", "kept"), [([-1, 8, 1, 1], []), ([-1, 2, 2, 2], ["Squeeze", "Reshape"])])
def test_axes_that_are_dropped_and_come_back_stay(tmp_path, pixel, kept):
    b = models.Builder()
    b.constant("axes", [2, 3], np.int64)
    b.constant("pixel", pixel, np.int64)
    gone = b.node("Squeeze", [b.node("GlobalAveragePool", [b.conv("x", "c1", 3, 8)], "gap"), "axes"], "gone")
    b.nodes.append(onnx.helper.make_node("Relu", [b.node("Reshape", [gone, "pixel"], "back")], ["y"], name="last"))
    path = b.save(tmp_path / "m.onnx", ["N", 3, 8, 8], ["N", *pixel[1:]])
    graph = prepare(read(path)).model
    assert [n.op_type for n in graph.graph.node] == ["Conv", "GlobalAveragePool", *kept, "Relu"]
    plain, own = (
        ort.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, pictures(shape=(3, 8, 8))[0])[0]
        for m in (str(path), graph.SerializeToString())
    )
    assert np.array_equal(plain, own)


def test_a_shape_on_the_way_that_others_read_stays(tmp_path):
    b = models.Builder()
    b.constant("axes", [2, 3], np.int64)
    b.constant("pixel", [-1, 8, 1, 1], np.int64)
    gone = b.node("Squeeze", [b.node("GlobalAveragePool", [b.conv("x", "c1", 3, 8)], "gap"), "axes"], "gone")
    c = b.conv(b.node("Reshape", [gone, "pixel"], "back"), "c2", 8, 8, size=1)
    b.node("Mul", [b.node("Squeeze", [c, "axes"], "second"), gone], "y")
    nodes = prepare(read(b.save(tmp_path / "m.onnx", ["N", 3, 8, 8], ["N", 8]))).model.graph.node
    assert [n.op_type for n in nodes] == ["Conv", "GlobalAveragePool", "Squeeze", "Conv", "Squeeze", "Mul"]
    assert nodes[3].input[0] == "gap"


def test_a_reshape_or_a_sum_that_is_an_output_or_has_other_readers_stays(tmp_path):
    b = models.Builder()
    b.constant("same", [-1, 4, 8, 8], np.int64)
    b.constant("three", 3.0)
    c = b.conv("x", "c1", 3, 4)
    b.node("Mul", [b.node("Add", [c, "three"], "sum"), c], "product")
    b.node("Reshape", ["product", "same"], "y")
    nodes = [
        n.op_type for n in prepare(read(b.save(tmp_path / "m.onnx", ["N", 3, 8, 8], ["N", 4, 8, 8]))).model.graph.node
    ]
    assert nodes == ["Conv", "Add", "Mul", "Reshape"]


@pytest.mark.parametrize(
    ("kind", "operands", "free"),
    [
        ("Mul", ["c", 0.5], True),
        ("Mul", [[[2.0]], "c"], True),
        ("Div", ["c", 4.0], True),
        ("Mul", ["c", -0.5], False),
        ("Mul", ["c", 0.0], False),
        ("Div", [4.0, "c"], False),
        ("Mul", ["c", 1e-30], False),
        ("Mul", ["c", [[[0.5]], [[1.0]]]], False),
    ],
)
def test_a_positive_constant_is_multiplied_by_in_the_scale(tmp_path, kind, operands, free):
    b = models.Builder(3)
    b.node("AveragePool", [b.conv("x", "c1", 3, 2)], "c", kernel_shape=[2, 2])
    names = [n if isinstance(n, str) else b.constant(f"k{i}", n) for i, n in enumerate(operands)]
    b.node(kind, names, "scaled")
    b.nodes.append(onnx.helper.make_node("Relu", [b.conv("scaled", "c2", 2, 2)], ["y"], name="last"))
    path = b.save(tmp_path / "m.onnx", ["N", 3, 8, 8], ["N", 2, 7, 7])
    backend, space = ready(path, pictures(shape=(3, 8, 8)))
    executed = Counter(
        n.op_type for n in optimize(backend.save(space.default(), tmp_path / "model").read_bytes()).graph.node
    )
    assert (executed["QLinearMul"] + executed["Mul"] + executed["Div"] == 0) == free
    assert ("Mul_scaled" in space.ops) == (not free and kind == "Mul")


def test_a_constant_multiple_is_exact_for_readers_in_int8_in_fp32_and_outside(tmp_path):
    """An int8 tensor times two goes to an int8 operator, to one in fp32 and to the outputs; a picture is scaled too."""
    b = models.Builder(3)
    b.constant("two", 2.0)
    b.constant("little", 1 / 128)
    c = b.conv(b.node("Mul", ["x", "little"], "small"), "c", 3, 4)
    d = b.node("Mul", [c, "two"], "y")
    b.conv(d, "z", 4, 4)
    b.node("Sin", [d], "outside")
    path = b.save(tmp_path / "m.onnx", ["N", 3, 8, 8], ["N", 4, 8, 8])
    model = onnx.load(str(path))
    model.graph.output.extend(
        [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("z", "outside")]
    )
    onnx.save(model, str(path))
    batches = [{"x": 128 * pictures(shape=(3, 8, 8))[0]["x"]}]
    backend, space = ready(path, batches)
    assert set(space.ops) == {"conv_c", "conv_z"}
    for config in (
        space.default(),
        space.fall_back(space.default(), "conv_c"),
        space.fall_back(space.default(), "conv_z"),
    ):
        executable = backend.build(config)
        assert executable.executed().int8_names == set(config.int8_ops)
        y, z, outside = executable.predict(batches[0])
        assert np.allclose(np.sin(y), outside, atol=1e-6)
        for plain, own in zip(backend.reference().predict(batches[0]), (y, z), strict=False):
            assert np.linalg.norm(own - plain) < 0.05 * np.linalg.norm(plain)
    kinds = Counter(
        n.op_type for n in optimize(backend.save(space.default(), tmp_path / "model").read_bytes()).graph.node
    )
    assert kinds["Mul"] + kinds["QLinearMul"] == 0


@pytest.mark.parametrize("opset", [11, 14, 17])
def test_the_steps_of_a_layer_normalization_and_a_gelu_become_one_operator_each(tmp_path, opset):
    path = models.transformer(tmp_path / "m.onnx", opset)
    backend, space = ready(path, pictures(shape=(6, 32)))
    assert Counter(n.op_type for n in backend.graph.model.graph.node) == {
        "LayerNormalization": 1,
        "MatMul": 2,
        "Add": 2,
        "Gelu": 1,
    }
    assert len(space.ops) == 4
    saved = backend.save(space.default(), tmp_path / "model")
    kinds = Counter(n.op_type for n in optimize(saved.read_bytes()).graph.node)
    assert kinds["QLinearMatMul"] == kinds["QLinearAdd"] == 2
    assert kinds["Gelu"] == kinds["LayerNormalization"] == 1


def kinds_of(path):
    return Counter(n.op_type for n in prepare(read(path)).model.graph.node)


def test_what_a_keras_block_is_exported_with_becomes_functions_and_constant_shapes(tmp_path):
    path = models.keras_block(tmp_path / "m.onnx")
    graph = prepare(read(path)).model
    assert Counter(n.op_type for n in graph.graph.node) == {
        "LayerNormalization": 1,
        "Reshape": 2,
        "Transpose": 1,
        "MatMul": 2,
        "Gelu": 1,
        "Add": 1,
    }
    arrays = {i.name: onnx.numpy_helper.to_array(i).tolist() for i in graph.graph.initializer}
    assert [arrays[n.input[1]] for n in graph.graph.node if n.op_type == "Reshape"] == [[-1, 6, 2, 16], [-1, 6, 32]]
    for batch in (1, 3, 7):
        feed = pictures(batch, (6, 32), seed=batch)[0]
        plain, own = (
            ort.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, feed)[0]
            for m in (str(path), graph.SerializeToString())
        )
        np.testing.assert_allclose(plain, own, atol=1e-5)


@pytest.mark.parametrize(("changes", "kept"), [({"root": 0.7}, "Erf"), ({"one": 1.1}, "Erf"), ({"half": 0.6}, "Erf")])
def test_steps_with_other_constants_are_another_function(tmp_path, changes, kept):
    kinds = kinds_of(models.keras_block(tmp_path / "m.onnx", **changes))
    assert (kinds["Gelu"], kinds[kept]) == (0, 1)


def test_shapes_stay_computed_where_more_than_the_batch_is_free(tmp_path):
    assert kinds_of(models.keras_block(tmp_path / "m.onnx", length="L"))["Shape"] == 1


def test_shapes_stay_computed_where_they_depend_on_values(tmp_path):
    b = models.Builder()
    b.constant("pair", [2, -1], np.int64)
    b.constant("flat", [-1], np.int64)
    found = b.node("NonZero", ["x"], "found")
    dims = b.node("Shape", [b.node("Transpose", [found], "turned", perm=[1, 0])], "dims")
    b.node("Cast", [b.node("Reshape", [found, b.node("Concat", [dims], "again", axis=0)], "moved")], "y", to=1)
    path = b.save(tmp_path / "m.onnx", ["N", 8], [None, None])
    graph = prepare(read(path)).model
    assert "Shape" in {n.op_type for n in graph.graph.node}
    feed = {"x": np.array([[0, 1, 0, 2, 0, 0, 3, 0]], np.float32)}
    plain, own = (
        ort.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for m in (str(path), graph.SerializeToString())
    )
    assert np.array_equal(plain, own)


def test_shapes_stay_computed_where_made_up_inputs_do_not_run(tmp_path, caplog):
    b = models.Builder()
    b.constant("one", [0], np.int64)
    b.constant("rest", [-1], np.int64)
    b.weight("table", 1, 8)  # A table of one row: the number one is not in it.
    rows = b.node("Gather", ["table", "x"], "rows")
    shape = b.node(
        "Concat", [b.node("Gather", [b.node("Shape", [rows], "dims"), "one"], "batch"), "rest"], "flat", axis=0
    )
    b.node("Reshape", [rows, shape], "y")
    path = b.save(tmp_path / "m.onnx", ["N", 4], ["N", 32])
    model = onnx.load(str(path))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, str(path))
    with caplog.at_level("INFO"):
        assert kinds_of(path)["Shape"] == 1
    assert "shapes are left to be computed" in caplog.text


def test_operators_of_other_domains_are_kept_beside_them(tmp_path):
    model = onnx.load(str(models.transformer(tmp_path / "m.onnx")))
    model.graph.node[-1].input[1] = "quick"
    model.graph.node.insert(
        len(model.graph.node) - 1,
        onnx.helper.make_node("QuickGelu", ["down"], ["quick"], name="quick", domain="com.microsoft", alpha=1.0),
    )
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, str(tmp_path / "own.onnx"))
    backend, space = ready(tmp_path / "own.onnx", pictures(shape=(6, 32)))
    kinds = Counter(n.op_type for n in backend.graph.model.graph.node)
    assert (kinds["QuickGelu"], kinds["Gelu"]) == (1, 1)
    assert set(space.default().int8_ops) <= backend.build(space.default()).executed().int8_names


def test_steps_that_branches_read_become_one_operator_or_stay_as_they_were(tmp_path):
    model = onnx.load(str(models.transformer(tmp_path / "m.onnx")))
    branches = []
    for name in ("then", "else"):
        output = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        node = onnx.helper.make_node("ReduceMax" if name == "then" else "ReduceMin", ["gelu"], [name], axes=[-1])
        branches.append(onnx.helper.make_graph([node], name, [], [output]))
    model.graph.node.extend(
        [
            onnx.helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
            onnx.helper.make_node("Cast", ["top"], ["choice"], to=onnx.TensorProto.BOOL),
            onnx.helper.make_node("If", ["choice"], ["extreme"], then_branch=branches[0], else_branch=branches[1]),
        ]
    )
    model.graph.output.append(onnx.helper.make_tensor_value_info("extreme", onnx.TensorProto.FLOAT, None))
    onnx.save(model, str(tmp_path / "branches.onnx"))
    prepared = prepare(read(tmp_path / "branches.onnx")).model
    kinds = Counter(n.op_type for n in prepared.graph.node)
    assert (kinds["Erf"] + kinds["Gelu"], kinds["If"]) == (1, 1)  # Some converters do not enter branches.
    feed = pictures(shape=(6, 32))[0]
    plain, own = (
        ort.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, feed)
        for m in (model.SerializeToString(), prepared.SerializeToString())
    )
    for expected, found in zip(plain, own, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_softmax_stays_float_unless_asked(tmp_path):
    path = models.residual(tmp_path / "r.onnx")
    backend, space = ready(path, pictures())
    assert space.default().schemes["Softmax_y"].is_float
    asked = Space(backend.capabilities(), Overrides(op_type_dict={"Softmax": {"activation": {"dtype": ["uint8"]}}}))
    assert "Softmax_y" in backend.build(asked.default()).executed().int8_names


@pytest.mark.parametrize("opset", [11, 12, 13, 18])
def test_convolutions_run_in_int8_from_opset_eleven_on(tmp_path, opset):
    backend, space = ready(models.residual(tmp_path / "r.onnx", opset=opset), pictures())
    assert backend.build(space.default()).executed().int8["Conv"] == 4


def test_an_older_opset_is_refused(tmp_path):
    path = models.residual(tmp_path / "r.onnx")
    model = onnx.load(str(path))
    model.opset_import[0].version = 6
    onnx.save(model, str(path))
    with pytest.raises(InputError, match="opset 7 or newer"):
        OnnxRuntimeBackend(OnnxRuntimeSettings()).load(ModelSource("old", {"onnx": path}))


def test_initializers_listed_as_inputs_are_weights(tmp_path):
    path = models.residual(tmp_path / "r.onnx", initializers_as_inputs=True)
    backend, space = ready(path, pictures())
    assert [i.name for i in backend.graph.info.inputs] == ["x"]
    assert backend.build(space.default()).executed().int8["Conv"] == 4


def test_a_fixed_batch_size(tmp_path):
    path = models.residual(tmp_path / "r.onnx", shape=[4, 3, 16, 16])
    backend, space = ready(path, pictures(4))
    assert backend.graph.info.batch_size == 4
    assert backend.build(space.default()).predict(pictures(4)[0])[0].shape == (4, 10)


def test_two_inputs(tmp_path):
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(5, 3, 8, 8)).astype(np.float32), "extra": rng.normal(size=(5, 4)).astype(np.float32)}
    backend, space = ready(models.two_inputs(tmp_path / "t.onnx"), [batch])
    fp32, int8 = backend.reference().predict(batch)[0], backend.build(space.default()).predict(batch)[0]
    assert np.linalg.norm(fp32 - int8) < 0.1 * np.linalg.norm(fp32)


def test_a_channel_with_bias_and_no_weight_keeps_its_bias(tmp_path):
    batches = pictures(8, (3, 8, 8))
    backend, space = ready(models.dead_channel(tmp_path / "d.onnx"), batches)
    override = {"granularity": ["per_channel"]}
    config = Space(backend.capabilities(), Overrides(op_type_dict={"Conv": {"weight": override}})).default()
    int8 = backend.build(config).predict(batches[0])[0]
    np.testing.assert_allclose(int8[:, 2], 0.7, atol=0.02)
    assert space.contains(config)


def test_external_data_beneath_the_model_is_read(tmp_path):
    path = models.residual(tmp_path / "r.onnx")
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=16)
    backend, space = ready(path, pictures())
    assert backend.build(space.default()).executed().int8["Conv"] == 4


def test_external_data_is_part_of_what_a_model_is_known_by(tmp_path):
    path = models.residual(tmp_path / "r.onnx")
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="weights.bin", size_threshold=16)
    backend, source = OnnxRuntimeBackend(OnnxRuntimeSettings()), ModelSource("r", {"onnx": path})
    before = source.sha256("onnx", backend.companions(path))
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[::-1])
    assert source.sha256("onnx", backend.companions(path)) != before
    path.write_bytes(b"no model")
    assert backend.companions(path) == ()


def test_external_data_outside_the_folder_is_refused(tmp_path):
    (tmp_path / "inner").mkdir()
    path = models.residual(tmp_path / "inner" / "r.onnx")
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=16)
    (tmp_path / "inner" / "weights.bin").rename(tmp_path / "weights.bin")
    model = onnx.load(str(path), load_external_data=False)
    for weight in model.graph.initializer:
        for entry in weight.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="external data"):
        OnnxRuntimeBackend(OnnxRuntimeSettings()).load(ModelSource("r", {"onnx": path}))
    assert OnnxRuntimeBackend(OnnxRuntimeSettings()).companions(path) == ()


def test_a_model_over_two_gigabytes_is_refused_without_being_read(tmp_path):
    path = tmp_path / "large.onnx"
    with path.open("wb") as stream:
        stream.truncate(2**31 + 10)
    with pytest.raises(InputError, match="2 GB"):
        OnnxRuntimeBackend(OnnxRuntimeSettings()).load(ModelSource("large", {"onnx": path}))


def test_the_weights_of_a_large_model_stay_in_files_and_are_saved_beside_it(tmp_path, monkeypatch):
    path, plain = models.residual(tmp_path / "r.onnx"), tmp_path / "plain"
    backend, space = ready(path, pictures())
    expected = backend.build(space.default()).predict(pictures()[0])
    backend.save(space.default(), plain)
    monkeypatch.setattr(external, "LIMITS", external.ExternalLimits(1024, 64, 4096))
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="weights.bin", size_threshold=16)
    backend, space = ready(path, pictures())
    assert backend.graph.files is not None
    found = backend.build(space.default()).predict(pictures()[0])
    saved = backend.save(space.default(), tmp_path / "saved")
    assert {file.name for file in saved.parent.iterdir()} == {"model.onnx", "model.onnx.data"}
    session = ort.InferenceSession(str(saved), providers=["CPUExecutionProvider"])
    for mine, theirs, stored in zip(found, expected, session.run(None, pictures()[0]), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
        np.testing.assert_allclose(stored, mine, atol=1e-5)


def test_a_quantized_model_is_refused(tmp_path):
    backend, space = ready(models.residual(tmp_path / "r.onnx"), pictures())
    saved = backend.save(space.default(), tmp_path / "model")
    with pytest.raises(InputError, match="quantized already"):
        OnnxRuntimeBackend(OnnxRuntimeSettings()).load(ModelSource("q", {"onnx": saved}))


@pytest.mark.parametrize("cut", [10, 1000, -50])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, cut):
    path = models.residual(tmp_path / "r.onnx")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError) as caught:
        OnnxRuntimeBackend(OnnxRuntimeSettings()).load(ModelSource("r", {"onnx": path}))
    assert "\n" not in str(caught.value)


def test_a_name_that_is_not_text_is_refused_in_one_line(tmp_path):
    path = tmp_path / "c.onnx"
    models.chain(path, convs=2)
    path.write_bytes(path.read_bytes().replace(b"Conv", b"Con\xff"))
    with pytest.raises(InputError, match=r"not UTF-8|not an ONNX model"):  # as the version of protobuf reads it
        OnnxRuntimeBackend(OnnxRuntimeSettings()).load(ModelSource("c", {"onnx": path}))


def test_algorithms_give_different_ranges_and_graphs(tmp_path):
    backend, space = ready(models.residual(tmp_path / "r.onnx"), pictures())
    prints = set()
    for algorithm in ("minmax", "percentile", "kl"):
        override = {".*": {"activation": {"algorithm": [algorithm], "dtype": ["uint8", "fp32"]}}}
        config = Space(backend.capabilities(), Overrides(op_name_dict=override)).default()
        prints.add(backend.build(config).fingerprint)
    assert len(prints) == 3
    assert space.size() > 3


def test_the_same_graph_has_one_fingerprint_whatever_led_to_it(tmp_path):
    """An algorithm that finds the same range asks for another configuration, not for another graph."""
    path = tmp_path / "c.onnx"
    models.chain(path, convs=2)
    ones = [{"x": np.ones((4, 3, 10, 10), np.float32)}]
    backend, space = ready(path, ones)
    config = space.default()
    name, scheme = next((n, s) for n, s in config.ops if not s.is_float)
    others = [
        s
        for s in space.ops[name].schemes
        if not s.is_float
        and s.activation.algorithm == "percentile"
        and s.activation.dtype == scheme.activation.dtype
        and s.weight == scheme.weight
    ]
    other = config.with_op(name, scheme=others[0])
    assert other.fingerprint != config.fingerprint
    assert backend._calibration.range("x", "percentile") == backend._calibration.range("x", "minmax")
    assert backend.build(other).fingerprint == backend.build(config).fingerprint


def test_build_before_calibrate_says_so(tmp_path):
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings())
    backend.load(ModelSource("r", {"onnx": models.residual(tmp_path / "r.onnx")}))
    with pytest.raises(EngineError, match="calibrate first"):
        backend.build(Space(backend.capabilities()).default())


def test_reduce_range_is_offered_where_the_processor_saturates(tmp_path):
    backend, space = ready(models.residual(tmp_path / "r.onnx"), pictures())
    assert space.options["reduce_range"] == ((True, False) if saturates() else (False,))
    assert backend.build(space.default()).fingerprint


def test_reduce_range_is_offered_where_the_processor_of_the_target_saturates(tmp_path):
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings())
    backend.saturates_there = True
    backend.load(ModelSource("r", {"onnx": models.residual(tmp_path / "r.onnx")}))
    assert Space(backend.capabilities()).options["reduce_range"] == (True, False)


@pytest.mark.parametrize("settings", [{"percentile": 20.0}, {"percentile": 101.0}, {"reduce_range": "maybe"}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InputError, match="backend"):
        OnnxRuntimeBackend(OnnxRuntimeSettings(**settings))


def test_the_saved_model_gives_the_measured_outputs_in_a_plain_session(tmp_path):
    backend, space = ready(models.residual(tmp_path / "r.onnx"), pictures())
    config = space.fall_back(space.default(), "conv_c2")
    path = backend.save(config, tmp_path / "model")
    plain = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batch = pictures(4, seed=5)[0]
    np.testing.assert_array_equal(plain.run(None, batch)[0], backend.build(config).predict(batch)[0])
