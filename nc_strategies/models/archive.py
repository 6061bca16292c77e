"""Archives that unpack to more than anyone meant."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from nc_strategies.errors import InputError, first_line

SHARE = 0.8
"""Of the machine's memory, what an archive may unpack to."""
SMALL = 2**26
LARGEST_RATIO = 1000
"""Deflate packs zeros about 1030 to 1; weights and pictures hardly 10 to 1."""


def check_archive(key: str, path: Path, in_memory: bool = True) -> None:
    """See that a ZIP archive can be unpacked; what is no such archive is its reader's business.

    Args:
        key: Configuration key to name in the error.
        path: The file.
        in_memory: Whether it is unpacked into memory, rather than to disk.

    Raises:
        InputError: it unpacks to more than the machine's memory holds, or to so much more than its own size that it
            was made to do harm.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise InputError(key, f"{path} is a damaged archive ({first_line(error)})") from None
    if unpacked <= SMALL:
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if in_memory and unpacked > SHARE * memory:
        raise InputError(key, f"{path} unpacks to {unpacked / 1e9:.1f} GB", f"this machine has {memory / 1e9:.1f} GB")
    if unpacked > LARGEST_RATIO * path.stat().st_size:
        raise InputError(
            key,
            f"{path} unpacks to {unpacked / path.stat().st_size:.0f} times its size",
            f"at most {LARGEST_RATIO} times is believed",
        )
