"""Check of ZIP archives against excessive unpacked sizes."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from nc_strategies.errors import InputError, first_line

MAX_MEMORY_SHARE = 0.8
"""Greatest share of the machine's memory that an archive may unpack to."""
UNCHECKED_BYTES = 2**26
"""Unpacked size up to which an archive is accepted without further checks: any machine has this memory."""
MAX_COMPRESSION_RATIO = 1000
"""Greatest plausible ratio of unpacked to packed size: weights and images have hardly 10, zeros about 1030."""


def check_archive(key: str, path: Path, in_memory: bool = True) -> None:
    """Check that a ZIP archive can be unpacked. Other files are left to their readers.

    Args:
        key: Configuration key that the error names.
        path: The file.
        in_memory: Whether it is unpacked into memory and not to disk.

    Raises:
        InputError: it is damaged, unpacks to more than the machine's memory, or has a compression ratio that only an
            archive built to do harm has.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise InputError(key, f"{path} is a damaged archive ({first_line(error)})") from None
    if unpacked <= UNCHECKED_BYTES:
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if in_memory and unpacked > MAX_MEMORY_SHARE * memory:
        raise InputError(key, f"{path} unpacks to {unpacked / 1e9:.1f} GB", f"this machine has {memory / 1e9:.1f} GB")
    if unpacked > MAX_COMPRESSION_RATIO * path.stat().st_size:
        raise InputError(
            key,
            f"{path} unpacks to {unpacked / path.stat().st_size:.0f} times its size",
            f"at most {MAX_COMPRESSION_RATIO} times is accepted",
        )
