"""Small texts in the user's cache: ``$XDG_CACHE_HOME/nc_strategies``, or ``~/.cache/nc_strategies``.

Everything in the cache can be computed again, so a cache that cannot be read or written only costs time (XDG Base
Directory Specification 0.8).
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)


def read(name: str) -> str | None:
    """Read a text from the cache; None if there is none.

    Args:
        name: The name of a file.
    """
    try:
        return (folder() / name).read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError):  # no such file; not text; no home directory
        return None


def keep(name: str, text: str) -> None:
    """Write a text to the cache atomically.

    Args:
        name: The name of a file.
        text: The text.
    """
    try:
        place = folder()
        place.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(prefix=f".{name}.", dir=place)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(path, place / name)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError) as error:
        log.info("%s cannot be written to the cache: %s", name, error)


def folder() -> Path:
    """The folder, which need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nc_strategies"
