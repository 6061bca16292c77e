"""Cross-layer equalization in a TensorFlow graph; see `nc_strategies.backends.equalization`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nc_strategies.backends.equalization import Array, Pair, factors
from nc_strategies.backends.tensorflow.graph import Graph, Node
from nc_strategies.backends.tensorflow.units import Matched, Unit


def pairs(graph: Graph, matched: Matched, outputs: Iterable[str]) -> list[Pair[Unit]]:
    """The tensors of a simplified graph whose channels can be scaled.

    Args:
        graph: The graph.
        matched: Its units.
        outputs: Tensors that are fetched.
    """
    readers, fetched = graph.consumers(), set(outputs)
    by_source = {unit.source: unit for unit in matched.units.values()}
    found = []
    for first in matched.units.values():
        second = by_source.get(first.output)
        if second is None or first.addend or first.activation not in ("", "Relu") or first.output in fetched:
            continue
        own = all(len(readers[name]) == 1 for name in (first.weight, first.bias, second.weight) if name)
        channels = _channels(graph, first, _output_axis(graph, first))
        fits = (first.op == "MatMul") == (second.op == "MatMul") and channels == _channels(
            graph, second, _input_axis(graph, second)
        )
        if own and fits and _only_reader(first.output, second, readers):
            found.append(Pair(first, second, first.output, channels))
    return found


def equalized(graph: Graph, chosen: Sequence[Pair[Unit]], peaks: Mapping[str, Array]) -> Graph:
    """The graph with its channels scaled.

    Args:
        graph: The graph, which stays as it is.
        chosen: What to scale, see `pairs`.
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


def _only_reader(tensor: str, unit: Unit, readers: Mapping[str, list[Node]]) -> bool:
    """Whether a unit alone reads a tensor, at most through a padding that it takes in."""
    after = readers.get(tensor, [])
    if unit.paddings and len(after) == 1 and after[0].name != unit.name:
        after = readers.get(after[0].name, [])
    return len(after) == 1 and after[0].name == unit.name


def _output_axis(graph: Graph, unit: Unit) -> int:
    if unit.op == "MatMul":
        return 0 if graph.nodes[unit.name].attr["transpose_b"].b else 1
    return 2 if unit.op == "DepthwiseConv2dNative" else 3


def _input_axis(graph: Graph, unit: Unit) -> int:
    return 1 - _output_axis(graph, unit) if unit.op == "MatMul" else 2


def _channels(graph: Graph, unit: Unit, axis: int) -> int:
    weight = graph.value(unit.weight)
    assert weight is not None
    return int(weight.shape[axis])


def _by_input(graph: Graph, unit: Unit) -> Array:
    """Largest magnitudes of a unit's weights, shape (input channels, output channels)."""
    weight = graph.value(unit.weight)
    assert weight is not None
    size = np.abs(weight.astype(np.float64))
    if unit.op == "MatMul":
        return np.asarray(size.T if _output_axis(graph, unit) == 0 else size)
    size = size.max((0, 1))
    return np.diag(size[:, 0]) if unit.op == "DepthwiseConv2dNative" else np.asarray(size)


def _change(graph: Graph, name: str, axis: int, by: Array) -> None:
    values = graph.value(name)
    assert values is not None
    shape = [1] * values.ndim
    shape[axis] = -1
    graph.constant(name, (values * by.reshape(shape)).astype(values.dtype))
