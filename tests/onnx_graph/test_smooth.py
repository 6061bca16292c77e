"""Groups of channels that can be scaled, the rows that weights multiply, and the scaled model's function."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from nc_strategies.onnx_graph.graph import Graph, prepare, read
from nc_strategies.onnx_graph.operands import as_matrices, from_matrices, rows_of
from nc_strategies.onnx_graph.smooth import branch_groups, channel_groups, scaled


def beside(name):
    """A module of small models."""
    place = Path(__file__).parents[1] / "backends" / "onnxruntime"
    spec = importlib.util.spec_from_file_location(f"small_{name}", place / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


models, transformer = beside("models"), beside("transformer")


def outputs(graph: Graph, x):
    session = ort.InferenceSession(graph.model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def summary(groups):
    return sorted((sorted(g.writers), sorted(g.constants), sorted(g.readers), g.residual) for g in groups)


def residual_network(path):
    """A stem, two residual blocks of convolutions, pooling and a classifier."""
    b = models.Builder(3)
    x = b.node("Relu", [b.conv("x", "stem", 3, 8)], "r0")
    for block in (1, 2):
        y = b.node("Relu", [b.conv(x, f"a{block}", 8, 6)], f"ra{block}")
        x = b.node("Relu", [b.node("Add", [b.conv(y, f"b{block}", 6, 8), x], f"s{block}")], f"r{block}")
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "flat")
    b.weight("fc", 8, 5)
    b.node("Gemm", [x, "fc"], "y")
    return b.save(path, ["N", 3, 9, 9], ["N", 5])


def test_a_stream_of_residual_blocks_is_one_group_up_to_the_classifier(tmp_path):
    graph = prepare(read(residual_network(tmp_path / "m.onnx")))
    assert summary(channel_groups(graph)) == [
        (["conv_a1"], [], ["conv_b1"], False),
        (["conv_a2"], [], ["conv_b2"], False),
        (["conv_b1", "conv_b2", "conv_stem"], [], ["Gemm_y", "conv_a1", "conv_a2"], True),
    ]


def test_a_normalization_before_products_and_the_values_of_an_attention_are_groups(tmp_path):
    graph = prepare(read(transformer.block(tmp_path / "m.onnx")))
    assert summary(channel_groups(graph)) == [
        ([], ["ln1_b", "ln1_g"], ["k", "q", "v"], False),
        ([], ["ln2_b", "ln2_g"], ["up"], False),
        (["up"], ["up_b"], ["down"], False),
        (["v"], ["v_b"], ["o"], False),
    ]
    assert branch_groups(graph) == []


def test_a_normalization_that_a_branch_reads_too_needs_an_added_multiplication(tmp_path):
    graph = prepare(read(transformer.block(tmp_path / "m.onnx", after=True)))
    assert not any(set(g.constants) & {"ln1_g", "ln2_g"} for g in channel_groups(graph))
    assert [sorted(g.readers) for g in branch_groups(graph)] == [["up"]]


@pytest.mark.parametrize("kind", ["residual", "before", "after"])
def test_the_scaled_model_computes_the_same_to_the_bit(tmp_path, kind):
    rng = np.random.default_rng(0)
    if kind == "residual":
        path, x = residual_network(tmp_path / "m.onnx"), rng.normal(size=(4, 3, 9, 9)).astype(np.float32)
    else:
        path, x = transformer.block(tmp_path / "m.onnx", after=kind == "after"), transformer.tokens(4)
    graph = prepare(read(path))
    groups = [*channel_groups(graph), *branch_groups(graph)]
    chosen = [(group, 2.0 ** rng.integers(-3, 4, group.channels(graph))) for group in groups]
    other = scaled(graph, chosen)
    onnx.checker.check_model(other.model)
    for mine, theirs in zip(outputs(other, x), outputs(graph, x), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    changed = [name for name in graph.initializers if not np.array_equal(graph.array(name), other.array(name))]
    assert len(changed) > len(groups)


def test_a_tensor_that_is_an_output_or_passes_a_bounded_function_is_in_no_group(tmp_path):
    path = residual_network(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    model.graph.output.append(onnx.helper.make_tensor_value_info("r1", onnx.TensorProto.FLOAT, None))
    found = summary(channel_groups(prepare(model)))
    assert [entry[2] for entry in found] == [["conv_b1"], ["conv_b2"]]
    model = onnx.load(str(path))
    for node in model.graph.node:
        if node.output[0] == "ra1":
            node.op_type = "Sigmoid"
    assert ["conv_b1"] not in [entry[2] for entry in summary(channel_groups(prepare(model)))]


@pytest.mark.parametrize(
    ("shape", "weight", "attributes"),
    [
        ((2, 4, 9, 8), (6, 4, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
        ((2, 4, 9, 9), (6, 2, 3, 2), {"group": 2, "dilations": [2, 1]}),
        ((2, 4, 9, 9), (4, 1, 3, 3), {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((2, 4, 9), (6, 4, 4), {"auto_pad": "SAME_LOWER", "strides": [2]}),
        ((2, 4, 9), (6, 4, 1), {"auto_pad": "VALID"}),
    ],
)
def test_rows_times_the_weight_are_what_a_convolution_computes(shape, weight, attributes):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    w = rng.normal(size=weight).astype(np.float32)
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="c", **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [onnx.helper.make_tensor_value_info("x", 1, list(shape))],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(w, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    own = Graph(model)
    op = own.fused_ops["c"]
    (expected,) = outputs(own, x)
    rows, matrices = rows_of(own, op, x, 10**6, rng), as_matrices(op, w)
    found = np.matmul(rows, matrices)  # (groups, places, outputs of a group)
    found = found.transpose(1, 0, 2).reshape(len(x), -1, len(w)).swapaxes(1, 2).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(from_matrices(op, matrices, w.shape), w)
    assert rows_of(own, op, x, 5, rng).shape[1] == 5
