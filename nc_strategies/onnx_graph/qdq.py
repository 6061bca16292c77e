"""Assembly of the Q/DQ graph of a configuration, in memory, from cached ranges and cached int8 weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from nc_strategies.errors import EngineError
from nc_strategies.onnx_graph.external import tensor
from nc_strategies.onnx_graph.fuse import hard_sigmoid_coefficients
from nc_strategies.onnx_graph.graph import FusedOp, Graph
from nc_strategies.onnx_graph.names import reads
from nc_strategies.onnx_graph.opsets import describe_as
from nc_strategies.onnx_graph.recovery import addend
from nc_strategies.onnx_graph.weights import PlaceholderWeights, WeightCache, normal_scale
from nc_strategies.space import Config, OpScheme, TensorScheme

Ranges = Callable[[str, str], tuple[float, float]]
"""Tensor name and calibration algorithm to (lowest, highest) value."""

QMIN, QMAX, MIDDLE = 0, 255, 128
"""Activations are stored as uint8. A symmetric int8 activation has zero point 128 there, which is the same grid. The
engine's optimizer converts signed activations in the same way for kernels that support unsigned ones only."""
ZERO_RANGE = 1.0
"""Width of the quantized range of a tensor that is always zero. Any width represents it exactly; the scale must not be
zero, nor so small that the bias of an operator that reads the tensor overflows."""
FLOAT_OUTPUT = {"Gemm", "MatMul"}
"""Operators whose int8 kernels can return floating point without rounding to int8 first."""
MOVED_AS_INTEGERS = {"Pad", "SpaceToDepth"}
"""Operators that engines leave in floating point between a DequantizeLinear and a QuantizeLinear, although they have
kernels for integers."""
MAX_REPEATED_ELEMENTS = 2**16
"""Greatest number of elements to which a scalar addend is repeated; see `QdqGraph.addend_shape`."""
ACTIVATION_TOLERANCE = 1e-6
"""Tolerance when a quantized range is compared with the bounds of an activation function, for float32 rounding; a share
of the range's width."""


@dataclass(frozen=True)
class Quantized:
    """An 8-bit version of a tensor.

    Args:
        name: Its name in the new graph, and the prefix of the names of its scale and zero point.
        scale: Its scale.
        zero_point: Its zero point.
        key: Its activation scheme.
        values: The tensor in the new graph that holds its values, if it shares those of another 8-bit tensor.
    """

    name: str
    scale: np.float32
    zero_point: int
    key: TensorScheme
    values: str = ""

    @property
    def tensor(self) -> str:
        """The tensor in the new graph that holds its values."""
        return self.values or self.name


def opsets(model: onnx.ModelProto, domains: Iterable[str]) -> list[onnx.OperatorSetIdProto]:
    """The opsets of a model, with version 1 of further domains."""
    have = {o.domain for o in model.opset_import}
    return [*model.opset_import, *(helper.make_opsetid(domain, 1) for domain in sorted(set(domains) - have))]


def parameters(low: float, high: float, scheme: TensorScheme) -> tuple[np.float32, int]:
    """Scale and zero point for a range, which is extended to include zero. Zero is represented exactly.

    The scale is a finite normal float32, however small or large the range is.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if scheme.scheme == "sym":
        return normal_scale((max(-low, high) or ZERO_RANGE) / (QMAX - MIDDLE)), MIDDLE
    scale = normal_scale((high - low or ZERO_RANGE) / (QMAX - QMIN))
    return scale, int(np.clip(round(QMIN - low / float(scale)), QMIN, QMAX))


class GraphBuilder:
    """Builds Q/DQ graphs of one model.

    Args:
        graph: The prepared model.
        weights: Its quantized weights.
        kind: Makes what builds one graph, such as a class. An engine's own class guards floating-point operators
            against its optimizer.
    """

    def __init__(
        self, graph: Graph, weights: WeightCache, kind: Callable[[GraphBuilder, Config, Ranges], QdqGraph] | None = None
    ) -> None:
        self.graph = graph
        self.weights = weights
        self.fused_attention = False
        """Whether attentions in floating point become one kernel each, where the engine has one."""
        self._kind = kind or QdqGraph

    def to_look_at(self) -> GraphBuilder:
        """A builder of graphs that are never run: of a large model, it does not quantize the weights."""
        files = self.graph.files
        return self if files is None else GraphBuilder(self.graph, PlaceholderWeights(self.graph, files), self._kind)

    def build(self, config: Config, ranges: Ranges) -> tuple[onnx.ModelProto, str]:
        """Build the graph of a configuration; return it and its fingerprint."""
        return self.unbuilt(config, ranges).run()

    def unbuilt(self, config: Config, ranges: Ranges) -> QdqGraph:
        """The graph of a configuration before it is built; afterwards it says which tensors it holds in int8."""
        return self._kind(self, config, ranges)

    def alone(
        self, fused_op: FusedOp, config: Config, ranges: Ranges
    ) -> tuple[list[onnx.NodeProto], dict[str, onnx.TensorProto], str]:
        """Build one operator in int8 between floating-point tensors.

        Args:
            fused_op: The operator.
            config: A configuration with the scheme of this operator only.
            ranges: Calibrated ranges.

        Returns:
            The nodes, the constants by name, and the name of the result.
        """
        build = self._kind(self, config, ranges)
        scheme = config.schemes[fused_op.name]
        if scheme.is_static:
            build.int8_fused_op(fused_op, scheme)
        else:
            build.other_mode(fused_op, scheme)
        if fused_op.output in build.state:
            return build.nodes, build.added, build.dequantize(build.state[fused_op.output])
        name = build.dequantize(build.state[fused_op.raw]) if fused_op.raw in build.state else fused_op.raw
        if fused_op.act is None:
            return build.nodes, build.added, name
        act = onnx.NodeProto()
        act.CopyFrom(fused_op.act)
        act.input[0] = name
        return [*build.nodes, act], build.added, str(act.output[0])


class QdqGraph:
    """One Q/DQ graph, built operator by operator in the order of the model.

    Args:
        builder: Builder of the model's graphs.
        config: The configuration to build.
        ranges: Calibrated ranges.
    """

    def __init__(self, builder: GraphBuilder, config: Config, ranges: Ranges) -> None:
        self.graph = builder.graph
        self.fresh = builder.graph.fresh
        self.weights = builder.weights
        self.fused_attention = builder.fused_attention
        self.ranges = ranges
        self.reduce_range = bool(config.option("reduce_range", False))
        self.schemes: dict[str, OpScheme] = {name: s for name, s in config.ops if s.is_static}
        self.others: dict[str, OpScheme] = {name: s for name, s in config.ops if not s.is_static and not s.is_float}
        self.domains: set[str] = set()
        self.nodes: list[onnx.NodeProto] = []
        self.added: dict[str, onnx.TensorProto] = {}
        self.state: dict[str, Quantized] = {}
        self.variants: dict[str, list[Quantized]] = {}
        self.emitted: set[str] = set()
        self.dropped: set[str] = set()
        self.addends: dict[str, tuple[str, str, NDArray[np.float32]]] = {}
        """Node to the constant that it adds, and name and values of what it adds instead; see `correct`."""
        self.corrections: dict[str, NDArray[np.float32]] = {}
        """Corrected constants by name."""
        self.digest = hashlib.sha256()

    def run(self) -> tuple[onnx.ModelProto, str]:
        """Build the model; return it and its fingerprint, a hash of its nodes and scales."""
        for node in self.graph.model.graph.node:
            if node.name not in self.dropped:
                self.emit(node)
        self.finish()
        source = self.graph.model
        self.drop_unread()
        used = self.read()
        initializers = [i for i in source.graph.initializer if i.name in used]
        body = helper.make_graph(
            self.nodes,
            source.graph.name or "graph",
            list(source.graph.input),
            list(source.graph.output),
            [*initializers, *self.added.values()],
        )
        model = helper.make_model(
            body,
            opset_imports=opsets(source, self.domains),
            ir_version=source.ir_version,
            producer_name="nc_strategies",
        )
        describe_as(model, source)
        for node in self.nodes:
            self.digest.update(node.SerializeToString(deterministic=True))
        return model, self.digest.hexdigest()[:16]

    def finish(self) -> None:
        """Change the nodes once all of them are there."""

    def emit(self, node: onnx.NodeProto) -> None:
        """Add what stands for a node of the fp32 model."""
        fused_op = self.graph.fused_ops.get(node.name)
        if node.name in self.addends:
            node, fused_op = self.corrected(node, fused_op)
        if fused_op is not None and node.name in self.schemes:
            self.int8_fused_op(fused_op, self.schemes[node.name])
        elif fused_op is not None and node.name in self.others:
            self.other_mode(fused_op, self.others[node.name])
        elif node.output[0] in self.graph.scaled and self.graph.carried(node) in self.state:
            self.scaled(node)
        elif self.graph.carried(node) in self.state and any(self.wanted(name) for name in node.output):
            self.following(node)
        else:
            self.float_node(node)

    def correct(self, fused_op: FusedOp, correction: NDArray[np.float64] | None, label: str) -> None:
        """Add a bias correction to the constant that is added to a product without a bias, where there is one.

        Args:
            fused_op: The product.
            correction: What to add, shape (outputs,); None for nothing.
            label: Part of the constant's name: what the weight was quantized to.
        """
        found = None if correction is None else addend(self.graph, fused_op)
        if found is None or correction is None:
            return
        node, constant = found
        values = self.graph.array(constant)
        changed = (values + correction.reshape(values.shape)).astype(values.dtype)
        self.addends[str(node.name)] = (constant, self.fresh(f"{node.name}/corrected_{label}"), changed)

    def corrected(self, node: onnx.NodeProto, fused_op: FusedOp | None) -> tuple[onnx.NodeProto, FusedOp | None]:
        """A node that adds a corrected constant, and its operator if it is one."""
        old, new, values = self.addends[node.name]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[list(node.input).index(old)] = new
        self.constant(new, values)
        self.corrections[new] = values
        if fused_op is None:
            return copy, None
        constants = tuple(new if name == old else name for name in fused_op.constants)
        return copy, replace(fused_op, node=copy, constants=constants)

    def other_mode(self, fused_op: FusedOp, scheme: OpScheme) -> None:
        """Add an operator that is quantized in another mode than static int8; it reads and writes floating point.

        Raises:
            EngineError: this kind of graph has no such operators.
        """
        raise EngineError(f"operator {fused_op.name} cannot run in mode {scheme.mode}")

    def wanted(self, name: str, through: Set[str] = frozenset()) -> list[TensorScheme]:
        """Activation schemes of the int8 operators that read a tensor, directly or through nodes that keep values.

        Args:
            name: The tensor.
            through: Further operator types through which to look.
        """
        keys: list[TensorScheme] = []
        for node in self.graph.consumers.get(name, []):
            if node.name in self.schemes:
                keys.append(self.schemes[node.name].activation)
            elif self.graph.carried(node) == name or (node.op_type in through and node.input[0] == name):
                for output in node.output:
                    keys.extend(self.wanted(output, through))
        return keys

    def drop_unread(self) -> None:
        """Remove multiplications by a constant that are not read, as their factor is part of an int8 tensor's scale."""
        read = self.read()
        for node in reversed(self.nodes[:]):
            if node.output[0] in self.graph.scaled and node.output[0] not in read:
                self.nodes.remove(node)
                read = self.read()

    def read(self) -> set[str]:
        """The tensors that the nodes so far and their bodies read, and the model's outputs."""
        return {name for node in self.nodes for name in reads(node)} | self.graph.outputs

    def int8_fused_op(self, fused_op: FusedOp, scheme: OpScheme) -> None:
        """Add a fused operator in int8: DequantizeLinear before its inputs, QuantizeLinear after its result."""
        key = scheme.activation
        if fused_op.type == "HardSigmoid":
            self.hard_sigmoid(fused_op, key)
            return
        node = self.reading_int8(fused_op, scheme)
        readers = self.wanted(fused_op.output)
        out_key = readers[0] if readers else key
        act_stays = fused_op.act is not None and not self.saturates(fused_op, out_key)
        if fused_op.type in FLOAT_OUTPUT and fused_op.act is None and not readers:
            # With an activation function next to it, the engine would fuse a floating-point operator of the two.
            self.nodes.append(node)
        elif act_stays:
            self.emit_quantized(node, fused_op.raw, key)
        else:
            if fused_op.act is not None:
                self.dropped.add(fused_op.act.name)
            self.emit_quantized(node, fused_op.output, out_key)

    def reading_int8(self, fused_op: FusedOp, scheme: OpScheme) -> onnx.NodeProto:
        """A copy of an operator that reads its activations, constants, weight and bias from Q/DQ pairs."""
        sources = {name: self.quantized(name, scheme.activation) for name in fused_op.inputs}
        for name in fused_op.constants:
            sources[name] = self.quantized_constant(name, scheme.activation)
        read = {name: self.dequantize(q) for name, q in sources.items()}
        names = [read.get(name, name) for name in fused_op.node.input]
        if fused_op.weight is not None and scheme.weight is not None:
            names = [read[fused_op.inputs[0]], *self.weight(fused_op, scheme.weight, sources[fused_op.inputs[0]])]
        node = onnx.NodeProto()
        node.CopyFrom(fused_op.node)
        del node.input[:]
        node.input.extend(names)
        return node

    def saturates(self, fused_op: FusedOp, key: TensorScheme) -> bool:
        """Whether an operator's quantized range ends where its activation function does, which then has no effect."""
        scale, zero = self.parameters(fused_op.output, key)
        lowest, highest = (QMIN - zero) * float(scale), (QMAX - zero) * float(scale)
        tolerance = ACTIVATION_TOLERANCE * (highest - lowest)
        return lowest >= fused_op.low - tolerance and highest <= fused_op.high + tolerance

    def hard_sigmoid(self, fused_op: FusedOp, key: TensorScheme) -> None:
        """Add a hard sigmoid as a sum with a constant, whose quantized range saturates at the function's bounds.

        ``clip(alpha x + beta, 0, 1)`` equals ``alpha clip(x + beta / alpha, 0, 1 / alpha)``; the factor alpha becomes
        part of the scale. This needs a scheme whose lowest number represents zero. Otherwise the operator stays in
        floating point, and the engine is not observed to run it in int8.
        """
        alpha, beta = hard_sigmoid_coefficients(fused_op.node)
        readers = self.wanted(fused_op.output)
        for wanted in (*readers[:1], key):
            scale, zero = self.parameters(fused_op.output, wanted)
            if zero == QMIN:
                break
        else:
            self.float_node(fused_op.node)
            return
        shape = self.addend_shape(fused_op.inputs[0])
        shift = self.variant(
            "_".join([f"ncs/shift_{beta / alpha:.9g}", *map(str, shape)]), wanted, np.float32(beta / alpha / QMAX), QMIN
        )
        self.constant(shift.name, np.full(shape, QMAX, np.uint8))
        self.scalars(shift)
        source = self.quantized(fused_op.inputs[0], key)
        total = self.variant(f"{fused_op.output}/sum", wanted, normal_scale(float(scale) / alpha), zero)
        summed = self.fresh(f"{fused_op.output}/open")
        self.nodes.append(
            helper.make_node("Add", [self.dequantize(source), self.dequantize(shift)], [summed], name=fused_op.name)
        )
        self.quantize(summed, total)
        self.state[fused_op.output] = self.times(total, fused_op.output, alpha)
        if fused_op.output in self.graph.named:
            self.nodes.append(self.dq_node(self.state[fused_op.output], fused_op.output))

    def addend_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a constant to add to a tensor: a scalar, except for a tensor whose last dimension is 1.

        For such a tensor the engine broadcasts element by element, at about 20 ns per element, so that the scalar is
        repeated for every element of a sample.
        """
        shape = self.graph.shapes.get(name, ())
        known = [size for size in shape[1:] if size]
        if not known or len(known) < len(shape) - 1 or known[-1] != 1 or np.prod(known) > MAX_REPEATED_ELEMENTS:
            return ()
        return (1, *known)

    def following(self, node: onnx.NodeProto) -> None:
        """Add an operator that keeps values unchanged, between int8 tensors."""
        source = self.state[node.input[0]]
        moved = onnx.NodeProto()
        moved.CopyFrom(node)
        if node.op_type in MOVED_AS_INTEGERS:
            self.move_integers(moved, source)
            return
        moved.input[0] = self.dequantize(source)
        self.nodes.append(moved)
        for index, name in enumerate(node.output):
            if name:
                moved.output[index] = self.fresh(f"{name}/open")
                self.close(name, self.variant(name, source.key, source.scale, source.zero_point))

    def move_integers(self, node: onnx.NodeProto, source: Quantized) -> None:
        """Add an operator that keeps values unchanged and that reads and returns the integers themselves.

        Args:
            node: A copy of the operator, which is changed.
            source: Its input.
        """
        name = node.output[0]
        target = self.variant(name, source.key, source.scale, source.zero_point)
        self.scalars(target)
        node.input[0], node.output[0] = source.tensor, target.name
        if node.op_type == "Pad" and all(a.name != "mode" or a.s == b"constant" for a in node.attribute):
            # What is added stands for zero.
            axes = list(node.input[3:])
            del node.input[2:]
            node.input.extend([f"{target.name}_zero", *axes])
        self.nodes.append(node)
        self.emitted.add(target.name)
        self.use(name, target)

    def scaled(self, node: onnx.NodeProto) -> None:
        """Replace a multiplication of an int8 tensor by a constant with another scale; no node computes it."""
        name = node.output[0]
        source, factor = self.graph.scaled[name]
        self.state[name] = self.times(self.state[source], name, factor)
        if name in self.graph.named:
            self.nodes.append(self.dq_node(self.state[name], name))

    def times(self, source: Quantized, name: str, factor: float) -> Quantized:
        """The int8 version of a tensor that is a multiple of another one: the same values with a scaled scale."""
        multiple = self.variant(
            name, source.key, normal_scale(float(source.scale) * factor), source.zero_point, source.tensor
        )
        self.scalars(multiple)
        return multiple

    def float_node(self, node: onnx.NodeProto) -> None:
        """Add an operator in floating point; its int8 inputs are dequantized."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in self.state:
                copy.input[index] = self.dequantize(self.state[name])
        self.nodes.append(copy)

    def quantized(self, name: str, key: TensorScheme) -> Quantized:
        """The int8 version of a tensor in a reader's scheme; it is quantized or requantized if necessary."""
        have = self.state.get(name)
        if have is not None and have.key == key:
            return have
        if have is None and name in self.graph.scaled:
            # The source of the multiplication is quantized, and the factor becomes part of the scale.
            source, factor = self.graph.scaled[name]
            return self.times(self.quantized(source, key), name, factor)
        scale, zero = self.parameters(name, key)
        target = self.variant(name, key, scale, zero)
        if have is None or target.name != have.name:
            self.quantize(self.to_requantize(name) if have is not None else name, target)
        return target

    def to_requantize(self, name: str) -> str:
        """Dequantize an int8 tensor for a reader in another scheme; return the floating-point tensor's name."""
        return self.dequantize(self.state[name])

    def variant(self, name: str, key: TensorScheme, scale: np.float32, zero: int, values: str = "") -> Quantized:
        """An int8 version of a tensor. Versions with equal parameters are shared, whatever their schemes."""
        known = self.variants.setdefault(name, [])
        for existing in known:
            if (existing.scale, existing.zero_point, existing.values) == (scale, zero, values):
                return existing
        known.append(Quantized(self.fresh(f"{name}/q{len(known)}"), scale, zero, key, values))
        return known[-1]

    def quantized_constant(self, name: str, key: TensorScheme) -> Quantized:
        """The int8 version of a constant operand."""
        given = self.corrections.get(name)
        values = (self.graph.array(name) if given is None else given).astype(np.float64)
        scale, zero = parameters(float(values.min()), float(values.max()), key)
        target = self.variant(name, key, scale, zero)
        self.constant(target.name, np.clip(np.round(values / np.float64(scale)) + zero, QMIN, QMAX).astype(np.uint8))
        self.scalars(target)
        return target

    def parameters(self, name: str, key: TensorScheme) -> tuple[np.float32, int]:
        """Scale and zero point of a tensor in an activation scheme."""
        low, high = self.ranges(name, key.algorithm)
        return parameters(low, high, key)

    def weight(self, fused_op: FusedOp, scheme: TensorScheme, source: Quantized) -> list[str]:
        """Add an operator's quantized weight and bias; return the names of the dequantized tensors."""
        values, scale, bias = self.weights.get(fused_op, scheme.granularity, self.reduce_range, float(source.scale))
        if bias is None:
            correction = self.weights.correction(fused_op, scheme.granularity, self.reduce_range)
            self.correct(fused_op, correction, f"{scheme.granularity}{'_7bit' if self.reduce_range else ''}")
        axis = {"axis": self.weights.axis(fused_op)} if scale.ndim else {}
        stem = f"{fused_op.name}/weight_{scheme.granularity}{'_7bit' if self.reduce_range else ''}"
        read = (self.fresh(stem), self.fresh(f"{stem}_scale"), self.fresh(f"{stem}_zero"))
        self.constant(read[0], values)
        self.constant(read[1], scale)
        self.constant(read[2], np.zeros(scale.shape, np.int8))
        names = [self.fresh(f"{fused_op.name}/weight")]
        self.nodes.append(
            self.conversion("DequantizeLinear", read, names[0], self.fresh(f"{fused_op.name}/weight_dq"), **axis)
        )
        if bias is not None:
            bias_scale = np.asarray(source.scale.astype(np.float64) * scale, np.float32)
            int32, scales, zeros = (self.fresh(f"{fused_op.name}/bias_{end}") for end in ("int32", "scale", "zero"))
            self.constant(int32, bias)
            self.constant(scales, bias_scale)
            self.constant(zeros, np.zeros(scale.shape, np.int32))
            axis = {"axis": 0} if scale.ndim else {}
            names.append(self.fresh(f"{fused_op.name}/bias"))
            self.nodes.append(
                self.conversion(
                    "DequantizeLinear",
                    (int32, scales, zeros),
                    names[1],
                    self.fresh(f"{fused_op.name}/bias_dq"),
                    **axis,
                )
            )
        return names

    def emit_quantized(
        self, node: onnx.NodeProto, name: str, key: TensorScheme, shared: tuple[np.float32, int] | None = None
    ) -> None:
        """Add a node and the QuantizeLinear of its output `name`."""
        scale, zero = shared or self.parameters(name, key)
        target = self.variant(name, key, scale, zero)
        node.output[0] = self.fresh(f"{name}/open")
        self.nodes.append(node)
        self.close(name, target)

    def close(self, name: str, target: Quantized) -> None:
        """Add the QuantizeLinear of an operator's output; `name` is the output's name in the fp32 model."""
        self.quantize(self.fresh(f"{name}/open"), target)
        self.use(name, target)

    def use(self, name: str, target: Quantized) -> None:
        """Let what follows read a tensor in int8; an output of the model is dequantized."""
        self.state[name] = target
        if name in self.graph.named:
            self.nodes.append(self.dq_node(target, name))

    def quantize(self, source: str, target: Quantized) -> None:
        """Add the QuantizeLinear of a floating-point tensor, once."""
        if target.name in self.emitted:
            return
        self.emitted.add(target.name)
        self.scalars(target)
        read = (source, *self.scale_names(target.name))
        self.nodes.append(self.conversion("QuantizeLinear", read, target.name, self.fresh(f"{target.name}/q")))

    def conversion(self, kind: str, read: tuple[str, ...], result: str, name: str, **attributes: int) -> onnx.NodeProto:
        """A QuantizeLinear or DequantizeLinear, of the domain that the model's opset needs."""
        return helper.make_node(
            kind, list(read), [result], name=name, domain=self.graph.qdq_domain or None, **attributes
        )

    def scale_names(self, name: str) -> tuple[str, str]:
        """Names of the scale and the zero point of a tensor."""
        return self.fresh(f"{name}_scale"), self.fresh(f"{name}_zero")

    def scalars(self, target: Quantized) -> None:
        """Add the scale and zero point of an int8 tensor as constants."""
        scale, zero = self.scale_names(target.name)
        self.constant(scale, np.asarray(target.scale))
        self.constant(zero, np.asarray(target.zero_point, np.uint8))
        self.digest.update(f"{target.name}={float(target.scale)!r},{target.zero_point};".encode())

    def dequantize(self, source: Quantized) -> str:
        """Add the DequantizeLinear of an int8 tensor, once; return its output's name."""
        name = self.fresh(f"{source.name}/dq")
        if name not in self.emitted:
            self.emitted.add(name)
            self.nodes.append(self.dq_node(source, name))
        return name

    def dq_node(self, source: Quantized, name: str) -> onnx.NodeProto:
        """The DequantizeLinear node of an int8 tensor."""
        read = (source.tensor, *self.scale_names(source.name))
        return self.conversion("DequantizeLinear", read, name, self.fresh(f"{name}:dq"))

    def constant(self, name: str, values: NDArray[Any]) -> None:
        """Add a constant, once."""
        if name not in self.added:
            self.added[name] = tensor(name, values)
