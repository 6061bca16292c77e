"""Functions that Keras models are exported with in single steps, made one operator again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from nc_strategies.onnx_graph import external
from nc_strategies.onnx_graph.fold_shapes import drop_unread
from nc_strategies.onnx_graph.names import FreshNames, reads

T = TypeVar("T")
LEAST_OPSET, ENGINE = 17, "com.microsoft"
SQUEEZE_INPUTS_OPSET = 13
"""First opset whose Squeeze has its axes as an input."""
ROUNDING = 1e-6
STEPS = {"Clip", "Div", "GlobalAveragePool", "ReduceMean", "Neg", "Sub", "Mul", "Add", "Sqrt", "Reciprocal", "Erf"}
CONV_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid")
MEANS = {"GlobalAveragePool", "ReduceMean"}


class _Normalization(NamedTuple):
    """A layer normalization: what it reads, its constants, the last of its steps."""

    source: str
    gamma: NDArray[np.float32]
    beta: NDArray[np.float32]
    epsilon: float
    last: onnx.NodeProto


class _Different(Exception):
    """The steps make up another function than the one that is looked for."""


def _found(value: T | None) -> T:
    """A value that the function looked for must have."""
    if value is None:
        raise _Different
    return value


def _require(condition: bool) -> None:
    if not condition:
        raise _Different


class _Graph:
    """Look-ups, and functions read from their steps; `_Different` is raised where the steps are not theirs."""

    def __init__(self, model: onnx.ModelProto, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
        self.arrays = {i.name: i for i in model.graph.initializer}
        self.producers = {name: node for node in model.graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in reads(node):
                self.readers.setdefault(name, []).append(node)
        self.shapes = shapes
        self.fresh = FreshNames(model)
        """Names for new nodes and constants."""

    def made_by(self, name: str, *kinds: str) -> onnx.NodeProto | None:
        node = self.producers.get(name)
        return node if node is not None and node.op_type in kinds else None

    def array(self, name: str) -> NDArray[Any]:
        """The values of an initializer."""
        return external.array(_found(self.arrays.get(name)))

    def constant(self, node: onnx.NodeProto) -> tuple[str, NDArray[np.float32]]:
        """The other operand of a sum or product with a constant, and the constant."""
        known = [i for i, name in enumerate(node.input) if name in self.arrays]
        _require(len(known) == 1 and len(node.input) == 2)
        return str(node.input[1 - known[0]]), self.array(node.input[known[0]])

    def mean_of(self, name: str) -> str:
        """What a tensor is the mean of, over the last axis, which stays as one."""
        node = self._maker(name, *MEANS)
        shape, mean = _found(self.shapes.get(node.input[0])), _found(self.shapes.get(name))
        _require(mean == (*shape[:-1], 1) and (node.op_type == "ReduceMean" or len(shape) == 3))
        return str(node.input[0])

    def normalization(self, root: onnx.NodeProto) -> _Normalization:
        """The normalization around a reciprocal of a square root."""
        above = self._maker(self._maker(root.input[0], "Sqrt").input[0], "Add")
        variance, epsilon = self.constant(above)
        squares = self._maker(self.mean_of(variance), "Mul")
        source, mean = self._maker(squares.input[0], "Sub").input
        _require(squares.input[0] == squares.input[1] and epsilon.size == 1 and self.mean_of(mean) == source)
        scale = self._only(root.output[0], "Mul")
        _, gamma = self.constant(scale)
        times_source, times_mean = self._products(scale.output[0], source)
        negative = self._maker(_found(next((n for n in times_mean.input if n != scale.output[0]), None)), "Neg")
        shift = self._only(times_mean.output[0], "Add")
        _, beta = self.constant(shift)
        last = self._only(times_source.output[0], "Add")
        _require(negative.input[0] == mean and shift.output[0] in last.input)
        width = _found((self.shapes.get(source) or (None,))[-1])
        _require(all(a.size == width == a.shape[-1] for a in (gamma, beta)))
        return _Normalization(source, gamma, beta, float(epsilon.item()), last)

    def _products(self, factor: str, source: str) -> tuple[onnx.NodeProto, onnx.NodeProto]:
        """The two products that read a factor: the one with `source`, and the other."""
        readers = self.readers.get(factor, [])
        wanted = _found(next((r for r in readers if r.op_type == "Mul" and source in r.input), None))
        others = [r for r in readers if r is not wanted]
        _require(len(others) == 1 and others[0].op_type == "Mul")
        return wanted, others[0]

    def gelu(self, erf: onnx.NodeProto) -> tuple[str, onnx.NodeProto]:
        """What a Gelu around an error function reads, and its last step: ``0.5 x (1 - erf(-x / sqrt(2)))``."""
        negated, root = self.constant(self._maker(erf.input[0], "Mul"))
        source = str(self._maker(negated, "Neg").input[0])
        rest = self._only(erf.output[0], "Sub")
        _, one = self.constant(rest)
        last = self._only(rest.output[0], "Mul")
        halves = [n for n in last.input if n != rest.output[0]]
        _require(len(halves) == 1)
        halved, half = self.constant(self._maker(halves[0], "Mul"))
        _require(halved == source and rest.input[1] == erf.output[0])
        _require(
            all(
                values.size == 1 and abs(values.item() - value) < ROUNDING
                for values, value in ((root, 0.5**0.5), (one, 1.0), (half, 0.5))
            )
        )
        return source, last

    def hard_sigmoid(self, clip: onnx.NodeProto) -> tuple[str, float, float, onnx.NodeProto]:
        """What a hard sigmoid around a Clip reads, its alpha and beta, and its last step: ``clip(x + c, 0, h) / h``."""
        source, shift = self.constant(self._maker(clip.input[0], "Add"))
        bounds = [self.array(n).item() for n in clip.input[1:] if n in self.arrays]
        last = self._only(clip.output[0], "Mul", "Div")
        _, factor = self.constant(last)
        _require(len(bounds) == 2 and len(self.readers[clip.input[0]]) == 1)
        _require(shift.size == 1 and factor.size == 1 and (last.op_type == "Mul" or last.input[0] == clip.output[0]))
        alpha = factor.item() if last.op_type == "Mul" else 1 / (factor.item() or np.inf)
        _require(bounds[0] == 0 and shift.item() > 0 and abs(alpha * bounds[1] - 1) < ROUNDING)
        return source, alpha, alpha * shift.item(), last

    def alone_behind_conv(self, name: str) -> bool:
        """Whether a tensor is what a convolution gives to one reader only."""
        return self.made_by(name, "Conv") is not None and len(self.readers.get(name, [])) == 1

    def behind_conv(self, name: str) -> bool:
        """Whether a tensor is what a convolution gives, behind an activation function or not."""
        act = self.made_by(name, *CONV_ACTIVATIONS)
        return self.made_by(act.input[0] if act is not None else name, "Conv") is not None

    def _maker(self, name: str, *kinds: str) -> onnx.NodeProto:
        """The node that makes a tensor, which must be of one of some types."""
        return _found(self.made_by(name, *kinds))

    def _only(self, name: str, *kinds: str) -> onnx.NodeProto:
        """The one reader of a tensor, which must be of one of some types."""
        readers = self.readers.get(name, [])
        _require(len(readers) == 1 and readers[0].op_type in kinds)
        return readers[0]


class _Whole(NamedTuple):
    """One operator, the constants that it reads, and the last of the steps in whose place it comes."""

    node: onnx.NodeProto
    last: onnx.NodeProto
    constants: Mapping[str, NDArray[np.float32]] = {}


def _layer_normalization(view: _Graph, root: onnx.NodeProto) -> _Whole:
    source, gamma, beta, epsilon, last = view.normalization(root)
    constants = {view.fresh(f"{last.output[0]}/gamma"): gamma, view.fresh(f"{last.output[0]}/beta"): beta}
    node = onnx.helper.make_node(
        "LayerNormalization", [source, *constants], [last.output[0]], name=last.name, axis=-1, epsilon=epsilon
    )
    return _Whole(node, last, constants)


def _gelu(view: _Graph, erf: onnx.NodeProto) -> _Whole:
    source, last = view.gelu(erf)
    return _Whole(onnx.helper.make_node("Gelu", [source], [last.output[0]], name=last.name, domain=ENGINE), last)


def _hard_sigmoid(view: _Graph, clip: onnx.NodeProto) -> _Whole:
    source, alpha, beta, last = view.hard_sigmoid(clip)
    # A convolution takes the sum into its bias, and the bounds into its range.
    _require(not view.alone_behind_conv(source))
    return _Whole(
        onnx.helper.make_node("HardSigmoid", [source], [last.output[0]], name=last.name, alpha=alpha, beta=beta), last
    )


def join(model: onnx.ModelProto, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
    """Replace the steps of layer normalizations over the last axis, Gelus and hard sigmoids by one operator each.

    A normalization is ``x * m + (beta - mean * m)`` with ``m = gamma / sqrt(variance + epsilon)``, its means written as
    poolings by tf2onnx. The Gelu is the engine's own: that of ONNX needs a later opset than the exporter writes.

    A hard sigmoid behind a convolution that nothing else reads becomes steps instead, which cost less there, and a mean
    over the picture a pooling, which runs in int8.

    Args:
        model: Changed in place.
        shapes: Dimensions of its tensors, None where they are free.
    """
    _part(model)
    _pool(model, shapes)
    _one_slope(model)
    graph, view, makers = model.graph, _Graph(model, shapes), _makers(model)
    for node in list(graph.node):
        try:
            made = makers[node.op_type](view, node) if node.op_type in makers else None
        except _Different:
            continue
        if made is not None:
            graph.initializer.extend(
                numpy_helper.from_array(np.ascontiguousarray(values.reshape(-1)), name)
                for name, values in made.constants.items()
            )
            _replace(graph, made.last.output[0], [made.node])
    drop_unread(graph, STEPS)


def _makers(model: onnx.ModelProto) -> dict[str, Callable[[_Graph, onnx.NodeProto], _Whole]]:
    """The functions that a model's opsets have as operators, by the type of the step they are recognized by."""
    versions = {o.domain: o.version for o in model.opset_import}
    makers: dict[str, Callable[[_Graph, onnx.NodeProto], _Whole]] = {"Clip": _hard_sigmoid}
    if versions.get("", 0) >= LEAST_OPSET:
        makers["Reciprocal"] = _layer_normalization
    if ENGINE in versions:
        makers["Erf"] = _gelu
    return makers


def _opset(model: onnx.ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def _replace(graph: onnx.GraphProto, output: str, made: Sequence[onnx.NodeProto]) -> None:
    """Put nodes where the one that makes a tensor stands."""
    place = next(i for i, other in enumerate(graph.node) if other.output[0] == output)
    del graph.node[place]
    for node in reversed(made):
        graph.node.insert(place, node)


def hard_sigmoid_coefficients(node: onnx.NodeProto) -> tuple[float, float]:
    """Alpha and beta of a ``HardSigmoid``."""
    given = {a.name: a.f for a in node.attribute}
    return given.get("alpha", 0.2), given.get("beta", 0.5)


def _part(model: onnx.ModelProto) -> None:
    """Write the hard sigmoids which alone read a convolution in steps."""
    graph, view, fresh = model.graph, _Graph(model, {}), FreshNames(model)
    for node in [n for n in graph.node if n.op_type == "HardSigmoid" and view.alone_behind_conv(n.input[0])]:
        alpha, beta = hard_sigmoid_coefficients(node)
        if alpha <= 0:
            continue
        stem, source, result = node.name or node.output[0], node.input[0], node.output[0]
        values = {"shift": beta / alpha, "low": 0.0, "high": 1 / alpha, "factor": alpha}
        names = {n: fresh(f"{result}/{n}") for n in (*values, "sum", "clip")}
        graph.initializer.extend(numpy_helper.from_array(np.float32(v), names[n]) for n, v in values.items())
        _replace(
            graph,
            result,
            [
                onnx.helper.make_node("Add", [source, names["shift"]], [names["sum"]], name=fresh(f"{stem}/add")),
                onnx.helper.make_node(
                    "Clip",
                    [names["sum"], names["low"], names["high"]],
                    [names["clip"]],
                    name=fresh(f"{stem}/bound"),
                ),
                onnx.helper.make_node("Mul", [names["clip"], names["factor"]], [result], name=stem),
            ],
        )


def _pool(model: onnx.ModelProto, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
    """Write means over all axes behind the channels as ``GlobalAveragePool``, which has an int8 kernel.

    With one such axis, the input has to come from a convolution: a layer normalization is left as it is.
    """
    graph, view = model.graph, _Graph(model, shapes)
    for node in [n for n in graph.node if n.op_type == "ReduceMean" and n.domain in ("", "ai.onnx")]:
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        axes = (
            view.array(node.input[1]).tolist()
            if len(node.input) > 1 and node.input[1] in view.arrays
            else given.get("axes")
        )
        rank = len(shapes.get(node.input[0], ()))
        if rank not in (3, 4, 5) or axes is None or sorted(a % rank for a in axes) != list(range(2, rank)):
            continue
        if rank == 3 and not view.behind_conv(node.input[0]):
            continue
        result, kept = node.output[0], given.get("keepdims", 1)
        if not kept and _opset(model) < SQUEEZE_INPUTS_OPSET:
            continue
        pooled = result if kept else view.fresh(f"{result}/pooled")
        made = [onnx.helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name)]
        if not kept:
            axes_name = view.fresh(f"{result}/axes")
            graph.initializer.append(numpy_helper.from_array(np.arange(2, rank, dtype=np.int64), axes_name))
            made.append(
                onnx.helper.make_node(
                    "Squeeze", [pooled, axes_name], [result], name=view.fresh(f"{node.name or result}/squeeze")
                )
            )
        _replace(graph, result, made)


def _one_slope(model: onnx.ModelProto) -> None:
    """Write every ``PRelu`` with the same slope for all channels as ``LeakyRelu``, which has an int8 kernel."""
    arrays = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "PRelu" or node.domain not in ("", "ai.onnx") or node.input[1] not in arrays:
            continue
        slopes = external.array(arrays[node.input[1]])
        if slopes.size and (slopes == slopes.flat[0]).all():
            node.op_type = "LeakyRelu"
            node.attribute.append(onnx.helper.make_attribute("alpha", float(slopes.flat[0])))
            del node.input[1:]
