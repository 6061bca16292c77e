"""The tensors of a model at which its operators may change between int8 and floating point."""

from __future__ import annotations

from math import prod

from nc_strategies.onnx_graph.graph import ACTIVATIONS, FusedOp, Graph
from nc_strategies.problem.latency import ConversionEdge

SYMMETRIC = frozenset({("int8", "sym")})


def find_conversion_edges(graph: Graph) -> tuple[ConversionEdge[str], ...]:
    """The edges of a prepared model.

    Symmetric int8 reaches below zero: behind an operator with a Relu or Clip it leaves that to a node of its own.
    What several operators read in schemes of their own is quantized once for each.
    """
    made = {fused_op.output: fused_op for fused_op in graph.fused_ops.values()}
    acts = {fused_op.act.name for fused_op in graph.fused_ops.values() if fused_op.act is not None}
    position = {node.name: index for index, node in enumerate(graph.model.graph.node)}
    found = []
    for tensor in _tensors(graph):
        consumers, floats = _readers(graph, tensor, acts)
        fused_op = made.get(tensor)
        if fused_op is None and len(consumers) < 2:
            continue  # With one reader, what it costs is that reader's own.
        ordered = tuple(sorted(consumers, key=position.__getitem__))
        found.append(
            ConversionEdge(
                fused_op.name if fused_op else None,
                ordered,
                _elements(graph, tensor),
                floats,
                False,
                _clipped(fused_op),
            )
        )
    return tuple(found)


def _tensors(graph: Graph) -> list[str]:
    """The inputs, and what is computed: not what only carries the values of another tensor."""
    return [
        *(i.name for i in graph.model.graph.input),
        *(name for node in graph.model.graph.node if graph.carried(node) is None for name in node.output),
    ]


def _elements(graph: Graph, tensor: str) -> int:
    """Elements of a sample; dimensions that are free count as one."""
    shape = graph.shapes.get(tensor, ())
    return prod(d or 1 for d in shape[1:]) if len(shape) > 1 else 0


def _clipped(fused_op: FusedOp | None) -> frozenset[tuple[str, str]]:
    bounded = fused_op is not None and fused_op.act is not None and fused_op.act.op_type in ACTIVATIONS
    return SYMMETRIC if bounded else frozenset()


def _readers(graph: Graph, tensor: str, acts: set[str]) -> tuple[set[str], bool]:
    """Operators with a choice that read a tensor, directly or behind nodes that keep values; whether others do."""
    consumers: set[str] = set()
    floats = tensor in graph.outputs
    for node in graph.consumers.get(tensor, []):
        if node.name in graph.fused_ops:
            consumers.add(node.name)
        elif graph.carried(node) == tensor:
            for output in node.output:
                behind, others = _readers(graph, output, acts)
                consumers |= behind
                floats |= others
        elif node.name not in acts:
            floats = True
    return consumers, floats
