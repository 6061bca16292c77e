"""Matrix products in the one form that int8 kernels take: ``Gemm`` with a constant bias of shape (N,), and ``MatMul``.

An int8 ``Gemm`` multiplies an activation by a constant weight, without factors, and adds one bias per column. Exporters
write the same function in many other ways; this module rewrites them. What cannot become a bias is added by an
operator of its own. The engine's own fused operators (``FusedGemm``, ``FusedMatMul``, ``FusedConv``), which a model has
if it was saved after the engine's optimizations, become the operators that they were fused from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from nc_strategies.onnx_graph import external

Shape = tuple[int | None, ...]
ENGINE = "com.microsoft"
ACTIVATION_ATTRIBUTES = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": (),
}
"""Activation functions of fused operators, and the attributes that their parameters become; Clip's are inputs."""


class _Rewriter:
    """Rewrites the products of one model in place.

    Args:
        model: The model.
        shapes: Dimensions of its tensors, None where they are free.
    """

    def __init__(self, model: onnx.ModelProto, shapes: dict[str, Shape]) -> None:
        self.graph = model.graph
        self.shapes = shapes
        self.arrays = {i.name: i for i in self.graph.initializer}
        self.names = {name for node in self.graph.node for name in (node.name, *node.input, *node.output)}
        self.names |= {*self.arrays, *(v.name for v in (*self.graph.input, *self.graph.output))}

    def run(self) -> None:
        """Rewrite all products."""
        nodes = [
            plain for node in self.graph.node for single in self.single_steps(node) for plain in self.plain(single)
        ]
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def plain(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """What stands for one of ONNX's own operators."""
        if node.domain not in ("", "ai.onnx") or node.op_type not in ("Gemm", "MatMul"):
            return [node]
        return self.gemm(node) if node.op_type == "Gemm" else self.matmul(node)

    def single_steps(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """ONNX's own operators that a fused operator of the engine consists of; the product keeps its name."""
        if node.domain != ENGINE:
            return [node]
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "FusedMatMul":
            return self.fused_matmul(node, given)
        if node.op_type not in ("FusedGemm", "FusedConv"):
            return [node]
        kind = given.get("activation", b"").decode()
        if (kind and kind not in ACTIVATION_ATTRIBUTES) or len(node.input) > (4 if node.op_type == "FusedConv" else 3):
            return [node]
        product = self.step(node.op_type.removeprefix("Fused"), list(node.input[:3]), node, node.name)
        product.attribute.extend(a for a in node.attribute if not a.name.startswith("activation"))
        made = [product]
        if len(node.input) > 3 and node.input[3]:
            made.append(self.step("Add", [made[-1].output[0], node.input[3]], node, f"{node.name}/sum"))
        if kind:
            made.append(self.activation(kind, given, made[-1].output[0], node))
        made[-1].output[0] = node.output[0]
        return made

    def step(self, kind: str, inputs: list[str], node: onnx.NodeProto, name: str) -> onnx.NodeProto:
        """One of ONNX's own operators in place of a part of another, with an output of its own."""
        label = name if name == node.name else self.free(name)
        return helper.make_node(kind, inputs, [self.free(f"{node.output[0]}/{kind}")], name=label)

    def activation(self, kind: str, given: dict[str, Any], source: str, node: onnx.NodeProto) -> onnx.NodeProto:
        """The activation function of a fused operator."""
        made = self.step(kind, [source], node, f"{node.name}/{kind}")
        # FusedConv lists the parameters; FusedGemm has an attribute for each.
        listed = dict(zip(("alpha", "beta"), given.get("activation_params", ()), strict=False))
        for name in ("alpha", "beta"):
            if f"activation_{name}" in given:
                listed[name] = given[f"activation_{name}"]
        if kind == "Clip":
            bounds = {"alpha": np.finfo(np.float32).min, "beta": np.finfo(np.float32).max} | listed
            made.input.extend(
                self.constant(f"{made.name}/{name}", np.float32(bounds[name])) for name in ("alpha", "beta")
            )
        made.attribute.extend(
            helper.make_attribute(name, float(listed[name])) for name in ACTIVATION_ATTRIBUTES[kind] if name in listed
        )
        return made

    def fused_matmul(self, node: onnx.NodeProto, given: dict[str, Any]) -> list[onnx.NodeProto]:
        """The ``MatMul`` of a ``FusedMatMul``, with its transpositions and its factor as operators of their own."""
        if given.get("transBatchA", 0) or given.get("transBatchB", 0):
            return [node]
        names, made = list(node.input), []
        for index, flag in enumerate(("transA", "transB")):
            if not given.get(flag, 0):
                continue
            rank = len(self.arrays[names[index]].dims if names[index] in self.arrays else self.shape(names[index]))
            if rank < 2:
                return [node]
            turned = [*range(rank - 2), rank - 1, rank - 2]
            if names[index] in self.arrays:
                values = np.ascontiguousarray(self.array(names[index]).transpose(turned))
                names[index] = self.constant(f"{names[index]}/transposed", values)
                continue
            made.append(self.step("Transpose", [names[index]], node, f"{node.name}/{flag}"))
            made[-1].attribute.append(helper.make_attribute("perm", turned))
            names[index] = made[-1].output[0]
        alpha = np.float32(given.get("alpha", 1.0))
        constant = next((i for i, name in enumerate(names) if name in self.arrays), None)
        if alpha != 1 and constant is not None:
            names[constant] = self.constant(f"{names[constant]}/scaled", self.array(names[constant]) * alpha)
        made.append(self.step("MatMul", names, node, node.name))
        if alpha != 1 and constant is None:
            factor = self.constant(f"{node.name}/alpha", alpha)
            made.append(self.step("Mul", [made[-1].output[0], factor], node, f"{node.name}/scaled"))
        made[-1].output[0] = node.output[0]
        return made

    def shape(self, name: str) -> Shape:
        """Dimensions of a tensor; none if they are unknown."""
        return self.shapes.get(name, ())

    def array(self, name: str) -> NDArray[Any]:
        """The values of an initializer."""
        return external.array(self.arrays[name])

    def free(self, name: str) -> str:
        """A name that nothing in the model has, made from a preferred one."""
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name

    def constant(self, name: str, values: NDArray[Any] | np.floating[Any]) -> str:
        """Add an initializer; return its name."""
        made = numpy_helper.from_array(np.array(values), self.free(name))
        self.graph.initializer.append(made)
        self.arrays[made.name] = made
        return str(made.name)

    def matmul(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Take leading dimensions of length 1 from a constant weight, as far as they do not shape the result."""
        weight, source = node.input[1], self.shapes.get(node.input[0])
        if weight not in self.arrays or source is None:
            return [node]
        dims = list(self.arrays[weight].dims)
        lead = dims[:-2]
        if len(dims) > 2 and len(source) >= len(dims) and all(d == 1 for d in lead):
            node.input[1] = self.constant(f"{weight}/matrix", self.array(weight).reshape(dims[-2:]))
        return [node]

    def gemm(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that stand for a ``Gemm``; the product keeps its name."""
        weight, bias = node.input[1], node.input[2] if len(node.input) > 2 else ""
        if weight not in self.arrays or self.array(weight).dtype != np.float32:
            return [node]
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        alpha, beta = float(given.get("alpha", 1.0)), float(given.get("beta", 1.0))
        before: list[onnx.NodeProto] = []
        after: list[onnx.NodeProto] = []
        if given.get("transA", 0):
            turned = self.free(f"{node.input[0]}/transposed")
            before.append(
                helper.make_node("Transpose", [node.input[0]], [turned], name=self.free(f"{node.name}/t"), perm=[1, 0])
            )
            node.input[0] = turned
        if alpha != 1.0:
            node.input[1] = self.constant(f"{weight}/scaled", self.array(weight) * np.float32(alpha))
        if bias:
            columns = int(self.arrays[weight].dims[0 if given.get("transB", 0) else 1])
            row = self._row(bias, columns, beta)
            del node.input[2:]
            if row is not None:
                node.input.append(row)
            else:
                after = self._addition(node, bias, beta)
        kept = [a for a in node.attribute if a.name == "transB"]
        del node.attribute[:]
        node.attribute.extend(kept)
        return [*before, node, *after]

    def _row(self, bias: str, columns: int, beta: float) -> str | None:
        """The name of a bias of shape (columns,) in place of another; None if it is computed or varies by row."""
        if bias not in self.arrays:
            return None
        values = self.array(bias)
        if values.ndim == 2 and values.shape[0] != 1:
            return None
        if values.shape == (columns,) and beta == 1.0:
            return bias
        row = np.broadcast_to(values.reshape(-1) * np.float32(beta), (columns,))
        return self.constant(f"{bias}/row", row.astype(np.float32))

    def _addition(self, node: onnx.NodeProto, bias: str, beta: float) -> list[onnx.NodeProto]:
        """The nodes that add a bias behind a ``Gemm``, whose output becomes the sum."""
        result, made = node.output[0], []
        node.output[0] = self.free(f"{result}/product")
        if beta != 1.0:
            scaled = self.free(f"{bias}/scaled")
            factor = self.constant(f"{bias}/beta", np.float32(beta))
            made.append(helper.make_node("Mul", [bias, factor], [scaled], name=self.free(f"{node.name}/beta")))
            bias = scaled
        made.append(helper.make_node("Add", [node.output[0], bias], [result], name=self.free(f"{node.name}/bias")))
        return made


def plain_products(model: onnx.ModelProto, shapes: dict[str, Shape]) -> None:
    """Rewrite every product with a constant weight to the form that int8 kernels take; see this module.

    Args:
        model: Changed in place.
        shapes: Dimensions of its tensors, None where they are free.
    """
    _Rewriter(model, shapes).run()
