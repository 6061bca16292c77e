"""Replacement of function calls by the bodies of the functions, so that the operators inside can be matched."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from nc_strategies.backends.tensorflow.graph import Graph, Node, node_of, tensor_name
from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
BRANCHES = frozenset({"If", "StatelessIf"})
MAX_DEPTH = 100
"""Depth of nested calls from which a call is left as it is: only a recursive function comes this far."""


def inline_calls(graph: Graph) -> dict[str, str]:
    """Replace calls of functions by their bodies, nested calls included.

    An ``If`` with a constant condition is a call of one of its branches. Loops and other conditionals stay, and so do
    the functions that they name; all other functions are dropped from the library.

    Args:
        graph: The graph; it is changed.

    Returns:
        Tensors that no longer exist, and the tensors that replace them.
    """
    if graph.library is None:
        return {}
    bodies = _Bodies(graph.library)
    replaced: dict[str, str] = {}
    pending = [(name, 0) for name in graph.nodes]
    while pending:
        name, depth = pending.pop()
        node = graph.nodes[name]
        function = _called(graph, node, bodies)
        if function is None or depth > MAX_DEPTH:
            continue
        data = [text for text in node.input if not text.startswith("^")]
        if node.op in BRANCHES:
            data = data[1:]
        added, results = bodies.expand(function, node, data, graph.nodes)
        del graph.nodes[name]
        for index, result in enumerate(results):
            replaced[name if index == 0 else f"{name}:{index}"] = result
        for inner in added:
            graph.nodes[inner.name] = inner
            pending.append((inner.name, depth + 1))
    graph.rewire(replaced)
    _drop_dangling_controls(graph)
    return replaced


def needed_part(graph: Graph) -> Graph:
    """The graph with those functions of its library only which its nodes name, directly or through others."""
    definitions = {function.signature.name: function for function in graph.library.function} if graph.library else {}
    return Graph(graph.nodes.values(), _needed_library(graph.nodes.values(), definitions))


def function_names(node: Node) -> set[str]:
    """The functions that the attributes of a node name."""
    names = set()
    for value in node.attr.values():
        if value.HasField("func"):
            names.add(value.func.name)
        names.update(function.name for function in value.list.func)
    return names


def _called(graph: Graph, node: Node, bodies: _Bodies) -> str | None:
    """The function whose body can replace a node; None for any other node."""
    if node.op in CALLS:
        name = str(node.attr["f"].func.name)
        return name if name in bodies.definitions else None
    if node.op in BRANCHES:
        condition = graph.value(node_of(node.input[0]))
        if condition is None or condition.ndim:
            return None
        return str(node.attr["then_branch" if condition else "else_branch"].func.name)
    return node.op if node.op in bodies.definitions else None


class _Bodies:
    """The bodies of a library's functions as graphs.

    Args:
        library: The ``FunctionDefLibrary``.
    """

    def __init__(self, library: Any) -> None:
        tf = tensorflow()
        self.definitions: dict[str, Any] = {function.signature.name: function for function in library.function}
        self._graph = tf.Graph()
        empty = tf.compat.v1.GraphDef()
        empty.library.CopyFrom(library)
        with self._graph.as_default():
            tf.import_graph_def(empty, name="")
        self._bodies: dict[str, tuple[list[Node], list[str], list[str]]] = {}

    def expand(self, function: str, call: Node, data: list[str], taken: Container[str]) -> tuple[list[Node], list[str]]:
        """Copies of a function's nodes under the name of its call.

        Args:
            function: Name of the function.
            call: The calling node.
            data: The tensors that it passes.
            taken: Names of nodes which the copies must not have.

        Returns:
            The nodes, and the tensor of each result.
        """
        nodes, parameters, results = self._body(function)
        passed = dict(zip(parameters, data, strict=True))
        prefix, count = call.name, 0
        while any(f"{prefix}/{node.name}" in taken for node in nodes):
            count += 1
            prefix = f"{call.name}_{count}"

        def renamed(text: str) -> str:
            return passed.get(text, f"{prefix}/{text}")

        added = []
        for node in nodes:
            copy = type(node)()
            copy.CopyFrom(node)
            copy.name = f"{prefix}/{node.name}"
            inputs = [
                f"^{prefix}/{text[1:]}" if text.startswith("^") else renamed(text)
                for text in node.input
                if text[1:] not in passed or not text.startswith("^")
            ]
            del copy.input[:]
            copy.input.extend(inputs)
            # Neither holds once the function's variables are constants and its nodes have other names.
            for key in ("_class", "_output_shapes"):
                copy.attr.pop(key, None)
            _fill_attributes(copy, call)
            added.append(copy)
        return added, [renamed(text) for text in results]

    def _body(self, function: str) -> tuple[list[Node], list[str], list[str]]:
        """Nodes, names of parameters, and tensors of the results of a function."""
        if function not in self._bodies:
            from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

            definition = self.definitions[function]
            with self._graph.as_default():
                graph_def, flat = function_def_to_graph_def(definition)
            parameters = [argument.name for argument in definition.signature.input_arg]
            taken = set(parameters)
            nodes = [node for node in graph_def.node if node.name not in taken]
            for node in nodes:
                inputs = [tensor_name(text) for text in node.input]
                del node.input[:]
                node.input.extend(inputs)
            results = [tensor_name(flat[definition.ret[argument.name]]) for argument in definition.signature.output_arg]
            self._bodies[function] = nodes, parameters, results
        return self._bodies[function]


def _fill_attributes(node: Node, call: Node) -> None:
    """Give attributes that a generic function leaves open the values of its call."""
    given = call.attr["f"].func.attr if call.op in CALLS else call.attr
    for key in [key for key, value in node.attr.items() if value.HasField("placeholder")]:
        node.attr[key].CopyFrom(given[node.attr[key].placeholder])


def _drop_dangling_controls(graph: Graph) -> None:
    for node in graph.nodes.values():
        kept = [text for text in node.input if not text.startswith("^") or node_of(text) in graph.nodes]
        if len(kept) < len(node.input):
            del node.input[:]
            node.input.extend(kept)


def _needed_library(nodes: Iterable[Node], definitions: Mapping[str, Any]) -> Any:
    """The functions that nodes name, directly or through other functions; None without one."""
    needed: set[str] = set()
    stack = [name for node in nodes for name in (*function_names(node), node.op)]
    while stack:
        name = stack.pop()
        if name in needed or name not in definitions:
            continue
        needed.add(name)
        for node in definitions[name].node_def:
            stack.extend((*function_names(node), node.op))
    if not needed:
        return None
    library = tensorflow().compat.v1.GraphDef().library
    library.function.extend(definitions[name] for name in sorted(needed))
    return library
