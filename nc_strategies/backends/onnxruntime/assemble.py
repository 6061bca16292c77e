"""The QDQ graph of a configuration, assembled in memory from cached ranges and cached int8 weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from nc_strategies.backends.onnxruntime.graph import FOLLOWING, Graph, Unit
from nc_strategies.backends.onnxruntime.session import BARRIER, MOVEMENT
from nc_strategies.backends.onnxruntime.steps import bends
from nc_strategies.backends.onnxruntime.weights import WeightCache, tensor
from nc_strategies.space import Config, OpScheme, TensorScheme

Ranges = Callable[[str, str], tuple[float, float]]
"""Tensor name and calibration algorithm to (lowest, highest) value."""

QMIN, QMAX, MIDDLE = 0, 255, 128
"""Activations are stored as uint8. An int8 symmetric one has its zero point at 128 there: the same grid, and the form
into which the engine's own optimizer turns signed activations where its kernels take unsigned ones only."""
SMALLEST = 1e-6
"""Least width of a range: a tensor that is constant zero still needs a scale."""
FLOAT_OUTPUT = {"Gemm", "MatMul"}
"""Int8 kernels which can give their result in floating point, without rounding it to int8 first."""
FUSED_BY_PATTERN = {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "MatMul", "Softmax", "Sigmoid",
                    "LeakyRelu"}
"""Types that the engine turns into int8 whenever they stand between Q/DQ pairs, asked or not."""
PROPAGATING = FOLLOWING | MOVEMENT
"""Types over which the engine moves quantizations, as long as they have one scale."""
REQUANTIZED_WEIGHTS = {"Conv", "ConvTranspose", "Gemm"}
"""Types whose float weights the engine quantizes itself between Q/DQ pairs (its WeightBiasQuantization)."""
MOST_REPEATED = 2**16
"""Elements to which a scalar is repeated at most."""


@dataclass(frozen=True)
class Quantized:
    """A tensor's 8-bit form: its name in the new graph, scale and zero point, and the scheme that led to it.

    Args:
        name: Its own name, and the stem of those of its scale and zero point.
        scale: Its scale.
        zero_point: Its zero point.
        key: The scheme.
        values: The tensor in the new graph that holds its values, where that is another form's.
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


def parameters(low: float, high: float, scheme: TensorScheme) -> tuple[np.float32, int]:
    """Scale and zero point for a range; zero is always represented exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    if scheme.scheme == "sym":
        return np.float32(max(-low, high, SMALLEST) / (QMAX - MIDDLE)), MIDDLE
    scale = np.float32(max(high - low, SMALLEST) / (QMAX - QMIN))
    return scale, int(np.clip(round(QMIN - low / float(scale)), QMIN, QMAX))


class Assembler:
    """Builds QDQ graphs of one model.

    Where an operator in floating point stands between int8 neighbours, the engine's optimizer would quantize it all
    the same. Two things keep it from that, in the model itself, so that they hold wherever it is opened: the
    dequantization in front of a Conv or Gemm has its one scale repeated for every channel (the optimizer takes
    scalars only, and moves nothing else over Reshapes and the like), and behind an elementwise operator stands a Max
    with the lowest number (Add becomes Sum), which no int8 pattern contains.
    """

    def __init__(self, graph: Graph, weights: WeightCache) -> None:
        self.graph = graph
        self.weights = weights

    def build(self, config: Config, ranges: Ranges) -> tuple[onnx.ModelProto, str]:
        """The graph of a configuration and its fingerprint."""
        return _Build(self, config, ranges).run()

    def alone(self, unit: Unit, config: Config,
              ranges: Ranges) -> tuple[list[onnx.NodeProto], dict[str, onnx.TensorProto], str]:
        """An operator's int8 form between tensors in floating point: its nodes, constants, and its result's name.

        Args:
            unit: The operator.
            config: Holds its scheme, and no other operator's.
            ranges: Calibrated ranges.
        """
        build = _Build(self, config, ranges)
        build.int8_unit(unit, config.schemes[unit.name])
        if unit.output in build.state:
            return build.nodes, build.added, build.dequantize(build.state[unit.output])
        name = build.dequantize(build.state[unit.raw]) if unit.raw in build.state else unit.raw
        if unit.act is None:
            return build.nodes, build.added, name
        act = onnx.NodeProto()
        act.CopyFrom(unit.act)
        act.input[0] = name
        return [*build.nodes, act], build.added, str(act.output[0])


class _Build:
    def __init__(self, assembler: Assembler, config: Config, ranges: Ranges) -> None:
        self.graph = assembler.graph
        self.weights = assembler.weights
        self.ranges = ranges
        self.reduce_range = bool(config.option("reduce_range", False))
        self.schemes: dict[str, OpScheme] = {name: s for name, s in config.ops if not s.is_float}
        self.nodes: list[onnx.NodeProto] = []
        self.added: dict[str, onnx.TensorProto] = {}
        self.state: dict[str, Quantized] = {}
        self.variants: dict[str, list[Quantized]] = {}
        self.emitted: set[str] = set()
        self.dropped: set[str] = set()
        self.digest = hashlib.sha256()

    def run(self) -> tuple[onnx.ModelProto, str]:
        for node in self.graph.model.graph.node:
            unit = self.graph.units.get(node.name)
            if node.name in self.dropped:
                continue
            if unit is not None and node.name in self.schemes:
                self.int8_unit(unit, self.schemes[node.name])
            elif node.output[0] in self.graph.scaled and self.graph.carried(node) in self.state:
                self.scaled(node)
            elif node.op_type in FOLLOWING and node.input[0] in self.state and self.wanted(node.output[0]):
                self.following(node)
            else:
                self.float_node(node)
        source = self.graph.model
        self.drop_unread()
        used = {name for node in self.nodes for name in node.input}
        kept = [i for i in source.graph.initializer if i.name in used]
        body = helper.make_graph(self.nodes, source.graph.name or "graph", list(source.graph.input),
                                 list(source.graph.output), [*kept, *self.added.values()])
        model = helper.make_model(body, opset_imports=list(source.opset_import), ir_version=source.ir_version,
                                  producer_name="nc_strategies")
        for node in self.nodes:
            self.digest.update(node.SerializeToString(deterministic=True))
        return model, self.digest.hexdigest()[:16]

    def wanted(self, name: str, through: Set[str] = FOLLOWING) -> list[TensorScheme]:
        """How the int8 operators that read a tensor, directly or behind operators of some types, want it."""
        keys: list[TensorScheme] = []
        for node in self.graph.consumers.get(name, []):
            if node.name in self.schemes:
                keys.append(self.schemes[node.name].activation)
            elif (node.op_type in through or node.output[0] in self.graph.scaled) and self.carried(node) == name:
                keys.extend(self.wanted(node.output[0], through))
        return keys

    def carried(self, node: onnx.NodeProto) -> str:
        """The tensor that a node over which quantizations may move reads."""
        return self.graph.carried(node) or str(node.input[0])

    def drop_unread(self) -> None:
        """Take out multiplications that nobody reads, because all have their scale from the int8 form."""
        read = {name for node in self.nodes for name in node.input} | self.graph.outputs
        for node in reversed(self.nodes[:]):
            if node.output[0] in self.graph.scaled and node.output[0] not in read:
                self.nodes.remove(node)
                read = {name for other in self.nodes for name in other.input} | self.graph.outputs

    def int8_unit(self, unit: Unit, scheme: OpScheme) -> None:
        key = scheme.activation
        if unit.type == "HardSigmoid":
            self.hard_sigmoid(unit, key)
            return
        node = onnx.NodeProto()
        node.CopyFrom(unit.node)
        sources = {name: self.quantized(name, key) for name in unit.inputs}
        for name in unit.constants:
            sources[name] = self.quantized_constant(name, key)
        read = {name: self.dequantize(q) for name, q in sources.items()}
        names = [read.get(name, name) for name in unit.node.input]
        if unit.weight is not None and scheme.weight is not None:
            names = [read[unit.inputs[0]], *self.weight(unit, scheme.weight, sources[unit.inputs[0]])]
        del node.input[:]
        node.input.extend(names)
        readers = self.wanted(unit.output)
        out_key = readers[0] if readers else key
        scale, zero = self.parameters(unit.output, out_key)
        lowest, highest = (QMIN - zero) * float(scale), (QMAX - zero) * float(scale)
        redundant = unit.act is not None and lowest >= unit.low - 1e-6 and highest <= unit.high * (1 + 1e-6)
        open_output = not readers or (unit.act is not None and not redundant)
        if unit.type in FLOAT_OUTPUT and open_output:
            self.nodes.append(node)
        elif unit.act is not None and not redundant:
            self.emit_quantized(node, unit.raw, key)
        else:
            if unit.act is not None:
                # The quantized range itself saturates where the activation function would.
                self.dropped.add(unit.act.name)
            self.emit_quantized(node, unit.output, out_key)

    def hard_sigmoid(self, unit: Unit, key: TensorScheme) -> None:
        """A sum with a constant, whose quantized range saturates where the function does, in another scale.

        ``clip(alpha x + beta, 0, 1)`` is ``alpha clip(x + beta / alpha, 0, 1 / alpha)``. Where zero is not the lowest
        number of the scheme, there is no such form: the operator stays as it is, and is not seen to run in int8.
        """
        alpha, beta = bends(unit.node)
        readers = self.wanted(unit.output)
        for wanted in (*readers[:1], key):
            scale, zero = self.parameters(unit.output, wanted)
            if zero == QMIN:
                break
        else:
            self.float_node(unit.node)
            return
        shape = self.addend_shape(unit.inputs[0])
        shift = self.variant("_".join([f"ncs/shift_{beta / alpha:.9g}", *map(str, shape)]), wanted,
                             np.float32(beta / alpha / QMAX), QMIN)
        self.constant(shift.name, np.full(shape, QMAX, np.uint8))
        self.scalars(shift)
        source = self.quantized(unit.inputs[0], key)
        made = self.variant(f"{unit.output}/sum", wanted, np.float32(scale / alpha), zero)
        self.nodes.append(helper.make_node("Add", [self.dequantize(source), self.dequantize(shift)],
                                           [f"{unit.output}/open"], name=unit.name))
        self.quantize(f"{unit.output}/open", made)
        self.state[unit.output] = self.times(made, unit.output, alpha)
        if unit.output in self.graph.outputs:
            self.nodes.append(self.dq_node(self.state[unit.output], unit.output))

    def addend_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a constant to add to a tensor: a scalar's, but where the last of its dimensions are 1.

        There the engine takes the elements one by one, at some 20 ns each, so that the scalar has to be repeated for
        every element of a sample.
        """
        shape = self.graph.shapes.get(name, ())
        known = [size for size in shape[1:] if size]
        if not known or len(known) < len(shape) - 1 or known[-1] != 1 or np.prod(known) > MOST_REPEATED:
            return ()
        return (1, *known)

    def following(self, node: onnx.NodeProto) -> None:
        source = self.state[node.input[0]]
        moved = onnx.NodeProto()
        moved.CopyFrom(node)
        moved.input[0] = self.dequantize(source)
        self.emit_quantized(moved, node.output[0], source.key, (source.scale, source.zero_point))

    def scaled(self, node: onnx.NodeProto) -> None:
        """A multiplication of an int8 tensor by a constant: nothing to compute."""
        name = node.output[0]
        source, factor = self.graph.scaled[name]
        self.state[name] = self.times(self.state[source], name, factor)
        if name in self.graph.outputs:
            self.nodes.append(self.dq_node(self.state[name], name))

    def times(self, source: Quantized, name: str, factor: float) -> Quantized:
        """The form of a tensor that is another one's form with another scale."""
        made = self.variant(name, source.key, np.float32(source.scale * factor), source.zero_point, source.tensor)
        self.scalars(made)
        return made

    def float_node(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        data = [n for n in node.input if n and n not in self.graph.initializers]
        enclosed = bool(data) and self.read_in_int8(node)
        repeat = open_output = False
        if node.op_type in PROPAGATING:
            repeat = self.channels(node) is not None
        elif enclosed and node.op_type in REQUANTIZED_WEIGHTS:
            repeat = node.input[0] in self.state and self.channels(node) is not None
            open_output = node.input[0] in self.state and not repeat
        elif enclosed and node.op_type in FUSED_BY_PATTERN and all(n in self.state for n in data):
            open_output = True
        for index, name in enumerate(node.input):
            if name in self.state:
                copy.input[index] = self.as_float(name, self.channels(node) if repeat and index == 0 else None)
        self.nodes.append(copy)
        if open_output and node.op_type == "Add":
            copy.op_type = "Sum"
        elif open_output:
            copy.output[0] = f"{node.output[0]}/open"
            self.constant("ncs/lowest", np.array(np.finfo(np.float32).min))
            self.nodes.append(helper.make_node("Max", [copy.output[0], "ncs/lowest"], [node.output[0]],
                                               name=node.name + BARRIER))

    def read_in_int8(self, node: onnx.NodeProto) -> bool:
        """Whether a quantization follows a float operator, or will when the engine has moved it forward."""
        unit = self.graph.units.get(node.name)
        return bool(self.wanted(unit.output if unit is not None else node.output[0], PROPAGATING))

    def quantized(self, name: str, key: TensorScheme) -> Quantized:
        """The int8 form of a tensor as a reader wants it."""
        have = self.state.get(name)
        if have is not None and have.key == key:
            return have
        if have is None and name in self.graph.scaled:
            # Quantized in front of the multiplication, which is then for nothing.
            source, factor = self.graph.scaled[name]
            return self.times(self.quantized(source, key), name, factor)
        scale, zero = self.parameters(name, key)
        made = self.variant(name, key, scale, zero)
        if have is None or made.name != have.name:
            self.quantize(self.dequantize(have) if have is not None else name, made)
        return made

    def variant(self, name: str, key: TensorScheme, scale: np.float32, zero: int, values: str = "") -> Quantized:
        """An int8 form of a tensor; forms with equal parameters are one, whatever led to them."""
        known = self.variants.setdefault(name, [])
        for other in known:
            if (other.scale, other.zero_point, other.values) == (scale, zero, values):
                return other
        known.append(Quantized(f"{name}/q{len(known)}", scale, zero, key, values))
        return known[-1]

    def quantized_constant(self, name: str, key: TensorScheme) -> Quantized:
        values = self.graph.array(name).astype(np.float32)
        scale, zero = parameters(float(values.min()), float(values.max()), key)
        made = self.variant(name, key, scale, zero)
        self.constant(made.name, np.clip(np.round(values / scale) + zero, QMIN, QMAX).astype(np.uint8))
        self.scalars(made)
        return made

    def parameters(self, name: str, key: TensorScheme) -> tuple[np.float32, int]:
        low, high = self.ranges(name, key.algorithm)
        return parameters(low, high, key)

    def weight(self, unit: Unit, scheme: TensorScheme, source: Quantized) -> list[str]:
        values, scale, bias = self.weights.get(unit, scheme.granularity, self.reduce_range, float(source.scale))
        axis = {"axis": self.weights.axis(unit)} if scale.ndim else {}
        stem = f"{unit.name}/weight_{scheme.granularity}{'_7bit' if self.reduce_range else ''}"
        self.constant(stem, values)
        self.constant(f"{stem}_scale", scale)
        self.constant(f"{stem}_zero", np.zeros(scale.shape, np.int8))
        self.nodes.append(helper.make_node("DequantizeLinear", [stem, f"{stem}_scale", f"{stem}_zero"],
                                           [f"{unit.name}/weight"], name=f"{unit.name}/weight_dq", **axis))
        names = [f"{unit.name}/weight"]
        if bias is not None:
            self.constant(f"{unit.name}/bias_int32", bias)
            bias_scale = (source.scale * scale).astype(np.float32)
            if not scale.ndim and bias.size != 1:
                bias_scale = np.asarray(bias_scale)
            self.constant(f"{unit.name}/bias_scale", bias_scale)
            self.constant(f"{unit.name}/bias_zero", np.zeros(scale.shape, np.int32))
            axis = {"axis": 0} if scale.ndim else {}
            self.nodes.append(helper.make_node(
                "DequantizeLinear", [f"{unit.name}/bias_int32", f"{unit.name}/bias_scale", f"{unit.name}/bias_zero"],
                [f"{unit.name}/bias"], name=f"{unit.name}/bias_dq", **axis))
            names.append(f"{unit.name}/bias")
        return names

    def emit_quantized(self, node: onnx.NodeProto, name: str, key: TensorScheme,
                       shared: tuple[np.float32, int] | None = None) -> None:
        """Add a node whose output `name` is quantized behind it."""
        scale, zero = shared or self.parameters(name, key)
        made = self.variant(name, key, scale, zero)
        node.output[0] = f"{name}/open"
        self.nodes.append(node)
        self.quantize(node.output[0], made)
        self.state[name] = made
        if name in self.graph.outputs:
            self.nodes.append(self.dq_node(made, name))

    def quantize(self, source: str, target: Quantized) -> None:
        if target.name in self.emitted:
            return
        self.emitted.add(target.name)
        self.scalars(target)
        self.nodes.append(helper.make_node("QuantizeLinear", [source, f"{target.name}_scale", f"{target.name}_zero"],
                                           [target.name], name=f"{target.name}/q"))

    def scalars(self, target: Quantized) -> None:
        self.constant(f"{target.name}_scale", np.asarray(target.scale))
        self.constant(f"{target.name}_zero", np.asarray(target.zero_point, np.uint8))
        self.digest.update(f"{target.name}={float(target.scale)!r},{target.zero_point};".encode())

    def dequantize(self, source: Quantized) -> str:
        """The float form of an int8 tensor for an int8 operator to read: a pair that the engine fuses away."""
        name = f"{source.name}/dq"
        if name not in self.emitted:
            self.emitted.add(name)
            self.nodes.append(self.dq_node(source, name))
        return name

    def dq_node(self, source: Quantized, name: str) -> onnx.NodeProto:
        return helper.make_node("DequantizeLinear", [source.tensor, f"{source.name}_scale", f"{source.name}_zero"],
                                [name], name=f"{name}:dq")

    def as_float(self, name: str, channels: int | None) -> str:
        """The float form of an int8 tensor for an operator in floating point.

        Args:
            name: The tensor.
            channels: Repeat the scale so many times along axis 1; None for one scale.
        """
        source = self.state[name]
        if channels is None:
            return self.dequantize(source)
        made = f"{source.name}/dq_channels"
        if made not in self.emitted:
            self.emitted.add(made)
            self.constant(f"{made}_scale", np.full(channels, source.scale, np.float32))
            self.constant(f"{made}_zero", np.full(channels, source.zero_point, np.uint8))
            self.nodes.append(helper.make_node("DequantizeLinear", [source.tensor, f"{made}_scale", f"{made}_zero"],
                                               [made], name=f"{made}:dq", axis=1))
        return made

    def channels(self, node: onnx.NodeProto) -> int | None:
        """Length of axis 1 of a node's input, when it is known and the trick with repeated scales has an effect."""
        shape = self.graph.shapes.get(node.input[0])
        known = shape[1] if shape is not None and len(shape) > 1 else None
        if known is None and node.op_type == "Conv" and node.input[1] in self.graph.initializers:
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            known = int(self.graph.initializers[node.input[1]].dims[1] * group)
        return known if known and known > 1 else None

    def constant(self, name: str, values: NDArray[Any]) -> None:
        if name not in self.added:
            self.added[name] = tensor(name, values)
