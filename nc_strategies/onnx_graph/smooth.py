"""Groups of tensors whose channels can be scaled together without changing the function of an ONNX model.

A group starts at what writes channels one by one (weights and bias of an operator, scale and bias of a normalization,
a constant that is added or multiplied) and ends at the weights that read them. Between, there are operators that treat
channels alike: Relu, pooling, sums of two branches, and attention, whose weights multiply whole vectors of values. The
first are divided by factors, and the last multiplied by them.

Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", ICML
2023, for normalizations; Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV
2019, for weights, here over residual branches too. Factors are powers of two, so that the floating-point model's
outputs stay the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from nc_strategies.onnx_graph import external
from nc_strategies.onnx_graph.graph import FusedOp, Graph
from nc_strategies.onnx_graph.operands import as_matrices, attributes_of, from_matrices, has_matrix

Array = NDArray[np.float64]
LAST, SECOND = -1, 1
"""Axis of a tensor's channels: the last one around matrix products, axis 1 around convolutions."""
NORMALIZATIONS = {
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3),
    "SkipSimplifiedLayerNormalization": (2,),
    "EmbedLayerNormalization": (5, 6),
}
"""Operator type to the inputs that scale and shift its channels."""
POOLS = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}
PASSING = {"Relu", "LeakyRelu", "Identity", *POOLS}
"""Operator types that compute the same multiple for a channel that is multiplied by a positive factor."""
FLATTENING = {"Flatten", "Reshape", "Squeeze"}
HEADS = [0, 2, 1, 3]
"""Permutation of a tensor of shape (N, length, heads, channels per head) in attention, and back."""


@dataclass
class ChannelGroup:
    """Tensors whose channels can be scaled together.

    Args:
        axes: Tensor to the axis of its channels.
        writers: Operators whose outputs are divided by the factors.
        constants: Constants that are divided by the factors, one element per channel.
        readers: Operators whose weights are multiplied by the factors.
        residual: Whether branches are added within.
        between: Further tensors whose values change: those of an attention, of which heads are an axis of their own.
        added: A tensor that is multiplied by the reciprocal factors for the readers only, by an added operator; empty
            for none. Then nothing else is divided.
    """

    axes: dict[str, int] = field(default_factory=dict)
    writers: dict[str, FusedOp] = field(default_factory=dict)
    constants: list[str] = field(default_factory=list)
    readers: dict[str, FusedOp] = field(default_factory=dict)
    residual: bool = False
    between: list[str] = field(default_factory=list)
    added: str = ""

    def channels(self, graph: Graph) -> int:
        """Number of channels."""
        return _inputs(graph, next(iter(self.readers.values())))

    @property
    def tensors(self) -> frozenset[str]:
        """All tensors whose values change."""
        return frozenset((*self.axes, *self.between))


def channel_groups(graph: Graph) -> list[ChannelGroup]:
    """All groups of a model with a weight at either end, or a normalization at the beginning."""
    found, seen = [], set[str]()
    for op in graph.fused_ops.values():
        if op.inputs and op.inputs[0] not in seen and has_matrix(graph, op):
            walk = _Walk(graph)
            scalable = walk.run(op.inputs[0], SECOND if op.type == "Conv" else LAST)
            seen |= walk.group.axes.keys()
            if scalable:
                found.append(walk.group)
    return found


def branch_groups(graph: Graph) -> list[ChannelGroup]:
    """A group for each normalization that other operators than products read too, as in a residual branch.

    It takes an added multiplication in front of the products.
    """
    found = []
    for node in graph.model.graph.node:
        tensor = node.output[0]
        nodes = graph.consumers.get(tensor, [])
        ops = [graph.fused_ops[n.name] for n in nodes if n.name in graph.fused_ops]
        readers = {op.name: op for op in ops if op.type != "Conv" and has_matrix(graph, op) and op.inputs == (tensor,)}
        if node.op_type in NORMALIZATIONS and readers and len(readers) < len(nodes):
            found.append(ChannelGroup({tensor: LAST}, readers=readers, added=tensor))
    return found


class _Walk:
    """Collects the group of one tensor."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.group = ChannelGroup()
        self.open: list[tuple[str, int]] = []
        self.scaling = {graph.producers[name].name for name in graph.scaled}
        """Nodes that multiply by one positive number."""

    def run(self, tensor: str, axis: int) -> bool:
        """Collect the group; return whether it can be scaled."""
        self.open = [(tensor, axis)]
        while self.open:
            name, axis = self.open.pop()
            if name in self.group.axes:
                if self.group.axes[name] != axis:
                    return False
                continue
            self.group.axes[name] = axis
            if name in self.graph.named or name not in self.graph.producers:
                return False
            if not self.written(self.graph.producers[name], name, axis):
                return False
            if not all(self.read(node, name, axis) for node in self.graph.consumers.get(name, [])):
                return False
        return self.complete()

    def complete(self) -> bool:
        """Whether both ends are there, with the same number of channels each, and nothing is changed twice."""
        group, graph = self.group, self.graph
        counts = {_outputs(graph, op) for op in group.writers.values()}
        counts |= {int(np.prod(graph.initializers[name].dims)) for name in group.constants}
        counts |= {_inputs(graph, op) for op in group.readers.values()}
        own = all(len(graph.consumers[name]) == 1 and name not in graph.outputs for name in group.constants)
        return own and bool(group.readers) and bool(group.writers or group.constants) and len(counts) == 1

    def written(self, node: onnx.NodeProto, name: str, axis: int) -> bool:
        """Follow a tensor to what computes it; return whether its channels can be divided there."""
        op = self.graph.fused_ops.get(node.name)
        if op is not None and op.weight is not None:
            return self.writer(op, axis)
        if node.op_type in NORMALIZATIONS and name == node.output[0]:
            return self.normalization(node, axis)
        if node.op_type in ("Add", "Mul") and node.name not in self.scaling:
            return self.elementwise(node, axis)
        return self.passes(node, name, axis)

    def read(self, node: onnx.NodeProto, name: str, axis: int) -> bool:
        """Follow a tensor to a reader; return whether it can take channels that were divided."""
        op = self.graph.fused_ops.get(node.name)
        if op is not None and op.weight is not None:
            fits = has_matrix(self.graph, op) and (op.type == "Conv") == (axis == SECOND) and node.input[0] == name
            self.group.readers[op.name] = op
            return fits
        if node.op_type == "Add" and node.domain in ("", "ai.onnx"):
            self.open.append((node.output[0], axis))
            return True
        return self.passes(node, name, axis)

    def writer(self, op: FusedOp, axis: int) -> bool:
        """Take the outputs of an operator with a weight."""
        fits = has_matrix(self.graph, op) and (op.type == "Conv") == (axis == SECOND)
        if op.bias is not None:
            fits = fits and op.bias not in self.graph.outputs and len(self.graph.consumers[op.bias]) == 1
        self.group.writers[op.name] = op
        return fits

    def normalization(self, node: onnx.NodeProto, axis: int) -> bool:
        """Take the scale and the shift of a normalization over the last axis."""
        last = next((a.i for a in node.attribute if a.name == "axis"), LAST)
        names = [node.input[i] for i in NORMALIZATIONS[node.op_type] if i < len(node.input) and node.input[i]]
        if axis != LAST or last != LAST or not all(name in self.graph.initializers for name in names):
            return False
        self.group.constants += names
        return bool(names)

    def elementwise(self, node: onnx.NodeProto, axis: int) -> bool:
        """Take a constant that is added or multiplied, or both branches of a sum."""
        constants = [name for name in node.input if name in self.graph.initializers]
        others = [name for name in node.input if name not in self.graph.initializers]
        if len(constants) == 1 and self.is_per_channel(constants[0], others[0], axis):
            self.group.constants += constants
            if node.op_type == "Add":
                self.open.append((others[0], axis))
            return True
        if constants or node.op_type != "Add" or not self.alike(others, axis):
            return False
        self.group.residual = True
        self.open += [(name, axis) for name in others]
        return True

    def is_per_channel(self, constant: str, other: str, axis: int) -> bool:
        """Whether a constant has one element per channel of a tensor."""
        dims = list(self.graph.initializers[constant].dims)
        if axis == SECOND:
            # Spatial axes follow that of the channels; their number is that of the other operand.
            rank = len(self.graph.shapes.get(other, ()))
            place = len(dims) - (rank - SECOND)
            return rank > SECOND and 0 <= place < len(dims) and dims[place] == int(np.prod(dims)) > 1
        return bool(dims) and dims[-1] == int(np.prod(dims)) > 1

    def alike(self, branches: Sequence[str], axis: int) -> bool:
        """Whether two branches have the same rank and number of channels, so that no channel is repeated."""
        shapes = [self.graph.shapes.get(name, ()) for name in branches]
        ranks = {len(shape) for shape in shapes}
        if len(ranks) != 1 or max(ranks) < 2:
            return False
        counts = {shape[axis] for shape in shapes}
        return len(counts) == 1 and None not in counts

    def passes(self, node: onnx.NodeProto, name: str, axis: int) -> bool:
        """Follow a tensor over an operator that treats channels alike, in either direction."""
        if node.domain not in ("", "ai.onnx"):
            return False
        forward = name in node.input
        if node.op_type in PASSING or node.name in self.scaling:
            return self.computes_alike(node, forward, axis)
        if node.op_type in FLATTENING and self.flattens(node):
            self.open.append((node.output[0], LAST) if forward else (node.input[0], SECOND))
            return axis == (SECOND if forward else LAST)
        return node.op_type == "Reshape" and axis == LAST and self.attends(node, forward)

    def computes_alike(self, node: onnx.NodeProto, forward: bool, axis: int) -> bool:
        """Follow a tensor over a function of each element, a pool, or a multiplication by one number."""
        if node.op_type in POOLS and (axis != SECOND or len([n for n in node.output if n]) != 1):
            return False
        source = self.graph.scaled[node.output[0]][0] if node.name in self.scaling else node.input[0]
        self.open.append((node.output[0] if forward else source, axis))
        return True

    def attends(self, node: onnx.NodeProto, forward: bool) -> bool:
        """Follow the values of an attention to its output, or back."""
        start = node if forward else self.values_of(node)
        between = self.attention_after(start) if start is not None else []
        if start is None or not between or not (forward or between[-1] == node.output[0]):
            return False
        self.group.between += between[:-1]
        self.open.append((between[-1] if forward else start.input[0], LAST))
        return True

    def flattens(self, node: onnx.NodeProto) -> bool:
        """Whether a node only takes away spatial axes of length 1, as they are left by global pooling."""
        maker = self.graph.producers.get(node.input[0])
        pooled = maker is not None and maker.op_type in ("GlobalAveragePool", "GlobalMaxPool")
        return pooled and len(self.graph.shapes.get(node.output[0], ())) == 2

    def attention_after(self, node: onnx.NodeProto) -> list[str]:
        """The tensors from the node that divides an attention's values into heads, to its output with merged heads.

        The output is the last; none if what follows is no attention.
        """
        split = self.only_reader(node, "Transpose")
        product = self.only_reader(split, "MatMul")
        if split is None or product is None or not _permutes(split) or product.input[1] != split.output[0]:
            return []
        merged = self.only_reader(product, "Transpose")
        end = self.only_reader(merged, "Reshape")
        if merged is None or end is None or not _permutes(merged) or end.input[0] != merged.output[0]:
            return []
        return [str(n.output[0]) for n in (node, split, product, merged, end)]

    def values_of(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The node that divides an attention's values into heads, from the one that merges the heads of its output."""
        merged = self.maker(node.input[0], "Transpose")
        product = self.maker(merged.input[0], "MatMul") if merged is not None else None
        split = self.maker(product.input[1], "Transpose") if product is not None else None
        return self.maker(split.input[0], "Reshape") if split is not None else None

    def only_reader(self, node: onnx.NodeProto | None, op_type: str) -> onnx.NodeProto | None:
        """The only reader of a node's output, if it has a type."""
        if node is None or node.output[0] in self.graph.named:
            return None
        readers = self.graph.consumers.get(node.output[0], [])
        return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None

    def maker(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """What computes a tensor, if it has a type."""
        node = self.graph.producers.get(name)
        return node if node is not None and node.op_type == op_type else None


def _permutes(node: onnx.NodeProto) -> bool:
    return any(a.name == "perm" and list(a.ints) == HEADS for a in node.attribute)


def _outputs(graph: Graph, op: FusedOp) -> int:
    assert op.weight is not None
    dims = graph.initializers[op.weight].dims
    return int(dims[0] if op.type == "Conv" or attributes_of(op).get("transB") else dims[-1])


def _inputs(graph: Graph, op: FusedOp) -> int:
    assert op.weight is not None
    dims = graph.initializers[op.weight].dims
    if op.type == "Conv":
        return int(dims[1]) * int(attributes_of(op).get("group", 1))
    return int(dims[1] if attributes_of(op).get("transB") else dims[0])


def per_row(op: FusedOp, weight_shape: Sequence[int], factors: NDArray[Any]) -> NDArray[Any]:
    """Factors of an operator's input channels in the order of its rows, shape (G, K)."""
    if op.type != "Conv":
        return factors[None]
    groups = int(attributes_of(op).get("group", 1))
    return np.repeat(factors.reshape(groups, -1), int(np.prod(weight_shape[2:])), axis=1)


def scaled(graph: Graph, chosen: Sequence[tuple[ChannelGroup, Array]]) -> Graph:
    """The model with the channels of groups divided by factors of shape (channels,)."""
    changed: dict[str, NDArray[np.float32]] = {}
    added: dict[str, tuple[ChannelGroup, Array]] = {}

    def values(name: str) -> NDArray[np.float32]:
        return changed.get(name, graph.array(name))

    for group, factors in chosen:
        if group.added:
            added[group.added] = group, factors
        for op in group.writers.values():
            assert op.weight is not None
            matrices = as_matrices(op, values(op.weight))
            by_output = (1 / factors).reshape(len(matrices), 1, -1)
            changed[op.weight] = _as_before(op, matrices * by_output, values(op.weight))
            if op.bias is not None:
                changed[op.bias] = np.asarray(values(op.bias) / factors, values(op.bias).dtype)
        for name in group.constants:
            before = values(name)
            changed[name] = np.asarray((before.reshape(-1) / factors).reshape(before.shape), before.dtype)
        for op in group.readers.values():
            assert op.weight is not None
            before = values(op.weight)
            matrices = as_matrices(op, before) * per_row(op, before.shape, factors)[..., None]
            changed[op.weight] = _as_before(op, matrices, before)
    return _with(graph, changed, added)


def _as_before(op: FusedOp, matrices: NDArray[np.float64], before: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(from_matrices(op, matrices, before.shape), before.dtype)


def _with(
    graph: Graph, changed: Mapping[str, NDArray[np.float32]], added: Mapping[str, tuple[ChannelGroup, Array]]
) -> Graph:
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for initializer in model.graph.initializer:
        if initializer.name in changed:
            name, values = initializer.name, changed[initializer.name]
            made = external.tensor(name, values) if graph.files is None else graph.files.tensor(name, values)
            initializer.CopyFrom(made)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        model.graph.node.append(node)
        if node.output and node.output[0] in added:
            group, factors = added[node.output[0]]
            constant, name = graph.fresh(f"{group.added}/factors"), scaled_name(graph, group)
            model.graph.initializer.append(numpy_helper.from_array((1 / factors).astype(np.float32), constant))
            model.graph.node.append(
                onnx.helper.make_node("Mul", [group.added, constant], [name], name=graph.fresh(f"{group.added}/mul"))
            )
    for node in model.graph.node:
        for group, _ in added.values():
            if node.name in group.readers:
                node.input[0] = scaled_name(graph, group)
    return Graph(model, files=graph.files)


def scaled_name(graph: Graph, group: ChannelGroup) -> str:
    """Name of the tensor that an added multiplication computes."""
    return graph.fresh(f"{group.added}/scaled")
