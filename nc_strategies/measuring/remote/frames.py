"""Frames between a run and the machine that it measures on: JSON, and bytes of files and arrays.

Nothing is pickled in either direction: neither machine can make the other one run code by what it sends.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import EngineError, NcsError, OutOfTimeError, first_line

PROTOCOL = 1
"""Version of the frames and of the calls: count it up when either changes."""
GREETING = "nc-strategies-target "
"""Start of the line that the other side begins with; a login may print lines before it."""
SIZES = struct.Struct(">IQ")
"""Bytes of a frame's JSON and of what follows it."""
MOST_JSON_BYTES = 2**26
MOST_BODY_BYTES = 2**32
MOST_TEXT = 300
"""Characters of the other machine's words in a message."""
CHUNK_BYTES = 2**23
"""Bytes of a file in a frame, and bytes that are read at once."""


class FrameError(NcsError):
    """The other side sent something that is no frame, or ended within one."""


def write_frame(stream: BinaryIO, header: Mapping[str, Any], body: bytes = b"") -> None:
    """Write a frame.

    Raises:
        OSError: the other side no longer reads.
    """
    text = json.dumps(header).encode()
    write_all(stream, SIZES.pack(len(text), len(body)) + text)
    write_all(stream, body)


def write_all(stream: BinaryIO, data: bytes) -> None:
    """Write bytes to a stream that may take less than it is given, as one without a buffer does.

    Raises:
        OSError: the other side no longer reads.
    """
    view = memoryview(data)
    while view:
        view = view[stream.write(view) or 0 :]
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """Read a frame.

    Raises:
        EOFError: there is none.
        FrameError: it is none, or is not complete.
    """
    sizes = _exactly(stream, SIZES.size)
    count, size = SIZES.unpack(sizes)
    if count > MOST_JSON_BYTES or size > MOST_BODY_BYTES:
        raise FrameError("what arrived is no message of nc-strategies")
    try:
        header = json.loads(_exactly(stream, count))
    except (ValueError, EOFError) as error:
        raise FrameError(f"a message cannot be read ({first_line(error)})") from None
    if not isinstance(header, dict):
        raise FrameError("a message is no mapping")
    try:
        return header, _exactly(stream, size)
    except EOFError:
        raise FrameError("a message ended early") from None


def _exactly(stream: BinaryIO, size: int) -> bytes:
    parts, left = [], size
    while left:
        part = stream.read(min(left, CHUNK_BYTES))
        if not part:
            raise EOFError
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def pack_arrays(arrays: Sequence[Any]) -> bytes:
    """Convert arrays to the bytes of an ``.npz``.

    Raises:
        EngineError: one holds objects, such as sequences or maps.
    """
    stream = io.BytesIO()
    found = [np.asarray(array) for array in arrays]
    if any(array.dtype.hasobject for array in found):
        raise EngineError("the model has outputs that are no arrays of numbers: they cannot be sent")
    np.savez(stream, **{f"a{place}": array for place, array in enumerate(found)})  # type: ignore[arg-type]
    return stream.getvalue()


def unpack_arrays(data: bytes) -> list[NDArray[Any]]:
    """Convert what `pack_arrays` returned back.

    Raises:
        FrameError: it is something else, or is compressed: it could grow without limit.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise FrameError("arrays are compressed")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return [arrays[f"a{place}"] for place in range(len(arrays.files))]
    except Exception as error:  # a damaged archive raises errors of many classes
        raise FrameError(f"arrays cannot be read ({first_line(error)})") from error


def error_header(error: BaseException) -> dict[str, Any]:
    """The answer to a call that raised an error."""
    if isinstance(error, OutOfTimeError):
        kind = "time"
    elif isinstance(error, NcsError):
        kind = "engine"
    elif isinstance(error, OSError):
        kind = "system"
    else:
        kind = "internal"
    text = first_line(error)
    if kind == "system" and isinstance(error, OSError):
        text = error.strerror or text
    return {"error": kind, "text": text if kind != "internal" else f"{type(error).__name__}: {text}"}


def plain(text: Any) -> str:
    """The other machine's words as they may be shown on a terminal: one line without control characters."""
    words = " ".join(str(text).split())
    return "".join(letter if letter.isprintable() else "?" for letter in words)[:MOST_TEXT]


def raise_error(header: Mapping[str, Any]) -> NoReturn:
    """Raise the error that a header of `error_header` describes, but not ``system``, which the caller explains."""
    text = f"on the target: {plain(header.get('text'))}"
    if header["error"] == "time":
        raise OutOfTimeError(text)
    raise EngineError(text)
