"""An editable GraphDef with lookup by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow
from nc_strategies.errors import InputError

Node = Any
"""A ``NodeDef``."""

Attribute = Any
"""A Python value for an ``AttrValue``: bool, int, float, str, DType, TensorShape, or a list of one of these types."""


def tensor_name(text: str) -> str:
    """The short name of a tensor: output 0 of a node is written without ``:0``."""
    return text[:-2] if text.endswith(":0") else text


def node_of(tensor: str) -> str:
    """The name of the node that computes a tensor, or that a control input refers to."""
    return tensor.removeprefix("^").split(":")[0]


class Graph:
    """An editable GraphDef.

    Args:
        nodes: The nodes, whose names are unique.
        library: The ``FunctionDefLibrary`` of the functions that they call; None without one.
    """

    def __init__(self, nodes: Iterable[Node] = (), library: Any = None) -> None:
        self.nodes: dict[str, Node] = {node.name: node for node in nodes}
        self.library = library

    @staticmethod
    def from_def(graph_def: Any) -> Graph:
        """A copy of a GraphDef, with the short names of inputs."""
        library = None
        if graph_def.library.function:
            library = type(graph_def.library)()
            library.CopyFrom(graph_def.library)
        graph = Graph(library=library)
        for node in graph_def.node:
            copy = graph.copy(node)
            inputs = [tensor_name(text) for text in node.input]
            del copy.input[:]
            copy.input.extend(inputs)
        return graph

    def to_def(self) -> Any:
        """The graph as a GraphDef, in topological order."""
        tf = tensorflow()
        graph_def = tf.compat.v1.GraphDef()
        graph_def.versions.producer = tf.version.GRAPH_DEF_VERSION
        graph_def.node.extend(self.ordered())
        if self.library is not None:
            graph_def.library.CopyFrom(self.library)
        return graph_def

    def copy(self, node: Node) -> Node:
        """Add a copy of a node."""
        copy = type(node)()
        copy.CopyFrom(node)
        self.nodes[copy.name] = copy
        return copy

    def add(self, op: str, name: str, inputs: Sequence[str], **attributes: Attribute) -> str:
        """Add a node.

        Returns:
            Its name.
        """
        node = tensorflow().compat.v1.NodeDef(op=op, name=name)
        node.input.extend(inputs)
        for key, value in attributes.items():
            _set(node.attr[key], value)
        self.nodes[name] = node
        return name

    def constant(self, name: str, value: NDArray[Any], dtype: Any = None) -> str:
        """Add a constant.

        Args:
            name: Name of the node.
            value: Its value.
            dtype: A quantized type of the same byte layout as the array; by default the array's own type.

        Returns:
            Its name.
        """
        tf = tensorflow()
        proto = tf.make_tensor_proto(value)
        dtype = dtype or tf.as_dtype(value.dtype)
        proto.dtype = dtype.as_datatype_enum
        node = tf.compat.v1.NodeDef(op="Const", name=name)
        node.attr["value"].tensor.CopyFrom(proto)
        node.attr["dtype"].type = dtype.as_datatype_enum
        self.nodes[name] = node
        return name

    def value(self, tensor: str) -> NDArray[Any] | None:
        """The value of a constant; None if the tensor is computed."""
        node = self.nodes.get(tensor)
        if node is None or node.op != "Const":
            return None
        return np.asarray(tensorflow().make_ndarray(node.attr["value"].tensor))

    def free_name(self, name: str) -> str:
        """The name itself if it is free, else the name with the first free number appended."""
        count, free = 0, name
        while free in self.nodes:
            count += 1
            free = f"{name}_{count}"
        return free

    def consumers(self) -> dict[str, list[Node]]:
        """Tensor to the nodes that read it; a node is listed once per input that reads it."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes.values():
            for text in node.input:
                readers.setdefault(text, []).append(node)
        return readers

    def ordered(self) -> Iterator[Node]:
        """The nodes in topological order. The order is deterministic."""
        done: set[str] = set()
        for root in self.nodes:
            stack = [(root, False)]
            while stack:
                name, ready = stack.pop()
                if name in done:
                    continue
                if ready:
                    done.add(name)
                    yield self.nodes[name]
                    continue
                stack.append((name, True))
                stack.extend(
                    (node_of(text), False) for text in reversed(self.nodes[name].input) if node_of(text) not in done
                )

    def prune(self, keep: Iterable[str]) -> None:
        """Drop the nodes on which none of the given nodes depends.

        Raises:
            InputError: one of those depends on a node that the graph does not have.
        """
        needed: set[str] = set()
        stack = list(keep)
        while stack:
            name = stack.pop()
            if name not in needed:
                if name not in self.nodes:
                    raise InputError("model.path", f"the graph is damaged: it has no node {name!r}, which others read")
                needed.add(name)
                stack.extend(node_of(text) for text in self.nodes[name].input)
        self.nodes = {name: node for name, node in self.nodes.items() if name in needed}

    def rewire(self, tensors: Mapping[str, str], readers: Iterable[Node] | None = None) -> None:
        """Replace inputs of nodes; chains of replacements are followed.

        Args:
            tensors: Tensors and their replacements.
            readers: The nodes whose inputs are replaced; all nodes by default.
        """
        for node in self.nodes.values() if readers is None else readers:
            for index, text in enumerate(node.input):
                if text in tensors:
                    node.input[index] = follow(tensors, text)


def follow(tensors: Mapping[str, str], tensor: str) -> str:
    """The end of a chain of replacements."""
    while tensor in tensors:
        tensor = tensors[tensor]
    return tensor


def _set(target: Any, value: Attribute) -> None:
    tf = tensorflow()
    if isinstance(value, bool):
        target.b = value
    elif isinstance(value, int):
        target.i = value
    elif isinstance(value, float):
        target.f = value
    elif isinstance(value, str):
        target.s = value.encode()
    elif isinstance(value, tf.DType):
        target.type = value.as_datatype_enum
    elif isinstance(value, tf.TensorShape):
        target.shape.CopyFrom(value.as_proto())
    elif not value:
        target.list.SetInParent()
    elif isinstance(value[0], tf.DType):
        target.list.type.extend(item.as_datatype_enum for item in value)
    elif isinstance(value[0], str):
        target.list.s.extend(item.encode() for item in value)
    else:
        target.list.i.extend(value)
