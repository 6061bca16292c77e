"""Atomic writing of files."""

from __future__ import annotations

import os
from pathlib import Path

from nc_strategies.errors import EngineError

PARTIAL = ".partial"
"""Suffix of a file that is being written."""


def write_atomically(path: Path, text: str) -> None:
    """Write a temporary file and rename it to `path`, so that the file is never seen half-written.

    Raises:
        EngineError: the disk is full or cannot be written.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> EngineError:
    """The error for a file that a run cannot write."""
    return EngineError(
        f"{path} cannot be written ({error.strerror}); earlier measurements are kept, and the same command resumes "
        "the run"
    )
