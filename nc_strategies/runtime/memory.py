"""Memory of this process: what it may still take, and what the C library keeps after it was freed."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

CONTROL_GROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows control groups, which limit the memory of containers."""
MEMBERSHIPS = Path("/proc/self/cgroup")
"""Names the control groups of this process, in lines ``number:controllers:path``."""
_limit = 0.0


def set_limit(megabytes: float) -> None:
    """State how much memory this process may have, for `free_bytes`; 0 for no limit of its own."""
    global _limit
    _limit = megabytes * 2**20


def free_bytes() -> int:
    """Bytes that this process may still take: of the machine, of its control groups and of `set_limit`."""
    free = [int(psutil.virtual_memory().available), *_free_of_groups()]
    if _limit:
        free.append(int(_limit - psutil.Process().memory_info().rss))
    return max(0, min(free))


def _free_of_groups() -> Iterator[int]:
    try:
        lines = MEMBERSHIPS.read_text(encoding="utf-8").splitlines()
    except OSError:  # another system
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            root, most, used = CONTROL_GROUPS, "memory.max", "memory.current"
        elif controllers == "memory":
            root, most, used = CONTROL_GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(root):
                with contextlib.suppress(OSError, ValueError):  # a container does not see all; "max" is no limit
                    yield int((folder / most).read_text()) - int((folder / used).read_text())


def release() -> None:
    """Return freed memory to the system, where the C library is glibc; elsewhere only collect garbage.

    glibc keeps freed blocks below 32 MB in the arena of the thread that allocated them (mallopt(3),
    M_MMAP_THRESHOLD). After a session of a large model is closed, that is most of the model's size.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
