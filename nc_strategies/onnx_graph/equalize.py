"""Cross-layer equalization in an ONNX graph; see `nc_strategies.calibration.equalization`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from nc_strategies.calibration.equalization import Array, Pair, factors
from nc_strategies.onnx_graph import external
from nc_strategies.onnx_graph.graph import FusedOp, Graph


def pairs(graph: Graph) -> list[Pair[FusedOp]]:
    """The tensors of a model whose channels can be scaled; none in a large one: its weights would be written again."""
    if not external.may_be_reworked(graph.model):
        return []
    by_input = {fused_op.inputs[0]: fused_op for fused_op in graph.fused_ops.values() if fused_op.weight is not None}
    found = []
    for first in graph.fused_ops.values():
        second = by_input.get(first.output)
        if second is not None and first.weight is not None and _can_be_scaled(graph, first, second):
            found.append(Pair(first, second, first.output, _channels(graph, first), 1 if first.type == "Conv" else -1))
    return found


def _can_be_scaled(graph: Graph, first: FusedOp, second: FusedOp) -> bool:
    """Whether factors of channels between two operators cancel, and nobody else sees them."""
    return (
        (first.act is None or first.act.op_type == "Relu")
        and _alone(graph, first, second)
        and _channels_agree(graph, first, second)
    )


def _alone(graph: Graph, first: FusedOp, second: FusedOp) -> bool:
    """Whether nothing else reads what is between two operators, or their constants."""
    between = {first.raw, first.output}
    constants = [name for name in (first.weight, first.bias, second.weight) if name]
    return not {*between, *constants} & graph.outputs and all(
        len(graph.consumers.get(name, [])) == 1 for name in (*between, *constants)
    )


def _channels_agree(graph: Graph, first: FusedOp, second: FusedOp) -> bool:
    channels = _channels(graph, first)
    plain_bias = first.bias is None or graph.array(first.bias).shape == (channels,)
    return (
        plain_bias
        and not _stacked(graph, first)
        and not _stacked(graph, second)
        and (first.type == "Conv") == (second.type == "Conv")
        and channels == len(_by_input(graph, second))
        and not _attribute(second, "transA", 0)
    )


def _stacked(graph: Graph, fused_op: FusedOp) -> bool:
    """Whether an operator multiplies by a stack of matrices, whose channels may mean different things."""
    return fused_op.weight is not None and fused_op.type != "Conv" and graph.array(fused_op.weight).ndim != 2


def _channels(graph: Graph, fused_op: FusedOp) -> int:
    """Output channels of an operator with a weight."""
    assert fused_op.weight is not None
    return int(graph.array(fused_op.weight).shape[_output_axis(fused_op)])


def equalized(graph: Graph, chosen: Sequence[Pair[FusedOp]], peaks: Mapping[str, Array]) -> Graph:
    """The model with its channels scaled.

    Args:
        graph: The model.
        chosen: What to scale, see `pairs`.
        peaks: Largest magnitude of each channel on calibration data, by tensor; shape (channels,).
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for pair in chosen:
        _scale(model, graph, pair, factors(peaks[pair.tensor], _by_input(graph, pair.second)))
    return Graph(model, files=graph.files)


def _output_axis(fused_op: FusedOp) -> int:
    if fused_op.type == "Conv" or (fused_op.type == "Gemm" and _attribute(fused_op, "transB", 0)):
        return 0
    return 1


def _attribute(fused_op: FusedOp, name: str, default: int) -> int:
    return int(next((a.i for a in fused_op.node.attribute if a.name == name), default))


def _by_input(graph: Graph, fused_op: FusedOp) -> Array:
    """Largest magnitudes of an operator's weights, shape (input channels, output channels); zero outside its group."""
    assert fused_op.weight is not None
    weight = np.abs(graph.array(fused_op.weight).astype(np.float64))
    if fused_op.type != "Conv":
        return np.asarray(weight.T if _output_axis(fused_op) == 0 else weight)
    groups = _attribute(fused_op, "group", 1)
    flat = weight.reshape(*weight.shape[:2], -1).max(2)
    found = np.zeros((flat.shape[1] * groups, flat.shape[0]))
    for group, part in enumerate(np.split(flat, groups)):
        rows, columns = flat.shape[1], flat.shape[0] // groups
        found[group * rows : (group + 1) * rows, group * columns : (group + 1) * columns] = part.T
    return found


def _scale(model: onnx.ModelProto, graph: Graph, pair: Pair[FusedOp], scales: Array) -> None:
    """Divide what the first operator gives by the factors, and multiply what the second reads."""
    places = {initializer.name: initializer for initializer in model.graph.initializer}

    def change(name: str, axis: int, by: Array) -> None:
        values = external.array(places[name])
        shape = [1] * values.ndim
        shape[axis] = -1
        put(name, (values * by.reshape(shape)).astype(values.dtype))

    def put(name: str, values: Array) -> None:
        made = external.tensor(name, values) if graph.files is None else graph.files.tensor(name, values)
        places[name].CopyFrom(made)

    first, second = pair.first, pair.second
    assert first.weight is not None
    assert second.weight is not None
    change(first.weight, _output_axis(first), 1 / scales)
    if first.bias is not None:
        change(first.bias, 0, 1 / scales)
    if second.type != "Conv":
        change(second.weight, 1 - _output_axis(second), scales)
        return
    groups, values = _attribute(second, "group", 1), external.array(places[second.weight])
    parts = values.reshape(groups, -1, *values.shape[1:]) * scales.reshape(
        groups, 1, values.shape[1], *[1] * (values.ndim - 2)
    )
    put(second.weight, parts.reshape(values.shape).astype(values.dtype))
