"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from nc_strategies.errors import EngineError

PARTIAL = ".partial"
"""Ending of a file that is being written."""


def write_atomically(path: Path, text: str) -> None:
    """Write a file beside its place and move it there, so that it is never seen half-written.

    Raises:
        EngineError: the disk is full, or takes no writing any more.
    """
    beside = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with beside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> EngineError:
    """What to say when a file of a run under way cannot be written."""
    return EngineError(
        f"{path} cannot be written ({error.strerror}); what was measured before is kept, and the same "
        "command goes on from there"
    )
