"""The tensors of a model at which its operators may change between int8 and floating point."""

from __future__ import annotations

from math import prod

from nc_strategies.backends.base import Link
from nc_strategies.backends.onnxruntime.graph import ACTIVATIONS, Graph, Unit

SYMMETRIC = frozenset({("int8", "sym")})


def find_links(graph: Graph) -> tuple[Link, ...]:
    """The links of a prepared model.

    Symmetric int8 reaches below zero: behind an operator with a Relu or Clip it leaves that to a node of its own.
    What several operators read in schemes of their own is quantized once for each.
    """
    made = {unit.output: unit for unit in graph.units.values()}
    acts = {unit.act.name for unit in graph.units.values() if unit.act is not None}
    position = {node.name: index for index, node in enumerate(graph.model.graph.node)}
    found = []
    tensors = [i.name for i in graph.model.graph.input]
    tensors += [name for node in graph.model.graph.node if graph.carried(node) is None for name in node.output]
    for tensor in tensors:
        consumers, floats = _readers(graph, tensor, acts)
        unit = made.get(tensor)
        if unit is None and len(consumers) < 2:
            continue  # With one reader, what it costs is that reader's own.
        shape = graph.shapes.get(tensor, ())
        elements = prod(d or 1 for d in shape[1:]) if len(shape) > 1 else 0
        ordered = tuple(sorted(consumers, key=position.__getitem__))
        found.append(Link(unit.name if unit else None, ordered, elements, floats, False, _clipped(unit)))
    return tuple(found)


def _clipped(unit: Unit | None) -> frozenset[tuple[str, str]]:
    bounded = unit is not None and unit.act is not None and unit.act.op_type in ACTIVATIONS
    return SYMMETRIC if bounded else frozenset()


def _readers(graph: Graph, tensor: str, acts: set[str]) -> tuple[set[str], bool]:
    """Operators with a choice that read a tensor, directly or behind nodes that keep values; whether others do."""
    consumers: set[str] = set()
    floats = tensor in graph.outputs
    for node in graph.consumers.get(tensor, []):
        if node.name in graph.units:
            consumers.add(node.name)
        elif graph.carried(node) == tensor:
            behind, others = _readers(graph, node.output[0], acts)
            consumers |= behind
            floats |= others
        elif node.name not in acts:
            floats = True
    return consumers, floats
