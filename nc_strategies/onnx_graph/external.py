"""Weights of large models: they stay in files, so that no model is ever one large message in memory.

ONNX stores large tensors beside the model, as external data. In a model that is processed here, the location of such a
tensor is its absolute path without the root, and the engine resolves it against the root folder. So the tensors of one
graph may lie in the user's folder and in a folder of temporary files, and a serialized graph holds their places only.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nc_strategies.errors import EngineError, InputError, first_line
from nc_strategies.onnx_graph.header import GRAPH, INITIALIZER, RAW_DATA, as_varint, field_key, read_without_large


@dataclass(frozen=True)
class ExternalLimits:
    """Sizes from which weights stay in files.

    Args:
        model_bytes: Size of a model, with its external data, from which its large tensors stay in files. Loading a
            smaller one may hold eight copies, which is 512 MB.
        tensor_bytes: Size from which a tensor is large. Biases and constants of shapes are smaller, and are read often.
        message_bytes: Greatest size of a model that is saved as one file. The limit of protobuf is 2 GiB, from which
            room for the nodes is left.
        alignment: Multiple at which a tensor begins in a file of weights. Whole pages can be mapped, see
            ``onnx.external_data_helper``.
        profiled_beside_bytes: Size of a model from which its session is closed while another one of it is profiled.
        reworked_bytes: Size of a model from which calibration leaves it as it is: equalization and recovery would write
            its weights again, and comparing forms of attention would open it twice.
    """

    model_bytes: int = 2**26
    tensor_bytes: int = 2**16
    message_bytes: int = 2**31 - 2**24
    alignment: int = 4096
    reworked_bytes: int = 2**29
    profiled_beside_bytes: int = 2**28


LIMITS = ExternalLimits()
ROOT_FOLDER = Path(Path.cwd().anchor or "/")
"""The folder that locations of external data are relative to, inside this package."""
SUFFIX = ".data"
"""Ending of the file that holds a saved model's weights, after the name of the model's file."""


class WeightFiles:
    """A folder of temporary files with the weights that were computed for one model; removed with this object."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ncs-weights-")).resolve()
        self._count = 0
        self._removal = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def tensor(self, name: str, values: NDArray[Any]) -> TensorProto:
        """A tensor: in a file of its own if it is large.

        Raises:
            EngineError: the folder of temporary files has no room for it.
        """
        if values.nbytes < LIMITS.tensor_bytes:
            return numpy_helper.from_array(values, name)
        path = self.folder / f"{self._count}.bin"
        self._count += 1
        try:
            if shutil.disk_usage(self.folder).free < values.nbytes:
                raise OSError("no space left")
            np.ascontiguousarray(values).tofile(path)
        except OSError as error:
            raise EngineError(
                f"the weights of the model do not fit into {self.folder.parent} ({error.strerror or error}): "
                "TMPDIR names another folder"
            ) from error
        return _placed(name, helper.np_dtype_to_tensor_dtype(values.dtype), values.shape, path, 0, values.nbytes)

    def zeros(self, name: str, data_type: int, shape: tuple[int, ...]) -> NDArray[Any]:
        """An array of zeros, mapped from a file without contents, which takes no room.

        Args:
            name: Name of the file, which is shared by all arrays of that name; the largest decides on its size.
            data_type: Its ONNX type.
            shape: Its shape.
        """
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        path = self.folder / f"{name}.zeros"
        with path.open("ab") as stream:
            if stream.tell() < size:
                stream.truncate(size)
        return np.memmap(path, dtype, "r", 0, shape)

    def keep(self, values: NDArray[Any]) -> NDArray[Any]:
        """An array, mapped from a file if it is large; `tensor` refers to that file."""
        return array(self.tensor("", values))

    def copy(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of a model of which the large tensors are in files; they are copied one by one."""
        own = onnx.ModelProto()
        _merge(own, model, "graph")
        _merge(own.graph, model.graph, "initializer")
        own.graph.initializer.extend(map(self.moved, model.graph.initializer))
        return own

    def moved(self, tensor: TensorProto) -> TensorProto:
        """A tensor with its values in a file of its own, if it is large and not in a file whose bytes can be mapped."""
        packed = is_packed(tensor.data_type) or tensor.data_type == TensorProto.STRING
        in_place = is_external(tensor) and _place_of(tensor)[1] % _itemsize(tensor) == 0
        if packed or in_place or _nbytes(tensor) < LIMITS.tensor_bytes:
            return tensor
        return self.tensor(tensor.name, array(tensor))

    def move(self, model: onnx.ModelProto) -> None:
        """Move the large tensors of a model into files, one by one."""
        for tensor in model.graph.initializer:
            moved = self.moved(tensor)
            if moved is not tensor:
                tensor.CopyFrom(moved)


def working_copy(model: onnx.ModelProto) -> tuple[onnx.ModelProto, WeightFiles | None]:
    """A copy of a model to change, and the files of its large tensors; None for a model that is kept in memory."""
    if stored_bytes(model) >= LIMITS.model_bytes:
        files = WeightFiles()
        return files.copy(model), files
    own = onnx.ModelProto()
    own.CopyFrom(model)
    return own, None


def _merge(into: Any, source: Any, left_out: str) -> None:
    """Copy the fields of a message, except for one."""
    for descriptor, value in source.ListFields():
        if descriptor.name == left_out:
            continue
        if hasattr(value, "extend"):
            getattr(into, descriptor.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(into, descriptor.name).CopyFrom(value)
        else:
            setattr(into, descriptor.name, value)


def tensor(name: str, values: NDArray[Any]) -> TensorProto:
    """Create an initializer; values that are mapped from a file as a whole stay there."""
    if isinstance(values, np.memmap) and not isinstance(values.base, np.ndarray) and values.filename is not None:
        file = Path(values.filename).resolve()
        return _placed(
            name, helper.np_dtype_to_tensor_dtype(values.dtype), values.shape, file, values.offset, values.nbytes
        )
    return numpy_helper.from_array(np.ascontiguousarray(values) if values.ndim else values, name)


def _placed(
    name: str, data_type: int, shape: tuple[int, ...], path: Path | str, offset: int, length: int
) -> TensorProto:
    tensor = TensorProto(name=name, data_type=data_type, dims=shape, data_location=TensorProto.EXTERNAL)
    place(tensor, str(path if isinstance(path, str) else path.relative_to(ROOT_FOLDER)), offset, length)
    return tensor


def place(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Let a tensor refer to a part of a file."""
    tensor.ClearField("external_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def is_external(tensor: TensorProto) -> bool:
    """Whether a tensor's values are in a file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def array(tensor: TensorProto) -> NDArray[Any]:
    """The values of a tensor; those in a file are mapped, not read."""
    if not is_external(tensor):
        return np.asarray(numpy_helper.to_array(tensor))
    location, offset, _ = _place_of(tensor)
    dtype, shape = helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims)
    return np.memmap(ROOT_FOLDER / location, dtype, "r", offset, shape)


def _place_of(tensor: TensorProto) -> tuple[str, int, int]:
    """Location, offset and length in bytes of a tensor's external data."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries.get("location", ""), int(entries.get("offset", 0)), int(entries.get("length", 0) or _nbytes(tensor))


def _nbytes(tensor: TensorProto) -> int:
    """Bytes of a tensor's values; 4-bit and narrower types are packed."""
    count = int(np.prod(tensor.dims, dtype=np.int64))
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return (count + 1) // 2 if is_packed(tensor.data_type) else count * dtype.itemsize


def _itemsize(tensor: TensorProto) -> int:
    return int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def is_packed(data_type: int) -> bool:
    """Whether several values of an ONNX type share a byte."""
    return any(part in TensorProto.DataType.Name(data_type) for part in ("INT4", "INT2", "FLOAT4"))


def tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """All tensors that a graph stores, also those of its nodes' attributes and of graphs within."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from tensors(inner)


def stored_bytes(model: onnx.ModelProto) -> int:
    """Size of a model with its external data, as it would be saved."""
    return int(model.ByteSize()) + sum(_place_of(t)[2] for t in model.graph.initializer if is_external(t))


def may_be_reworked(model: onnx.ModelProto) -> bool:
    """Whether calibration may write a model's weights again, or open it twice; see `ExternalLimits.reworked_bytes`."""
    return stored_bytes(model) < LIMITS.reworked_bytes


Places = Mapping[int, tuple[int, int]]
"""Position of an initializer to offset and length of its values in the model's file."""


def parse(path: Path) -> tuple[onnx.ModelProto, Places]:
    """A model file without its external data, and, if it is large, without its own large weights; see `load_weights`.

    Raises:
        Exception: the file is no model; protobuf's parsers raise classes of their own.
    """
    if path.stat().st_size < LIMITS.model_bytes:
        return onnx.load(str(path), load_external_data=False), {}
    return read_without_large(path, LIMITS.tensor_bytes)


def load_weights(model: onnx.ModelProto, path: Path, places: Places | None = None) -> None:
    """Read the external data of a model file, or refer to its place if the model is large.

    Args:
        model: Loaded without its external data; changed in place.
        path: The file that it was loaded from.
        places: Large weights of that file which `parse` has left out; the model refers to them.

    Raises:
        InputError: external data is missing, too short, or outside the model's folder.
    """
    outside = [tensor for tensor in tensors(model.graph) if is_external(tensor)]
    try:
        files = [_file(tensor, path) for tensor in outside]
        within = model.ByteSize() + sum(length for _, length in (places or {}).values())
        large = within + sum(_nbytes(tensor) for tensor in outside) >= LIMITS.model_bytes
        top = {id(initializer) for initializer in model.graph.initializer} if large else set()
        for tensor, file in zip(outside, files, strict=True):
            _refer_or_read(tensor, file, may_refer=id(tensor) in top)
        for index, (offset, length) in (places or {}).items():
            _check_length(model.graph.initializer[index], length)
            place(model.graph.initializer[index], str(path.resolve().relative_to(ROOT_FOLDER)), offset, length)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"model.path ({path})", f"its external data cannot be read ({first_line(error)})") from None


def _check_length(tensor: TensorProto, length: int) -> None:
    if _nbytes(tensor) != length:
        raise ValueError(f"tensor {tensor.name!r} has {_nbytes(tensor)} bytes, the file holds {length}")


def _refer_or_read(tensor: TensorProto, file: Path, may_refer: bool) -> None:
    """Let a large tensor refer to its place in a file, and read a small one."""
    _, offset, length = _place_of(tensor)
    if may_refer and length >= LIMITS.tensor_bytes and not is_packed(tensor.data_type):
        place(tensor, str(file.relative_to(ROOT_FOLDER)), offset, length)
    else:
        _read(tensor, file, offset, length)


def _read(tensor: TensorProto, file: Path, offset: int, length: int) -> None:
    """Move a tensor's values from a file into the model."""
    with file.open("rb") as stream:
        stream.seek(offset)
        values = stream.read(length)
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.DEFAULT
    tensor.raw_data = values


def _file(tensor: TensorProto, path: Path) -> Path:
    """The file with a tensor's external data.

    Raises:
        ValueError: the data is missing, of another length, or outside the model's folder. Links are followed as
            onnxruntime follows them: to the folder of the model, or of the file that the model's path is a link to.
    """
    location, offset, length = _place_of(tensor)
    file = (path.parent / location).resolve()
    folders = (path.parent.resolve(), path.resolve().parent)
    if not location or Path(location).is_absolute() or not any(file.is_relative_to(folder) for folder in folders):
        raise ValueError(f"tensor {tensor.name!r} lies in {location!r}, outside the folder of the model")
    if not file.is_file():
        raise ValueError(f"no such file: {path.parent / location}, which holds tensor {tensor.name!r}")
    wanted, held = _nbytes(tensor), file.stat().st_size
    if offset < 0 or length != wanted or offset + wanted > held:
        raise ValueError(
            f"tensor {tensor.name!r} has {wanted} bytes, {location} of {held} bytes holds {length} at {offset}"
        )
    return file


def files(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """The files of a model's external data, as far as they exist where the engine may read them."""
    found: dict[Path, None] = {}
    for tensor in tensors(model.graph):
        if is_external(tensor):
            try:
                _file(tensor, path)
            except (ValueError, KeyError, TypeError, OSError):
                continue  # `load_weights` reports the problem
            found[path.parent / _place_of(tensor)[0]] = None
    return tuple(sorted(found))


def file_bytes(path: Path) -> int:
    """Size of a model file and of the files with its external data."""
    try:
        model, _ = parse(path)
    except Exception:  # noqa: BLE001 - a format that only the engine knows; protobuf's parsers raise classes of their own
        return path.stat().st_size
    return path.stat().st_size + sum(_nbytes(tensor) for tensor in tensors(model.graph) if is_external(tensor))


def rebase(model: onnx.ModelProto, folder: Path) -> None:
    """Let external data whose location is relative to a folder be found from `ROOT_FOLDER`."""
    for tensor in model.graph.initializer:
        if is_external(tensor):
            location, offset, length = _place_of(tensor)
            place(tensor, str((folder / location).resolve().relative_to(ROOT_FOLDER)), offset, length)


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model that holds all its weights.

    Raises:
        EngineError: that is more than a message can hold.
    """
    if stored_bytes(model) > LIMITS.message_bytes:
        raise EngineError("the model is larger than 2 GB, so it exists as a file with external data only")
    own = onnx.ModelProto()
    own.CopyFrom(model)
    for initializer in own.graph.initializer:
        if is_external(initializer):
            initializer.CopyFrom(numpy_helper.from_array(array(initializer), initializer.name))
    return own


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model: as one file if protobuf allows that, else with its weights in a file beside it.

    Tensors are copied one by one. External data of `model` is copied too, so the saved model needs no other file.

    Raises:
        OSError: a file cannot be written.
    """
    if stored_bytes(model) <= LIMITS.message_bytes:
        _save_as_one(model, path)
        return
    saved = onnx.ModelProto()
    saved.CopyFrom(model)
    beside = path.with_name(path.name + SUFFIX)
    with beside.open("wb") as stream:
        for initializer in saved.graph.initializer:
            values = array(initializer)
            if values.nbytes < LIMITS.tensor_bytes or is_packed(initializer.data_type):
                continue
            stream.write(b"\0" * (-stream.tell() % LIMITS.alignment))
            offset = stream.tell()
            np.ascontiguousarray(values).tofile(stream)
            place(initializer, beside.name, offset, values.nbytes)
    path.write_bytes(saved.SerializeToString())


def _save_as_one(model: onnx.ModelProto, path: Path) -> None:
    """Write a model as one message, with the weights that are in files copied one by one."""
    if not any(map(is_external, model.graph.initializer)):
        path.write_bytes(model.SerializeToString())
        return
    head, graph = onnx.ModelProto(), onnx.GraphProto()
    _merge(head, model, "graph")
    _merge(graph, model.graph, "initializer")
    parts = [_initializer_parts(initializer) for initializer in model.graph.initializer]
    rest = graph.SerializeToString()
    length = len(rest) + sum(len(start) + (0 if values is None else values.nbytes) for start, values in parts)
    with path.open("wb") as stream:
        stream.write(head.SerializeToString() + field_key(GRAPH) + as_varint(length) + rest)
        for start, values in parts:
            stream.write(start)
            if values is not None:
                stream.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def _initializer_parts(tensor: TensorProto) -> tuple[bytes, NDArray[Any] | None]:
    """An initializer as a field of a graph: its first bytes, and the values that follow if they are in a file."""
    if not is_external(tensor):
        body = tensor.SerializeToString()
        return field_key(INITIALIZER) + as_varint(len(body)) + body, None
    values = array(tensor)
    bare = TensorProto()
    bare.CopyFrom(tensor)
    bare.ClearField("external_data")
    bare.ClearField("data_location")
    body = bare.SerializeToString() + field_key(RAW_DATA) + as_varint(values.nbytes)
    return field_key(INITIALIZER) + as_varint(len(body) + values.nbytes) + body, values
