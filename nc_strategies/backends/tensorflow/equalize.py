"""Cross-layer equalization in a TensorFlow graph; see `nc_strategies.calibration.equalization`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nc_strategies.backends.tensorflow.fused_ops import FusedOp, Matched
from nc_strategies.backends.tensorflow.graph import Graph, Node
from nc_strategies.calibration.equalization import Array, Pair, factors


def pairs(graph: Graph, matched: Matched, outputs: Iterable[str]) -> list[Pair[FusedOp]]:
    """The pairs of fused operators whose common tensor can be scaled per channel.

    Args:
        graph: The graph.
        matched: Its fused operators.
        outputs: Tensors that are fetched.
    """
    readers, fetched = graph.consumers(), set(outputs)
    by_source = {fused_op.source: fused_op for fused_op in matched.fused_ops.values()}
    scalable = []
    for first in matched.fused_ops.values():
        second = by_source.get(first.output)
        if second is None or first.addend or first.activation not in ("", "Relu") or first.output in fetched:
            continue
        if any(_multiplies(graph, fused_op) for fused_op in (first, second)):
            continue
        unshared = all(len(readers[name]) == 1 for name in (first.weight, first.bias, second.weight) if name)
        channels = _channels(graph, first, _output_axis(graph, first))
        fits = (first.op == "MatMul") == (second.op == "MatMul") and channels == _channels(
            graph, second, _input_axis(graph, second)
        )
        if unshared and fits and _only_reader(first.output, second, readers):
            scalable.append(Pair(first, second, first.output, channels))
    return scalable


def _multiplies(graph: Graph, fused_op: FusedOp) -> bool:
    """Whether a depthwise convolution makes several channels of one."""
    weight = graph.value(fused_op.weight)
    return fused_op.op == "DepthwiseConv2dNative" and weight is not None and weight.shape[3] > 1


def equalized(graph: Graph, chosen: Sequence[Pair[FusedOp]], peaks: Mapping[str, Array]) -> Graph:
    """A copy of the graph with scaled channels.

    Args:
        graph: The graph; it is not changed.
        chosen: The pairs to scale, see `pairs`.
        peaks: Largest magnitude of each channel on calibration data, by tensor; shape (channels,).
    """
    scaled = Graph(graph.nodes.values(), graph.library)
    for pair in chosen:
        scales = factors(peaks[pair.tensor], _by_input(graph, pair.second))
        _change(scaled, pair.first.weight, _output_axis(graph, pair.first), 1 / scales)
        if pair.first.bias:
            _change(scaled, pair.first.bias, 0, 1 / scales)
        _change(scaled, pair.second.weight, _input_axis(graph, pair.second), scales)
    return scaled


def _only_reader(tensor: str, fused_op: FusedOp, readers: Mapping[str, list[Node]]) -> bool:
    """Whether a fused operator is the only reader of a tensor, possibly through a padding that its kernel absorbs."""
    after = readers.get(tensor, [])
    if fused_op.paddings and len(after) == 1 and after[0].name != fused_op.name:
        after = readers.get(after[0].name, [])
    return len(after) == 1 and after[0].name == fused_op.name


def _output_axis(graph: Graph, fused_op: FusedOp) -> int:
    if fused_op.op == "MatMul":
        return 0 if graph.nodes[fused_op.name].attr["transpose_b"].b else 1
    return 2 if fused_op.op == "DepthwiseConv2dNative" else 3


def _input_axis(graph: Graph, fused_op: FusedOp) -> int:
    return 1 - _output_axis(graph, fused_op) if fused_op.op == "MatMul" else 2


def _channels(graph: Graph, fused_op: FusedOp, axis: int) -> int:
    weight = graph.value(fused_op.weight)
    assert weight is not None
    return int(weight.shape[axis])


def _by_input(graph: Graph, fused_op: FusedOp) -> Array:
    """Largest weight magnitude of a fused operator per channel pair, shape (input channels, output channels)."""
    weight = graph.value(fused_op.weight)
    assert weight is not None
    size = np.abs(weight.astype(np.float64))
    if fused_op.op == "MatMul":
        return np.asarray(size.T if _output_axis(graph, fused_op) == 0 else size)
    size = size.max((0, 1))
    return np.diag(size[:, 0]) if fused_op.op == "DepthwiseConv2dNative" else np.asarray(size)


def _change(graph: Graph, name: str, axis: int, by: Array) -> None:
    values = graph.value(name)
    assert values is not None
    shape = [1] * values.ndim
    shape[axis] = -1
    graph.constant(name, (values * by.reshape(shape)).astype(values.dtype))
