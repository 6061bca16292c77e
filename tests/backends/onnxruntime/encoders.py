"""Small encoders with random weights, written as exporters write them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEADS, SIZE = 2, 16
WIDTH = HEADS * SIZE


class Encoder:
    """Writes layers of attention and feed-forward, node by node.

    Args:
        masked: Whether scores get a mask, given as an input of shape (batch, rows).
        swapped: Whether keys are split like queries and then transposed again, with the factor before the product.
        softmax_axis: Axis of the Softmax.
        rank3: Whether the mask has three axes, one for the heads.
    """

    def __init__(self, masked=True, swapped=False, softmax_axis=-1, rank3=False, hidden=2 * WIDTH, seed=0):
        self.masked, self.swapped, self.softmax_axis, self.rank3 = masked, swapped, softmax_axis, rank3
        self.hidden = hidden
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants = [], {}
        self.constant("split", np.array([0, 0, HEADS, SIZE], np.int64))
        self.constant("merge", np.array([0, 0, WIDTH], np.int64))
        self.constant("factor", np.float32(SIZE**0.5))
        self.constant("far", np.float32(-10000.0))
        self.constant("one", np.float32(1.0))
        self.constant("axes", np.array([1] if rank3 else [1, 2], np.int64))

    def constant(self, name, values):
        self.constants[name] = np.asarray(values)
        return name

    def add(self, kind, inputs, name, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def linear(self, source, name, rows, columns):
        weight = self.constant(f"{name}.w", (self.rng.normal(size=(rows, columns)) / rows**0.5).astype(np.float32))
        bias = self.constant(f"{name}.b", 0.1 * self.rng.normal(size=columns).astype(np.float32))
        return self.add("Add", [self.add("MatMul", [source, weight], f"{name}/MatMul"), bias], f"{name}/Add")

    def mask(self):
        inverse = self.add("Sub", ["one", self.add("Unsqueeze", ["mask", "axes"], "mask4")], "inverse")
        return self.add("Mul", [inverse, "far"], "far_mask")

    def heads(self, source, name, order):
        return self.add(
            "Transpose", [self.add("Reshape", [source, "split"], f"{name}/split")], f"{name}/turn", perm=order
        )

    def attention(self, x, name, mask):
        query, key, value = (self.linear(x, f"{name}/{part}", WIDTH, WIDTH) for part in ("query", "key", "value"))
        q, v = self.heads(query, f"{name}/q", [0, 2, 1, 3]), self.heads(value, f"{name}/v", [0, 2, 1, 3])
        if self.swapped:
            q = self.add("Div", [q, "factor"], f"{name}/scaled")
            k = self.heads(key, f"{name}/k", [0, 2, 1, 3])
            k = self.add("Transpose", [k], f"{name}/swap", perm=[0, 1, 3, 2])
            scores = self.add("MatMul", [q, k], f"{name}/scores")
        else:
            k = self.heads(key, f"{name}/k", [0, 2, 3, 1])
            scores = self.add("Div", [self.add("MatMul", [q, k], f"{name}/scores"), "factor"], f"{name}/scaled")
        if mask:
            scores = self.add("Add", [scores, mask], f"{name}/masked")
        weights = self.add("Softmax", [scores], f"{name}/softmax", axis=self.softmax_axis)
        mixed = self.add(
            "Transpose", [self.add("MatMul", [weights, v], f"{name}/mix")], f"{name}/back", perm=[0, 2, 1, 3]
        )
        return self.linear(self.add("Reshape", [mixed, "merge"], f"{name}/merged"), f"{name}/output", WIDTH, WIDTH)

    def norm(self, x, other, name):
        scale, shift = (
            self.constant(f"{name}.s", np.ones(WIDTH, np.float32)),
            self.constant(f"{name}.t", np.zeros(WIDTH, np.float32)),
        )
        return self.add(
            "LayerNormalization", [self.add("Add", [x, other], f"{name}/sum"), scale, shift], f"{name}/norm"
        )

    def layer(self, x, name, mask):
        x = self.norm(self.attention(x, f"{name}/attention", mask), x, f"{name}/attention")
        inner = self.add("Relu", [self.linear(x, f"{name}/up", WIDTH, self.hidden)], f"{name}/relu")
        return self.norm(self.linear(inner, f"{name}/down", self.hidden, WIDTH), x, name)

    def save(self, path, layers=1, outputs=(), opset=17):
        mask = self.mask() if self.masked else None
        x = "x"
        for number in range(layers):
            x = self.layer(x, f"encoder/layer.{number}", mask)
        value = helper.make_tensor_value_info
        inputs = [value("x", TensorProto.FLOAT, ["batch", "rows", WIDTH])]
        if self.masked:
            inputs.append(value("mask", TensorProto.FLOAT, ["batch", "rows"]))
        graph = helper.make_graph(
            self.nodes,
            "encoder",
            inputs,
            [value(name, TensorProto.FLOAT, None) for name in (x, *outputs)],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
        return path

    def batch(self, count=5, rows=7):
        feed = {"x": self.rng.normal(size=(count, rows, WIDTH)).astype(np.float32)}
        if self.masked:
            lengths = 1 + np.arange(count) % rows
            feed["mask"] = (np.arange(rows) < lengths[:, None]).astype(np.float32)
        return feed
