"""The fp32 model: loading, checks, folding by the engine's basic optimizations, and its fused operators."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from nc_strategies.errors import InputError, first_line
from nc_strategies.models.info import ModelInfo, TensorSpec
from nc_strategies.onnx_graph import external, names, opsets, plain
from nc_strategies.onnx_graph.fold import fold, opset_of, shape_of
from nc_strategies.onnx_graph.fuse import ENGINE, hard_sigmoid_coefficients
from nc_strategies.onnx_graph.interpreter import numpy_type, space_to_depth_moves_bytes
from nc_strategies.onnx_graph.quantized import quantized_by
from nc_strategies.onnx_graph.types import compute_in_float32

log = logging.getLogger(__name__)
MIN_OPSET = 7
"""Oldest ONNX opset that is accepted: the oldest one that onnxruntime supports."""
ENGINE_QDQ_OPSET = 11
"""First ONNX opset in which the engine fuses operators between com.microsoft's Q/DQ pairs, which may be per channel."""
QDQ_OPSET = 13
"""First ONNX opset with per-channel DequantizeLinear."""
FUSED_FUNCTION_OPSET = 20
"""First ONNX opset that has both `FUSED_FUNCTIONS`."""
DECOMPOSED_FUNCTIONS = ({"Erf", "Mul"}, {"ReduceMean", "Sqrt", "Div"})
"""Operator types that occur in a decomposed Gelu, and in a decomposed layer normalization."""
FUSED_FUNCTIONS = {"Gelu", "LayerNormalization"}
CONSTANTS_IR = 4
"""First IR version in which initializers need not be inputs."""
MAX_MODEL_BYTES = 2**31 - 1
"""Greatest size of a serialized protobuf message."""
ORT_FORMAT = b"ORTM"
"""Identifier of onnxruntime's own format (``.ort``), behind the first four bytes of a file."""
WEIGHTED = {"Conv", "Gemm", "MatMul"}
ELEMENTWISE = {
    "Add",
    "Mul",
    "Concat",
    "Where",
    "AveragePool",
    "GlobalAveragePool",
    "Sigmoid",
    "HardSigmoid",
    "LeakyRelu",
}
OPT_IN = {"Softmax"}
INFINITE_AT_ZERO = {"Log", "Reciprocal"}
"""Operators whose result of 0 is not finite; a division's divisor is such an input too."""
QUANTIZABLE = WEIGHTED | ELEMENTWISE | OPT_IN
FOLLOWING = {
    "MaxPool",
    "ReduceMax",
    "ReduceMin",
    "Reshape",
    "Transpose",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Split",
    "Slice",
    "Gather",
    "GatherElements",
    "Expand",
    "Tile",
    "DepthToSpace",
    "SpaceToDepth",
    "Pad",
    "Resize",
}
"""Operators that keep values unchanged; `Graph.carried` tells for a node, as some do only with certain attributes. They
run in int8 if their input is int8."""
KEEPS_ZEROS = (FOLLOWING - {"MaxPool", "ReduceMax", "ReduceMin", "Resize", "Pad"}) | {"Identity", "Sqrt"}
"""Operators whose outputs have a 0 only where their first input has one."""
LEAST_FACTOR, LARGEST_FACTOR = 1e-6, 1e6
"""Bounds of a constant factor that is applied to a quantized tensor's scale instead of its values."""
ACTIVATIONS = {"Relu", "Clip"}
NOT_NEGATIVE = ACTIVATIONS | {"HardSigmoid"}
QUIET = ("Constant",)


@dataclass(frozen=True)
class FusedOp:
    """A quantizable operator, with the activation function that is fused into it, if any.

    Args:
        node: The operator.
        inputs: Names of the tensors that it reads as activations.
        constants: Names of its constant operands that are quantized like activations.
        weight: Name of its weight, or None.
        bias: Name of its bias, or None.
        act: The Relu or Clip that is the only reader of its output, or None.
        low: Lower bound of `act`.
        high: Upper bound of `act`.
    """

    node: onnx.NodeProto
    inputs: tuple[str, ...]
    constants: tuple[str, ...] = ()
    weight: str | None = None
    bias: str | None = None
    act: onnx.NodeProto | None = None
    low: float = -np.inf
    high: float = np.inf

    @property
    def name(self) -> str:
        """The operator's name."""
        return str(self.node.name)

    @property
    def type(self) -> str:
        """The operator's type."""
        return str(self.node.op_type)

    @property
    def raw(self) -> str:
        """The operator's own output."""
        return str(self.node.output[0])

    @property
    def output(self) -> str:
        """The tensor that the rest of the graph reads: the output of `act` if there is one, else `raw`."""
        return str(self.act.output[0]) if self.act is not None else self.raw


@dataclass
class Graph:
    """A prepared fp32 model, with the look-ups for building int8 graphs."""

    model: onnx.ModelProto
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    producers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    consumers: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    fused_ops: dict[str, FusedOp] = field(default_factory=dict)
    scaled: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Tensor to (source, factor) if it is the source times a positive constant: in int8, only the scale differs."""
    converted: tuple[str, ...] = ()
    """Names of the floating-point types that were converted to float32, see `types`."""
    files: external.WeightFiles | None = None
    """Where weights that are computed for a large model are stored; None for a model that is kept in memory."""
    _arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.initializers = {i.name: i for i in graph.initializer}
        for node in graph.node:
            self.producers.update(dict.fromkeys(node.output, node))
            for name in names.reads(node):
                self.consumers.setdefault(name, []).append(node)
        for info in [*graph.input, *graph.output, *graph.value_info]:
            if info.type.tensor_type.HasField("shape"):
                self.shapes[info.name] = shape_of(info)
        self.outputs = {o.name for o in graph.output}
        self.named = self.outputs | {name for node in graph.node for name in names.captured(node)}
        """Tensors that every graph that is built has in floating point: the outputs, and what bodies read."""
        self.fresh = names.FreshNames(self.model)
        self.qdq_domain = "" if opset_of(self.model) >= QDQ_OPSET else ENGINE
        """Domain of QuantizeLinear and DequantizeLinear. Before opset 13 only the engine's own have channels."""
        self.floats = _float_tensors(self.model)
        for node in graph.node:
            factor = self._factor(node)
            if factor is not None:
                self.scaled[node.output[0]] = factor
            fused_op = self._fused_op(node)
            if fused_op:
                self.fused_ops[fused_op.name] = fused_op

    def array(self, name: str) -> NDArray[Any]:
        """The values of an initializer."""
        if external.is_external(self.initializers[name]):
            # Not kept: the pages that were read would stay in this process's memory.
            return external.array(self.initializers[name])
        if name not in self._arrays:
            self._arrays[name] = external.array(self.initializers[name])
        return self._arrays[name]

    def observed(self) -> list[str]:
        """The tensors whose ranges quantization needs, sorted by name."""
        read = {name for op in self.fused_ops.values() for name in (*op.inputs, op.raw, op.output)}
        return sorted(read | {source for source, _ in self.scaled.values()})

    def carried(self, node: onnx.NodeProto) -> str | None:
        """The tensor whose quantized values a node passes on unchanged; None for a node that computes."""
        if node.output[0] in self.scaled:
            return self.scaled[node.output[0]][0]
        if node.op_type not in FOLLOWING or node.domain not in ("", "ai.onnx") or node.input[0] in self.initializers:
            return None
        return str(node.input[0]) if self._only_moves(node) else None

    def _only_moves(self, node: onnx.NodeProto) -> bool:
        """Whether a node of a type in `FOLLOWING` adds no values of its own except zeros, and runs on 8-bit values."""
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Resize":
            # Other modes compute means; cropping fills with a value.
            cropping = given.get("coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
            return given.get("mode", b"nearest") == b"nearest" and not cropping
        if node.op_type == "Pad":
            fill = node.input[2] if len(node.input) > 2 else ""
            zeros = not fill or (fill in self.initializers and not self.array(fill).any())
            return given.get("mode", b"constant") != b"constant" or zeros
        return node.op_type != "SpaceToDepth" or space_to_depth_moves_bytes()

    def _factor(self, node: onnx.NodeProto) -> tuple[str, float] | None:
        """The input of a multiplication or division by a positive scalar constant, and the factor; else None."""
        if node.op_type not in ("Mul", "Div") or node.domain not in ("", "ai.onnx"):
            return None
        known = [i for i, name in enumerate(node.input) if name in self.initializers]
        if node.output[0] not in self.floats or len(known) != 1 or (node.op_type == "Div" and known != [1]):
            return None
        constant, source = self.array(node.input[known[0]]), str(node.input[1 - known[0]])
        if constant.size != 1 or constant.ndim > len(self.shapes.get(source, ())):
            return None
        factor = constant.item() if node.op_type == "Mul" else 1 / (constant.item() or np.inf)
        return (source, factor) if LEAST_FACTOR <= factor <= LARGEST_FACTOR else None

    def _fused_op(self, node: onnx.NodeProto) -> FusedOp | None:
        operands = self._operands(node) if self._quantizable(node) else None
        if operands is None:
            return None
        names, weight, bias = operands
        constants = tuple(n for n in names if n in self.initializers)
        if len(constants) == len(names) or not all(np.isfinite(self.array(n)).all() for n in constants):
            return None
        act = self._activation(node.output[0])
        if node.op_type == "HardSigmoid" and (act is not None or min(hard_sigmoid_coefficients(node)) <= 0):
            return None
        low, high = self._bounds(act) if act is not None else (-np.inf, np.inf)
        inputs = tuple(n for n in names if n not in self.initializers)
        return FusedOp(node, inputs, constants, weight, bias, act, low, high)

    def _quantizable(self, node: onnx.NodeProto) -> bool:
        return (
            node.op_type in QUANTIZABLE
            and node.domain in ("", "ai.onnx")
            and node.output[0] in self.floats
            and node.output[0] not in self.scaled
        )

    def _operands(self, node: onnx.NodeProto) -> tuple[list[str], str | None, str | None] | None:
        """Activations and constants that a node reads, its weight, and its bias; None where no int8 kernel fits."""
        names = list(node.input)
        if node.op_type == "Where":
            return names[1:], None, None
        if node.op_type not in WEIGHTED or names[1] not in self.initializers:
            return None if node.op_type in ("Conv", "Gemm") else ([n for n in names if n], None, None)
        source, weight, *rest = names
        if source in self.initializers or (node.op_type == "MatMul" and len(self.initializers[weight].dims) < 2):
            return None
        bias = rest[0] if rest and rest[0] else None
        if bias is not None and (bias not in self.initializers or not self._plain_bias(node, bias)):
            return None
        return [source], weight, bias

    def _plain_bias(self, node: onnx.NodeProto, bias: str) -> bool:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Gemm" and (
            attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0)
        ):
            return False
        return len(self.initializers[bias].dims) == 1

    def _activation(self, name: str) -> onnx.NodeProto | None:
        readers = self.consumers.get(name, [])
        if name in self.outputs or len(readers) != 1 or readers[0].op_type not in ACTIVATIONS:
            return None
        node = readers[0]
        known = all(not n or n in self.initializers for n in node.input[1:])
        return node if known else None

    def must_not_be_zero(self, name: str) -> bool:
        """Whether a tensor is the input of a logarithm or a divisor, also behind operators that keep its zeros.

        Models add a small number before these. In int8 it is below the step, and the sum may become 0.
        """
        names = [name]
        while names:
            read = names.pop()
            for node in self.consumers.get(read, []):
                if node.op_type in INFINITE_AT_ZERO or (node.op_type == "Div" and node.input[1] == read):
                    return True
                if node.op_type in KEEPS_ZEROS and node.input[0] == read:
                    names.extend(node.output)
        return False

    def _bounds(self, act: onnx.NodeProto) -> tuple[float, float]:
        if act.op_type == "Relu":
            return 0.0, np.inf
        limits = [float(self.array(n)) if n else None for n in act.input[1:]] + [None, None]
        return (-np.inf if limits[0] is None else limits[0], np.inf if limits[1] is None else limits[1])

    @property
    def info(self) -> ModelInfo:
        """The model's inputs and outputs.

        Raises:
            InputError: one of them is no tensor.
        """

        def spec(value: onnx.ValueInfoProto) -> TensorSpec:
            tensor = value.type.HasField("tensor_type")
            # Sequences, maps and optionals are Python objects.
            dtype = numpy_type(value.type.tensor_type.elem_type) if tensor else np.dtype(object)
            known = value.type.tensor_type.HasField("shape")
            return TensorSpec(value.name, shape_of(value), dtype, rank_known=known)

        graph = self.model.graph
        return ModelInfo(tuple(spec(i) for i in graph.input), tuple(spec(o) for o in graph.output))


def read(path: Path) -> onnx.ModelProto:
    """Load a model file. The large weights of a large model stay in their files, see `external`.

    Raises:
        InputError: it is not an ONNX model, is truncated, one file over 2 GB, without nodes, quantized, or of an opset
            below 7.
    """
    key = f"model.path ({path})"
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise InputError(
            key, "one file above 2 GB, which protobuf cannot read", "save the weights as external data (onnx.save)"
        )
    with path.open("rb") as stream:
        if stream.read(len(ORT_FORMAT) + 4).endswith(ORT_FORMAT):
            raise InputError(
                key, "is in onnxruntime's own format, optimized already", "the .onnx file it was made from"
            )
    try:
        model, places = external.parse(path)
    except Exception as error:  # noqa: BLE001 - protobuf's parsers raise classes of their own
        raise InputError(key, f"not an ONNX model, or a truncated one ({first_line(error)})") from None
    if not model.graph.node or not model.opset_import:
        raise InputError(key, "not an ONNX model: it holds no graph")
    if not _is_text(model):
        raise InputError(key, "is damaged: the name of a node, a tensor or an operator's type is not UTF-8 text")
    external.load_weights(model, path, places)
    opset = opset_of(model)
    if opset < MIN_OPSET:
        raise InputError(key, f"has opset {opset}", f"opset {MIN_OPSET} or newer is needed")
    sign = quantized_by(model)
    if sign is not None:
        raise InputError(key, f"is quantized already ({sign})", "expected the fp32 model")
    return model


def _is_text(model: onnx.ModelProto) -> bool:
    """Whether all names of operators and tensors are text: protobuf hands over other bytes as they are."""
    nodes = [n for graph in names.graphs_in(model.graph) for n in graph.node]
    nodes += [n for function in model.functions for n in function.node]
    found: list[object] = [t.name for t in (*model.graph.input, *model.graph.output, *model.graph.initializer)]
    for node in nodes:
        found += [node.op_type, node.domain, node.name, *node.input, *node.output, *(a.name for a in node.attribute)]
    return all(isinstance(name, str) for name in found)


def _with_fused_functions(model: onnx.ModelProto, folded: onnx.ModelProto) -> onnx.ModelProto:
    """The model with layer normalizations and Gelus as single operators, if it has any that can be fused."""
    try:
        newer = opsets.converted(model, FUSED_FUNCTION_OPSET)
        agrees = opsets.agree(model, newer)
        newer = fold(newer)
    except Exception as error:  # noqa: BLE001 - the converter does not know every operator; converter and engine raise classes of their own
        log.info("layer normalizations and Gelus are left decomposed: %s", first_line(error))
        return folded
    fused = sum(n.op_type in FUSED_FUNCTIONS for n in newer.graph.node)
    more = fused > sum(n.op_type in FUSED_FUNCTIONS for n in folded.graph.node)
    return newer if more and agrees is not False else folded


def prepare(model: onnx.ModelProto) -> Graph:
    """Fold a model with the engine's basic optimizations, and name every node.

    Initializers that are listed as inputs become constants, and sparse ones dense. Opsets below 13 are converted,
    because per-channel dequantization needs opset 13; where the converter fails or changes the results, the model keeps
    its opset and com.microsoft's Q/DQ operators are used. A model with a decomposed layer normalization or Gelu is
    converted too: in later opsets the engine fuses them into one operator, which stays in floating point. Choosing a
    precision for each of the steps would cost accuracy and time.

    Raises:
        InputError: the engine or the converter refuses the model.
    """
    own, files = external.working_copy(model)
    try:
        plain.expand(own)
        normalize(own)
        converted = compute_in_float32(own, files)
        own, folded = _folded(own)
        op_types = {n.op_type for n in folded.graph.node}
        opset = opset_of(own)
        if QDQ_OPSET <= opset < FUSED_FUNCTION_OPSET and any(types <= op_types for types in DECOMPOSED_FUNCTIONS):
            folded = _with_fused_functions(own, folded)
    except Exception as error:  # noqa: BLE001 - engine and converter raise classes of their own
        raise InputError("model.path", f"the engine refuses the model ({first_line(error)})") from None
    if files is not None:
        files.move(folded)
    opsets.describe_as(folded, model)
    _drop_imports(folded, model)
    names.name_nodes(folded.graph)
    _part_names(folded)
    return Graph(folded, files=files, converted=converted)


def with_own_node_names(model: onnx.ModelProto) -> bytes | None:
    """A serialized copy of a model in which several nodes have one name; None for any other model."""
    if not any(names.has_repeated_names(graph) for graph in names.graphs_in(model.graph)):
        return None
    own = external.inlined(model)
    normalize(own)
    serialized: bytes = own.SerializeToString()
    return serialized


def normalize(model: onnx.ModelProto) -> None:
    """Give the nodes of a model names of their own, and drop initializers from its inputs."""
    graph = model.graph
    names.name_nodes(graph)
    constants = {i.name for i in graph.initializer}
    inputs = [i for i in graph.input if i.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, CONSTANTS_IR)


def _folded(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A model in an opset in which it can be quantized, and what is left of it after folding."""
    opset, problem = opset_of(model), ""
    for target in (QDQ_OPSET, ENGINE_QDQ_OPSET):
        if opset >= target:
            return model, fold(model)
        try:
            newer = opsets.converted(model, target)
            if opsets.agree(model, newer) is not False:
                return newer, fold(newer)
            problem = "it computes something else there"
        except Exception as error:  # noqa: BLE001 - as above
            problem = first_line(error)
        log.info("the model is not converted from opset %d to %d: %s", opset, target, problem)
    raise ValueError(f"opset {opset} cannot be converted to {ENGINE_QDQ_OPSET} or newer: {problem}")


def _drop_imports(model: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """Take out the domains that the engine adds when it writes a graph, but for those that are used."""
    used = {"", ENGINE, *(o.domain for o in source.opset_import)}
    used |= {node.domain for graph in names.graphs_in(model.graph) for node in graph.node}
    kept = [o for o in model.opset_import if o.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _part_names(model: onnx.ModelProto) -> None:
    """Rename tensors that are called like a node which does not make them.

    The engine names some of the nodes that it adds after tensors: they would be taken for that other node's.
    """
    graph = model.graph
    nodes = {node.name: node for node in graph.node}
    fixed = {o.name for o in graph.output} | {name for node in graph.node for name in names.captured(node)}
    made = [name for node in graph.node for name in node.output if name in nodes and nodes[name] is not node]
    fresh = names.FreshNames(model)
    for name in made:
        if name not in fixed:
            names.rename_tensor(graph, name, fresh(name))


def external_files(path: Path) -> tuple[Path, ...]:
    """Files that hold a model's external data, as far as they lie in its folder; none if it is not a model."""
    if path.stat().st_size > MAX_MODEL_BYTES:
        return ()
    try:
        model, _ = external.parse(path)
    except Exception:  # noqa: BLE001 - `read` reports the problem
        return ()
    return external.files(model, path)


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    graph = model.graph
    known = {i.name for i in graph.initializer if i.data_type == onnx.TensorProto.FLOAT}
    for info in [*graph.input, *graph.output, *graph.value_info]:
        if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            known.add(info.name)
    return known
