"""Functions that Keras models are exported with in single steps, made one operator again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from nc_strategies.onnx_graph.fold_shapes import drop_unread

LEAST_OPSET, ENGINE = 17, "com.microsoft"
ROUNDING = 1e-6
STEPS = {"Clip", "Div", "GlobalAveragePool", "ReduceMean", "Neg", "Sub", "Mul", "Add", "Sqrt", "Reciprocal", "Erf"}
MEANS = {"GlobalAveragePool", "ReduceMean"}


class _Normalization(NamedTuple):
    """A layer normalization: what it reads, its constants, the last of its steps, and all of them."""

    source: str
    gamma: NDArray[np.float32]
    beta: NDArray[np.float32]
    epsilon: float
    last: onnx.NodeProto


class _Graph:
    """Look-ups, and questions that are None where the answer is no."""

    def __init__(self, model: onnx.ModelProto, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
        self.arrays = {i.name: i for i in model.graph.initializer}
        self.producers = {name: node for node in model.graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.shapes = shapes

    def made_by(self, name: str, *kinds: str) -> onnx.NodeProto | None:
        node = self.producers.get(name)
        return node if node is not None and node.op_type in kinds else None

    def constant(self, node: onnx.NodeProto) -> tuple[str, NDArray[np.float32]] | None:
        """The other operand of a sum or product with a constant, and the constant."""
        known = [i for i, name in enumerate(node.input) if name in self.arrays]
        if len(known) != 1 or len(node.input) != 2:
            return None
        return str(node.input[1 - known[0]]), numpy_helper.to_array(self.arrays[node.input[known[0]]])

    def mean_of(self, name: str) -> str | None:
        """What a tensor is the mean of, over the last axis, which stays as one."""
        node = self.made_by(name, *MEANS)
        if node is None:
            return None
        shape, mean = self.shapes.get(node.input[0]), self.shapes.get(name)
        kept = shape is not None and mean is not None and mean == (*shape[:-1], 1)
        whole = node.op_type == "ReduceMean" or (shape is not None and len(shape) == 3)
        return str(node.input[0]) if kept and whole else None

    def normalization(self, root: onnx.NodeProto) -> _Normalization | None:
        """The normalization around a reciprocal of a square root."""
        square_root = self.made_by(root.input[0], "Sqrt")
        above = self.made_by(square_root.input[0], "Add") if square_root is not None else None
        variance = self.constant(above) if above is not None else None
        squares = self.made_by(self.mean_of(variance[0]) or "", "Mul") if variance is not None else None
        difference = self.made_by(squares.input[0], "Sub") if squares is not None else None
        if variance is None or squares is None or difference is None or squares.input[0] != squares.input[1]:
            return None
        source, mean = difference.input
        if variance[1].size != 1 or self.mean_of(mean) != source:
            return None
        return self._scaled(root, source, mean, float(variance[1].item()))

    def _scaled(self, root: onnx.NodeProto, source: str, mean: str, epsilon: float) -> _Normalization | None:
        scale = self._only(root.output[0], "Mul")
        gamma = self.constant(scale) if scale is not None else None
        if scale is None or gamma is None:
            return None
        parts = self.readers.get(scale.output[0], [])
        times_source = next((p for p in parts if p.op_type == "Mul" and source in p.input), None)
        others = [p for p in parts if p is not times_source]
        if times_source is None or len(others) != 1 or others[0].op_type != "Mul":
            return None
        negative = next((self.made_by(n, "Neg") for n in others[0].input if n != scale.output[0]), None)
        shift = self._only(others[0].output[0], "Add")
        beta = self.constant(shift) if shift is not None else None
        last = self._only(times_source.output[0], "Add")
        if negative is None or negative.input[0] != mean or shift is None or beta is None or last is None:
            return None
        width = (self.shapes.get(source) or (None,))[-1]
        fits = width is not None and all(a.size == width == a.shape[-1] for a in (gamma[1], beta[1]))
        whole = fits and shift.output[0] in last.input
        return _Normalization(source, gamma[1], beta[1], epsilon, last) if whole else None

    def gelu(self, erf: onnx.NodeProto) -> tuple[str, onnx.NodeProto] | None:
        """What a Gelu around an error function reads, and its last step: ``0.5 x (1 - erf(-x / sqrt(2)))``."""
        scaled = self.made_by(erf.input[0], "Mul")
        root = self.constant(scaled) if scaled is not None else None
        negative = self.made_by(root[0], "Neg") if root is not None else None
        rest = self._only(erf.output[0], "Sub")
        one = self.constant(rest) if rest is not None else None
        last = self._only(rest.output[0], "Mul") if rest is not None else None
        if root is None or negative is None or rest is None or one is None or last is None:
            return None
        halves = [self.made_by(n, "Mul") for n in last.input if n != rest.output[0]]
        half = self.constant(halves[0]) if len(halves) == 1 and halves[0] is not None else None
        source = str(negative.input[0])
        right = (
            half is not None
            and half[0] == source
            and rest.input[1] == erf.output[0]
            and all(
                values.size == 1 and abs(values.item() - value) < ROUNDING
                for (_, values), value in ((root, 0.5**0.5), (one, 1.0), (half, 0.5))
            )
        )
        return (source, last) if right else None

    def hard_sigmoid(self, clip: onnx.NodeProto) -> tuple[str, float, float, onnx.NodeProto] | None:
        """What a hard sigmoid around a Clip reads, its alpha and beta, and its last step: ``clip(x + c, 0, h) / h``."""
        added = self.made_by(clip.input[0], "Add")
        shift = self.constant(added) if added is not None else None
        bounds = [numpy_helper.to_array(self.arrays[n]).item() for n in clip.input[1:] if n in self.arrays]
        last = self._only(clip.output[0], "Mul") or self._only(clip.output[0], "Div")
        factor = self.constant(last) if last is not None else None
        if shift is None or last is None or factor is None or len(bounds) != 2 or len(self.readers[clip.input[0]]) > 1:
            return None
        if shift[1].size != 1 or factor[1].size != 1 or (last.op_type == "Div" and last.input[0] != clip.output[0]):
            return None
        alpha = factor[1].item() if last.op_type == "Mul" else 1 / (factor[1].item() or np.inf)
        right = bounds[0] == 0 and shift[1].item() > 0 and abs(alpha * bounds[1] - 1) < ROUNDING
        return (shift[0], alpha, alpha * shift[1].item(), last) if right else None

    def alone_behind_conv(self, name: str) -> bool:
        """Whether a tensor is what a convolution gives to one reader only."""
        return self.made_by(name, "Conv") is not None and len(self.readers.get(name, [])) == 1

    def _only(self, name: str, kind: str) -> onnx.NodeProto | None:
        """The one reader of a tensor, if it is of a type."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and readers[0].op_type == kind else None


def join(model: onnx.ModelProto, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
    """Replace the steps of layer normalizations over the last axis, Gelus and hard sigmoids by one operator each.

    A normalization is ``x * m + (beta - mean * m)`` with ``m = gamma / sqrt(variance + epsilon)``, its means written as
    poolings by tf2onnx. The Gelu is the engine's own: that of ONNX needs a later opset than the exporter writes.

    A hard sigmoid behind a convolution that nothing else reads becomes steps instead, which cost less there, and a mean
    over the picture a pooling, which runs in int8.

    Args:
        model: Changed in place; nothing in it has branches or loops.
        shapes: Dimensions of its tensors, None where they are free.
    """
    versions = {o.domain: o.version for o in model.opset_import}
    _part(model)
    _pool(model, shapes)
    graph, view = model.graph, _Graph(model, shapes)
    for node in list(graph.node):
        if node.op_type == "Reciprocal" and versions.get("", 0) >= LEAST_OPSET:
            found = view.normalization(node)
            if found is None:
                continue
            last = found.last
            names = [f"{last.output[0]}/{part}" for part in ("gamma", "beta")]
            for name, values in zip(names, (found.gamma, found.beta), strict=True):
                graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values.reshape(-1)), name))
            made = onnx.helper.make_node(
                "LayerNormalization",
                [found.source, *names],
                [last.output[0]],
                name=last.name,
                axis=-1,
                epsilon=found.epsilon,
            )
        elif node.op_type == "Erf" and ENGINE in versions:
            gelu = view.gelu(node)
            if gelu is None:
                continue
            source, last = gelu
            made = onnx.helper.make_node("Gelu", [source], [last.output[0]], name=last.name, domain=ENGINE)
        elif node.op_type == "Clip":
            gate = view.hard_sigmoid(node)
            if gate is None or view.alone_behind_conv(gate[0]):
                continue  # A convolution takes the sum into its bias, and the bounds into its range.
            source, alpha, beta, last = gate
            made = onnx.helper.make_node(
                "HardSigmoid", [source], [last.output[0]], name=last.name, alpha=alpha, beta=beta
            )
        else:
            continue
        place = next(i for i, other in enumerate(graph.node) if other.output[0] == last.output[0])
        del graph.node[place]
        graph.node.insert(place, made)
    drop_unread(graph, STEPS)


def hard_sigmoid_coefficients(node: onnx.NodeProto) -> tuple[float, float]:
    """Alpha and beta of a ``HardSigmoid``."""
    given = {a.name: a.f for a in node.attribute}
    return given.get("alpha", 0.2), given.get("beta", 0.5)


def _part(model: onnx.ModelProto) -> None:
    """Write the hard sigmoids which alone read a convolution in steps."""
    graph, view = model.graph, _Graph(model, {})
    for node in [n for n in graph.node if n.op_type == "HardSigmoid" and view.alone_behind_conv(n.input[0])]:
        alpha, beta = hard_sigmoid_coefficients(node)
        if alpha <= 0:
            continue
        place = next(i for i, other in enumerate(graph.node) if other.output[0] == node.output[0])
        stem, source, result = node.name or node.output[0], node.input[0], node.output[0]
        values = {"shift": beta / alpha, "low": 0.0, "high": 1 / alpha, "factor": alpha}
        graph.initializer.extend(numpy_helper.from_array(np.float32(v), f"{result}/{n}") for n, v in values.items())
        del graph.node[place]
        steps = [
            onnx.helper.make_node("Add", [source, f"{result}/shift"], [f"{result}/sum"], name=f"{stem}/sum"),
            onnx.helper.make_node(
                "Clip", [f"{result}/sum", f"{result}/low", f"{result}/high"], [f"{result}/clip"], name=f"{stem}/clip"
            ),
            onnx.helper.make_node("Mul", [f"{result}/clip", f"{result}/factor"], [result], name=stem),
        ]
        for step in reversed(steps):
            graph.node.insert(place, step)


def _pool(model: onnx.ModelProto, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
    """Write means over height and width as ``GlobalAveragePool``."""
    graph, view = model.graph, _Graph(model, shapes)
    for node in [n for n in graph.node if n.op_type == "ReduceMean" and n.domain in ("", "ai.onnx")]:
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        axes = given.get("axes")
        if len(node.input) > 1 and node.input[1] in view.arrays:
            axes = numpy_helper.to_array(view.arrays[node.input[1]]).tolist()
        shape = shapes.get(node.input[0], ())
        if len(shape) != 4 or axes is None or sorted(a % 4 for a in axes) != [2, 3]:
            continue
        place = next(i for i, other in enumerate(graph.node) if other.output[0] == node.output[0])
        result, kept = node.output[0], given.get("keepdims", 1)
        pooled = result if kept else f"{result}/pooled"
        made = [onnx.helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name)]
        if not kept:
            graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), f"{result}/axes"))
            made.append(
                onnx.helper.make_node(
                    "Squeeze", [pooled, f"{result}/axes"], [result], name=f"{node.name or result}/squeeze"
                )
            )
        del graph.node[place]
        for one in reversed(made):
            graph.node.insert(place, one)
