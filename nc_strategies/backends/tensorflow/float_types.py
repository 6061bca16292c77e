"""Conversion of a graph that computes in float16, bfloat16 or float64 to float32, for which kernels are written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from nc_strategies.backends.tensorflow.graph import Graph, Node, node_of
from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow

WEIGHTED = frozenset({"Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "Conv3D", "Conv2DBackpropInput"})


def compute_in_float32(graph: Graph, inputs: Iterable[str], outputs: Iterable[str]) -> dict[str, str]:
    """Let a graph compute in float32 where it computes in a shorter or longer type. Inputs and outputs keep theirs.

    float64 is converted if an operator with a weight computes in it: elsewhere it may be there for large numbers, such
    as times.

    Args:
        graph: The graph; it is changed.
        inputs: Tensors that are fed.
        outputs: Tensors that are fetched.

    Returns:
        Outputs, and the tensors of their former type that replace them.
    """
    tf = tensorflow()
    single = tf.float32.as_datatype_enum
    narrow = {tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum}
    nodes = [*graph.nodes.values(), *_function_nodes(graph)]
    found = {value.type for node in nodes for value in node.attr.values() if value.type}
    wide = tf.float64.as_datatype_enum
    if any(node.op in WEIGHTED and node.attr["T"].type == wide for node in nodes):
        narrow.add(wide)
    if not found & narrow or any(node.op == "Bitcast" for node in nodes):
        return {}
    types = _output_types(graph, outputs)
    _convert_types(graph, nodes, frozenset(narrow), single)
    fed = {node_of(tensor) for tensor in inputs}
    for name in fed:
        node = graph.nodes[name]
        given = node.attr["dtype"].type
        if given in narrow:
            cast = graph.free_name(f"{name}/float32")
            graph.rewire({name: cast})
            graph.add("Cast", cast, [name], SrcT=tf.as_dtype(given), DstT=tf.float32, Truncate=False)
    replaced = {}
    for tensor, dtype in types.items():
        if dtype.as_datatype_enum in narrow and node_of(tensor) not in fed:
            cast = graph.free_name(f"{node_of(tensor)}/{dtype.name}")
            graph.add("Cast", cast, [tensor], SrcT=tf.float32, DstT=dtype, Truncate=False)
            replaced[tensor] = cast
    return replaced


def _function_nodes(graph: Graph) -> list[Node]:
    return [] if graph.library is None else [node for f in graph.library.function for node in f.node_def]


def _output_types(graph: Graph, outputs: Iterable[str]) -> dict[str, Any]:
    tf = tensorflow()
    imported = tf.Graph()
    with imported.as_default():
        tf.import_graph_def(graph.to_def(), name="")
    return {tensor: imported.get_tensor_by_name(tensor if ":" in tensor else f"{tensor}:0").dtype for tensor in outputs}


def _convert_types(graph: Graph, nodes: list[Node], narrow: frozenset[int], single: int) -> None:
    for node in nodes:
        if node.op == "Placeholder":
            continue
        if node.op == "Const" and node.attr["dtype"].type in narrow:
            _convert_constant(node)
            continue
        for value in node.attr.values():
            if value.type in narrow:
                value.type = single
            for index, dtype in enumerate(value.list.type):
                if dtype in narrow:
                    value.list.type[index] = single
        if node.op == "Cast" and node.attr["SrcT"].type == node.attr["DstT"].type == single:
            _make_identity(node, single)
    if graph.library is not None:
        for function in graph.library.function:
            _read_identities(function)
            for argument in (*function.signature.input_arg, *function.signature.output_arg):
                if argument.type in narrow:
                    argument.type = single


def _read_identities(function: Any) -> None:
    """Name the outputs of Identity in a function as it does, also where a Cast was turned into one."""
    identities = {node.name for node in function.node_def if node.op == "Identity"}

    def renamed(text: str) -> str:
        name, *output = text.split(":")
        return f"{name}:output:0" if output and name in identities else text

    for node in function.node_def:
        node.input[:] = [renamed(text) for text in node.input]
    for key, text in function.ret.items():
        function.ret[key] = renamed(text)


def _make_identity(cast: Node, dtype: int) -> None:
    cast.op = "Identity"
    cast.attr.clear()
    cast.attr["T"].type = dtype


def _convert_constant(node: Node) -> None:
    tf = tensorflow()
    value = np.asarray(tf.make_ndarray(node.attr["value"].tensor)).astype(np.float32)
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, tf.float32))
