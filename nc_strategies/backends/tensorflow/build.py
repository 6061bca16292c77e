"""Build a graph of int8 kernels from a configuration."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nc_strategies.backends.tensorflow import kernels
from nc_strategies.backends.tensorflow.fused_ops import CARRIERS, FusedOp, Matched
from nc_strategies.backends.tensorflow.graph import Graph, Node, node_of
from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow
from nc_strategies.backends.tensorflow.kernels import FUSED_FLOAT, REMAPPED, Quantized, quantized_type
from nc_strategies.backends.tensorflow.weights import REDUCED, SMALLEST_MAGNITUDE, WeightCache
from nc_strategies.space import OpScheme

ZERO_RANGE = 1.0
"""Upper bound of the quantized range of a tensor that is zero on calibration data, which must not have a zero scale."""
LARGEST_RANGE = 1e25
"""Highest upper bound of a quantized range: the kernels multiply scales of inputs and weights in float32."""
SIGNED_SUM = "Sum"
"""What a probe and `limits` call a convolution that adds a signed tensor and has an unsigned output. The kernel of some
processors writes its sum to the signed tensor's memory as signed, so that it ends at 127 and not at 255."""
ZERO = "nc_strategies/zero"
"""Name of the constant that holds the lowest value of every ``uint8`` tensor."""


@dataclass(frozen=True)
class BuildContext:
    """The parts of a model that all its configurations share.

    Args:
        graph: The simplified graph.
        matched: Its fused operators.
        outputs: Tensors of the graph to fetch, in the model's order.
        weights: Quantized weights.
        range: Maps (tensor, algorithm) to the (lowest, highest) value to represent.
    """

    graph: Graph
    matched: Matched
    outputs: tuple[str, ...]
    weights: WeightCache
    range: Callable[[str, str], tuple[float, float]]

    def tensors(self) -> set[str]:
        """The tensors whose calibration range any configuration needs."""
        read = {
            name
            for fused_op in self.matched.fused_ops.values()
            for name in (fused_op.source, fused_op.addend, fused_op.output)
            if name
        }
        float32 = tensorflow().float32
        return read | {
            node.name
            for node in self.graph.nodes.values()
            if node.op == "ConcatV2" and self.matched.dtypes[node.name] == float32
        }


@dataclass(frozen=True)
class BuiltGraph:
    """The graph of one configuration.

    Args:
        graph: The graph.
        outputs: The tensors to fetch, in the model's order.
        int8: Nodes that compute in int8; they have the names of the model's operators.
        fingerprint: Hash of the graph. A weight enters it by its quantization scheme and not by its bytes.
    """

    graph: Graph
    outputs: tuple[str, ...]
    int8: frozenset[str]
    fingerprint: str


class GraphBuilder:
    """Builds the graph of one configuration.

    A tensor that several int8 operators read is quantized once, with the calibration algorithm of the first reader.
    Operators of `CARRIERS` between two int8 operators stay in int8.

    Args:
        parts: The parts of the model.
        schemes: Name of a fused operator to its scheme, for those in int8; all others stay in floating point.
        limits: Maps (operator type, activation type) to the largest integer weight to use.
        fused: Types of floating-point operators that are written fused with their bias and activation.
    """

    def __init__(
        self,
        parts: BuildContext,
        schemes: Mapping[str, OpScheme],
        limits: Callable[[str, str], int],
        fused: Sequence[str] = FUSED_FLOAT,
    ) -> None:
        self._parts, self._schemes, self._limits, self._fused = parts, schemes, limits, fused
        self._fused_ops = {
            node_of(fused_op.output): fused_op
            for fused_op in parts.matched.fused_ops.values()
            if fused_op.name in schemes
        }
        self._fused_floats = self._find_fused_floats()
        self._out = Graph(library=parts.graph.library)
        self._floats: dict[str, str] = {}
        self._quantized: dict[str, Quantized] = {}
        self._int8: set[str] = set()
        self._labels: dict[str, str] = {}
        order = list(parts.graph.ordered())
        self._algorithms: dict[str, str] = {}
        self._range_source: dict[str, str] = {}
        self._collect_requirements(order)
        self._order = order

    def build(self) -> BuiltGraph:
        """Build the graph."""
        self._emit_nodes()
        outputs = []
        for index, tensor in enumerate(self._parts.outputs):
            name = self._out.free_name(f"output/{index}")
            dtype = tensorflow().as_dtype(self._dtype_of(tensor))
            outputs.append(self._out.add("Identity", name, [self._as_float(tensor)], T=dtype))
        feeds = [name for name, node in self._out.nodes.items() if node.op == "Placeholder"]
        self._out.prune([*outputs, *feeds])
        return BuiltGraph(self._out, tuple(outputs), frozenset(self._int8 & set(self._out.nodes)), self._hash())

    def _emit_nodes(self) -> None:
        """Add what stands for the nodes of the fp32 graph."""
        inside = {name for fused_op in self._fused_ops.values() for name in (fused_op.name, *fused_op.absorbed)}
        for end, fused_op in self._fused_floats.items():
            inside |= {fused_op.name, *fused_op.absorbed[: fused_op.absorbed.index(end)]}
        for node in self._order:
            if node.name in self._fused_ops:
                self._emit_fused_op(self._fused_ops[node.name])
            elif node.name in self._fused_floats:
                self._emit_fused_float(self._fused_floats[node.name], node.name)
            elif node.name not in inside and not self._emit_carrier(node):
                self._emit_float(node)

    def _collect_requirements(self, order: list[Node]) -> None:
        """Walk from the outputs to the inputs and record what the readers of each tensor require.

        `_algorithms` maps a tensor to the calibration algorithm of the first int8 operator that reads it, directly or
        through carriers. `_range_source` maps it to the tensor whose range it uses: the operands of a Concat share a
        scale, so that the Concat only copies bytes.
        """
        for node in reversed(order):
            if fused_op := self._fused_ops.get(node.name):
                algorithm = self._schemes[fused_op.name].activation.algorithm
                for tensor in filter(None, (fused_op.source, fused_op.addend)):
                    self._algorithms[tensor] = algorithm
            elif node.op in CARRIERS and node.name in self._algorithms:
                for text in _data_inputs(node):
                    self._algorithms[text] = self._algorithms[node.name]
                    if node.op == "ConcatV2" or node.name in self._range_source:
                        self._range_source[text] = self._range_source.get(node.name, node.name)

    def _emit_float(self, node: Node) -> None:
        if node.op == "Const":
            self._out.nodes[node.name] = node
            self._labels[node.name] = "given"
            self._floats[node.name] = node.name
            return
        if node.op == "Shape" and node.input[0] in self._quantized:
            quantized = self._quantized[node.input[0]]
            copy = self._out.copy(node)
            copy.input[0] = quantized.values
            copy.attr["T"].type = quantized_type(quantized.dtype).as_datatype_enum
            return
        inputs = [self._as_float(text) for text in node.input]
        copy = self._out.copy(node)
        del copy.input[:]
        copy.input.extend(inputs)

    def _find_fused_floats(self) -> dict[str, FusedOp]:
        """Last node to floating-point operator, for those written fused; none where TensorFlow may fuse more."""
        graph = self._parts.graph
        fused_ops = self._parts.matched.fused_ops
        inside = {name for fused_op in fused_ops.values() for name in (fused_op.name, *fused_op.absorbed)}
        if any(node.op in REMAPPED for node in graph.nodes.values() if node.name not in inside):
            return {}
        plain = [u for u in fused_ops.values() if u.name not in self._schemes and u.op in self._fused and u.bias]
        return {fused_op.absorbed[0] if fused_op.addend else node_of(fused_op.output): fused_op for fused_op in plain}

    def _emit_fused_float(self, fused_op: FusedOp, end: str) -> None:
        node = self._parts.graph.nodes[fused_op.name]
        data = [self._as_float(text) for text in (node.input[0], node.input[1], fused_op.bias)]
        kernels.fused_float(self._out, fused_op, node, data)
        self._floats[end] = fused_op.name

    def _as_float(self, tensor: str) -> str:
        if tensor in self._floats:
            return self._floats[tensor]
        quantized = self._quantized.get(tensor)
        if quantized is None:
            return tensor
        name = self._out.free_name(f"{_flat(tensor)}/dequantize")
        kernels.dequantize(self._out, name, quantized)
        self._floats[tensor] = name
        return name

    def _as_int8(self, tensor: str, dtype: str, algorithm: str) -> Quantized:
        quantized = self._quantized.get(tensor)
        if quantized is not None and quantized.dtype == dtype:
            return quantized
        source = self._as_float(tensor)
        name = self._out.free_name(f"{_flat(tensor)}/quantize")
        low, high, largest = self._bounds(name, tensor, dtype, self._algorithms.get(tensor, algorithm))
        kernels.quantize(self._out, name, source, low, high, dtype)
        self._quantized[tensor] = Quantized(name, f"{name}:1", f"{name}:2", dtype, largest)
        return self._quantized[tensor]

    def _bounds(
        self, name: str, tensor: str, dtype: str, algorithm: str, cap: float = float("inf"), halved: bool = False
    ) -> tuple[str, str, float]:
        """Add constants for the lowest and highest value of a tensor; return their names and the highest value.

        Args:
            name: Name of the node that makes the tensor.
            tensor: The tensor.
            dtype: Its quantized type.
            algorithm: The calibration algorithm.
            cap: The highest value that it can have.
            halved: Whether its largest value is to be represented by 127 of 255.
        """
        low, high = self._parts.range(self._range_source.get(tensor, tensor), algorithm)
        largest = high if dtype == "uint8" else max(abs(low), abs(high))
        largest = representable(min(largest, cap) * (255 / 127 if halved else 1))
        highest = self._out.constant(f"{name}/highest", np.array(largest, np.float32))
        if dtype == "int8":
            return self._out.constant(f"{name}/lowest", np.array(-largest, np.float32)), highest, largest
        return self._mark(0.0), highest, largest

    def _emit_fused_op(self, fused_op: FusedOp) -> None:
        tf = tensorflow()
        scheme = self._schemes[fused_op.name]
        assert scheme.weight is not None
        source = self._as_int8(fused_op.source, scheme.activation.dtype, scheme.activation.algorithm)
        weight = self._parts.weights.get(fused_op, scheme.weight.granularity, self._limits(fused_op.op, source.dtype))
        for constant in (weight.values, weight.bound):
            self._out.nodes[constant.name] = constant
            self._labels[constant.name] = weight.label
        arguments = kernels.Arguments()
        arguments.take(source.values, quantized_type(source.dtype), self._mark(weight.mark), source.high)
        # The kernels use only the larger magnitude of the two bounds, and the executor spends a step per constant.
        arguments.take(weight.values.name, tf.qint8, weight.bound.name, weight.bound.name)
        arguments.take(self._bias(fused_op), tf.float32)
        arguments.fused.append("BiasAdd")
        addend = ""
        if fused_op.addend:
            other = self._as_int8(fused_op.addend, self._addend_dtype(fused_op), scheme.activation.algorithm)
            arguments.take(other.values, quantized_type(other.dtype), other.low, other.high)
            arguments.fused.append("Sum")
            addend = other.dtype
        if fused_op.activation:
            arguments.fused.append(fused_op.activation if fused_op.op == "MatMul" else "Relu")
        self._int8.add(fused_op.name)
        if fused_op.op == "MatMul" and fused_op.output not in self._algorithms:
            arguments.fused.append("Dequantize")
            kernels.matmul(self._out, fused_op, arguments, None)
            self._floats[fused_op.output] = fused_op.name
            return
        dtype = "uint8" if fused_op.activation else "int8"
        algorithm = self._algorithms.get(fused_op.output, scheme.activation.algorithm)
        cap = 6.0 if fused_op.activation == "Relu6" else float("inf")
        halved = addend == "int8" and dtype == "uint8" and self._limits(SIGNED_SUM, addend) == REDUCED
        low, high, largest = self._bounds(fused_op.name, fused_op.output, dtype, algorithm, cap, halved)
        arguments.bounds += [low, high]
        arguments.fused.append("Requantize")
        if fused_op.op == "MatMul":
            kernels.matmul(self._out, fused_op, arguments, dtype)
        else:
            kernels.convolution(
                self._out, fused_op, self._parts.graph.nodes[fused_op.name], arguments, dtype, addend or dtype
            )
        self._quantized[fused_op.output] = Quantized(
            fused_op.name, f"{fused_op.name}:1", f"{fused_op.name}:2", dtype, largest
        )

    def _mark(self, mark: float) -> str:
        """The constant for a kernel's lower input bound, with a value that identifies the weight's quantization.

        TensorFlow caches oneDNN primitives, with the weight's scales in them, under the values of the input's bounds
        but only under the address of the weight's bounds. If that address is freed and reused, a primitive with another
        graph's scales is found. The kernel uses only the larger magnitude of the two input bounds, so a distinct tiny
        lower bound tells the quantizations of one weight apart and changes no result.
        """
        name = f"{ZERO}/{mark:g}" if mark else ZERO
        if name not in self._out.nodes:
            self._out.constant(name, np.array(mark, np.float32))
        return name

    def _addend_dtype(self, fused_op: FusedOp) -> str:
        if fused_op.addend in self._quantized:
            return self._quantized[fused_op.addend].dtype
        return activation_dtype(self._parts.matched, fused_op.addend)

    def _bias(self, fused_op: FusedOp) -> str:
        if fused_op.bias:
            return fused_op.bias
        zeros = np.zeros(_channels(self._parts.graph, fused_op), np.float32)
        return self._out.constant(self._out.free_name(f"{fused_op.name}/no_bias"), zeros)

    def _emit_carrier(self, node: Node) -> bool:
        """Run a carrier in int8 where that saves a conversion; return whether it was done."""
        data = _data_inputs(node)
        if (
            node.op not in CARRIERS
            or node.name not in self._algorithms
            or any(text not in self._quantized for text in data)
        ):
            return False
        tensors = [self._quantized[text] for text in data]
        first, type_ = tensors[0], quantized_type(tensors[0].dtype)
        if any((tensor.dtype, tensor.largest) != (first.dtype, first.largest) for tensor in tensors):
            return False
        if node.op in ("MaxPool", "AvgPool"):
            if not kernels.pool(self._out, node, first):
                return False
            self._int8.add(node.name)
        elif node.op in kernels.VIEWED:
            kernels.viewed(self._out, node, first)
        elif node.op != "Pad" or not kernels.pad(
            self._out, node, first, self._parts.matched.shapes.get(data[0]), self._parts.graph.value(node.input[1])
        ):
            copy = self._out.copy(node)
            copy.attr["T"].type = type_.as_datatype_enum
            for index, tensor in enumerate(tensors):
                copy.input[index] = tensor.values
        self._quantized[node.name] = Quantized(node.name, first.low, first.high, first.dtype, first.largest)
        return True

    def _dtype_of(self, tensor: str) -> Any:
        return self._parts.matched.dtypes[tensor]

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for node in self._out.ordered():
            digest.update(f"{node.name}\0{node.op}\0{chr(0).join(node.input)}\0".encode())
            if node.name in self._labels:
                digest.update(self._labels[node.name].encode())
                continue
            for key in sorted(node.attr):
                digest.update(key.encode() + node.attr[key].SerializeToString(deterministic=True))
        return digest.hexdigest()[:16]


def representable(largest: float) -> float:
    """The upper bound of a range as the kernels take it: within their arithmetic, and not zero."""
    return float(np.float32(min(max(largest or ZERO_RANGE, SMALLEST_MAGNITUDE), LARGEST_RANGE)))


def activation_dtype(matched: Matched, tensor: str) -> str:
    """The type to which a tensor is quantized: ``uint8`` if it is known to be nonnegative, else ``int8``."""
    return "uint8" if tensor in matched.nonnegative else "int8"


def _flat(tensor: str) -> str:
    return tensor.replace(":", "_")


def _channels(graph: Graph, fused_op: FusedOp) -> int:
    weight = graph.value(fused_op.weight)
    assert weight is not None
    if fused_op.op == "MatMul" and graph.nodes[fused_op.name].attr["transpose_b"].b:
        return int(weight.shape[0])
    return int(weight.shape[2] * weight.shape[3] if fused_op.op == "DepthwiseConv2dNative" else weight.shape[-1])


def _data_inputs(node: Node) -> list[str]:
    count = len(node.input) - 1 if node.op == "ConcatV2" else 1
    return list(node.input[:count])
