"""Small texts kept between runs in the user's cache: ``$XDG_CACHE_HOME/nc_strategies``, or ``~/.cache/nc_strategies``.

Whatever is kept can be made again: a cache that cannot be read or written costs time only (XDG Base Directory
Specification 0.8).
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)


def read(name: str) -> str | None:
    """A text that was kept; None where there is none.

    Args:
        name: A file's name.
    """
    try:
        return (_folder() / name).read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError):  # not there; not text; nobody's home
        return None


def keep(name: str, text: str) -> None:
    """Keep a text, whole or not at all.

    Args:
        name: A file's name.
        text: What to keep.
    """
    try:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(path, folder / name)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError) as error:
        log.info("%s is not kept in the cache: %s", name, error)


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nc_strategies"
