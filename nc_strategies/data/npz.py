"""Reading ``.npz`` files. Large arrays are memory-mapped."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data import spool
from nc_strategies.data.arrange import arrange
from nc_strategies.data.dataset import Raw
from nc_strategies.data.labels import BOX_ARRAYS, pack_boxes
from nc_strategies.data.ragged import gathered, rectangular
from nc_strategies.errors import InputError, first_line
from nc_strategies.models.archive import check_archive

LOCAL_HEADER = 30
"""Bytes of a ZIP member's local header before the member's name (APPNOTE.TXT, 4.3.7)."""


def read_npz(key: str, path: str) -> Raw:
    """Read one file; pickled objects are refused.

    Arrays above `nc_strategies.data.spool.LARGE` bytes are memory-mapped from a file written by ``numpy.savez``, and
    unpacked to disk from one written by ``numpy.savez_compressed``. Labels are the array ``y``, or for detection the
    arrays ``boxes``, ``labels``, ``image_ids`` and, if there are crowds, ``iscrowd``: see `pack_boxes`. Samples and
    labels of different shapes are the arrays ``NAME.values`` and ``NAME.offsets``: see `gathered`.

    Raises:
        InputError: the file is missing, or is not an ``.npz`` file with samples.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(key, f"no such file: {file}")
    check_archive(key, file, in_memory=False)
    arrays = gathered(key, _arrays(key, file))
    by_boxes = "y" not in arrays and set(BOX_ARRAYS) <= set(arrays)
    boxes = [rectangular(arrays.pop(name)) for name in BOX_ARRAYS] if by_boxes else []
    crowd = rectangular(arrays.pop("iscrowd")) if boxes and "iscrowd" in arrays else None
    labels = arrays.pop("y", None)
    if not arrays:
        raise InputError(key, f"{file} holds no input array", "x, or one array per input of the model")
    if labels is not None and labels.ndim == 0:
        raise InputError(key, f"{file} holds a single number where samples are expected")
    if not boxes:
        return arrange(key, arrays, labels, str(file))
    raw = arrange(key, arrays, None, str(file))
    return replace(raw, labels=pack_boxes(key, len(raw), boxes[0], boxes[1], boxes[2], crowd))


def _arrays(key: str, file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an archive by name."""
    try:
        with file.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(key, f"{file} is not an .npz archive", "arrays x and y saved by numpy.savez")
            return {name: _read(archive, name, file) for name in archive.files}
    except spool.NoRoomError as error:
        raise InputError(key, f"{file} cannot be unpacked: {error}") from None
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - damaged files make zipfile, zlib and numpy's header parser raise anything
        raise InputError(
            key, f"{file} cannot be read as .npz ({first_line(error)})", "arrays x and y saved by numpy.savez"
        ) from None


def _read(archive: Any, name: str, file: Path) -> NDArray[Any]:
    members = archive.zip.namelist()
    info = archive.zip.getinfo(f"{name}.npy" if f"{name}.npy" in members else name)
    if info.file_size <= spool.LARGE:
        return np.asarray(archive[name])
    with archive.zip.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version not in ((1, 0), (2, 0)):
            return np.asarray(archive[name])
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(member)
        if dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded")
        if info.compress_type == zipfile.ZIP_STORED:
            start = _content(file, info) + member.tell()
            return np.memmap(file, dtype, "r", start, shape, "F" if fortran else "C")
        return _unpack(member, shape, fortran, dtype)


def _content(file: Path, info: zipfile.ZipInfo) -> int:
    """Offset of a member's content in the file, in bytes."""
    with file.open("rb") as stream:
        stream.seek(info.header_offset)
        name, extra = struct.unpack("<HH", stream.read(LOCAL_HEADER)[26:])
    return int(info.header_offset + LOCAL_HEADER + name + extra)


def _unpack(member: Any, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any]) -> NDArray[Any]:
    array = spool.allocate(shape[::-1] if fortran else shape, dtype)
    room = array.reshape(-1).view(np.uint8).data
    place = 0
    while place < len(room):
        count = member.readinto(room[place : place + spool.CHUNK])
        if not count:
            raise EOFError("the file ends early")
        place += count
    member.read(1)  # At the end of the member, zipfile verifies the checksum.
    return array.transpose() if fortran else array
