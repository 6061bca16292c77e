"""What keeps operators of people's models from int8: each runs in int8, or stays float for a stated reason."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.session import optimize
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.calibration.histogram import ALGORITHMS, Histogram
from nc_strategies.errors import InputError
from nc_strategies.models import ModelSource
from nc_strategies.onnx_graph.graph import prepare
from nc_strategies.onnx_graph.interpreter import space_to_depth_moves_bytes
from nc_strategies.onnx_graph.qdq import parameters
from nc_strategies.space import Space, TensorScheme

ENGINE = "com.microsoft"
SCHEMES = [TensorScheme("uint8", "asym"), TensorScheme("int8", "sym")]


class Net:
    """Collects the nodes and constants of a graph."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.nodes, self.constants = [], {}

    def const(self, name, values):
        self.constants[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def weight(self, name, *shape, fan=None):
        scale = np.sqrt(2 / (fan or np.prod(shape[1:])))
        return self.const(name, (self.rng.normal(size=shape) * scale).astype(np.float32))

    def op(self, kind, inputs, output, **attributes):
        outputs = output if isinstance(output, list) else [output]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=f"n_{outputs[0]}", **attributes))
        return output

    def conv(self, x, name, cin, cout, size=3, dims=2, act=True):
        inputs = [x, self.weight(f"{name}_w", cout, cin, *[size] * dims), self.const(f"{name}_b", np.zeros(cout, "f"))]
        y = self.op("Conv", inputs, name, pads=[size // 2] * 2 * dims)
        return self.op("Relu", [y], f"{name}_r") if act else y

    def model(self, shape, output="y", inputs=None):
        value = helper.make_tensor_value_info
        given = [value("x", TensorProto.FLOAT, shape)]
        given += [value(name, TensorProto.FLOAT, dims) for name, dims in (inputs or {}).items()]
        result = [value(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "g", given, result, list(self.constants.values()))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ENGINE, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def ready(tmp_path, model, batch):
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings())
    backend.load(ModelSource("model", {"onnx": path}))
    backend.capabilities()
    backend.calibrate([batch])
    return backend, Space(backend.capabilities())


def relative_error(backend, config, batch):
    wanted, given = backend.reference().predict(batch)[0], backend.build(config).predict(batch)[0]
    return np.linalg.norm(given - wanted) / np.linalg.norm(wanted)


def assert_mixed_run_as_asked(backend, space, count=4):
    rng = np.random.default_rng(0)
    for config in [space.default(), *(space.sample(rng) for _ in range(count))]:
        assert backend.build(config).executed().int8_names & set(space.ops) == set(config.int8_ops)


def all_of(space, dtype):
    """Every operator with activations of one data type."""
    chosen = {n: next(s for s in op.schemes if s.activation.dtype == dtype) for n, op in space.ops.items()}
    return space.default().with_ops(chosen)


def normal(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


# Values of any magnitude


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.dtype)
@pytest.mark.parametrize("size", [1e-45, 1e-36, 1e-13, 1.0, 1e20, 3.4e38])
def test_a_scale_is_a_normal_number_at_any_magnitude(scheme, size):
    for low, high in ((0.0, size), (-size, 0.0), (-size, size)):
        scale, zero = parameters(low, high, scheme)
        assert scale.dtype == np.float32
        assert np.finfo(np.float32).tiny <= scale < np.inf
        if size > 1e-30:
            steps = (np.array([low, high]) / np.float64(scale)).round() + zero
            assert (np.abs(steps - 127.5) <= 128.5).all()  # a bound between two steps may be rounded outwards
            assert np.ptp(steps) >= 127


def test_a_range_of_no_width_gives_no_zero_scale():
    assert all(parameters(0.0, 0.0, scheme)[0] > 1e-3 for scheme in SCHEMES)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [1e-35, 1e-13, 1e30, 5e37])
def test_histograms_find_the_same_range_at_any_magnitude(algorithm, size):
    values = np.abs(normal(20000))
    plain, scaled = Histogram(), Histogram()
    plain.update(values)
    scaled.update(values * np.float32(size))
    assert scaled.range(algorithm)[1] == pytest.approx(plain.range(algorithm)[1] * size, rel=0.1)


@pytest.mark.parametrize("size", [1e-25, 1e-12, 1e12, 1e25])
def test_activations_of_any_size_keep_their_precision(tmp_path, size):
    net = Net()
    x = net.op("Mul", [net.conv("x", "a", 3, 8), net.const("t", np.full((8, 1, 1), size, "f"))], "tiny")
    x = net.op("Mul", [net.conv(x, "b", 8, 8), net.const("u", np.full((8, 1, 1), 1 / size, "f"))], "back")
    net.conv(x, "c", 8, 4)
    batch = {"x": normal(4, 3, 8, 8)}
    backend, space = ready(tmp_path, net.model(["N", 3, 8, 8], "c_r"), batch)
    assert len(space.default().int8_ops) == 5
    assert relative_error(backend, space.default(), batch) < 0.05


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-38, 1e20])
def test_a_channel_of_zeros_or_of_extreme_weights_harms_no_other(tmp_path, size):
    net = Net()
    net.conv(net.conv("x", "a", 3, 8), "c", 8, 4)
    weight = numpy_helper.to_array(net.constants["a_w"]).copy()
    weight[3] = size if size < 1 else -size
    net.const("a_w", weight)
    net.const("a_b", np.linspace(0.1, 0.9, 8).astype(np.float32) if size < 1 else np.zeros(8, "f"))
    batch = {"x": np.abs(normal(4, 3, 8, 8))}
    backend, space = ready(tmp_path, net.model(["N", 3, 8, 8], "c_r"), batch)
    assert relative_error(backend, space.default(), batch) < 0.05


# Products in the forms that exporters write


def gemm(net, bias, **attributes):
    turned = attributes.get("transB", 0)
    inputs = ["x", net.weight("w", *((16, 8) if turned else (8, 16)), fan=8)]
    return net.op("Gemm", [*inputs, *([net.const("b", np.asarray(bias, np.float32))] if bias is not None else [])], "y",
                  **attributes)  # fmt: skip


GEMMS = {
    "row": (np.full((1, 16), 0.3), {}),
    "vector": (np.arange(16) / 10, {}),
    "scalar": (0.5, {}),
    "one": ([0.5], {}),
    "none": (None, {"alpha": 0.5}),
    "factors": (np.arange(16) / 10, {"alpha": 0.25, "beta": 2.0}),
    "turned_weight": (np.full((1, 16), 0.3), {"transB": 1, "alpha": 2.0}),
    "column": (np.arange(4)[:, None], {"beta": 0.5}),
}


@pytest.mark.parametrize("name", GEMMS)
def test_a_gemm_runs_in_int8_whatever_its_bias_and_factors(tmp_path, name):
    net = Net()
    gemm(net, *GEMMS[name][:1], **GEMMS[name][1])
    batch = {"x": normal(4, 8)}
    backend, space = ready(tmp_path, net.model([4, 8]), batch)
    assert "n_y" in space.default().int8_ops
    np.testing.assert_allclose(
        backend.build(space.all_float()).predict(batch)[0], backend.reference().predict(batch)[0], atol=1e-5
    )
    assert relative_error(backend, space.default(), batch) < 0.03
    assert_mixed_run_as_asked(backend, space)


def test_a_gemm_of_a_turned_input_and_a_computed_bias_runs_in_int8(tmp_path):
    net = Net()
    net.op("Gemm", ["x", net.weight("w", 8, 16, fan=8), "bias"], "y", transA=1, beta=0.5)
    batch = {"x": normal(8, 4), "bias": normal(4, 16)}
    backend, space = ready(tmp_path, net.model([8, "N"], inputs={"bias": ["N", 16]}), batch)
    assert "n_y" in space.default().int8_ops
    assert relative_error(backend, space.default(), batch) < 0.03


@pytest.mark.parametrize("lead", [(1,), (4,), (1, 4)], ids=str)
def test_products_with_stacked_weights_run_in_int8(tmp_path, lead):
    net = Net()
    x = net.op("Relu", [net.op("MatMul", ["x", net.weight("w1", *lead, 8, 16, fan=8)], "m1")], "r1")
    net.op("MatMul", [x, net.weight("w2", *lead, 16, 6, fan=16)], "y")
    batch = {"x": normal(2, 4, 3, 8)}
    backend, space = ready(tmp_path, net.model(["N", 4, 3, 8]), batch)
    assert len(space.default().int8_ops) == 2
    assert relative_error(backend, space.default(), batch) < 0.03
    assert_mixed_run_as_asked(backend, space)


def test_a_product_before_an_activation_runs_in_int8_in_every_scheme(tmp_path):
    net = Net()
    x = net.op("Relu", [net.op("Gemm", ["x", net.weight("w1", 8, 16, fan=8), net.weight("b1", 16, fan=9)], "g")], "r")
    net.op("Relu", [net.op("Gemm", [x, net.weight("w2", 16, 8, fan=16), net.weight("b2", 8, fan=9)], "g2")], "y")
    batch = {"x": normal(4, 8)}
    backend, space = ready(tmp_path, net.model(["N", 8]), batch)
    assert_mixed_run_as_asked(backend, space, 12)


# Operators of the engine's own


def test_products_among_fused_operators_of_the_engine_are_choices(tmp_path):
    net = Net()
    q, k = (net.op("MatMul", ["x", net.weight(n, 8, 8)], f"{n}m") for n in "qk")
    s = net.op("FusedMatMul", [q, k], "s", alpha=0.3, transB=1, domain=ENGINE)
    a = net.op(
        "MatMul", [net.op("Softmax", [s], "p", axis=-1), net.op("MatMul", ["x", net.weight("v", 8, 8)], "vm")], "a"
    )
    x = net.op("SkipLayerNormalization", [a, "x", net.const("g", np.ones(8, "f"))], "n1", domain=ENGINE)
    x = net.op("BiasGelu", [net.op("MatMul", [x, net.weight("f1", 8, 16)], "fm"), net.weight("fb", 16, fan=9)], "ge",
               domain=ENGINE)  # fmt: skip
    net.op("MatMul", [x, net.weight("f2", 16, 8)], "y")
    batch = {"x": normal(4, 6, 8)}
    backend, space = ready(tmp_path, net.model(["N", 6, 8]), batch)
    assert len([op for op in space.default().int8_ops if space.ops[op].type == "MatMul"]) == 7
    assert relative_error(backend, space.default(), batch) < 0.1
    assert_mixed_run_as_asked(backend, space)


@pytest.mark.parametrize(
    ("fused", "kind", "attributes"),
    [
        ("FusedGemm", "Relu", {}),
        ("FusedGemm", "LeakyRelu", {"alpha": 0.2}),
        ("FusedConv", "Relu", {}),
        ("FusedConv", "LeakyRelu", {"alpha": 0.2}),
        ("FusedConv", "Clip", {"alpha": -0.2, "beta": 0.3}),
        ("FusedConv", "HardSigmoid", {"alpha": 0.3, "beta": 0.6}),
    ],
)
def test_fused_products_become_what_they_were_fused_from(fused, kind, attributes):
    net = Net()
    if fused == "FusedGemm":
        given = {f"activation_{name}": value for name, value in attributes.items()}
        net.op(
            fused, ["x", net.weight("w", 8, 5), net.weight("b", 5, fan=9)], "y", activation=kind, domain=ENGINE, **given
        )
        shape = [4, 8]
    else:
        given = {"activation_params": list(attributes.values())} if attributes else {}
        net.op(fused, ["x", net.weight("w", 5, 3, 3, 3)], "y", activation=kind, domain=ENGINE, **given)
        shape = [4, 3, 6, 6]
    model = net.model(shape)
    plain = prepare(model)
    assert [op.type for op in plain.fused_ops.values()][:1] == [fused.removeprefix("Fused")]
    outputs = []
    for each in (model, plain.model):
        session = ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {"x": normal(*shape)})[0])
    np.testing.assert_allclose(*outputs, atol=1e-5)


# Masks


def attention(mask, low):
    """Scores of an attention with a mask that `Add` or `Where` applies, or whose values come with the data."""
    net = Net()
    q, k, v = (net.op("MatMul", ["x", net.weight(n, 8, 8)], f"{n}m") for n in "qkv")
    s = net.op("MatMul", [q, net.op("Transpose", [k], "kt", perm=[0, 2, 1])], "s")
    net.const("low", np.float32(low))
    if mask == "add":
        net.op("Where", [net.op("Equal", ["m", net.const("one", np.float32(1))], "c"), net.const("nil", np.float32(0)),
                         "low"], "bias")  # fmt: skip
        s = net.op("Add", [s, "bias"], "masked")
    elif mask == "where":
        s = net.op("Where", [net.op("Equal", ["m", net.const("one", np.float32(1))], "c"), s, "low"], "masked")
    else:
        s = net.op("Add", [s, "m"], "masked")
    net.op("MatMul", [net.op("MatMul", [net.op("Softmax", [s], "p", axis=-1), v], "pv"), net.weight("o", 8, 8)], "y")
    if mask == "data":
        del net.constants["low"]
    return net.model(["N", 6, 8], inputs={"m": ["N", 1, 6]})


@pytest.mark.parametrize("low", [-np.inf, np.finfo(np.float32).min, -1e9, -10000.0], ids=str)
@pytest.mark.parametrize("mask", ["add", "where", "data"])
def test_a_mask_keeps_its_own_operator_float_and_no_other(tmp_path, mask, low):
    kept = (np.arange(6) < np.array([3, 4, 5, 6])[:, None])[:, None]
    values = kept.astype(np.float32) if mask != "data" else np.where(kept, 0, low).astype(np.float32)
    batch = {"x": normal(4, 6, 8), "m": values}
    backend, space = ready(tmp_path, attention(mask, low), batch)
    default = space.default()
    assert len(default.int8_ops) == 6
    assert "n_masked" not in default.int8_ops
    assert ("n_masked" in space.ops) == np.isfinite(low)
    assert "masked" in " ".join(backend.remarks())
    assert relative_error(backend, default, batch) < 0.1
    assert_mixed_run_as_asked(backend, space)


def test_a_mask_of_moderate_size_stays_a_choice_in_int8(tmp_path):
    batch = {"x": normal(4, 6, 8), "m": np.where(np.arange(6) < 4, 0, -20).astype(np.float32) * np.ones((4, 1, 1), "f")}
    backend, space = ready(tmp_path, attention("data", 0), batch)
    assert "n_masked" in space.default().int8_ops
    assert backend.remarks() == ()


def test_values_that_are_not_numbers_are_refused_with_the_tensor(tmp_path):
    net = Net()
    net.op("Add", [net.op("MatMul", ["x", net.weight("w", 8, 8)], "a"), net.op("Log", ["x"], "l")], "y")
    with pytest.raises(InputError, match="NaN in tensor 'l'"):
        ready(tmp_path, net.model(["N", 8]), {"x": -np.ones((4, 8), np.float32)})


# Operators that only move values


def two_reads(net, a, out):
    net.op("Split", [a, net.const("parts", np.array([4, 4]))], [f"{out}1", f"{out}2"], axis=1)
    return net.op("Concat", [f"{out}1", net.conv(f"{out}2", "inner", 4, 4)], out, axis=1), 8


def shuffle(net, a, out):
    r = net.op("Reshape", [a, net.const("five", np.array([0, 2, 4, 8, 8]))], "five_r")
    t = net.op("Transpose", [r], "five_t", perm=[0, 2, 1, 3, 4])
    return net.op("Reshape", [t, net.const("four", np.array([0, 8, 8, 8]))], out), 8


def mover(kind, channels, *constants, **attributes):
    def build(net, a, out):
        names = [net.const(f"c{i}", c) if c is not None else "" for i, c in enumerate(constants)]
        return net.op(kind, [a, *names], out, **attributes), channels

    return build


DOWN = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
MOVERS = {
    "split": two_reads,
    "shuffle": shuffle,
    "slice": mover("Slice", 4, np.array([0]), np.array([4]), np.array([1])),
    "gather": mover("Gather", 8, np.arange(8)[::-1].copy(), axis=1),
    "resize": mover("Resize", 8, None, np.float32([1, 1, 2, 2]), **DOWN),
    "pad": mover("Pad", 10, np.array([0, 1, 1, 0, 0, 1, 1, 2])),
    "pad_reflect": mover("Pad", 8, np.array([0, 0, 1, 0, 0, 0, 1, 2]), mode="reflect"),
    "expand": mover("Expand", 8, np.array([1, 8, 8, 8])),
    "tile": mover("Tile", 8, np.array([1, 1, 1, 2])),
    "depth_to_space": mover("DepthToSpace", 2, blocksize=2),
    "space_to_depth": mover("SpaceToDepth", 32, blocksize=2),
    "reduce_max": mover("ReduceMax", 8, axes=[2], keepdims=1),
}


@pytest.mark.parametrize("name", MOVERS)
def test_values_that_only_move_stay_int8_between_int8_neighbours(tmp_path, name):
    net = Net()
    moved, channels = MOVERS[name](net, net.conv("x", "a", 3, 8, act=False), "moved")
    net.conv(moved, "c", channels, 4)
    batch = {"x": normal(2, 3, 8, 8)}
    backend, space = ready(tmp_path, net.model(["N", 3, 8, 8], "c_r"), batch)
    default = space.default()
    assert relative_error(backend, default, batch) < 0.05
    engine_nodes = [n.op_type for n in optimize(backend.native(default).SerializeToString()).graph.node]
    conversions = 2 if name != "space_to_depth" or space_to_depth_moves_bytes() else 4
    assert engine_nodes.count("QuantizeLinear") + engine_nodes.count("DequantizeLinear") == conversions
    assert backend.build(default).executed().fp32_count == 0
    assert relative_error(backend, all_of(space, "int8"), batch) < 0.05
    assert_mixed_run_as_asked(backend, space, 6)


def test_a_moved_tensor_is_requantized_for_a_reader_in_another_scheme(tmp_path):
    net = Net()
    moved, channels = two_reads(net, net.conv("x", "a", 3, 8), "moved")
    net.conv(moved, "c", channels, 4)
    batch = {"x": normal(2, 3, 8, 8)}
    backend, space = ready(tmp_path, net.model(["N", 3, 8, 8], "c_r"), batch)
    for inner, others in (("int8", "uint8"), ("uint8", "int8")):
        schemes = all_of(space, inner).schemes
        config = all_of(space, others).with_op("n_inner", scheme=schemes["n_inner"])
        assert backend.build(config).executed().int8_names & set(space.ops) == set(space.ops)
        assert relative_error(backend, config, batch) < 0.05


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("linear", mover("Resize", 8, None, np.float32([1, 1, 2, 2]), mode="linear")),
        ("ones", mover("Pad", 8, np.array([0, 0, 1, 0, 0, 0, 1, 2]), np.float32(1))),
    ],
)
def test_what_adds_values_of_its_own_stays_float_and_exact(tmp_path, name, build):
    net = Net()
    moved, channels = build(net, net.conv("x", "a", 3, 8), "moved")
    net.conv(moved, "c", channels, 4)
    batch = {"x": normal(2, 3, 8, 8)}
    backend, space = ready(tmp_path, net.model(["N", 3, 8, 8], "c_r"), batch)
    assert relative_error(backend, space.default(), batch) < 0.05
    assert_mixed_run_as_asked(backend, space)


@pytest.mark.parametrize("other", ["computed", "constant"])
def test_a_choice_between_two_tensors_runs_in_int8(tmp_path, other):
    net = Net()
    a = net.conv("x", "a", 3, 8)
    b = net.conv(a, "b", 8, 8) if other == "computed" else net.const("b", np.float32(0))
    net.conv(net.op("Where", [net.const("cond", np.arange(8) % 2 == 0), a, b], "chosen"), "c", 8, 4)
    batch = {"x": normal(2, 3, 8, 8)}
    backend, space = ready(tmp_path, net.model(["N", 3, 8, 8], "c_r"), batch)
    assert backend.build(space.default()).executed().int8["Where"] == 1
    assert_mixed_run_as_asked(backend, space)


@pytest.mark.parametrize("dims", [1, 3])
def test_convolutions_of_one_and_three_dimensions_end_in_an_int8_mean(tmp_path, dims):
    net = Net()
    x = net.conv(net.conv("x", "a", 3, 8, dims=dims), "c", 8, 8, dims=dims)
    x = net.op("ReduceMean", [x], "mean", axes=list(range(2, 2 + dims)), keepdims=0)
    net.op("Gemm", [x, net.weight("w", 8, 4, fan=8)], "y")
    batch = {"x": normal(2, 3, *[6] * dims)}
    backend, space = ready(tmp_path, net.model(["N", 3, *[6] * dims]), batch)
    executed = backend.build(space.default()).executed()
    assert executed.int8 == {"Conv": 2, "GlobalAveragePool": 1, "Gemm": 1}
    assert executed.fp32_count == 0


def test_a_prelu_of_one_slope_runs_in_int8(tmp_path):
    net = Net()
    x = net.op("Conv", ["x", net.weight("a", 8, 3, 3, 3)], "a_out")
    x = net.op("PRelu", [x, net.const("slope", np.full((8, 1, 1), 0.1, np.float32))], "p")
    net.conv(x, "c", 8, 4)
    batch = {"x": normal(2, 3, 8, 8)}
    backend, space = ready(tmp_path, net.model(["N", 3, 8, 8], "c_r"), batch)
    assert backend.build(space.default()).executed().int8["LeakyRelu"] == 1
    assert_mixed_run_as_asked(backend, space)


def test_a_model_of_recurrent_layers_is_told_what_would_help(tmp_path):
    net = Net()
    net.op("LSTM", ["x", net.weight("w", 1, 32, 4), net.weight("r", 1, 32, 8)], "y", hidden_size=8)
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings(modes="static"))
    path = tmp_path / "model.onnx"
    onnx.save(net.model([5, "N", 4]), str(path))
    backend.load(ModelSource("model", {"onnx": path}))
    able = backend.capabilities()
    assert able.ops == ()
    assert [op.type for op in able.float_ops] == ["LSTM"]
    assert "backend.modes" in able.float_ops[0].reason
