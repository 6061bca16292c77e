"""Shapes that a graph computes at every run although only the batch is free: they become constants."""

from __future__ import annotations

import logging
from collections.abc import Collection

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from nc_strategies.errors import first_line
from nc_strategies.onnx_graph import interpreter
from nc_strategies.onnx_graph.names import FreshNames, bodies, reads

log = logging.getLogger(__name__)
BATCHES = (1, 2, 3, 5)
"""Batch sizes for which the shapes are looked at."""
ARITHMETIC = {
    "Shape",
    "Gather",
    "Concat",
    "Cast",
    "Slice",
    "Squeeze",
    "Unsqueeze",
    "Identity",
    "Mul",
    "Add",
    "Sub",
    "Div",
    "Max",
    "Min",
    "ReduceProd",
    "ReduceSum",
    "Equal",
    "Where",
    "ConstantOfShape",
    "Constant",
    "Range",
}
"""Operators that shapes are computed with."""
SHAPED_BY = {
    "Reshape": (1,),
    "Expand": (1,),
    "Tile": (1,),
    "Slice": (1, 2, 3, 4),
    "Pad": (1,),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "ConstantOfShape": (0,),
    "Range": (0, 1, 2),
    "TopK": (1,),
    "OneHot": (1,),
    "Split": (1,),
}
"""Inputs that decide on the shape of an operator's results."""
BY_VALUES = {"NonZero", "Unique", "Compress", "NonMaxSuppression"}
"""Operators whose results have a shape that depends on values."""


def settle(model: onnx.ModelProto) -> bool:
    """Give every ``Reshape`` whose shape is computed from other shapes a constant one, where the batch may stay free.

    What the engine makes of some batch sizes tells which one dimension grows with it; that becomes -1.

    Args:
        model: Changed in place; a model with branches or loops is left as it is.

    Returns:
        Whether anything changed.
    """
    graph = model.graph
    free, inputs = _computed_reshapes(graph)
    if not free:
        return False
    try:
        seen = _shapes(model, [n.output[0] for n in free], inputs)
    except Exception as error:  # noqa: BLE001 - the engine raises a class of its own for every status code
        log.info("shapes are left to be computed at every run: %s", first_line(error))
        return False
    constants = {node.output[0]: _constant([shapes[node.output[0]] for shapes in seen]) for node in free}
    fresh = FreshNames(model)
    for node in free:
        _set_shape(graph, node, constants[node.output[0]], fresh)
    changed = any(constant is not None for constant in constants.values())
    if changed:
        drop_unread(graph, ARITHMETIC)
    return changed


def settle_sizes(model: onnx.ModelProto) -> None:
    """Make sizes constant that are gathered from a shape, where the model says them: the engine then drops branches.

    Exporters write ``squeeze`` as an If that looks at one size. The engine folds a Shape only when all sizes are known.

    Args:
        model: Changed in place, if it has an If; nothing in it has a name twice.
    """
    graph = model.graph
    if not any(node.op_type == "If" for node in graph.node):
        return
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]  # Files may describe values wrongly, which an engine that infers shapes does not read.
    inferred = onnx.shape_inference.infer_shapes(bare).graph
    dims = {v.name: v.type.tensor_type.shape.dim for v in (*inferred.input, *inferred.value_info)}
    arrays = {i.name: i for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            arrays[node.output[0]] = node.attribute[0].t
    shapes = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Shape" and not n.attribute}
    for node in [n for n in graph.node if n.op_type == "Gather" and n.input[0] in shapes and n.input[1] in arrays]:
        known = dims.get(shapes[node.input[0]], ())
        places = numpy_helper.to_array(arrays[node.input[1]])
        chosen = [known[p].dim_value if -len(known) <= p < len(known) else 0 for p in map(int, places.ravel())]
        sizes = np.array(chosen, np.int64)
        if (sizes > 0).all():
            graph.initializer.append(numpy_helper.from_array(sizes.reshape(places.shape), node.output[0]))
            graph.node.remove(node)


def _computed_reshapes(graph: onnx.GraphProto) -> tuple[list[onnx.NodeProto], list[onnx.ValueInfoProto]]:
    """Reshapes whose shape is computed from other shapes, where only the batch may be free; and the real inputs."""
    known = {i.name for i in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    found = [
        n
        for n in graph.node
        if _is_reshape(n) and n.input[1] not in known and _from_shapes(n.input[1], producers, known)
    ]
    inputs = [i for i in graph.input if i.name not in known]
    if not all(_only_batch_free(i) for i in inputs) or _shapes_by_values(graph, producers, known):
        return [], inputs
    return found, inputs


def _is_reshape(node: onnx.NodeProto) -> bool:
    return node.op_type == "Reshape" and node.domain in ("", "ai.onnx")


def _set_shape(
    graph: onnx.GraphProto, node: onnx.NodeProto, constant: NDArray[np.int64] | None, fresh: FreshNames
) -> None:
    """Give a ``Reshape`` a constant shape, where there is one."""
    if constant is not None:
        node.input[1] = fresh(f"{node.output[0]}/shape")
        graph.initializer.append(numpy_helper.from_array(constant, node.input[1]))


def _from_shapes(name: str, producers: dict[str, onnx.NodeProto], known: set[str]) -> bool:
    """Whether a tensor depends on nothing but shapes and constants."""
    waiting, done = [name], set()
    while waiting:
        one = waiting.pop()
        if not one or one in known or one in done:
            continue
        done.add(one)
        node = producers.get(one)
        if node is None or node.op_type not in ARITHMETIC or node.domain not in ("", "ai.onnx"):
            return False
        if node.op_type != "Shape":
            waiting += node.input
    return True


def _shapes_by_values(graph: onnx.GraphProto, producers: dict[str, onnx.NodeProto], known: set[str]) -> bool:
    """Whether some shape may depend on the values that go in."""
    for node in graph.node:
        if bodies(node):
            return True  # Which branch runs, or how often a loop, decides on shapes.
        deciding = [n for i, n in enumerate(node.input) if i in SHAPED_BY.get(node.op_type, ())]
        own = node.domain not in ("", "ai.onnx", "com.microsoft") or node.op_type.startswith("Sequence")
        if own or node.op_type in BY_VALUES or not all(_from_shapes(n, producers, known) for n in deciding):
            return True
    return False


def _only_batch_free(value: onnx.ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return len(dims) > 0 and all(d.HasField("dim_value") and d.dim_value > 0 for d in dims[1:])


def _shapes(
    model: onnx.ModelProto, names: list[str], inputs: list[onnx.ValueInfoProto]
) -> list[dict[str, tuple[int, ...]]]:
    """The shapes of the named tensors for each batch size."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    chosen = interpreter.options_to_look(ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    session = interpreter.open_session(watched.SerializeToString(), chosen)
    found = []
    for batch in BATCHES:
        feed = {}
        for value in inputs:
            dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
            dtype = interpreter.numpy_type(value.type.tensor_type.elem_type)
            feed[value.name] = np.ones([dims[0] or batch, *dims[1:]], dtype)
        found.append(
            {name: array.shape for name, array in zip(names, interpreter.run(session, feed, names), strict=True)}
        )
    return found


def _constant(seen: list[tuple[int, ...]]) -> NDArray[np.int64] | None:
    """The shape with -1 for what grows with the batch; None where that is more than one dimension, or no multiple."""
    table = np.array(seen)
    grows = (table != table[0]).any(0)
    per_sample = table / np.array(BATCHES)[:, None]
    if grows.sum() > 1 or (per_sample != per_sample[0])[:, grows].any() or not table.all():
        return None
    return np.where(grows, -1, table[0]).astype(np.int64)


def drop_unread(graph: onnx.GraphProto, kinds: Collection[str]) -> None:
    """Take out operators of some types whose results nobody reads, also no branch or loop."""
    results = {o.name for o in graph.output}
    read: dict[str, int] = {}
    for node in graph.node:
        for name in reads(node):
            read[name] = read.get(name, 0) + 1
    for node in reversed(list(graph.node)):
        if node.op_type in kinds and not any(read.get(n, 0) or n in results for n in node.output):
            for name in reads(node):
                read[name] -= 1
            graph.node.remove(node)
