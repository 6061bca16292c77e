"""Rewrite of products with a constant matrix (BatchMatMul, Einsum) to a MatMul between two Reshapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.tensorflow.graph import Graph, Node
from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow

Shape = tuple[int | None, ...]
LARGEST_SHAPE = 1 << 10
"""Number of elements up to which a constant's value is kept for shape inference, as it may be a shape operand."""


def static_types(graph: Graph) -> tuple[dict[str, Shape | None], dict[str, Any]]:
    """Tensor to its inferred static shape (None for an unknown rank), and tensor to its DType."""
    tf = tensorflow()
    imported = tf.Graph()
    with imported.as_default():
        tf.import_graph_def(_without_weights(graph).to_def(), name="")
    shapes: dict[str, Shape | None] = {}
    dtypes: dict[str, Any] = {}
    for operation in imported.get_operations():
        for index, output in enumerate(operation.outputs):
            shape = None if output.shape.rank is None else tuple(output.shape.as_list())
            name = operation.name if index == 0 else f"{operation.name}:{index}"
            shapes[name], dtypes[name] = shape, output.dtype
    return shapes, dtypes


def _without_weights(graph: Graph) -> Graph:
    """The graph without its weights, for type inference: importing it with weights takes far longer."""
    light = Graph(graph.nodes.values(), graph.library)
    for name, node in graph.nodes.items():
        shape = node.attr["value"].tensor.tensor_shape if node.op == "Const" else None
        if shape is not None and math.prod(axis.size for axis in shape.dim) > LARGEST_SHAPE:
            light.add(
                "Placeholder",
                name,
                [],
                dtype=tensorflow().as_dtype(node.attr["dtype"].type),
                shape=tensorflow().TensorShape(shape),
            )
    return light


def flatten_products(graph: Graph) -> None:
    """Rewrite BatchMatMul and Einsum with a constant right operand, which have no int8 kernel, to MatMul."""
    products = [
        node
        for node in graph.nodes.values()
        if node.op in ("BatchMatMulV2", "BatchMatMul", "BatchMatMulV3", "Einsum")
        and len(node.input) == 2
        and graph.value(node.input[1]) is not None
    ]
    if not products:
        return
    shapes, _ = static_types(graph)
    for node in products:
        left, weight = shapes.get(node.input[0]), graph.value(node.input[1])
        out = shapes.get(node.name)
        if left is None or out is None or weight is None or weight.dtype != np.float32:
            continue
        contracted = _einsum_contracted(node, weight) if node.op == "Einsum" else _matmul_contracted(node, weight)
        if contracted is None or sum(size is None for size in out) > 1:
            continue
        depth = math.prod(weight.shape[:contracted])
        _replace(graph, node, weight.reshape(depth, -1), out)


def _matmul_contracted(node: Node, weight: NDArray[Any]) -> int | None:
    return 1 if weight.ndim == 2 and not (node.attr["adj_x"].b or node.attr["adj_y"].b) else None


def _einsum_contracted(node: Node, weight: NDArray[Any]) -> int | None:
    """Number of leading weight axes contracted with the trailing input axes; None for any other contraction."""
    sides, _, result = node.attr["equation"].s.decode().replace(" ", "").partition("->")
    left, _, right = sides.partition(",")
    if "." in sides or len(set(left)) < len(left) or len(right) != weight.ndim:
        return None
    for count in range(1, len(right)):
        summed, columns = right[:count], right[count:]
        rows = left.removesuffix(summed)
        if left.endswith(summed) and rows and result == rows + columns and not set(rows) & set(right):
            return count
    return None


def _replace(graph: Graph, node: Node, matrix: NDArray[Any], out: Shape) -> None:
    tf = tensorflow()
    name, source = node.name, node.input[0]
    rows = graph.constant(graph.free_name(f"{name}/rows"), np.array([-1, matrix.shape[0]], np.int32))
    flat = graph.add("Reshape", graph.free_name(f"{name}/flat"), [source, rows], T=tf.float32, Tshape=tf.int32)
    weight = graph.constant(graph.free_name(f"{name}/matrix"), np.ascontiguousarray(matrix))
    product = graph.add(
        "MatMul", graph.free_name(f"{name}/MatMul"), [flat, weight], T=tf.float32, transpose_a=False, transpose_b=False
    )
    sizes = graph.constant(graph.free_name(f"{name}/shape"), np.array([-1 if s is None else s for s in out], np.int32))
    graph.add("Reshape", name, [product, sizes], T=tf.float32, Tshape=tf.int32)
