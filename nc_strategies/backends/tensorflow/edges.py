"""The tensors of a model at which its operators may change between int8 and floating point."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from nc_strategies.backends.tensorflow.fused_ops import CARRIERS, Matched
from nc_strategies.backends.tensorflow.graph import Graph, Node, node_of
from nc_strategies.problem.latency import ConversionEdge

SHAPES = frozenset({"Shape", "ShapeN", "Size", "Rank"})
"""Operators that look at no value, so that they take a tensor in any form."""


def find_conversion_edges(graph: Graph, matched: Matched, outputs: Collection[str]) -> tuple[ConversionEdge[str], ...]:
    """The edges of a simplified graph; a tensor has one int8 form, whoever reads it.

    Args:
        graph: The graph.
        matched: Its fused operators.
        outputs: Tensors that are fetched, in floating point.
    """
    readers = graph.consumers()
    owner = {
        name: fused_op.name for fused_op in matched.fused_ops.values() for name in (fused_op.name, *fused_op.absorbed)
    }
    made = {node_of(fused_op.output): fused_op.name for fused_op in matched.fused_ops.values()}
    position = {name: index for index, name in enumerate(matched.fused_ops)}
    found = []
    for node in graph.ordered():
        if node.op in CARRIERS or node.op == "Const" or (node.name in owner and node.name not in made):
            continue
        consumers, floats = _readers(node, readers, owner, outputs)
        producer = made.get(node.name)
        if producer is None and len(consumers) < 2:
            continue  # With one reader, what it costs is that reader's own.
        ordered = tuple(sorted(consumers, key=position.__getitem__))
        found.append(ConversionEdge(producer, ordered, _elements(matched, node.name), floats))
    return tuple(found)


def _elements(matched: Matched, tensor: str) -> int:
    """Elements of a sample; 0 where they are not known."""
    shape = matched.shapes.get(tensor)
    return 0 if shape is None or None in shape[1:] else math.prod(size or 1 for size in shape[1:])


def _readers(
    node: Node, readers: Mapping[str, list[Node]], owner: Mapping[str, str], outputs: Collection[str]
) -> tuple[set[str], bool]:
    """Fused operators that read what a node makes, directly or behind carriers; whether anything else does."""
    consumers: set[str] = set()
    floats = node.name in {node_of(tensor) for tensor in outputs}
    for reader in readers.get(node.name, []):
        if reader.name in owner:
            consumers.add(owner[reader.name])
        elif reader.op in CARRIERS:
            behind, others = _readers(reader, readers, owner, outputs)
            consumers |= behind
            floats |= others
        elif reader.op not in SHAPES:
            floats = True
    return consumers, floats
