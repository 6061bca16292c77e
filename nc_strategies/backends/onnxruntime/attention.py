"""Attention in floating point as one kernel: onnxruntime's ``MultiHeadAttention`` in place of its steps.

The products that make queries, keys and values stay operators of their own, so that each keeps its choice of a mode.
What is fused is what lies between them and the output's product: the split into heads, both products of activations,
the mask, the Softmax, and the merging of the heads. The fusion is made in the graph of a configuration, where all these
steps are in floating point; the int8 forms of its products stay choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from nc_strategies.onnx_graph.fuse import ENGINE
from nc_strategies.onnx_graph.graph import Graph
from nc_strategies.onnx_graph.names import reads

SPLIT, SPLIT_TRANSPOSED, SWAPPED = [0, 2, 1, 3], [0, 2, 3, 1], [0, 1, 3, 2]
"""Orders of axes: (batch, rows, heads, size) to (batch, heads, rows, size); to (batch, heads, size, rows); and the last
two axes swapped."""
RANK = 4
KIND = "MultiHeadAttention"


class _Different(Exception):
    """The steps are not those of an attention."""


@dataclass
class Core:
    """The steps of one attention between its projections.

    Args:
        sources: Names of queries, keys and values, each of shape (batch, rows, heads * size).
        heads: Number of heads.
        scale: Factor of the scores.
        mask: Name of what is added to the scores, or None.
        steps: The nodes, the last of which merges the heads.
        name: Name of the product of queries and keys.
    """

    sources: tuple[str, str, str]
    heads: int
    scale: float
    mask: str | None
    steps: list[onnx.NodeProto] = field(default_factory=list)
    name: str = ""


class AttentionFusion:
    """Finds the attentions in a list of nodes and puts a kernel in the place of each.

    Args:
        graph: The prepared model that the nodes were made from: shapes and constants are its own.
        nodes: The nodes of a graph of one configuration, in order.
    """

    def __init__(self, graph: Graph, nodes: Sequence[onnx.NodeProto]) -> None:
        self.graph = graph
        self.nodes = nodes
        self.producers = {name: node for node in nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in nodes:
            for name in reads(node):
                self.readers.setdefault(name, []).append(node)

    def cores(self) -> list[Core]:
        """All attentions whose steps are in floating point."""
        found = []
        for node in self.nodes:
            if node.op_type == "Softmax" and node.domain in ("", "ai.onnx"):
                try:
                    found.append(self.core(node))
                except _Different:
                    continue
        return found

    def core(self, softmax: onnx.NodeProto) -> Core:
        """The attention around a Softmax."""
        attributes = _attributes(softmax)
        _require(attributes.get("axis", -1) in (-1, RANK - 1))
        mix = self._only_reader(softmax.output[0], "MatMul")
        _require(mix.input[0] == softmax.output[0])
        merge = self._only_reader(mix.output[0], "Transpose")
        _require(_order(merge) == SPLIT)
        last = self._only_reader(merge.output[0], "Reshape")
        scores, mask, above = self._masked(softmax.input[0])
        product, scale, scaled = self._scaled(scores)
        _require(product.op_type == "MatMul" and len(self.readers.get(product.output[0], [])) == 1)
        query, heads, size, query_scale, of_query = self._heads(product.input[0], False)
        key, key_heads, key_size, key_scale, of_key = self._heads(product.input[1], True)
        value, value_heads, value_size, value_scale, of_value = self._heads(mix.input[1], False)
        _require(heads == key_heads == value_heads and size == key_size and value_scale == 1.0)
        _require(self._width(last.output[0], len(self.graph.shapes.get(last.output[0], ()))) == heads * value_size)
        steps = [*of_query, *of_key, product, *scaled, *above, softmax, *of_value, mix, merge, last]
        _require(not any(name in self.graph.named for step in steps[:-1] for name in step.output))
        return Core(
            (query, key, value), heads, scale * query_scale * key_scale, mask, steps, str(product.name or softmax.name)
        )

    def _masked(self, name: str) -> tuple[str, str | None, list[onnx.NodeProto]]:
        """Scores, the mask that is added to them, and the node that adds it."""
        node = self.producers.get(name)
        if node is None or node.op_type not in ("Add", "Sum") or len(node.input) != 2:
            return name, None, []
        _require(self._read_once(name))
        for index in (0, 1):
            if self._leads_to_product(node.input[index]):
                return str(node.input[index]), str(node.input[1 - index]), [node]
        raise _Different

    def _leads_to_product(self, name: str) -> bool:
        try:
            product, _, _ = self._scaled(name)
        except _Different:
            return False
        return bool(product.op_type == "MatMul" and product.output[0] not in self.graph.named)

    def _scaled(self, name: str) -> tuple[onnx.NodeProto, float, list[onnx.NodeProto]]:
        """What makes a tensor, apart from multiplications by constants; their product, and these nodes."""
        factor, passed = 1.0, []
        node = self._maker(name)
        while node.op_type in ("Mul", "Div"):
            _require(self._read_once(node.output[0]))
            constants = [i for i, n in enumerate(node.input) if n in self.graph.initializers]
            _require(len(constants) == 1 and (node.op_type == "Mul" or constants == [1]))
            value: NDArray[np.generic] = self.graph.array(node.input[constants[0]])
            _require(value.size == 1 and float(value.item()) > 0)
            factor *= float(value.item()) if node.op_type == "Mul" else 1 / float(value.item())
            passed.append(node)
            node = self._maker(node.input[1 - constants[0]])
        return node, factor, passed

    def _heads(self, name: str, transposed: bool) -> tuple[str, int, int, float, list[onnx.NodeProto]]:
        """What is split into heads, their number and size, a factor, and the nodes that split it.

        Args:
            name: A tensor of shape (batch, heads, rows, size).
            transposed: Whether the last two axes are swapped.
        """
        node, factor, steps = self._scaled(name)
        _require(node.op_type == "Transpose" and self._read_once(node.output[0]))
        steps = [*steps, node]
        order = _order(node)
        if transposed and order == SWAPPED:
            node, more, passed = self._scaled(node.input[0])
            _require(node.op_type == "Transpose" and self._read_once(node.output[0]))
            factor, steps, order = factor * more, [*steps, *passed, node], _order(node)
            _require(order == SPLIT)
        else:
            _require(order == (SPLIT_TRANSPOSED if transposed else SPLIT))
        split = self._maker(node.input[0])
        _require(split.op_type == "Reshape" and self._read_once(split.output[0]))
        shape = self.graph.shapes.get(split.output[0], ())
        _require(len(shape) == RANK and shape[2] is not None and shape[3] is not None)
        heads, size = int(shape[2] or 0), int(shape[3] or 0)
        _require(self._width(split.input[0], RANK - 1) == heads * size)
        return str(split.input[0]), heads, size, factor, [*steps, split]

    def _width(self, name: str, rank: int) -> int | None:
        """Length of the last of three axes; None if it is not known."""
        shape = self.graph.shapes.get(name, ())
        return shape[-1] if len(shape) == rank == RANK - 1 else None

    def _maker(self, name: str) -> onnx.NodeProto:
        node = self.producers.get(name)
        if node is None or node.domain not in ("", "ai.onnx"):
            raise _Different
        return node

    def _read_once(self, name: str) -> bool:
        return len(self.readers.get(name, [])) == 1

    def _only_reader(self, name: str, kind: str) -> onnx.NodeProto:
        readers = self.readers.get(name, [])
        _require(len(readers) == 1 and readers[0].op_type == kind and readers[0].domain in ("", "ai.onnx"))
        return readers[0]


def _require(condition: bool) -> None:
    if not condition:
        raise _Different


def _attributes(node: onnx.NodeProto) -> Mapping[str, object]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _order(node: onnx.NodeProto) -> object:
    return _attributes(node).get("perm")


@dataclass(frozen=True)
class FusedNodes:
    """A list of nodes with attentions as kernels.

    Args:
        nodes: The nodes, in order.
        constants: Constants that they need, by name.
    """

    nodes: list[onnx.NodeProto]
    constants: Mapping[str, NDArray[np.generic]]


def fused(graph: Graph, nodes: Sequence[onnx.NodeProto]) -> FusedNodes | None:
    """The nodes with every attention in floating point as one kernel; None where there is none.

    Args:
        graph: The prepared model that the nodes were made from.
        nodes: The nodes of a graph of one configuration, in order.
    """
    cores = AttentionFusion(graph, nodes).cores()
    if not cores:
        return None
    ends = {core.steps[-1].output[0]: core for core in cores}
    inside = {step.output[0] for core in cores for step in core.steps}
    constants: dict[str, NDArray[np.generic]] = {}
    masks: dict[str, str] = {}
    made: list[onnx.NodeProto] = []
    for node in nodes:
        core = ends.get(node.output[0])
        if core is not None:
            mask = ""
            if core.mask is not None:
                if core.mask not in masks:
                    masks[core.mask] = graph.fresh(f"{core.mask}/rows")
                    made += _for_every_row(graph, core, masks[core.mask], constants)
                mask = masks[core.mask]
            made.append(_kernel(core, mask))
        elif node.output[0] not in inside:
            made.append(node)
    return FusedNodes(made, constants)


def _kernel(core: Core, mask: str) -> onnx.NodeProto:
    inputs = [*core.sources, *(["", "", mask] if mask else [])]
    return helper.make_node(
        KIND,
        inputs,
        [core.steps[-1].output[0]],
        name=core.name,
        domain=ENGINE,
        num_heads=core.heads,
        scale=core.scale,
    )


def _for_every_row(
    graph: Graph, core: Core, result: str, constants: dict[str, NDArray[np.generic]]
) -> list[onnx.NodeProto]:
    """Nodes that repeat a mask for every query, because the kernel takes no shorter one."""
    one, shape, length, size = (graph.fresh(f"{result}_{part}") for part in ("one", "shape", "length", "size"))
    constants[one] = np.array([1], np.int64)
    return [
        helper.make_node("Shape", [core.sources[0]], [shape], name=graph.fresh(f"{result}:shape")),
        helper.make_node("Gather", [shape, one], [length], name=graph.fresh(f"{result}:length"), axis=0),
        helper.make_node("Concat", [one, one, length, one], [size], name=graph.fresh(f"{result}:size"), axis=0),
        helper.make_node("Expand", [str(core.mask), size], [result], name=graph.fresh(f"{result}:expand")),
    ]
