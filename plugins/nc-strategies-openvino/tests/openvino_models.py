"""Small ONNX models with random weights."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8


def _write(path, nodes, weights, inputs, output):
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    path.write_bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())


def residual(path):
    """A stem, and a residual block with a projection by a 1x1 convolution of stride 2, as in a ResNet."""
    rng = np.random.default_rng(0)
    shapes = {
        "stem": (16, 3, 3, 3),
        "a": (16, 16, 1, 1),
        "b": (32, 16, 3, 3),
        "side": (32, 16, 1, 1),
        "c": (16, 32, 1, 1),
    }
    weights = {f"{n}_w": (rng.normal(size=s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for n, s in shapes.items()}
    weights |= {f"{n}_b": rng.normal(size=s[0]).astype(np.float32) * np.float32(0.1) for n, s in shapes.items()}

    def conv(name, source, **attributes):
        return helper.make_node("Conv", [source, f"{name}_w", f"{name}_b"], [f"{name}_y"], name=name, **attributes)

    def relu(name, source):
        return helper.make_node("Relu", [source], [name], name=f"{name}_relu")

    nodes = [
        conv("stem", "x", pads=[1, 1, 1, 1]),
        relu("stem_out", "stem_y"),
        conv("a", "stem_out", strides=[2, 2]),
        relu("a_out", "a_y"),
        conv("b", "a_out", pads=[1, 1, 1, 1]),
        conv("side", "stem_out", strides=[2, 2]),
        helper.make_node("Add", ["b_y", "side_y"], ["sum_y"], name="sum"),
        relu("sum_out", "sum_y"),
        conv("c", "sum_out"),
    ]
    _write(path, nodes, weights, {"x": [None, 3, 16, 16]}, "c_y")


def products(path):
    """Two matrix products with a bias and a hyperbolic tangent between them, free in batch and length."""
    rng = np.random.default_rng(1)
    weights = {
        "first_w": (rng.normal(size=(128, 256)) / 11).astype(np.float32),
        "second_w": (rng.normal(size=(256, 64)) / 16).astype(np.float32),
        "row": rng.normal(size=256).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "first_w"], ["first_y"], name="first"),
        helper.make_node("Add", ["first_y", "row"], ["shifted"], name="shift"),
        helper.make_node("Tanh", ["shifted"], ["tanh_y"], name="tanh"),
        helper.make_node("MatMul", ["tanh_y", "second_w"], ["second_y"], name="second"),
    ]
    _write(path, nodes, weights, {"x": [None, None, 128]}, "second_y")
