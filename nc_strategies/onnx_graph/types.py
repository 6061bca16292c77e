"""Graphs in half, bfloat16 or double precision are computed in float32; inputs and outputs keep their types.

int8 kernels read and write float32 next to them, and most float kernels of CPUs exist in float32 only. A model that
computes its products in another floating-point type is converted: weights, constants and the types that operators name,
also in the bodies of branches and loops, with a Cast at each input and output. An operator that has no float32 version
stays as it is, between two Casts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper

from nc_strategies.onnx_graph import external
from nc_strategies.onnx_graph.names import bodies, captured, names_in

NAMES = {
    TensorProto.FLOAT16: "tensor(float16)",
    TensorProto.BFLOAT16: "tensor(bfloat16)",
    TensorProto.DOUBLE: "tensor(double)",
}
"""ONNX type to its name in operator schemas, for the types that are converted."""
FLOAT = "tensor(float)"
PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "FusedMatMul", "FusedGemm", "FusedConv", "LSTM", "GRU", "RNN"}
PRODUCTS |= {"Attention", "MultiHeadAttention", "GroupQueryAttention", "EmbedLayerNormalization", "Einsum"}
"""Operators that take most of a model's time. If none of them computes in a type, nothing is gained by converting."""
TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "output_dtype")
"""Attributes that name the type of a result."""
TYPE_BY_BITS = {"BitCast"}
"""Operators whose result depends on the bits of their input, and so on its type."""
ELEMENT_OF = {"SequenceAt", "OptionalGetElement"}
"""Operators whose result is an element of their first input."""
OWN_DOMAINS = ("", "ai.onnx")
CONTRIBUTED = "com.microsoft"
"""Domain of onnxruntime's own operators. Those without a body have float32 kernels wherever they have others."""

Types = dict[str, str]
"""Tensor to its type, as operator schemas name it; a tensor of unknown type is missing."""


def compute_in_float32(model: onnx.ModelProto, files: external.WeightFiles | None = None) -> tuple[str, ...]:
    """Convert a model whose products are in another floating-point type.

    Args:
        model: Changed in place. It has no local functions, and none of its inputs is an initializer.
        files: Where the weights of a large model are stored.

    Returns:
        The names of the types that were converted: ``float16``, ``bfloat16``, ``double``.
    """
    versions = {o.domain: o.version for o in model.opset_import}
    types: Types = {}
    found = _product_types(model.graph, types, versions)
    wanted = {data_type: name for data_type, name in NAMES.items() if name in found}
    if not wanted:
        return ()
    _Conversion(wanted, versions, files, names_in(model)).main(model.graph)
    return tuple(name.removeprefix("tensor(").removesuffix(")") for name in wanted.values())


def type_name(value: onnx.TypeProto) -> str:
    """A type as operator schemas name it; empty if it is unknown."""
    kind = value.WhichOneof("value")
    if kind == "tensor_type" and value.tensor_type.elem_type:
        return _tensor_name(value.tensor_type.elem_type)
    if kind in ("sequence_type", "optional_type"):
        word = "seq" if kind == "sequence_type" else "optional"
        return f"{word}({type_name(getattr(value, kind).elem_type)})"
    return kind or ""


def _tensor_name(data_type: int) -> str:
    return f"tensor({TensorProto.DataType.Name(data_type).lower()})"


def _stored_types(graph: GraphProto) -> Types:
    found = {i.name: _tensor_name(i.data_type) for i in graph.initializer}
    found |= {value.name: name for value in (*graph.input, *graph.output) if (name := type_name(value.type))}
    return found


def _product_types(graph: GraphProto, outer: Types, versions: Mapping[str, int]) -> set[str]:
    """Types of the tensors that products read, also within branches and loops."""
    types, found = {**outer, **_stored_types(graph)}, set()
    for node in graph.node:
        for body in bodies(node):
            found |= _product_types(body, types, versions)
        if node.op_type in PRODUCTS:
            found |= {types[name] for name in node.input if name in types}
        infer(node, types, versions)
    return found


def infer(node: NodeProto, types: Types, versions: Mapping[str, int]) -> None:
    """Add the types of a node's outputs to those of its inputs."""
    schema = _schema(node, versions)
    for index, name in enumerate(node.output):
        found = _body_type(node, index, types, versions) or _named_type(node) or _same_type(node, index, schema, types)
        if name and found:
            types[name] = found


def _schema(node: NodeProto, versions: Mapping[str, int]) -> Any:
    own = node.domain in OWN_DOMAINS
    version = versions.get("", versions.get("ai.onnx", 1)) if own else versions.get(node.domain, 1)
    try:
        return onnx.defs.get_schema(node.op_type, version, "" if own else node.domain)
    except onnx.defs.SchemaError:
        return None


def _body_type(node: NodeProto, index: int, types: Types, versions: Mapping[str, int]) -> str:
    """The type of a result that a branch or a loop's body returns."""
    body = next(iter(bodies(node)), None)
    if body is None:
        return ""
    position = index + 1 if node.op_type == "Loop" else index  # A loop's body returns its condition first.
    if position >= len(body.output):
        return ""
    stated = type_name(body.output[position].type)
    if stated:
        return stated
    inner = {**types, **_stored_types(body)}
    for one in body.node:
        infer(one, inner, versions)
    return inner.get(body.output[position].name, "")


def _named_type(node: NodeProto) -> str:
    """The type that a node's attributes name."""
    attributes = {a.name: a for a in node.attribute}
    for name in TYPE_ATTRIBUTES:
        if name in attributes and attributes[name].i:
            kind = _tensor_name(attributes[name].i)
            return f"seq({kind})" if node.op_type == "SequenceEmpty" else kind
    if node.op_type in ("Constant", "ConstantOfShape"):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                return _tensor_name(attribute.t.data_type)
            if attribute.name == "sparse_value":
                return _tensor_name(attribute.sparse_tensor.values.data_type)
    return ""


def _same_type(node: NodeProto, index: int, schema: Any, types: Types) -> str:
    """The type of a result by the operator's schema: fixed, or that of an input."""
    if schema is None:
        floats = (types.get(name, "") for name in node.input)
        return next((t for t in floats if t == FLOAT or t in NAMES.values()), "")
    if not schema.outputs:
        return ""
    formal = _formal(schema.outputs, index)
    if node.op_type in ELEMENT_OF and node.input[0] in types:
        return types[node.input[0]].partition("(")[2].removesuffix(")")
    for position, name in enumerate(node.input):
        if name in types and _formal(schema.inputs, position).type_str == formal.type_str:
            return types[name]
    allowed = {str(kind) for kind in formal.types}
    return next(iter(allowed)) if len(allowed) == 1 else ""


def _formal(formals: Any, position: int) -> Any:
    """The formal parameter of an argument; the last one may stand for several."""
    return formals[min(position, len(formals) - 1)]


class _Conversion:
    """One conversion of a model.

    Args:
        wanted: ONNX types to convert, and their names.
        versions: Domain to opset version.
        files: Where the weights of a large model are stored.
        taken: Names that the model uses.
    """

    def __init__(
        self,
        wanted: Mapping[int, str],
        versions: Mapping[str, int],
        files: external.WeightFiles | None,
        taken: set[str],
    ) -> None:
        self.wanted, self.versions, self.files, self.taken = wanted, versions, files, taken
        self.names = set(wanted.values())
        self.originals: dict[str, TensorProto] = {}
        self.backward: set[str] = set()

    def main(self, graph: GraphProto) -> None:
        """Convert a model's graph, with Casts at its inputs and outputs."""
        inputs, outputs = self.ends(graph.input), self.ends(graph.output)
        originals = [self.copied(i) for i in graph.initializer if i.name in outputs]
        stored = {i.name for i in originals}
        before = {name: self.free(f"{name}/float32") for name in inputs}
        after = {name: self.free(f"{name}/float32") for name in outputs if name not in before}
        self.graph(graph, _stored_types(graph))
        rename([node for node in graph.node if node.name not in self.backward], before | after)
        rename([node for node in graph.node if node.name in self.backward], after)
        self.rename_results(graph, after)
        graph.initializer.extend(originals)
        casts = [self.cast(name, inner, TensorProto.FLOAT) for name, inner in before.items()]
        casts_back = [self.cast(inner, name, outputs[name]) for name, inner in after.items() if name not in stored]
        nodes = [*casts, *graph.node, *casts_back]
        del graph.node[:]
        graph.node.extend(nodes)

    def ends(self, values: Iterable[onnx.ValueInfoProto]) -> dict[str, int]:
        """Inputs or outputs that are to be converted, and their ONNX types."""
        return {v.name: v.type.tensor_type.elem_type for v in values if type_name(v.type) in self.names}

    @staticmethod
    def rename_results(graph: GraphProto, names: Mapping[str, str]) -> None:
        """Rename what nodes and initializers of a graph define."""
        for node in graph.node:
            for index, name in enumerate(node.output):
                node.output[index] = names.get(name, name)
        for initializer in graph.initializer:
            initializer.name = names.get(initializer.name, initializer.name)

    def graph(self, graph: GraphProto, types: Types) -> None:
        """Convert a graph; its inputs and outputs are float32 inside.

        Args:
            graph: Changed in place.
            types: The types that inputs, initializers and tensors outside had before the conversion.
        """
        self.weights(graph)
        nodes: list[NodeProto] = []
        for node in graph.node:
            infer(node, types, self.versions)
            if self.convertible(node, types):
                nodes.append(self.converted(node, types))
            else:
                nodes += self.between_casts(graph, node, types)
        del graph.node[:]
        graph.node.extend(nodes)
        del graph.value_info[:]

    def weights(self, graph: GraphProto) -> None:
        """Convert the initializers of a graph one by one."""
        for initializer in graph.initializer:
            if initializer.data_type in self.wanted:
                self.originals[initializer.name] = self.copied(initializer)
                initializer.CopyFrom(self.tensor(initializer))

    @staticmethod
    def copied(tensor: TensorProto) -> TensorProto:
        """A copy of a tensor."""
        copy = TensorProto()
        copy.CopyFrom(tensor)
        return copy

    def tensor(self, tensor: TensorProto) -> TensorProto:
        """A tensor in float32."""
        values = external.array(tensor).astype(np.float32)
        return external.tensor(tensor.name, values) if self.files is None else self.files.tensor(tensor.name, values)

    def free(self, name: str) -> str:
        """A name that the model does not use."""
        number, chosen = 1, name
        while chosen in self.taken:
            number, chosen = number + 1, f"{name}_{number}"
        self.taken.add(chosen)
        return chosen

    def cast(self, source: str, target: str, to: int) -> NodeProto:
        """A Cast between two tensors."""
        return helper.make_node("Cast", [source], [target], name=self.free(f"{target}/cast"), to=to)

    def convertible(self, node: NodeProto, types: Types) -> bool:
        """Whether a node computes the same in float32, as far as the type's precision goes."""
        read = {types.get(name, "") for name in (*node.input, *node.output, *captured(node))}
        if not any(name in word for name in self.names for word in read):
            # Nothing to convert but what the node stores, which a node without inputs may do.
            return not self.typed_attributes(node)
        if self.bound_to_type(node) or any(name in word for name in self.names for word in read - self.names):
            return False  # The latter is a sequence or an optional of the type.
        schema = _schema(node, self.versions)
        if schema is None:
            return node.domain == CONTRIBUTED and not bodies(node)
        return (
            node.domain in OWN_DOMAINS
            and self.allowed(schema.inputs, node.input, types)
            and self.allowed(schema.outputs, node.output, types)
        )

    def allowed(self, formals: Any, names: Iterable[str], types: Types) -> bool:
        """Whether an operator takes or returns float32 wherever it has a type that is to be converted."""
        return all(
            FLOAT in _formal(formals, index).types for index, name in enumerate(names) if types.get(name) in self.names
        )

    def bound_to_type(self, node: NodeProto) -> bool:
        """Whether the result of a node depends on the type itself, not only on its precision."""
        return node.op_type in TYPE_BY_BITS or self.to_text(node) or self.typed_attributes(node)

    @staticmethod
    def to_text(node: NodeProto) -> bool:
        """Whether a node writes numbers as text, which shows their precision."""
        return node.op_type == "Cast" and any(a.name == "to" and a.i == TensorProto.STRING for a in node.attribute)

    def typed_attributes(self, node: NodeProto) -> bool:
        """Whether a node stores tensors of the type that only fit inputs of the type, as tree ensembles do."""
        if node.op_type in ("Constant", "ConstantOfShape"):
            return any(a.name == "sparse_value" for a in node.attribute)
        stored = [t for a in node.attribute for t in (*a.tensors, *([a.t] if a.HasField("t") else []))]
        return any(t.data_type in self.wanted for t in stored)

    def converted(self, node: NodeProto, types: Types) -> NodeProto:
        """A node in float32."""
        for attribute in node.attribute:
            if attribute.name in TYPE_ATTRIBUTES and attribute.i in self.wanted:
                attribute.i = TensorProto.FLOAT
            elif attribute.HasField("t") and attribute.t.data_type in self.wanted:
                attribute.t.CopyFrom(self.tensor(attribute.t))
        for body in bodies(node):
            inner = {**types, **_stored_types(body)}
            for value in (*body.input, *body.output):
                if type_name(value.type) in self.names:
                    value.type.tensor_type.elem_type = TensorProto.FLOAT
            self.graph(body, inner)
        return node

    def between_casts(self, graph: GraphProto, node: NodeProto, types: Types) -> list[NodeProto]:
        """A node that keeps its type, with Casts in front of it and behind it."""
        nodes, names = [], {}
        for name in sorted({*node.input, *captured(node)}):
            if types.get(name) not in self.names:
                continue
            names[name] = self.free(f"{name}/given")
            original = self.originals.get(name)
            if original is not None and name in {i.name for i in graph.initializer}:
                original = self.copied(original)
                original.name = names[name]
                graph.initializer.append(original)
            else:
                nodes.append(self.cast(name, names[name], self.data_type(types[name])))
                self.backward.add(nodes[-1].name)
        rename([node], names)
        nodes.append(node)
        for index, name in enumerate(node.output):
            if types.get(name) in self.names:
                node.output[index] = self.free(f"{name}/given")
                nodes.append(self.cast(node.output[index], name, TensorProto.FLOAT))
        return nodes

    def data_type(self, name: str) -> int:
        """The ONNX type of a name."""
        return next(data_type for data_type, word in self.wanted.items() if word == name)


def rename(nodes: Iterable[NodeProto], names: Mapping[str, str]) -> None:
    """Let nodes, and the graphs within them, read other tensors."""
    for node in nodes:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for body in bodies(node):
            rename(body.node, names)
            for output in body.output:
                output.name = names.get(output.name, output.name)
