"""The operators that have an int8 kernel, each with what the kernel takes in: bias, residual sum, activation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nc_strategies.backends.tensorflow.fold import WEIGHTED
from nc_strategies.backends.tensorflow.graph import Graph, Node, node_of
from nc_strategies.backends.tensorflow.matrix_products import Shape, static_types

ACTIVATIONS = ("Relu", "Relu6")
CARRIERS = frozenset(
    {
        "MaxPool",
        "AvgPool",
        "Pad",
        "Reshape",
        "Squeeze",
        "ExpandDims",
        "ConcatV2",
        "Slice",
        "StridedSlice",
        "DepthToSpace",
        "SpaceToDepth",
        "Transpose",
    }
)
"""Operators that run on int8 tensors as they come, when one comes in and an int8 operator reads what goes out."""
ALIASES = frozenset({"Identity", "Reshape", "Squeeze", "ExpandDims", "Slice", "StridedSlice", "Transpose"})
"""Operators whose outputs may lie in the memory of their input."""
NONNEGATIVE = frozenset({"Relu", "Relu6", "Sigmoid", "Softmax", "Softplus", "Abs", "Square", "Exp"})
KEEP_SIGN = CARRIERS | {
    "Mean",
    "Max",
    "AddV2",
    "Mul",
    "ResizeBilinear",
    "ResizeNearestNeighbor",
    "MirrorPad",
    "Tile",
    "AddN",
    "Maximum",
}
"""Operators whose output has no negative value when none of their floating-point inputs has one."""


@dataclass(frozen=True)
class FusedOp:
    """One operator with a weight, and the operators after it that its int8 kernel computes as well.

    Args:
        name: Name of the weighted node; the operator's name in the search space.
        op: Its type.
        source: The tensor it reads, in front of a zero padding that the kernel takes in.
        weight: Its weight, a constant.
        output: The tensor that leaves it, after bias, sum and activation.
        bias: The bias, a constant, or none.
        addend: The other side of a residual addition, or none.
        activation: ``Relu``, ``Relu6`` or ``""``.
        paddings: Explicit padding of height and width: before and after, each; empty when the node says how it pads.
        absorbed: The nodes that are computed inside, the weighted one left out.
    """

    name: str
    op: str
    source: str
    weight: str
    output: str
    bias: str = ""
    addend: str = ""
    activation: str = ""
    paddings: tuple[int, ...] = ()
    absorbed: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Matched:
    """The fused operators of a simplified graph, and what is known of its tensors.

    Args:
        fused_ops: Fused operators by name, in execution order.
        shapes: Static shapes by tensor.
        nonnegative: Tensors that never hold a negative value.
        dtypes: Types by tensor.
    """

    fused_ops: dict[str, FusedOp]
    shapes: dict[str, Shape | None]
    nonnegative: frozenset[str]
    dtypes: dict[str, Any]


def match(graph: Graph, outputs: Iterable[str]) -> Matched:
    """Find the fused operators of a simplified graph.

    Args:
        graph: The graph.
        outputs: Tensors that are fetched, which therefore cannot disappear inside a fused operator.
    """
    readers = graph.consumers()
    fetched = set(outputs)
    order = {node.name: position for position, node in enumerate(graph.ordered())}
    shapes, dtypes = static_types(graph)
    fused_ops: dict[str, FusedOp] = {}
    taken: set[str] = set()
    # The later operand of a residual addition takes it in: the earlier one is then available as its addend.
    for node in sorted((n for n in graph.nodes.values() if n.op in WEIGHTED), key=lambda n: -order[n.name]):
        if _has_kernel(graph, node) and not is_grouped(graph, node, shapes):
            fused_op = _grow(graph, node, readers, fetched, taken, shapes)
            taken.update(fused_op.absorbed)
            fused_ops[node.name] = fused_op
    ordered = {name: fused_ops[name] for name in sorted(fused_ops, key=order.__getitem__)}
    return Matched(ordered, shapes, _nonnegative(graph), dtypes)


def _has_kernel(graph: Graph, node: Node) -> bool:
    weight = graph.value(node.input[1])
    if weight is None or weight.dtype != np.float32:
        return False
    if node.op == "MatMul":
        return not node.attr["transpose_a"].b
    strides, dilations = list(node.attr["strides"].list.i), list(node.attr["dilations"].list.i) or [1] * 4
    return (
        node.attr["data_format"].s in (b"", b"NHWC")
        and strides[0] == strides[3] == 1
        and dilations[0] == dilations[3] == 1
    )


def is_grouped(graph: Graph, node: Node, shapes: Mapping[str, Shape | None]) -> bool:
    """Whether a convolution has several groups of channels: no int8 kernel computes those."""
    if node.op != "Conv2D":
        return False
    weight, source = graph.value(node.input[1]), shapes.get(node.input[0])
    return weight is not None and source is not None and source[-1:] not in ((), (None,), (weight.shape[2],))


def _grow(
    graph: Graph,
    node: Node,
    readers: dict[str, list[Node]],
    fetched: set[str],
    taken: set[str],
    shapes: dict[str, Shape | None],
) -> FusedOp:
    growth = _Growth(graph, readers, fetched, taken, node.name)
    bias = growth.bias()
    source, paddings = _before_padding(graph, node)
    addend = growth.addend(shapes, node) if node.op == "Conv2D" and bias else ""
    activation = growth.activation()
    return FusedOp(
        node.name,
        node.op,
        source,
        node.input[1],
        growth.end,
        bias,
        addend,
        activation,
        paddings,
        tuple(growth.absorbed),
    )


@dataclass
class _Growth:
    """What a fused operator takes in behind its weighted node, as long as nothing else reads what is in between.

    Args:
        graph: The graph.
        readers: Nodes that read each tensor.
        fetched: Tensors that cannot disappear.
        taken: Nodes that another fused operator took in.
        end: The fused operator's last node so far.
        absorbed: The nodes taken in.
    """

    graph: Graph
    readers: dict[str, list[Node]]
    fetched: set[str]
    taken: set[str]
    end: str
    absorbed: list[str] = field(default_factory=list)

    def bias(self) -> str:
        """The constant that a BiasAdd adds; empty without one."""
        after = self._following("BiasAdd")
        if after is None or self.graph.value(after.input[1]) is None:
            return ""
        self._take(after)
        return str(after.input[1])

    def addend(self, shapes: dict[str, Shape | None], node: Node) -> str:
        """The other side of an addition that an activation alone reads; empty without one."""
        after = self._following("AddV2", "Add")
        if after is None:
            return ""
        other = str(after.input[1] if after.input[0] == self.end else after.input[0])
        computed = other != self.end and self.graph.value(other) is None
        if not computed or not self._read_by_activation(after) or not _same_shape(shapes, other, self.end):
            return ""
        if not self._may_be_overwritten(other, node, after):
            return ""
        self._take(after)
        return other

    def _may_be_overwritten(self, addend: str, node: Node, sum_: Node) -> bool:
        """Whether all that reads an addend has run before the operator that takes it in.

        The kernel writes the sum into the addend's memory, and crashes the process if something else holds it.
        """
        before = _ancestors(self.graph, node)
        stack, seen = [_owner_of_memory(self.graph, addend)], set()
        while stack:
            tensor = stack.pop()
            if tensor in seen:
                continue
            seen.add(tensor)
            if tensor in self.fetched:
                return False
            for reader in self.readers.get(tensor, ()):
                # A convolution that takes in the padding in front of it reads what the padding reads.
                if reader.op in ALIASES or reader.op == "Pad":
                    stack.append(reader.name)
                elif reader is not sum_ and reader.name not in before:
                    return False
        return True

    def activation(self) -> str:
        """The type of the activation function; empty without one."""
        after = self._following(*ACTIVATIONS)
        if after is None:
            return ""
        self._take(after)
        return str(after.op)

    def _following(self, *kinds: str) -> Node | None:
        after = self.readers.get(self.end, ())
        if self.end in self.fetched or len(after) != 1 or after[0].name in self.taken:
            return None
        return after[0] if after[0].op in kinds else None

    def _read_by_activation(self, node: Node) -> bool:
        behind = self.readers.get(node.name, [])
        return node.name not in self.fetched and len(behind) == 1 and behind[0].op in ACTIVATIONS

    def _take(self, node: Node) -> None:
        self.end = node.name
        self.absorbed.append(node.name)


def _owner_of_memory(graph: Graph, tensor: str) -> str:
    """The tensor whose memory a tensor shares."""
    while node_of(tensor) in graph.nodes and graph.nodes[node_of(tensor)].op in ALIASES:
        tensor = graph.nodes[node_of(tensor)].input[0]
    return tensor


def _ancestors(graph: Graph, node: Node) -> set[str]:
    """The nodes that have run before a node runs."""
    found: set[str] = set()
    stack = [node_of(text) for text in node.input]
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack.extend(node_of(text) for text in graph.nodes[name].input)
    return found


def _same_shape(shapes: dict[str, Shape | None], one: str, other: str) -> bool:
    first, second = shapes.get(one), shapes.get(other)
    return first is not None and second is not None and first == second and None not in first[1:]


def _before_padding(graph: Graph, node: Node) -> tuple[str, tuple[int, ...]]:
    source = node.input[0]
    pad = graph.nodes.get(source)
    if node.op == "MatMul" or pad is None or pad.op != "Pad" or node.attr["padding"].s != b"VALID":
        return source, ()
    amounts = graph.value(pad.input[1])
    if amounts is None or amounts.shape != (4, 2) or amounts[[0, 3]].any():
        return source, ()
    return pad.input[0], tuple(int(amount) for amount in amounts[1:3].ravel())


def _nonnegative(graph: Graph) -> frozenset[str]:
    found: set[str] = set()
    for node in graph.ordered():
        if node.op in NONNEGATIVE:
            found.add(node.name)
        elif node.op in KEEP_SIGN:
            count = (
                1
                if node.op
                in (
                    "MaxPool",
                    "AvgPool",
                    "Pad",
                    "Reshape",
                    "Squeeze",
                    "Mean",
                    "Max",
                    "Transpose",
                    "ExpandDims",
                    "Slice",
                    "StridedSlice",
                    "Tile",
                    "MirrorPad",
                )
                else len(node.input) - (node.op == "ConcatV2")
            )
            if all(text in found or _constant_nonnegative(graph, text) for text in node.input[:count]):
                found.add(node.name)
    return frozenset(found)


def _constant_nonnegative(graph: Graph, tensor: str) -> bool:
    value = graph.value(tensor)
    return value is not None and value.dtype.kind == "f" and bool((value >= 0).all())
