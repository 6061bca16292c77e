"""The names in an ONNX model: which tensors a node reads, also from within its bodies, and names that are free.

The body of an If, Loop or Scan may read any tensor of the graphs around it without listing it as an input of the node
(ONNX calls this an outer scope value). Whatever removes, renames or replaces a tensor has to count such readers.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs within a node, in the order of its attributes."""
    found = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found


def graphs_in(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all graphs within its nodes, at any depth."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from graphs_in(body)


def _defined(graph: onnx.GraphProto) -> set[str]:
    """The tensors that a graph makes or is given."""
    return {
        *(i.name for i in graph.input),
        *(i.name for i in graph.initializer),
        *(i.values.name for i in graph.sparse_initializer),
        *(name for node in graph.node for name in node.output),
    }


def _free(graph: onnx.GraphProto) -> Iterator[str]:
    """The tensors that a body reads or returns without making them."""
    own = _defined(graph)
    for node in graph.node:
        yield from (name for name in reads(node) if name not in own)
    yield from (o.name for o in graph.output if o.name not in own)


def captured(node: onnx.NodeProto) -> list[str]:
    """The outer tensors that the bodies of a node read at any depth, each once, in the order of reading."""
    return list(dict.fromkeys(name for body in bodies(node) for name in _free(body) if name))


def reads(node: onnx.NodeProto) -> list[str]:
    """The inputs of a node, and the outer tensors that its bodies read."""
    return [*node.input, *captured(node)]


def names_in(model: onnx.ModelProto) -> set[str]:
    """Every name of a model: nodes, tensors, initializers and described values, in bodies too."""
    names: set[str] = set()
    for graph in graphs_in(model.graph):
        names |= _defined(graph)
        names.update(info.name for info in (*graph.output, *graph.value_info))
        for node in graph.node:
            names.add(node.name)
            names.update(node.input)
    names.discard("")
    return names


class FreshNames:
    """Names for new nodes and tensors, none of which occurs in the model.

    A wish that is free is granted as it is, so that names stay readable and are the same in every build. Nodes and
    tensors share one set: the engine names some of its nodes after tensors.

    Args:
        model: The model whose names are taken.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._taken = names_in(model)
        self._granted: dict[str, str] = {}

    def __call__(self, wanted: str) -> str:
        """The name for a wish; the same wish gets the same name.

        A number is put before the last ``/``: the ends of names tell what they stand for.
        """
        if wanted not in self._granted:
            stem, slash, end = wanted.rpartition("/")
            name, count = wanted, 1
            while name in self._taken:
                count += 1
                name = f"{stem}#{count}{slash}{end}" if slash else f"{wanted}#{count}"
            self._taken.add(name)
            self._granted[wanted] = name
        return self._granted[wanted]


def has_repeated_names(graph: onnx.GraphProto) -> bool:
    """Whether several nodes of a graph, bodies aside, have one name."""
    given = [node.name for node in graph.node if node.name]
    return len(set(given)) < len(given)


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node of a graph and of its bodies a name of its own; engines refuse a name that occurs twice.

    The first node of a name keeps it. The others get a number, as ``Conv#2``. A node without a name is named after its
    type and first output, as ``Conv:y``, but within bodies, where nobody addresses it.

    Args:
        graph: Changed in place.
    """
    for part in graphs_in(graph):
        taken = {node.name for node in part.node}
        seen: set[str] = set()
        for node in part.node:
            if not node.name and part is not graph:
                continue
            given = node.name
            base = given or f"{node.op_type}:{next(iter(node.output), '')}"
            name, count = base, 1
            while name in seen or (name in taken and name != given):
                count += 1
                name = f"{base}#{count}"
            seen.add(name)
            node.name = name


def rename_tensor(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a tensor that a graph makes, for all that read it, also in bodies."""
    for part in graphs_in(graph):
        for node in part.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == old:
                        names[index] = new
        for info in (*part.output, *part.value_info):
            if info.name == old:
                info.name = new
