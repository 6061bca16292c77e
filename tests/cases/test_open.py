"""ONNX files that people have: branches, old opsets, repeated names, and what a saved model has to keep."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.errors import InputError
from nc_strategies.models import ModelSource
from nc_strategies.onnx_graph import equalize, opsets
from nc_strategies.onnx_graph.graph import prepare, read
from nc_strategies.onnx_graph.names import FreshNames, captured, names_in
from nc_strategies.space import Overrides, Space

FLOAT, CHANNELS, ENGINE = TensorProto.FLOAT, 8, "com.microsoft"
value = helper.make_tensor_value_info


class Net:
    """Nodes and constants of a graph of convolutions over ``x``, of shape (N, 3, 8, 8)."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.nodes, self.constants = [], []

    def const(self, name, values):
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def op(self, kind, inputs, output, node=None, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], output if node is None else node, **attributes))
        return output

    def conv(self, x, name, cin=CHANNELS, node=None, weight=None, bias=None):
        spread = np.sqrt(2 / cin / 9)
        kernel = (self.rng.normal(size=(CHANNELS, cin, 3, 3)) * spread).astype(np.float32)
        inputs = [x, self.const(weight or f"{name}_w", kernel)]
        inputs.append(self.const(bias or f"{name}_b", self.rng.normal(size=CHANNELS).astype(np.float32) / 10))
        return self.op("Relu", [self.op("Conv", inputs, name, node, pads=[1] * 4)], f"{name}_r")

    def head(self, x, output="scores"):
        flat = self.op("Flatten", [self.op("GlobalAveragePool", [x], "pooled")], "flat")
        weight = self.const("fc", self.rng.normal(size=(CHANNELS, 5)).astype(np.float32))
        return self.op("Gemm", [flat, weight, self.const("fc_b", np.zeros(5, np.float32))], output)

    def model(self, outputs=("scores",), opset=17, ir_version=8, inputs=None, **description):
        given = [value("x", FLOAT, ["N", 3, 8, 8])] if inputs is None else inputs
        results = [value(name, FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "g", given, results, self.constants)
        imports = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, **description)


def samples(count=4, dtype=np.float32):
    x = np.random.default_rng(1).normal(size=(count, 3, 8, 8))
    return {"x": x.astype(dtype) if dtype == np.float32 else (np.abs(x) * 80).astype(dtype)}


def answers(model, batch):
    serialized = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(serialized, providers=["CPUExecutionProvider"]).run(None, batch)


def ready(tmp_path, model, batch=None):
    """A calibrated backend that has opened a model, and its space."""
    batch = batch or samples()
    onnx.save(model, tmp_path / "model.onnx")
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings(equalize="never"))
    backend.load(ModelSource("model", {"onnx": tmp_path / "model.onnx"}))
    space = Space(backend.capabilities(), Overrides())
    backend.calibrate([batch])
    return backend, space


def opened_in_int8(tmp_path, model, batch=None):
    """A backend that returns what the engine does and runs all it offers in int8, its space, and the saved model."""
    batch = batch or samples()
    backend, space = ready(tmp_path, model, batch)
    expected = backend.reference().predict(batch)
    for found in (
        backend.build(space.all_float()).predict(batch),
        backend.dual_precision_session(space.default()).predict(batch, []),
    ):
        for want, have in zip(expected, found, strict=True):
            np.testing.assert_allclose(have, want, rtol=1e-3, atol=1e-4)
    int8 = backend.build(space.default())
    assert set(space.default().int8_ops) <= int8.executed().int8_names
    for want, have in zip(expected, int8.predict(batch), strict=True):
        assert have.shape == want.shape
        assert np.abs(have - want).mean() <= 0.1 * np.abs(want).mean() + 1e-6
    return backend, space, onnx.load(backend.save(space.default(), tmp_path / "saved"))


def branch(name, nodes, constants=()):
    return helper.make_graph(nodes, name, [], [value(nodes[-1].output[0], FLOAT, None)], list(constants))


def scalar(name, number):
    return numpy_helper.from_array(np.float32(number), name)


def nested_branches():
    """An If around an If that reads a tensor and a weight of the outermost graph."""
    inner = [
        branch("deep_then", [helper.make_node("Conv", ["a_r", "b_w"], ["deep_a"], "deep", pads=[1] * 4)]),
        branch("deep_else", [helper.make_node("Mul", ["a_r", "own"], ["deep_b"])], [scalar("own", 0.5)]),
    ]
    then = branch(
        "then", [helper.make_node("If", ["choice"], ["t"], "inner", then_branch=inner[0], else_branch=inner[1])]
    )
    return then, branch(
        "else", [helper.make_node("Add", ["b_r", "a"], ["m"]), helper.make_node("Mul", ["m", "inner"], ["e"])]
    )


def branching(opset=17):
    net = Net()
    b = net.conv(net.conv("x", "a", 3), "b")
    axes = {"axes": [0, 1, 2, 3]} if opset < 13 else {}
    total = net.op("ReduceSum", ["x"], "total", keepdims=0, **axes)
    net.op("Greater", [total, net.const("limit", np.float32(0))], "choice")
    then, other = nested_branches()
    net.const("inner", np.float32(0.5))
    net.op("If", ["choice"], "chosen", then_branch=then, else_branch=other)
    net.head(net.conv(net.op("Add", ["chosen", b], "sum"), "c"))
    return net.model(opset=opset)


def test_the_outer_tensors_of_nested_bodies_are_found_in_the_order_of_reading():
    then, other = nested_branches()
    node = helper.make_node("If", ["choice"], ["y"], then_branch=then, else_branch=other)
    assert sorted(captured(node)) == ["a", "a_r", "b_r", "b_w", "choice", "inner"]


@pytest.mark.parametrize("opset", [9, 12, 17])
def test_convolutions_beside_branches_run_in_int8_and_branches_stay(tmp_path, opset):
    model = branching(opset)
    _, space, saved = opened_in_int8(tmp_path, model)
    assert sum(name in space.default().int8_ops for name in "abc") == 3
    node = next(n for n in saved.graph.node if n.op_type == "If")
    made = {name for n in saved.graph.node for name in n.output} | {i.name for i in saved.graph.initializer}
    assert set(captured(node)) <= made
    assert {"a", "a_r", "b_r", "b_w"} <= set(captured(node))
    # A weight that a branch reads stays as it was.
    weight = next(i for i in saved.graph.initializer if i.name == "b_w")
    own = next(i for i in model.graph.initializer if i.name == "b_w")
    np.testing.assert_array_equal(numpy_helper.to_array(weight), numpy_helper.to_array(own))


def test_a_loop_reads_outer_tensors_in_each_turn(tmp_path):
    net = Net()
    a = net.conv("x", "a", 3)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["state", "a"], ["next"])],
        "body",
        [value("turn", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("state", FLOAT, None)],
        [value("on", TensorProto.BOOL, []), value("next", FLOAT, None)],
    )
    b = net.op("Loop", [net.const("turns", np.int64(3)), "", a], "looped", body=body)
    net.head(net.conv(b, "b"))
    opened_in_int8(tmp_path, net.model())


def test_channels_of_a_tensor_that_a_body_reads_are_not_equalized():
    model = branching()
    pairs = {pair.tensor for pair in equalize.pairs(prepare(model))}
    assert "a_r" not in pairs


@pytest.mark.parametrize(("axis", "left"), [(2, 0), (0, 1)])
def test_a_squeeze_whose_size_is_known_is_no_branch(axis, left):
    net = Net()
    a = net.conv("x", "a", 3)
    size = net.op("Gather", [net.op("Shape", [a], "shape"), net.const("at", np.int64(axis))], "size")
    net.op("Equal", [size, net.const("one", np.int64(1))], "choice")
    then = branch("then", [helper.make_node("Neg", ["a_r"], ["t"])])
    other = branch("else", [helper.make_node("Identity", ["a_r"], ["e"])])
    net.head(net.op("If", ["choice"], "squeezed", then_branch=then, else_branch=other))
    prepared = prepare(net.model()).model
    assert sum(n.op_type == "If" for n in prepared.graph.node) == left
    batch = samples()
    np.testing.assert_allclose(answers(prepared, batch)[0], answers(net.model(), batch)[0], rtol=1e-4, atol=1e-5)


def test_a_tensor_of_unknown_rank_is_no_scalar(tmp_path):
    net = Net()
    a = net.conv("x", "a", 3)
    mean = net.op("GlobalAveragePool", [a], "mean")
    net.const("last", np.array([3], np.int64))
    total = net.op("ReduceSum", ["x"], "total", keepdims=0)
    net.op("Greater", [total, net.const("limit", np.float32(-1e9))], "choice")
    then = branch("then", [helper.make_node("Squeeze", [mean, "last"], ["t"])])
    other = branch("else", [helper.make_node("Identity", [mean], ["e"])])
    ranked = net.op("If", ["choice"], "ranked", then_branch=then, else_branch=other)
    net.head(net.op("Unsqueeze", [ranked, "last"], "whole"))
    opened_in_int8(tmp_path, net.model())


def test_a_float_convolution_behind_a_pool_of_unknown_shape_stays_float(tmp_path):
    net = Net()
    a = net.conv("x", "a", 3)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Mul", ["state", "state"], ["next"])],
        "body",
        [value("turn", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("state", FLOAT, None)],
        [value("on", TensorProto.BOOL, []), value("next", FLOAT, None)],
    )
    looped = net.op("Loop", [net.const("turns", np.int64(1)), "", a], "looped", body=body)
    pooled = net.op("MaxPool", [net.conv(looped, "b")], "pool", kernel_shape=[3, 3], pads=[1] * 4)
    net.head(net.conv(net.conv(pooled, "c"), "d"))
    backend, space = ready(tmp_path, net.model())
    mixed = space.fall_back(space.default(), "c")
    executed = backend.build(mixed).executed().int8_names
    assert "c" not in executed
    assert {"b", "d"} <= executed


@pytest.mark.parametrize("ir_version", [3, 4, 8])
@pytest.mark.parametrize("opset", [8, 11, 12])
def test_initializers_that_are_inputs_too_become_constants(tmp_path, ir_version, opset):
    net = Net()
    net.head(net.conv(net.conv("x", "a", 3), "b"))
    given = [value(i.name, i.data_type, list(i.dims)) for i in net.constants]
    model = net.model(opset=opset, ir_version=ir_version, inputs=[*given, value("x", FLOAT, ["N", 3, 8, 8])])
    _, space, saved = opened_in_int8(tmp_path, model)
    assert {"a", "b", "scores"} <= set(space.default().int8_ops)
    assert [i.name for i in saved.graph.input] == ["x"]


@pytest.mark.parametrize("opset", [7, 8, 9, 10])
def test_old_opsets_run_in_int8(tmp_path, opset):
    net = Net()
    net.conv("x", "a", 3)
    bounded = net.op("Clip", [net.op("Conv", ["a_r", "b_w"], "b", pads=[1] * 4)], "b_c", min=0.0, max=1.0)
    net.const("b_w", (net.rng.normal(size=(CHANNELS, CHANNELS, 3, 3)) / 6).astype(np.float32))
    net.head(net.op("Dropout", [bounded], "kept", ratio=0.5))
    _, space, _ = opened_in_int8(tmp_path, net.model(opset=opset))
    assert {"a", "b", "scores"} <= set(space.default().int8_ops)


def resized(opset, mode):
    net = Net()
    a = net.conv("x", "a", 3)
    scales = [1.0, 1.0, 2.0, 2.0]
    if opset < 9:
        wide = net.op("Upsample", [a], "wide", mode=mode, scales=scales)
    else:
        kind = "Upsample" if opset < 10 else "Resize"
        wide = net.op(kind, [a, net.const("scales", np.float32(scales))], "wide", mode=mode)
    net.conv(wide, "b")
    return net.model(outputs=["b_r"], opset=opset)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [8, 9, 10])
def test_resizing_of_old_opsets_keeps_its_coordinates(tmp_path, opset, mode):
    backend, _, _ = opened_in_int8(tmp_path, resized(opset, mode))
    assert "Resize" in {n.op_type for n in backend.graph.model.graph.node}


def hardmax(opset):
    """Before opset 13, Hardmax works on all axes from the given one; the converter keeps that one only."""
    net = Net()
    picked = net.op("Hardmax", [net.conv("x", "a", 3)], "picked", axis=1)
    net.head(net.conv(net.op("Mul", [picked, net.const("ten", np.float32(10))], "ten_times"), "b"))
    return net.model(outputs=["scores", "picked"], opset=opset)


@pytest.mark.parametrize(("opset", "kept"), [(9, 11), (12, 12)])
def test_an_opset_is_kept_where_a_conversion_changes_results(tmp_path, opset, kept):
    _, space, saved = ready_and_saved(tmp_path, hardmax(opset))
    assert {"a", "b"} <= set(space.default().int8_ops)
    assert next(o.version for o in saved.opset_import if o.domain == "") == kept
    assert {n.domain for n in saved.graph.node if n.op_type == "DequantizeLinear"} == {ENGINE}


def ready_and_saved(tmp_path, model):
    backend, space = ready(tmp_path, model)
    batch = samples()
    for want, have in zip(answers(model, batch), backend.build(space.all_float()).predict(batch), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-3, atol=1e-4)
    int8 = backend.build(space.default())
    assert set(space.default().int8_ops) <= int8.executed().int8_names
    return backend, space, onnx.load(backend.save(space.default(), tmp_path / "saved"))


def test_a_bound_in_an_attribute_bounds_an_int8_operator(tmp_path):
    net = Net()
    net.op("Conv", ["x", net.const("w", net.rng.normal(size=(CHANNELS, 3, 3, 3)).astype("f"))], "a", pads=[1] * 4)
    net.conv(net.op("Clip", ["a"], "bounded", min=-0.5, max=0.5), "b")
    net.op("Hardmax", ["b_r"], "picked", axis=1)
    model = net.model(outputs=["bounded", "picked"], opset=10)
    backend, space, _ = ready_and_saved(tmp_path, model)
    found = backend.build(space.default()).predict(samples())[0]
    assert np.abs(found).max() < 0.51


def test_models_that_differ_are_told_apart():
    first, second = resized(10, "linear"), resized(10, "nearest")
    assert opsets.agree(first, first) is True
    assert opsets.agree(first, second) is False
    unusable = resized(10, "linear")
    unusable.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    assert opsets.agree(unusable, first) is None


def named_like(tmp_path, model):
    """Every name that the builds of a model make."""
    backend, space = ready(tmp_path, model)
    backend.dual_precision_session(space.default())
    made = names_in(backend.native(space.default()))
    for name in space.default().int8_ops:
        made |= names_in(backend.native(space.fall_back(space.default(), name)))
    made |= set(backend.graph.fresh._granted)
    return made - names_in(backend.graph.model)


def plain_net():
    net = Net()
    net.head(net.op("Add", [net.conv(net.conv("x", "a", 3), "b"), "a_r"], "sum"))
    return net


def test_names_that_a_build_makes_may_be_the_models_own(tmp_path):
    made = sorted(named_like(tmp_path, plain_net().model()))
    assert len(made) > 60
    # Every third group: a group takes seconds, and names of one kind stand side by side.
    for at in range(0, len(made), 21):
        taken = iter(made[at : at + 7])
        net = plain_net()
        model = net.model()
        # Weights, biases, a tensor between operators and nodes are called like what a build adds.
        renamed = dict(zip(["a_w", "b_b", "fc", "b_r", "pooled"], taken, strict=False))
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        for constant in model.graph.initializer:
            constant.name = renamed.get(constant.name, constant.name)
        for index, name in zip((1, 4), taken, strict=False):
            model.graph.node[index].name = name
        opened_in_int8(tmp_path, model)


def test_weights_called_like_their_nodes_run_in_int8(tmp_path):
    net = Net()
    a = net.conv("x", "a", 3, weight="a/weight", bias="a/bias")
    net.head(net.conv(a, "b", weight="b/weight_per_channel", bias="a/weight_dq"))
    _, space, _ = opened_in_int8(tmp_path, net.model())
    assert {"a", "b"} <= set(space.default().int8_ops)


def test_names_within_branches_are_taken_too(tmp_path):
    net = Net()
    b = net.conv(net.conv("x", "a", 3), "b")
    net.op("Greater", [net.op("ReduceSum", ["x"], "total", keepdims=0), net.const("limit", np.float32(0))], "choice")
    then = branch("then", [helper.make_node("Mul", [b, "a/weight"], ["b_r/q0"])], [scalar("a/weight", 2.0)])
    other = branch("else", [helper.make_node("Mul", [b, "b_r/q0_scale"], ["x/q0"])], [scalar("b_r/q0_scale", 3.0)])
    net.head(net.op("If", ["choice"], "chosen", then_branch=then, else_branch=other))
    opened_in_int8(tmp_path, net.model())


def test_each_operator_of_a_repeated_name_can_be_addressed(tmp_path):
    net = Net()
    x = net.conv("x", "a", 3, node="Conv")
    x = net.conv(x, "b", node="Conv")
    x = net.conv(x, "c", node="Conv#2")
    net.head(net.conv(x, "d", node=""))
    backend, space, _ = opened_in_int8(tmp_path, net.model())
    named = ["Conv", "Conv#3", "Conv#2", "Conv:d"]
    assert [n.name for n in backend.graph.model.graph.node if n.op_type == "Conv"] == named
    asked = Overrides(op_name_dict={"Conv#3": {"activation": {"dtype": ["fp32"]}}})
    left = Space(backend.capabilities(), asked).default()
    assert set(space.default().int8_ops) - set(left.int8_ops) == {"Conv#3"}


def test_nodes_called_like_the_tensors_of_others_are_not_confused(tmp_path):
    net = Net()
    x = net.conv("x", "1", 3, node="2")
    net.head(net.conv(x, "2", node="1"))
    backend, space, _ = opened_in_int8(tmp_path, net.model())
    nodes = {n.name: list(n.output) for n in backend.graph.model.graph.node}
    assert {
        name for outputs in nodes.values() for name in outputs if name in nodes and name not in nodes[name]
    } == set()
    for kept, other in (("1", "2"), ("2", "1")):
        executed = backend.build(space.fall_back(space.default(), kept)).executed().int8_names
        assert other in executed
        assert kept not in executed


def test_a_wish_gets_one_name_and_keeps_its_end():
    net = Net()
    net.conv("x", "a", 3, weight="a/weight", bias="a#2/weight")
    fresh = FreshNames(net.model(outputs=["a_r"]))
    assert fresh("a/weight") == fresh("a/weight") == "a#3/weight"
    assert fresh("x") == "x#2"
    assert fresh("free") == "free"


def test_outputs_may_be_constants_inputs_and_tensors_between_operators(tmp_path):
    net = Net()
    net.conv(net.conv("x", "a", 3), "b")
    net.op("Mul", ["b_r", net.const("half", np.float32(0.5))], "scaled")
    net.head(net.conv("scaled", "c"))
    net.const("spare", np.float32([1, 2]))
    outputs = ["a", "x", "scores", "b_w", "spare", "scaled", "c_b", "a_r", "half", "b_r"]
    _, space, saved = opened_in_int8(tmp_path, net.model(outputs=outputs))
    assert [o.name for o in saved.graph.output] == outputs
    assert {"a", "b", "c"} <= set(space.default().int8_ops)


@pytest.mark.parametrize(
    ("output", "found"), [("scores", {"a_r", "b_r"}), ("b_w", set()), ("c_w", {"a_r"}), ("c_b", {"a_r", "b_r"})]
)
def test_weights_that_are_outputs_are_not_equalized(output, found):
    net = Net()
    net.head(net.conv(net.conv(net.conv("x", "a", 3), "b"), "c"))
    graph = prepare(net.model(outputs=dict.fromkeys(["scores", output])))
    assert {pair.tensor for pair in equalize.pairs(graph)} & {"a_r", "b_r"} == found


def test_functions_of_a_model_are_inlined_and_run_in_int8(tmp_path):
    net = Net()
    a = net.conv("x", "a", 3)
    net.const("w", (net.rng.normal(size=(CHANNELS, CHANNELS, 3, 3)) / 8).astype(np.float32))
    for source, target in ((a, "f"), ("f", "g")):
        net.op("Block", [source, "w"], target, node="a_r", domain="org.example")
    net.head(net.conv("g", "b"))
    model = net.model()
    steps = [
        helper.make_node("Conv", ["i", "k"], ["a"], "a", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["o"], "relu"),
    ]
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("org.example", "Block", ["i", "k"], ["o"], steps, imports))
    model.opset_import.append(helper.make_opsetid("org.example", 1))
    _, space, saved = opened_in_int8(tmp_path, model)
    nodes = [n for n in saved.graph.node if n.op_type == "Conv"]
    assert len(nodes) == 4
    assert {n.name for n in nodes} <= set(space.default().int8_ops)


def test_sparse_constants_become_dense(tmp_path):
    net = Net()
    a = net.conv("x", "a", 3)
    net.head(net.conv(net.op("Add", [a, "row"], "sum"), "b"))
    model = net.model()
    values = numpy_helper.from_array(np.array([1.5, -2.0], np.float32), "row")
    places = numpy_helper.from_array(np.array([1, 6], np.int64), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [8]))
    opened_in_int8(tmp_path, model)


@pytest.mark.parametrize("opset", [9, 17])
def test_a_saved_model_keeps_its_description(tmp_path, opset):
    net = Net()
    net.head(net.conv("x", "a", 3))
    description = {
        "producer_name": "trainer",
        "producer_version": "1.2",
        "model_version": 7,
        "domain": "org.example",
        "doc_string": "fruit classifier",
    }
    model = net.model(opset=opset, **description)
    model.graph.doc_string = "one convolution"
    model.opset_import.append(helper.make_opsetid("org.example.ops", 3))
    helper.set_model_props(model, {"names": "{0: 'apple'}", "stride": "32"})
    backend, space = ready(tmp_path, model)
    for config in (space.default(), space.all_float()):
        saved = onnx.load(backend.save(config, tmp_path / "saved"))
        assert {name: getattr(saved, name) for name in description} == description
        assert {p.key: p.value for p in saved.metadata_props} == {"names": "{0: 'apple'}", "stride": "32"}
        assert (saved.graph.name, saved.graph.doc_string) == ("g", "one convolution")
        domains = {o.domain: o.version for o in saved.opset_import}
        assert domains["org.example.ops"] == 3
        assert set(domains) == {"", "org.example.ops", ENGINE}


def test_a_model_without_a_producer_is_ours(tmp_path):
    net = Net()
    net.head(net.conv("x", "a", 3))
    model = net.model()
    model.producer_name = ""
    _, _, saved = opened_in_int8(tmp_path, model)
    assert saved.producer_name == "nc_strategies"


def quantized(kind):
    """A product that is quantized in one of the ways of common tools."""
    net = Net()
    net.const("w", np.ones((16, 16), np.int8))
    net.const("s", np.float32(0.02))
    net.const("z", np.int8(0))
    domains, body = [], None
    if kind == "dynamic":
        outputs = ["xq", "xs", "xz"]
        net.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], outputs, "dynamic"))
        net.op("Cast", [net.op("MatMulInteger", ["xq", "w", "xz"], "product")], "y", to=FLOAT)
    elif kind == "weights":
        net.op("MatMul", ["x", net.op("DequantizeLinear", ["w", "s", "z"], "whole")], "y")
    elif kind == "reshaped weights":
        turned = net.op("Transpose", ["w"], "turned", perm=[1, 0])
        net.op("MatMul", ["x", net.op("DequantizeLinear", [turned, "s", "z"], "whole")], "y")
    elif kind == "pairs":
        q = net.op("QuantizeLinear", ["x", "s", "z"], "xq")
        net.op("MatMul", [net.op("DequantizeLinear", [q, "s", "z"], "xd"), net.const("f", np.ones((16, 16), "f"))], "y")
    elif kind in ("QLinearAdd", "MatMulNBits", "DynamicQuantizeMatMul"):
        net.op(kind, ["x", "w", "s", "z"], "y", domain=ENGINE)
        domains = [helper.make_opsetid(ENGINE, 1)]
    else:
        body = branch("then", [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["t"])])
        net.op("If", [net.const("choice", np.bool_(True))], "y", then_branch=body, else_branch=body)
    model = net.model(outputs=["y"], inputs=[value("x", FLOAT, ["N", 16])])
    model.opset_import.extend(domains)
    return model


@pytest.mark.parametrize(
    "kind",
    [
        "dynamic",
        "weights",
        "reshaped weights",
        "pairs",
        "QLinearAdd",
        "MatMulNBits",
        "DynamicQuantizeMatMul",
        "in a branch",
    ],
)
def test_a_model_that_is_quantized_is_refused(tmp_path, kind):
    onnx.save(quantized(kind), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"is quantized already .*; expected the fp32 model"):
        read(tmp_path / "m.onnx")


def test_pictures_in_uint8_that_a_model_dequantizes_itself_are_no_quantization(tmp_path):
    net = Net()
    net.const("s", np.float32(1 / 64))
    net.const("z", np.uint8(128))
    turned = net.op("Transpose", ["x"], "turned", perm=[0, 1, 3, 2])
    net.conv(net.conv(net.op("DequantizeLinear", [turned, "s", "z"], "real"), "a", 3), "b")
    stored = net.op("QuantizeLinear", ["b_r", "s", "z"], "stored")
    model = net.model(inputs=[value("x", TensorProto.UINT8, ["N", 3, 8, 8])], outputs=[])
    model.graph.output.append(value(stored, TensorProto.UINT8, None))
    batch = samples(dtype=np.uint8)
    backend, space = ready(tmp_path, model, batch)
    assert {"a", "b"} <= set(space.default().int8_ops)
    expected = answers(model, batch)[0]
    np.testing.assert_array_equal(backend.build(space.all_float()).predict(batch)[0], expected)
    found = backend.build(space.default()).predict(batch)[0]
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected.astype(int)).mean() < 5
