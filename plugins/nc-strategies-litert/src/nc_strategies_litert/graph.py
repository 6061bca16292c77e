"""The main graph of a ``.tflite`` flatbuffer: its operators, tensors, inputs and outputs."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from nc_strategies.api import EngineError, InputError

OP_TYPES: dict[int, str] = {code: name for name, code in vars(schema.BuiltinOperator).items() if name[0] != "_"}
DTYPES: dict[int, str] = {code: name.lower() for name, code in vars(schema.TensorType).items() if name[0] != "_"}
INTEGER_WEIGHTS = frozenset({"int8", "int4", "int2"})
WEIGHT_POSITION = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "TRANSPOSE_CONV": 1,
    "FULLY_CONNECTED": 1,
    "BATCH_MATMUL": 1,
    "EMBEDDING_LOOKUP": 1,
}
"""Operator type to the position of its weight among the inputs."""
CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})
MOVES = frozenset(
    {
        "BROADCAST_TO", "DEPTH_TO_SPACE", "EXPAND_DIMS", "GATHER", "GATHER_ND", "MAX_POOL_2D", "MIRROR_PAD", "PACK",
        "PAD", "PADV2", "RESHAPE", "RESIZE_NEAREST_NEIGHBOR", "SLICE", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V",
        "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE", "UNPACK",
    }
)  # fmt: skip
"""Operators whose result holds values of their first input only: they run in int8 where that is int8."""
SILENT = MOVES - {"MAX_POOL_2D"} | {"SHAPE", "CAST", "FILL", "RANGE", "BROADCAST_ARGS", "CUMSUM"}
"""Operators that move data or compute shapes, and do not count as computing."""


@dataclass(frozen=True)
class Tensor:
    """A tensor.

    Args:
        index: Its index in the graph.
        name: Its name.
        dtype: ``float32``, ``int8``, ...
        shape: Its shape; None for a free dimension.
        constant: Whether its values are in the file.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int | None, ...]
    constant: bool

    @property
    def elements(self) -> int:
        """Number of elements of a sample; 0 where it is unknown."""
        sizes = self.shape[1:]
        return 0 if not self.shape or None in sizes else math.prod(size or 0 for size in sizes)

    @property
    def size(self) -> int:
        """Number of elements; 0 where it is unknown."""
        return 0 if None in self.shape else math.prod(size or 0 for size in self.shape)


@dataclass(frozen=True)
class Op:
    """An operator.

    Args:
        index: Its position in the graph.
        type: Its type, as the schema names it.
        name: The name of its first output, which identifies it.
        inputs: Indices of its inputs.
        outputs: Indices of its outputs.
        weight: Index of its weight; None without one.
    """

    index: int
    type: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    weight: int | None


class Graph:
    """The main graph of a model.

    Args:
        content: The file.

    Raises:
        EngineError: it is no ``.tflite`` file, or its signature runs another graph than the first.
    """

    def __init__(self, content: bytes | bytearray) -> None:
        try:
            self.model = flatbuffer_utils.convert_bytearray_to_object(content)
            self._graph = self.model.subgraphs[0]
            for buffer in self.model.buffers:
                if buffer.offset and buffer.size:  # a large constant behind the flatbuffer
                    buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
                    buffer.offset = buffer.size = 0
        except Exception as error:  # the reader unpacks offsets unchecked, and raises what it runs into
            raise EngineError("this is no .tflite model") from error
        self.tensors = tuple(self._tensor(index, tensor) for index, tensor in enumerate(self._graph.tensors))
        unpacked = self._unpacked()
        self.ops = tuple(self._op(index, op, unpacked) for index, op in enumerate(self._graph.operators))
        self.signature, self.inputs, self.outputs = self._interface()
        self.producers = {tensor: op for op in self.ops for tensor in op.outputs}

    @cached_property
    def readers(self) -> dict[int, tuple[Op, ...]]:
        """Tensor to the operators that read it."""
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for tensor in dict.fromkeys(op.inputs):
                found.setdefault(tensor, []).append(op)
        return {tensor: tuple(ops) for tensor, ops in found.items()}

    def _tensor(self, index: int, tensor: Any) -> Tensor:
        shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
        if tensor.shapeSignature is not None and len(tensor.shapeSignature) == len(shape):
            shape = [int(size) for size in tensor.shapeSignature]
        buffer = self.model.buffers[tensor.buffer]
        constant = buffer.data is not None and len(buffer.data) > 0
        sizes = tuple(None if size < 0 else size for size in shape)
        return Tensor(index, _text(tensor.name), DTYPES.get(tensor.type, "unknown"), sizes, constant)

    def _op(self, index: int, op: Any, unpacked: Collection[int]) -> Op:
        kind = self._kind(op)
        inputs = tuple(int(tensor) for tensor in op.inputs if tensor >= 0) if op.inputs is not None else ()
        outputs = tuple(int(tensor) for tensor in op.outputs) if op.outputs is not None else ()
        position = WEIGHT_POSITION.get(kind)
        weight = None
        if (
            position is not None
            and position < len(inputs)
            and (self.tensors[inputs[position]].constant or inputs[position] in unpacked)
        ):
            weight = inputs[position]
        return Op(index, kind, self.tensors[outputs[0]].name if outputs else "", inputs, outputs, weight)

    def _kind(self, op: Any) -> str:
        code = self.model.operatorCodes[op.opcodeIndex]
        # Codes above 127 are in the second field only.
        return OP_TYPES.get(max(code.builtinCode, code.deprecatedBuiltinCode), "UNKNOWN")

    def _unpacked(self) -> frozenset[int]:
        """Weights that a DEQUANTIZE of a constant turns into floating point."""
        return frozenset(
            int(op.outputs[0])
            for op in self._graph.operators
            if self._kind(op) == "DEQUANTIZE" and self.tensors[op.inputs[0]].constant
        )

    def _interface(self) -> tuple[str, dict[str, int], dict[str, int]]:
        signatures = self.model.signatureDefs or []
        if not signatures:
            inputs = {self.tensors[t].name: int(t) for t in self._graph.inputs}
            return "", inputs, {self.tensors[t].name: int(t) for t in self._graph.outputs}
        chosen = signatures[0]
        if chosen.subgraphIndex:
            raise EngineError("its first signature does not run the main graph")
        return (
            _text(chosen.signatureKey),
            self._named(self._graph.inputs, chosen.inputs),
            self._named(self._graph.outputs, chosen.outputs),
        )

    def _named(self, tensors: Iterable[Any], items: Iterable[Any]) -> dict[str, int]:
        """Tensors in the file's order, by the names of the signature; two names may stand for one tensor."""
        names: dict[int, list[str]] = {}
        for item in items or ():
            names.setdefault(int(item.tensorIndex), []).append(_text(item.name))
        return {(names.get(int(t)) or [self.tensors[t].name]).pop(0): int(t) for t in tensors}

    def mode(self, op: Op) -> str | None:
        """How an operator computes by the types of its tensors.

        Returns:
            ``static``, ``dynamic``, ``weight_only`` or ``fp32``; None for an operator of other types.
        """
        made = self.tensors[op.outputs[0]].dtype if op.outputs else ""
        read = [self.tensors[t] for t in op.inputs if not self.tensors[t].constant]
        if made == "int8" and all(tensor.dtype in ("int8", "int32", "int64", "bool") for tensor in read):
            return "static"
        if made != "float32" and not any(tensor.dtype == "float32" for tensor in read):
            return None
        if op.weight is None:
            return "fp32"
        weight = self.tensors[op.weight]
        if weight.constant:
            return "dynamic" if weight.dtype in INTEGER_WEIGHTS else "fp32"
        source = self.tensors[self.producers[op.weight].inputs[0]]
        return "weight_only" if source.dtype in INTEGER_WEIGHTS else "fp32"

    def folded(self, op: Op) -> bool:
        """Whether an operator turns a constant weight into floating point, which the engine does once."""
        return op.type == "DEQUANTIZE" and self.tensors[op.inputs[0]].constant


def order_outputs(content: bytes, names: Sequence[str]) -> bytes:
    """The same model with its outputs in this order.

    Args:
        content: The file.
        names: Names of its signature's outputs.
    """
    graph = Graph(content)
    if list(graph.outputs) == list(names) or set(graph.outputs) != set(names):
        return content
    graph.model.subgraphs[0].outputs = np.array([graph.outputs[name] for name in names], np.int32)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(graph.model))


def prepare(content: bytes) -> bytes:
    """The same model with one short name per operator, and without computing shapes that are known but for one size.

    A RESHAPE to a computed shape keeps the engine's delegate from executing the graph as a whole.

    Args:
        content: A floating-point model.

    Raises:
        InputError: the file cannot be read, or is quantized already.
    """
    try:
        graph = Graph(content)
    except EngineError as error:
        raise InputError("model.path", str(error), "a .tflite file") from error
    if any(graph.mode(op) not in ("fp32", None) for op in graph.ops) or any(op.type in CONVERSIONS for op in graph.ops):
        raise InputError("model.path", "the .tflite model is quantized already", "a floating-point .tflite file")
    for op, name in zip(graph.ops, _names(graph), strict=True):
        for position, tensor in enumerate(op.outputs):
            graph.model.subgraphs[0].tensors[tensor].name = (f"{name}:{position}" if position else name).encode()
    for op in graph.ops:
        _fix_reshape(graph, op)
    _drop_unread(graph)
    _tell_apart(graph)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(graph.model))


def _names(graph: Graph) -> list[str]:
    """A short unique name per operator, taken from the places in the source that the converter joins with ``;``."""
    inputs = {graph.tensors[t].name for t in graph.inputs.values()}
    taken = Counter(inputs)
    names = []
    for op in graph.ops:
        name = _short_name(graph, op) or op.type.lower()
        taken[name] += 1
        while taken[name] > 1:
            name = f"{name}_{taken[name]}"
            taken[name] += 1
        names.append(name)
    return names


def _tell_apart(graph: Graph) -> None:
    """Rename tensors that are called like another one: the quantizer tells the tensors of a model apart by names."""
    main = graph.model.subgraphs[0].tensors
    made = {*graph.inputs.values(), *graph.producers}
    taken = {bytes(main[index].name) for index in made}
    for number, subgraph in enumerate(graph.model.subgraphs):
        for index, tensor in enumerate(subgraph.tensors):
            if number or index not in made:
                while bytes(tensor.name or b"") in taken:
                    tensor.name = f"{_text(tensor.name)}/{number or ''}{index}".encode()
                taken.add(bytes(tensor.name or b""))


def _short_name(graph: Graph, op: Op) -> str:
    parts = [part.removesuffix(":0") for part in op.name.split(";") if part]
    if op.weight is not None:
        weight = [part for part in graph.tensors[op.weight].name.split(";") if part in parts]
        if weight:
            return weight[0]
    word = re.sub(r"[^a-z]|2d", "", op.type.lower())
    named = [part for part in parts if word in re.sub("[^a-z]", "", part.rpartition("/")[2].lower())]
    return next(iter(named or parts), "")


def _fix_reshape(graph: Graph, op: Op) -> None:
    if op.type != "RESHAPE" or len(op.inputs) < 2 or graph.tensors[op.inputs[1]].constant:
        return
    shape = [-1 if size is None else size for size in graph.tensors[op.outputs[0]].shape]
    if not shape or shape.count(-1) > 1 or 0 in shape:
        return
    model = graph.model
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.array(shape, np.int32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.buffer = (
        f"{op.name}/shape".encode(),
        schema.TensorType.INT32,
        len(model.buffers) - 1,
    )
    tensor.shape = np.array([len(shape)], np.int32)
    main = model.subgraphs[0]
    main.tensors.append(tensor)
    main.operators[op.index].inputs = np.array([op.inputs[0], len(main.tensors) - 1], np.int32)


def _drop_unread(graph: Graph) -> None:
    main = graph.model.subgraphs[0]
    stateful = {"CALL_ONCE", "ASSIGN_VARIABLE", "WHILE", "IF", "UNKNOWN", "CUSTOM", "VAR_HANDLE"}
    needed = {int(t) for t in main.outputs}
    kept = []
    for index in reversed(range(len(main.operators))):
        op = main.operators[index]
        if graph.ops[index].type in stateful or needed.intersection(map(int, op.outputs)):
            needed.update(int(t) for t in op.inputs)
            kept.append(op)
    main.operators = kept[::-1]


def computing(graph: Graph) -> Iterable[Op]:
    """The operators that compute in floating point or int8, in execution order."""
    for op in graph.ops:
        if op.type not in SILENT and op.type not in CONVERSIONS and graph.mode(op) is not None:
            yield op


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "")
