"""The tensors at which operators may change between int8 and floating point."""

from __future__ import annotations

from collections.abc import Collection

from nc_strategies.api import ConversionEdge
from nc_strategies_litert.graph import MOVES, Graph


def find_conversion_edges(graph: Graph, offered: Collection[str]) -> tuple[ConversionEdge[str], ...]:
    """The edges of a graph; a tensor has one int8 form, whoever reads it.

    Args:
        graph: The floating-point graph.
        offered: Names of the operators that can run in static int8.
    """
    found = []
    ends = set(graph.outputs.values())
    made = [*graph.inputs.values(), *(t for op in graph.ops if op.type not in MOVES for t in op.outputs)]
    position = {op.name: op.index for op in graph.ops}
    for tensor in dict.fromkeys(made):
        if graph.tensors[tensor].dtype != "float32":
            continue
        producer = graph.producers.get(tensor)
        name = producer.name if producer is not None and producer.name in offered else None
        consumers, floats = _readers(graph, tensor, offered, ends)
        if name is None and len(consumers) < 2:
            continue  # With one reader, what it costs is that reader's own.
        ordered = tuple(sorted(consumers, key=position.__getitem__))
        found.append(ConversionEdge(name, ordered, graph.tensors[tensor].elements, floats))
    merged: dict[str, ConversionEdge[str]] = {}
    for edge in found:  # an operator with several outputs has one edge
        if edge.producer is not None and edge.producer in merged:
            first = merged[edge.producer]
            both = tuple(dict.fromkeys((*first.consumers, *edge.consumers)))
            floats = first.float_consumer or edge.float_consumer
            merged[edge.producer] = ConversionEdge(edge.producer, both, first.elements, floats)
        elif edge.producer is not None:
            merged[edge.producer] = edge
    return (*merged.values(), *(edge for edge in found if edge.producer is None))


def _readers(graph: Graph, tensor: int, offered: Collection[str], ends: Collection[int]) -> tuple[set[str], bool]:
    consumers: set[str] = set()
    floats = tensor in ends
    for op in graph.readers.get(tensor, ()):
        if op.name in offered:
            consumers.add(op.name)
        elif op.type in MOVES:
            for made in op.outputs:
                behind, others = _readers(graph, made, offered, ends)
                consumers |= behind
                floats |= others
        elif op.type != "SHAPE":
            floats = True
    return consumers, floats
