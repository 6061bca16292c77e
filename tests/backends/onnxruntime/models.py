"""Small real ONNX models, each with one thing that a backend may stumble over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """Collects nodes and weights of a graph whose input is ``x`` and output ``y``."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, *shape: int, scale: float | None = None) -> str:
        fan_in = int(np.prod(shape[1:])) or 1
        values = self.rng.normal(size=shape) * (scale or (2 / fan_in) ** 0.5)
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def constant(self, name: str, values: object, dtype: type = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}_{output}", **attributes))
        return output

    def conv(self, x: str, name: str, cin: int, cout: int, size: int = 3, group: int = 1, bias: bool = True) -> str:
        inputs = [x, self.weight(f"{name}_w", cout, cin // group, size, size)]
        if bias:
            inputs.append(self.weight(f"{name}_b", cout, scale=0.1))
        pads = [size // 2] * 4
        self.nodes.append(helper.make_node("Conv", inputs, [name], name=f"conv_{name}", pads=pads, group=group))
        return name

    def save(
        self,
        path: Path,
        shape: list[int | str],
        output: list[int | str],
        opset: int = 17,
        initializers_as_inputs: bool = False,
        more_inputs: dict[str, list[int | str]] | None = None,
    ) -> Path:
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        inputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (more_inputs or {}).items()]
        if initializers_as_inputs:
            inputs += [helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in self.weights]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)]
        graph = helper.make_graph(self.nodes, "small", inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        return path


def residual(path: Path, **kwargs: object) -> Path:
    """Convs, a depthwise one with Relu6, a residual Add, MaxPool, global average pool, Gemm, Softmax."""
    b = Builder()
    x = b.node("Relu", [b.conv("x", "c1", 3, 16)], "r1")
    b.constant("zero", 0.0)
    b.constant("six", 6.0)
    d = b.node("Clip", [b.conv(x, "dw", 16, 16, group=16), "zero", "six"], "r2")
    s = b.node("Relu", [b.node("Add", [b.conv(d, "c2", 16, 16), x], "sum")], "r3")
    p = b.node("MaxPool", [s], "pool", kernel_shape=[2, 2], strides=[2, 2])
    g = b.node("GlobalAveragePool", [b.conv(p, "c3", 16, 32, size=1)], "gap")
    f = b.node("Flatten", [g], "flat")
    b.weight("fc_w", 32, 10)
    b.weight("fc_b", 10, scale=0.1)
    b.node("Softmax", [b.node("Gemm", [f, "fc_w", "fc_b"], "logits")], "y", axis=1)
    return b.save(path, kwargs.pop("shape", ["N", 3, 16, 16]), ["N", 10], **kwargs)  # type: ignore[arg-type]


def padded_pool(
    path: Path, act: str | None = "Relu", value: float = 0.0, kernel: int = 3, channels: int = 0, **attributes: object
) -> Path:
    """A convolution, a Pad of its own before the MaxPool as exporters of Keras models write it, another convolution."""
    b = Builder(4)
    x = b.conv("x", "c1", 3, 8)
    if act == "Clip":
        x = b.node("Clip", [x, b.constant("low", 0.0), b.constant("six", 6.0)], "r1")
    elif act:
        x = b.node(act, [x], "r1")
    b.constant("widths", [0, channels, 1, 1, 0, 0, 1, 1], np.int64)
    b.constant("value", value)
    p = b.node(
        "MaxPool",
        [b.node("Pad", [x, "widths", "value"], "padded")],
        "pool",
        kernel_shape=[kernel, kernel],
        strides=[2, 2],
        **attributes,
    )
    b.nodes.append(helper.make_node("Relu", [b.conv(p, "c2", 8 + channels, 8)], ["y"], name="last"))
    return b.save(path, ["N", 3, 16, 16], ["N", 8, None, None])  # type: ignore[list-item]


def squeeze_and_excite(path: Path) -> Path:
    """A hard swish and a gate as an exporter of Keras writes them: in single steps, with a Reshape for every pixel."""
    b = Builder(6)
    for name, value in (("zero", 0.0), ("three", 3.0), ("six", 6.0), ("sixth", [1 / 6]), ("seven", 7.0)):
        b.constant(name, value)
    b.constant("pixel", [-1, 8, 1, 1], np.int64)

    def hard_sigmoid(x: str, name: str) -> str:
        clipped = b.node("Clip", [b.node("Add", [x, "three"], f"{name}_sum"), "zero", "six"], f"{name}_clip")
        return b.node("Mul", ["sixth", clipped], name)

    c = b.conv("x", "c1", 3, 8)
    s = b.node("Mul", [c, hard_sigmoid(c, "h1")], "swish")
    g = b.node("Reshape", [b.node("GlobalAveragePool", [s], "gap"), "pixel"], "pixel_1")
    g = b.node("Reshape", [b.node("Relu", [b.conv(g, "g1", 8, 8, size=1)], "r1"), "pixel"], "pixel_2")
    g = b.node("Div", [hard_sigmoid(b.conv(g, "g2", 8, 8, size=1, bias=False), "h2"), "seven"], "divided")
    b.nodes.append(helper.make_node("Relu", [b.conv(b.node("Mul", [s, g], "gated"), "c2", 8, 4)], ["y"], name="last"))
    return b.save(path, ["N", 3, 12, 12], ["N", 4, 12, 12])


def hard_gates(path: Path, alpha: float = 1 / 6, beta: float = 0.5) -> Path:
    """Hard swishes and a gate as PyTorch's exporter writes them: HardSwish, and HardSigmoid behind a convolution."""
    b = Builder(9)
    s = b.node("HardSwish", [b.conv("x", "c1", 3, 8)], "swish")
    a = b.node("AveragePool", [s], "pooled", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    h = b.node("HardSigmoid", [a], "bent", alpha=alpha, beta=beta)
    g = b.conv(b.node("GlobalAveragePool", [h], "gap"), "g1", 8, 8, size=1)
    g = b.node("HardSigmoid", [g], "gate", alpha=alpha, beta=beta)
    b.nodes.append(helper.make_node("Relu", [b.conv(b.node("Mul", [h, g], "gated"), "c2", 8, 4)], ["y"], name="last"))
    return b.save(path, ["N", 3, 12, 12], ["N", 4, 12, 12])


def concat_and_average(path: Path) -> Path:
    """Two branches joined by Concat, average pools, Sigmoid gate by Mul, an unused branch of HardSwish."""
    b = Builder(1)
    a = b.node("Relu", [b.conv("x", "a", 3, 8)], "ra")
    c = b.node("AveragePool", [b.conv("x", "b", 3, 8, size=1)], "pb", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    j = b.node("Concat", [a, c], "joined", axis=1)
    gate = b.node("Sigmoid", [b.conv(j, "gate", 16, 16, size=1)], "sig")
    m = b.node("Mul", [j, gate], "gated")
    h = b.node("HardSwish", [b.conv(m, "c", 16, 16)], "swish")
    t = b.node("Transpose", [b.node("GlobalAveragePool", [h], "gap")], "moved", perm=[0, 2, 3, 1])
    b.constant("shape", [0, -1], np.int64)
    r = b.node("Reshape", [t, "shape"], "flat")
    b.weight("fc_w", 16, 5)
    b.node("MatMul", [r, "fc_w"], "y")
    return b.save(path, ["N", 3, 12, 12], ["N", 5])


def attention(path: Path) -> Path:
    """One head of self-attention: MatMuls of two activations, and of weights on three axes; Softmax in the middle."""
    b = Builder(2)
    for name in ("q", "k", "v"):
        b.weight(f"{name}_w", 32, 32)
        b.node("MatMul", ["x", f"{name}_w"], name)
    b.node("Transpose", ["k"], "kt", perm=[0, 2, 1])
    b.constant("scale", 32**-0.5)
    s = b.node("Mul", [b.node("MatMul", ["q", "kt"], "qk"), "scale"], "scaled")
    a = b.node("MatMul", [b.node("Softmax", [s], "weights", axis=-1), "v"], "attended")
    r = b.node("Add", [a, "x"], "residual")
    b.weight("out_w", 32, 4)
    b.node("MatMul", [r, "out_w"], "y")
    return b.save(path, ["N", 6, 32], ["N", 6, 4])


def transformer(path: Path, opset: int = 14) -> Path:
    """Layer normalization and Gelu in single steps, as PyTorch's exporter writes them for older opsets."""
    b = Builder(7)
    for name, value in (("two", 2.0), ("eps", 1e-5), ("root", 2**0.5), ("one", 1.0), ("half", 0.5)):
        b.constant(name, value)
    mean = b.node("ReduceMean", ["x"], "mean", axes=[-1])
    d = b.node("Sub", ["x", mean], "difference")
    v = b.node("ReduceMean", [b.node("Pow", [d, "two"], "square")], "variance", axes=[-1])
    n = b.node("Div", [d, b.node("Sqrt", [b.node("Add", [v, "eps"], "above")], "deviation")], "normal")
    n = b.node(
        "Add",
        [b.node("Mul", [n, b.weight("gain", 32, scale=1.0)], "gained"), b.weight("shift", 32, scale=0.1)],
        "shifted",
    )
    b.weight("up_w", 32, 64)
    b.weight("down_w", 64, 32)
    a = b.node("Add", [b.weight("up_b", 64, scale=0.1), b.node("MatMul", [n, "up_w"], "up")], "biased")
    e = b.node("Add", [b.node("Erf", [b.node("Div", [a, "root"], "scaled")], "erf"), "one"], "more")
    g = b.node("Mul", [b.node("Mul", [a, e], "twice"), "half"], "gelu")
    b.node("Add", ["x", b.node("MatMul", [g, "down_w"], "down")], "y")
    return b.save(path, ["N", 6, 32], ["N", 6, 32], opset=opset)


def keras_block(path: Path, length: int | str = 6, **changes: float) -> Path:
    """Layer normalization, attention's reshapes and Gelu in the steps that tf2onnx writes for a Keras model."""
    b = Builder(8)
    values = {"eps": 1e-6, "root": 0.5**0.5, "one": 1.0, "half": 0.5} | changes
    for name, value in values.items():
        b.constant(name, value)
    b.weight("gamma", 1, 1, 32, scale=1.0)
    b.weight("beta", 1, 1, 32, scale=0.1)
    mean = b.node("GlobalAveragePool", ["x"], "mean")
    d = b.node("Sub", ["x", mean], "difference")
    v = b.node("GlobalAveragePool", [b.node("Mul", [d, d], "square")], "variance")
    r = b.node("Reciprocal", [b.node("Sqrt", [b.node("Add", [v, "eps"], "above")], "deviation")], "inverse")
    m = b.node("Mul", [r, "gamma"], "scale")
    shift = b.node("Add", [b.node("Mul", [b.node("Neg", [mean], "negative"), m], "moved"), "beta"], "shift")
    n = b.node("Add", [b.node("Mul", ["x", m], "gained"), shift], "normal")
    b.constant("first", [0], np.int64)
    b.constant("second", [1], np.int64)
    b.constant("rest", [-1], np.int64)
    b.constant("width", [16], np.int64)
    b.constant("back", [32], np.int64)
    s = b.node("Shape", [n], "dims")
    some = b.node(
        "Concat",
        [b.node("Gather", [s, "first"], "batch"), b.node("Gather", [s, "second"], "length"), "rest", "width"],
        "heads",
        axis=0,
    )
    h = b.node("Transpose", [b.node("Reshape", [n, some], "split")], "turned", perm=[0, 2, 1, 3])
    whole = b.node("Concat", ["batch", "length", "back"], "joined", axis=0)
    b.weight("up_w", 32, 64)
    a = b.node("MatMul", [b.node("Reshape", [h, whole], "merged"), "up_w"], "up")
    e = b.node("Erf", [b.node("Mul", [b.node("Neg", [a], "minus"), "root"], "rooted")], "erf")
    g = b.node("Mul", [b.node("Mul", ["half", a], "halved"), b.node("Sub", ["one", e], "left")], "gelu")
    b.weight("down_w", 64, 32)
    b.node("Add", ["x", b.node("MatMul", [g, "down_w"], "down")], "y")
    return b.save(path, ["N", length, 32], ["N", length, 32])


def chain(path: Path, convs: int = 6) -> Path:
    """Convs and Relus only: the shape in which an excluded conv used to be quantized all the same."""
    b = Builder(3)
    x = "x"
    for index in range(convs):
        x = b.node("Relu", [b.conv(x, f"c{index}", 3 if index == 0 else 16, 16)], f"r{index}")
    b.node("GlobalAveragePool", [x], "y")
    return b.save(path, ["N", 3, 10, 10], ["N", 16, 1, 1])


def two_inputs(path: Path) -> Path:
    """A picture and a vector."""
    b = Builder(4)
    g = b.node("Flatten", [b.node("GlobalAveragePool", [b.node("Relu", [b.conv("x", "c", 3, 8)], "r")], "gap")], "flat")
    j = b.node("Concat", [g, "extra"], "joined", axis=1)
    b.weight("fc_w", 12, 3)
    b.weight("fc_b", 3, scale=0.1)
    b.node("Gemm", [j, "fc_w", "fc_b"], "y")
    return b.save(path, ["N", 3, 8, 8], ["N", 3], more_inputs={"extra": ["N", 4]})


def dead_channel(path: Path) -> Path:
    """A conv with a channel of next to no weight and a real bias, which overflows a naive int32 bias."""
    b = Builder(5)
    b.conv("x", "c", 3, 4)
    weight = numpy_helper.to_array(b.weights[0]).copy()
    bias = numpy_helper.to_array(b.weights[1]).copy()
    weight[2], bias[2] = 1e-12, 0.7
    b.weights[0].CopyFrom(numpy_helper.from_array(weight, "c_w"))
    b.weights[1].CopyFrom(numpy_helper.from_array(bias, "c_b"))
    b.node("GlobalAveragePool", ["c"], "y")
    return b.save(path, ["N", 3, 8, 8], ["N", 4, 1, 1])
