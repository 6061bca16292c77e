"""Rewrites that leave the function alone: constants evaluated, BatchNorm folded into the weights before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.tensorflow.float_types import compute_in_float32
from nc_strategies.backends.tensorflow.graph import Graph, Node, follow, node_of
from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow
from nc_strategies.backends.tensorflow.layout import channels_last, convolve_instead, dilate
from nc_strategies.backends.tensorflow.matrix_products import flatten_products
from nc_strategies.backends.tensorflow.moves import followed, postpone_moves

WEIGHTED = ("Conv2D", "DepthwiseConv2dNative", "MatMul")
PASSES = frozenset({"Identity", "StopGradient", "PreventGradient", "Snapshot"})
BATCH_NORMS = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
AFFINE: dict[str, Callable[[NDArray[Any], bool], tuple[Any, Any]]] = {
    "Mul": lambda value, first: (value, 0.0),
    "RealDiv": lambda value, first: (1 / value, 0.0),
    "Sub": lambda value, first: (1.0, -value) if first else (-1.0, value),
    "AddV2": lambda value, first: (1.0, value),
    "Add": lambda value, first: (1.0, value),
    "BiasAdd": lambda value, first: (1.0, value),
}
"""Scale and shift of what is read together with a constant, by the constant and whether it is the second operand."""
RANDOM = ("Random", "Stateless", "Multinomial", "Truncated", "ParameterizedTruncated")
LARGEST_FOLDED = 1 << 24
"""Bytes above which a computed constant is left to be computed: a broadcast must not blow the model up."""


def simplify(source: Graph, inputs: Iterable[str], outputs: Iterable[str]) -> tuple[Graph, dict[str, str]]:
    """Rewrite a graph to the form in which operators are matched.

    Control inputs are dropped: without variables they order nothing but assertions.

    Args:
        source: The frozen graph; stays as it is.
        inputs: Tensors that are fed.
        outputs: Tensors that are fetched.

    Returns:
        The new graph, and each output's tensor in it.
    """
    graph = Graph((node for node in source.nodes.values()), source.library)
    graph = Graph.from_def(graph.to_def())
    for node in graph.nodes.values():
        data = [text for text in node.input if not text.startswith("^")]
        del node.input[:]
        node.input.extend(data)
    replaced = {name: node.input[0] for name, node in graph.nodes.items() if node.op in PASSES and node.input}
    graph.rewire(replaced)
    ends = {tensor: follow(replaced, tensor) for tensor in outputs}
    fed = list(inputs)

    def kept() -> set[str]:
        return {node_of(tensor) for tensor in (*ends.values(), *fed)}

    graph.prune(kept())
    converted = compute_in_float32(graph, fed, ends.values())
    ends = {tensor: converted.get(end, end) for tensor, end in ends.items()}
    fold_constants(graph, kept())
    for rewrite in (_without_passes, dilate, channels_last, convolve_instead, _flattened, postpone_moves, fold_affine):
        ends = followed(ends, rewrite(graph, kept()))
        graph.prune(kept())
    pad_explicitly(graph)
    multiply_by_reciprocals(graph)
    graph.prune(kept())
    return graph, ends


def _without_passes(graph: Graph, keep: set[str]) -> dict[str, str]:
    """Drop what hands a tensor on, which the conversion of types may have left."""
    replaced = {
        name: node.input[0]
        for name, node in graph.nodes.items()
        if node.op in PASSES and node.input and name not in keep
    }
    graph.rewire(replaced)
    return replaced


def _flattened(graph: Graph, _: set[str]) -> dict[str, str]:
    flatten_products(graph)
    return {}


def fold_constants(graph: Graph, keep: set[str]) -> None:
    """Replace what is computed from constants only by its value."""
    constants, computed = _from_constants(graph, keep)
    if not computed:
        return
    inside = set(computed)
    read = {node_of(text) for node in graph.nodes.values() if node.name not in inside for text in node.input}
    part = Graph((graph.nodes[name] for name in (*constants, *computed)), graph.library)
    for name, value in _values(part, [name for name in computed if name in read]):
        if value.nbytes <= LARGEST_FOLDED or graph.value(graph.nodes[name].input[0]) is not None:
            graph.constant(name, value)


def _from_constants(graph: Graph, keep: set[str]) -> tuple[list[str], list[str]]:
    """The constants, and the other nodes that are computed from them alone, in their order."""
    constants = [name for name, node in graph.nodes.items() if node.op == "Const"]
    known, computed = set(constants), []
    for node in graph.ordered():
        if node.name in known or node.name in keep or not node.input or not _foldable(node):
            continue
        if all(node_of(text) in known for text in node.input):
            known.add(node.name)
            computed.append(node.name)
    return constants, computed


def _values(part: Graph, wanted: Sequence[str]) -> list[tuple[str, NDArray[Any]]]:
    """The values of some nodes of a graph without inputs, as far as they are numbers in a single tensor."""
    tf = tensorflow()
    part.prune(wanted)
    imported = tf.Graph()
    with imported.as_default():
        tf.import_graph_def(part.to_def(), name="")
    single = [name for name in wanted if _holds_numbers(imported.get_operation_by_name(name).outputs)]
    with tf.compat.v1.Session(graph=imported) as session:
        return list(zip(single, session.run([f"{name}:0" for name in single]), strict=True))


def _holds_numbers(outputs: Sequence[Any]) -> bool:
    return len(outputs) == 1 and (
        outputs[0].dtype.is_floating or outputs[0].dtype.is_integer or outputs[0].dtype.is_bool
    )


def _foldable(node: Node) -> bool:
    return not node.op.startswith(RANDOM) and node.op not in (
        "While",
        "If",
        "StatelessWhile",
        "StatelessIf",
        "Assert",
        "PartitionedCall",
        "StatefulPartitionedCall",
        "Print",
    )


def fold_affine(graph: Graph, keep: set[str]) -> dict[str, str]:
    """Fold what scales and shifts the channels after a weighted operator into its weight and one bias.

    Covers BatchNorm in one operator or decomposed into Mul, Add and Sub (https://arxiv.org/abs/1712.05877, 3.2).

    Returns:
        Replaced tensors and their replacements.
    """
    replaced: dict[str, str] = {}
    readers = graph.consumers()
    for node in [n for n in graph.ordered() if n.op in WEIGHTED]:
        weight = graph.value(node.input[1])
        if weight is None or weight.dtype != np.float32 or not _channels_last(node):
            continue
        channels = _channels(node, weight)
        scale, shift = np.ones(channels), np.zeros(channels)
        end, steps = node.name, 0
        while node_of(end) not in keep and len(readers.get(end, ())) == 1:
            step = _affine(graph, readers[end][0], end, channels, 2 if node.op == "MatMul" else 4)
            if step is None:
                break
            scale, shift, end, steps = scale * step[0], shift * step[0] + step[1], readers[end][0].name, steps + 1
        if not steps or (steps == 1 and graph.nodes[end].op == "BiasAdd"):
            continue
        if (scale != 1).any():
            value = (weight * _along_output(node, scale, weight)).astype(np.float32)
            node.input[1] = graph.constant(graph.free_name(f"{node.name}/folded_weight"), value)
        bias = graph.constant(graph.free_name(f"{node.name}/folded_bias"), shift.astype(np.float32))
        biased = graph.add(
            "BiasAdd",
            graph.free_name(f"{node.name}/bias"),
            [node.name, bias],
            T=tensorflow().float32,
            data_format="NHWC",
        )
        replaced[end] = biased
        moved = readers.pop(end, [])
        graph.rewire({end: biased}, moved)
        readers[biased] = moved
        readers[node.name] = [graph.nodes[biased]]
    return replaced


def _affine(
    graph: Graph, node: Node, tensor: str, channels: int, rank: int
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Scale and shift by a node that reads a tensor, shape (channels,) each; None where it does something else."""
    if node.op in BATCH_NORMS and node.input[0] == tensor:
        return _batch_norm(graph, node)
    if node.op not in AFFINE or len(node.input) != 2:
        return None
    first = node.input[0] == tensor
    value = _per_channel(graph.value(node.input[1 if first else 0]), channels, rank)
    if value is None or (node.op == "RealDiv" and not first):
        return None
    scale, shift = AFFINE[node.op](value, first)
    return np.broadcast_to(scale, (channels,)), np.broadcast_to(shift, (channels,))


def _batch_norm(graph: Graph, node: Node) -> tuple[NDArray[Any], NDArray[Any]] | None:
    values = [graph.value(text) for text in node.input[1:5]]
    if node.attr["is_training"].b or any(value is None for value in values):
        return None
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
    scale = gamma / np.sqrt(variance + node.attr["epsilon"].f)
    return scale, beta - mean * scale


def _per_channel(value: NDArray[Any] | None, channels: int, rank: int) -> NDArray[Any] | None:
    """A constant that is one number a channel of the last axis, None when it is anything else."""
    if value is None or value.dtype != np.float32 or value.ndim > rank or value.size not in (1, channels):
        return None
    if value.ndim and value.shape[-1] != value.size:
        return None
    return np.broadcast_to(value.reshape(-1).astype(np.float64), (channels,))


def _channels_last(node: Node) -> bool:
    return node.op == "MatMul" or node.attr["data_format"].s in (b"", b"NHWC")


def _channels(node: Node, weight: NDArray[Any]) -> int:
    if node.op == "MatMul":
        return int(weight.shape[0 if node.attr["transpose_b"].b else 1])
    return int(weight.shape[2] * weight.shape[3] if node.op == "DepthwiseConv2dNative" else weight.shape[3])


def _along_output(node: Node, scale: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    if node.op == "MatMul":
        return scale[:, None] if node.attr["transpose_b"].b else scale
    return scale.reshape(weight.shape[2:]) if node.op == "DepthwiseConv2dNative" else scale


def pad_explicitly(graph: Graph) -> None:
    """Turn explicit padding of depthwise convolutions into Pad: grappler aborts the process on the former."""
    tf = tensorflow()
    for node in [
        n for n in graph.nodes.values() if n.op == "DepthwiseConv2dNative" and n.attr["padding"].s == b"EXPLICIT"
    ]:
        amounts = np.array(node.attr["explicit_paddings"].list.i, np.int32).reshape(4, 2)
        paddings = graph.constant(graph.free_name(f"{node.name}/paddings"), amounts)
        node.input[0] = graph.add(
            "Pad", graph.free_name(f"{node.name}/pad"), [node.input[0], paddings], T=tf.float32, Tpaddings=tf.int32
        )
        node.attr["padding"].s = b"VALID"
        del node.attr["explicit_paddings"]


def multiply_by_reciprocals(graph: Graph) -> None:
    """Turn division by a constant into a product, as TensorFlow's graph optimizer does."""
    for node in [n for n in graph.nodes.values() if n.op == "RealDiv"]:
        value = graph.value(node.input[1])
        if value is not None and value.dtype == np.float32 and value.all():
            node.op = "Mul"
            node.input[1] = graph.constant(graph.free_name(f"{node.name}/reciprocal"), np.reciprocal(value))
