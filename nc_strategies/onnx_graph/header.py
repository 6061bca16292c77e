"""An ONNX file without its weights: read through a memory map, whatever its size, without the engine.

Only the parts that describe the model are parsed; the values of tensors are skipped (protobuf's wire format: a field is
a key, and for length-delimited fields a length, so that any field can be passed over).
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx

from nc_strategies.errors import InputError, first_line
from nc_strategies.models.facts import Dimension, ModelFacts, TensorFacts, size_of
from nc_strategies.onnx_graph.quantized import is_quantized, quantized_by

MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
}
"""Fields of a message (onnx.proto) that hold messages with tensors in them, by number."""
VALUES = {4, 5, 6, 7, 9, 10, 11}
"""Fields of a ``TensorProto`` that hold values."""
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
"""Fields of ``ModelProto``, ``GraphProto`` and ``TensorProto``."""


def read_header(path: Path) -> onnx.ModelProto:
    """The model without the values of its tensors.

    Raises:
        InputError: the file cannot be read, or is not an ONNX model.
    """
    problem = "not an ONNX model, or a truncated one"
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            model = onnx.ModelProto.FromString(b"".join(_stripped(content, 0, len(content), "model")))
    except OSError as error:
        raise InputError("MODEL", f"{path} cannot be read ({error.strerror or error})") from None
    except Exception as error:  # noqa: BLE001 - protobuf's parsers raise classes of their own
        raise InputError("MODEL", f"{path} is {problem} ({first_line(error)})") from None
    if not model.graph.node or not model.opset_import:
        raise InputError("MODEL", f"{path} is {problem}: it holds no graph")
    return model


def facts(path: Path) -> ModelFacts:
    """What an ONNX file says.

    Raises:
        InputError: see `read_header`.
    """
    model = read_header(path)
    graph = model.graph
    constants = {i.name for i in graph.initializer} | {i.values.name for i in graph.sparse_initializer}
    nodes = list(_nodes(graph))
    producers = {name: str(node.op_type) for node in graph.node for name in node.output}
    versions = {
        "IR version": str(model.ir_version),
        **{
            f"opset{f' of {o.domain}' if o.domain not in ('', 'ai.onnx') else ''}": str(o.version)
            for o in model.opset_import
        },
        "written by": f"{model.producer_name} {model.producer_version}".strip(),
        "model version": str(model.model_version or ""),
    }
    metadata = {p.key: p.value for p in model.metadata_props}
    if model.doc_string:
        metadata["description"] = model.doc_string
    companions = {e.value for i in graph.initializer for e in i.external_data if e.key == "location"}
    beside = [path.parent / name for name in companions]
    quantized = Counter(str(n.op_type) for n in nodes if is_quantized(n.op_type)) if quantized_by(model) else Counter()
    return ModelFacts(
        "onnx",
        sum(size_of(file) for file in [path, *beside] if file.is_file()),
        {name: text for name, text in versions.items() if text},
        tuple(_tensor(value) for value in graph.input if value.name not in constants),
        tuple(_tensor(value) for value in graph.output),
        dict(Counter(str(n.op_type) for n in nodes).most_common()),
        output_types={o.name: producers[o.name] for o in graph.output if o.name in producers},
        metadata=metadata,
        quantized=", ".join(f"{count} {kind}" for kind, count in quantized.most_common()),
    )


def read_without_large(path: Path, least: int) -> tuple[onnx.ModelProto, dict[int, tuple[int, int]]]:
    """A model without the large weights of its file, and where these are.

    Args:
        path: The file.
        least: Size in bytes from which the raw values of an initializer are left out.

    Returns:
        The model, and by position of the initializer: offset and length of its values in the file.

    Raises:
        ValueError: the file is no message.
    """
    places: list[tuple[int, int] | None] = []
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        parts = []
        for number, key, start, stop in _fields(content, 0, len(content)):
            if number != GRAPH or content[key] & 7 != DELIMITED:
                parts.append(content[key:stop])
                continue
            graph = b"".join(_without_large(content, start, stop, least, places))
            parts.append(field_key(GRAPH) + as_varint(len(graph)) + graph)
    model = onnx.ModelProto.FromString(b"".join(parts))
    return model, {index: place for index, place in enumerate(places) if place is not None}


def _without_large(
    content: mmap.mmap, start: int, end: int, least: int, places: list[tuple[int, int] | None]
) -> Iterator[bytes]:
    """The bytes of a graph without large raw values; the places of all its initializers are appended."""
    for number, key, inside, stop in _fields(content, start, end):
        if number != INITIALIZER or content[key] & 7 != DELIMITED:
            yield content[key:stop]
            continue
        parts, place = [], None
        for field, begin, value, after in _fields(content, inside, stop):
            if field == RAW_DATA and after - value >= least:
                place = (value, after - value)
            else:
                parts.append(content[begin:after])
        places.append(place)
        body = b"".join(parts)
        yield field_key(INITIALIZER) + as_varint(len(body)) + body


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, and the places of the key, of the value, and behind it."""
    while start < end:
        key, place = _varint(content, start, end)
        wire = key & 7
        if wire == DELIMITED:
            length, place = _varint(content, place, end)
            stop = place + length
        else:
            stop = _varint(content, place, end)[1] if wire == VARINT else place + {FIXED64: 8, FIXED32: 4}[wire]
        if stop > end:
            raise ValueError("it ends within a field")
        yield key >> 3, start, place, stop
        start = stop


def _tensor(value: onnx.ValueInfoProto) -> TensorFacts:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return TensorFacts(value.name, str(value.type.WhichOneof("value") or "").removesuffix("_type"), None)
    code = int(kind.elem_type)
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(code)) if code and code != onnx.TensorProto.STRING else "string"
    shape = tuple(_dimension(d) for d in kind.shape.dim) if kind.HasField("shape") else None
    return TensorFacts(value.name, dtype if code else "", shape)


def _dimension(size: onnx.TensorShapeProto.Dimension) -> Dimension:
    return int(size.dim_value) if size.HasField("dim_value") else (str(size.dim_param) or None)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The operators of a graph and of the bodies in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _nodes(body)


def _stripped(content: mmap.mmap, start: int, end: int, kind: str) -> Iterator[bytes]:
    """The bytes of a message without the values of the tensors in it."""
    inner = MESSAGES.get(kind, {})
    for number, key, place, stop in _fields(content, start, end):
        if content[key] & 7 == DELIMITED and number in inner:
            body = b"".join(_stripped(content, place, stop, inner[number]))
            yield field_key(number) + as_varint(len(body)) + body
        elif kind != "tensor" or number not in VALUES:
            yield content[key:stop]


def _varint(content: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 64:  # A number has at most 64 bits, 7 a byte.
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not byte & 0x80:
            return value, place
    raise ValueError("it ends within a number")


def field_key(number: int) -> bytes:
    """The key of a length-delimited field."""
    return as_varint(number << 3 | DELIMITED)


def as_varint(value: int) -> bytes:
    """A number in protobuf's variable length."""
    parts = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        parts.append(low | (0x80 if value else 0))
        if not value:
            return bytes(parts)
